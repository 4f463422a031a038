package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/bench/host"
	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/bench/report"
)

func TestParse(t *testing.T) {
	t.Parallel()

	at := []string{"-kafka", "k", "-registry", "r"}
	tests := map[string]struct {
		args []string
		want string
	}{
		"what is needed":        {at, ""},
		"no Kafka":              {at[2:], "-kafka and -registry are required"},
		"no registry":           {at[:2], "-kafka and -registry are required"},
		"too few events":        {append(at, "-events", "10"), "-events is less than 1000"},
		"no rounds":             {append(at, "-rounds", "0"), "-rounds"},
		"something that is not": {append(at, "fast"), `"fast" is not a flag`},
		"a part that is not":    {append(at, "-only", "latency,speed"), `there is no part "speed"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, err := parse(tt.args)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestWants(t *testing.T) {
	t.Parallel()

	require.True(t, (&bench{}).wants("restore"))
	quick := &bench{options: options{quick: true}}
	require.True(t, quick.wants("latency"))
	require.False(t, quick.wants("restore"))
	some := &bench{options: options{only: "reads,restore", quick: true}}
	require.True(t, some.wants("restore"))
	require.False(t, some.wants("latency"))
}

func TestAffords(t *testing.T) {
	t.Parallel()

	require.True(t, (&bench{}).affords(time.Hour, time.Hour), "no bound")
	b := &bench{options: options{budget: time.Minute}, began: time.Now()}
	require.True(t, b.affords(20*time.Second, 20*time.Second))
	require.False(t, b.affords(30*time.Second, 31*time.Second))
}

func TestFillDrain(t *testing.T) {
	t.Parallel()

	start := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	at := func(seconds float64, events int64, program, broker, busy, stolen float64) sample {
		d := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
		return sample{
			at: start.Add(d(seconds)), events: events, program: host.Use{CPU: d(program), Peak: 300 << 20}, broker: d(broker),
			machine: host.Machine{Busy: d(busy), Stolen: d(stolen)},
		}
	}
	d := report.Drain{Noise: report.Noise{SpeedMillis: 50, Restless: true}}
	fillDrain(&d, start, at(2, 1000, 1, 1, 10, 0), at(4, 301_000, 1.8, 1.3, 12, 0), at(12, 1_001_000, 3, 1.5, 14.5, 2))
	require.Equal(t, int64(1_001_000), d.Events)
	require.InDelta(t, 2, d.StartSeconds, 1e-9)
	require.InDelta(t, 10, d.Seconds, 1e-9)
	require.InDelta(t, 100_000, d.EventsPerSecond, 1e-6)
	require.InDelta(t, 87_500, d.WarmPerSecond, 1e-6)
	require.InDelta(t, 2, d.ProgramMicros, 1e-9)
	require.InDelta(t, 12.0/7, d.WarmMicros, 1e-9)
	require.InDelta(t, 0.5, d.BrokerMicros, 1e-9)
	require.Equal(t, int64(300), d.PeakMiB)
	require.InDelta(t, 0.2, d.OtherCores, 1e-9, "of 4.5 s that were busy 2.5 s are ours")
	require.InDelta(t, 0.2, d.StolenCores, 1e-9)
	require.InDelta(t, 50, d.SpeedMillis, 1e-9)
	require.True(t, d.Restless)
}

func TestFillLatency(t *testing.T) {
	t.Parallel()

	start := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	sent, heard := map[load.Crossing]time.Time{}, map[load.Crossing]time.Time{}
	for i := range 1000 {
		c := load.Crossing{Key: i}
		sent[c] = start.Add(time.Duration(i) * 10 * time.Millisecond)
		heard[c] = sent[c].Add(time.Duration(i) * time.Millisecond)
	}
	l := report.Latency{Rate: 100}
	require.NoError(t, fillLatency(&l, sent, heard, 5))
	require.Equal(t, 500, l.Crossings, "the first five seconds do not count")
	require.InDelta(t, 749, l.P50, 1e-9)
	require.InDelta(t, 994, l.P99, 1e-9)
	require.InDelta(t, 999, l.P999, 1e-9)
	require.InDelta(t, 999, l.Max, 1e-9)

	delete(heard, load.Crossing{Key: 800})
	require.ErrorContains(t, fillLatency(&l, sent, heard, 5), "never heard of")
	require.ErrorContains(t, fillLatency(&l, sent, heard, 60), "no crossings")
}

// TestRead reads what is committed, up to the end and no further, over what was
// aborted and over the marks of transactions.
func TestRead(t *testing.T) {
	t.Parallel()

	kafka, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(kafka.Close)
	c, err := dial(kafka.ListenAddrs()[0])
	require.NoError(t, err)
	t.Cleanup(c.close)
	require.NoError(t, c.create(t.Context(), "topic", 4, true))
	require.NoError(t, c.create(t.Context(), "empty", 2, false))

	writer, err := kgo.NewClient(kgo.SeedBrokers(c.brokers), kgo.TransactionalID("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	t.Cleanup(writer.Close)
	for i, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		require.NoError(t, writer.BeginTransaction())
		for p := range int32(3) {
			require.NoError(t, writer.ProduceSync(t.Context(), &kgo.Record{Topic: "topic", Partition: p, Value: []byte{byte('a' + i)}}).FirstErr())
		}
		require.NoError(t, writer.EndTransaction(t.Context(), end))
	}
	var values string
	n, err := c.read(t.Context(), "topic", func(r *kgo.Record) error {
		values += string(r.Value)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, int64(6), n)
	require.NotContains(t, values, "b")
	n, err = c.read(t.Context(), "empty", func(*kgo.Record) error { return nil })
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, c.remove(t.Context(), "topic", "not-there"))
}
