package report_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/bench/report"
)

func TestPercentile(t *testing.T) {
	t.Parallel()

	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	tests := map[string]struct {
		sorted []float64
		share  float64
		want   float64
	}{
		"none":                 {nil, 0.5, 0},
		"one is all":           {[]float64{7}, 0.999, 7},
		"the middle":           {hundred, 0.5, 50},
		"99 of 100":            {hundred, 0.99, 99},
		"a little more":        {hundred, 0.999, 100},
		"all":                  {hundred, 1, 100},
		"nothing is the least": {hundred, 0, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			require.InDelta(t, tt.want, report.Percentile(tt.sorted, tt.share), 1e-9)
		})
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()

	require.Nil(t, report.Median(nil))
	require.InDelta(t, 3, *report.Median([]float64{9, 3, 1}), 1e-9)
	require.InDelta(t, 2.5, *report.Median([]float64{4, 1, 2, 3}), 1e-9)
}

// results has rounds in which the host became slower, and one in which the peer
// was wrong.
func results() *report.Results {
	drain := func(contender string, round int, rate, us float64) report.Drain {
		return report.Drain{
			Load: report.Main, Contender: contender, Round: round, Events: 3_000_000,
			EventsPerSecond: rate, ProgramMicros: us, BrokerMicros: 0.5, ChangelogPerEvent: 0.2, PeakMiB: 300, Noise: report.Noise{OtherCores: 0.1},
		}
	}
	return &report.Results{
		About: report.About{Date: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), Commit: "abc", Machine: "2 × Fast", Command: "make bench"},
		Drains: []report.Drain{
			drain(report.Ours, 1, 800_000, 1), drain(report.Peer, 1, 100_000, 12), drain(report.PeerDedupe, 1, 40_000, 40),
			drain(report.Ours, 2, 400_000, 2), drain(report.Peer, 2, 40_000, 20),
			drain(report.Ours, 3, 100_000, 9),
			{Load: "another", Contender: report.Ours, Round: 1, EventsPerSecond: 1, ProgramMicros: 1},
		},
		Latency: []report.Latency{
			{Contender: report.Ours, Rate: report.MainRate, P50: 5, P99: 20},
			{Contender: report.Ours, Rate: report.MainRate, P50: 7, P99: 40},
			{Contender: report.Ours, Rate: 1000, P50: 1, P99: 1},
			{Contender: report.Peer, Rate: report.MainRate, P50: 80, P99: 170},
		},
		Restores: []report.Restore{
			{Contender: report.Ours, Counters: 997_000, Seconds: 2.5},
			{Contender: report.Ours, Counters: 997_000, Kept: true, Seconds: 1.5},
			{Contender: report.Ours, Counters: 9_970_000, Seconds: 30},
		},
		Reads: []report.Reads{{Contender: report.Ours, P99: 3}},
		Wrong: []report.Wrong{{Run: "Kafka Streams, round 3", Reasons: []string{"1 of 5 totals differ"}}},
	}
}

func TestHeadline(t *testing.T) {
	t.Parallel()

	h := results().Headline()
	require.Equal(t, 3, h.Rounds)
	require.InDelta(t, 9, *h.ThroughputRatio, 1e-9, "the middle of 8 and 10, each of one round")
	require.InDelta(t, 11, *h.CPURatio, 1e-9, "above 1: meterd is better")
	require.InDelta(t, 20, *h.ThroughputRatioDedupe, 1e-9)
	require.InDelta(t, 40, *h.CPURatioDedupe, 1e-9)
	require.InDelta(t, 2, *h.AppMicros, 1e-9)
	require.InDelta(t, 6, *h.CrossingP50, 1e-9)
	require.InDelta(t, 30, *h.CrossingP99, 1e-9)
	require.InDelta(t, 2.5, *h.Restore, 1e-9)
	require.InDelta(t, 1.5, *h.RestoreKept, 1e-9)
	require.InDelta(t, 3, *h.ReadP99, 1e-9)
	require.Nil(t, (&report.Results{}).Headline().ThroughputRatio, "what was not measured is no number")
}

func TestWriteJSON(t *testing.T) {
	t.Parallel()

	var out bytes.Buffer
	require.NoError(t, results().WriteJSON(&out))
	var got map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	for _, key := range []string{"throughput_ratio", "cpu_ratio", "app_us_per_event", "crossing_p99_ms", "restore_s", "rounds", "noise"} {
		require.Contains(t, got, key)
		require.IsType(t, float64(0), got[key], key)
	}
	require.Len(t, got["drains"], 7)
	require.InDelta(t, 0.1, got["drains"].([]any)[0].(map[string]any)["other_cores"], 1e-9)
	require.Equal(t, "2 × Fast", got["about"].(map[string]any)["machine"])

	out.Reset()
	require.NoError(t, (&report.Results{}).WriteJSON(&out))
	require.Contains(t, out.String(), `"restore_s": null`)
}

func TestWriteMarkdown(t *testing.T) {
	t.Parallel()

	var out bytes.Buffer
	require.NoError(t, results().WriteMarkdown(&out))
	for _, want := range []string{
		"commit abc: 2 × Fast",
		"| events/s, times as many | 9.00 | 20.0 |",
		"| CPU of an event, times as little | 11.0 | 40.0 |",
		"| Zipf 1.1, 3.00 M events | meterd | 3 | 400 k (100 k to 800 k) |",
		"| Zipf 1.1, 3.00 M events | Kafka Streams | 2 | 70 k (40 k to 100 k) |",
		"| 20 k events/s | meterd | 2 |",
		"| 1000 events/s | meterd | 1 |",
		"| 9.97 M counters, state wiped | meterd | 1 | 30.0 |",
		"| 997 k counters, state kept | meterd | 1 | 1.50 |",
		"No figures, for the result was wrong: Kafka Streams, round 3: 1 of 5 totals differ.",
	} {
		require.Contains(t, out.String(), want)
	}
}
