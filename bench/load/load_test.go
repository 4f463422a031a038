package load_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/loadgen"
	"github.com/meterd/meterd/internal/usage"
)

func shape() load.Shape {
	return load.Shape{Events: 120_000, Clients: 500, Meters: 4, Zipf: 1.1, Partitions: 3, Contracts: 400, Crossing: 50}
}

// perfect is what a contender has seen that makes no mistakes.
func perfect(l *load.Ledger, once bool) (seen *load.Seen, sums map[[2]string]*load.Total) {
	g := loadgen.NewGenerator(load.Generated(l.Shape), l.Shape.Meters)
	sums = map[[2]string]*load.Total{}
	seen = l.NewSeen()
	for i := range l.Shape.Events {
		ev := g.At(i)
		if ev.Kind == loadgen.Undecodable {
			seen.DeadLetters++
			continue
		}
		if ev.Kind == loadgen.Duplicate && once {
			continue
		}
		key := [2]string{loadgen.ClientName(ev.Client), load.Names[ev.Meter]}
		if sums[key] == nil {
			sums[key] = &load.Total{}
		}
		before := sums[key].Sum
		sums[key].Sum += ev.Quantity
		sums[key].Count++
		for _, t := range load.Thresholds {
			if limit := l.Limit(key[0], key[1]); limit > 0 && before*100 < limit*t && limit*t <= sums[key].Sum*100 {
				seen.Crossed(key[0], key[1], fmt.Sprintf("%d%%", t))
			}
		}
	}
	for key, t := range sums {
		seen.Total(key[0], key[1], t.Sum, t.Count)
	}
	return seen, sums
}

func TestDifferences(t *testing.T) {
	t.Parallel()

	l := load.NewLedger(shape())
	first := func(sums map[[2]string]*load.Total) (key [2]string, total load.Total) {
		for key, total := range sums {
			return key, *total
		}
		return key, total
	}
	tests := map[string]struct {
		wrong func(seen *load.Seen, sums map[[2]string]*load.Total)
		want  string
	}{
		"a sum is off": {func(seen *load.Seen, sums map[[2]string]*load.Total) {
			key, total := first(sums)
			seen.Total(key[0], key[1], total.Sum+1, total.Count)
		}, "1 of "},
		"a count is off": {func(seen *load.Seen, sums map[[2]string]*load.Total) {
			key, total := first(sums)
			seen.Total(key[0], key[1], total.Sum, total.Count-1)
		}, "1 of "},
		"a client that there is not": {func(seen *load.Seen, _ map[[2]string]*load.Total) {
			seen.Total("client-zzzzzzzz", load.Names[0], 1, 1)
		}, "1 totals and crossings of what nobody has used"},
		"a meter that there is not": {func(seen *load.Seen, _ map[[2]string]*load.Total) {
			seen.Total(l.Client(0), load.Names[7], 1, 1)
		}, "1 totals and crossings of what nobody has used"},
		"crossed, but not due": {func(seen *load.Seen, _ map[[2]string]*load.Total) {
			seen.Crossed(l.Client(450), load.Names[0], "80%")
		}, "1 were not due"},
		"no threshold": {func(seen *load.Seen, _ map[[2]string]*load.Total) {
			seen.Crossed(l.Client(450), load.Names[0], "much")
		}, "1 totals and crossings of what nobody has used"},
		"a dead letter is missing": {func(seen *load.Seen, _ map[[2]string]*load.Total) { seen.DeadLetters-- }, "dead letters, not "},
	}
	for _, once := range []bool{true, false} {
		seen, _ := perfect(l, once)
		require.Positive(t, seen.Crossings())
		require.Empty(t, seen.Differences(once))
		require.NotEmpty(t, seen.Differences(!once), "the load has repeated events")
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			seen, sums := perfect(l, true)
			tt.wrong(seen, sums)
			require.Contains(t, fmt.Sprint(seen.Differences(true)), tt.want)
		})
	}
	require.Contains(t, fmt.Sprint(l.NewSeen().Differences(true)), "are missing")
}

// TestRepeated shows that each crossing is told once.
func TestRepeated(t *testing.T) {
	t.Parallel()

	s := shape()
	s.Clean = true
	l := load.NewLedger(s)
	seen, _ := perfect(l, true)
	for _, passed := range l.Crossers() {
		client, meter := l.Client(passed[0].Key/s.Meters), load.Names[passed[0].Key%s.Meters]
		seen.Crossed(client, meter, fmt.Sprintf("%d%%", passed[0].Threshold))
		break
	}
	require.Contains(t, fmt.Sprint(seen.Differences(true)), "1 were told more than once")
}

func TestCrossersAreWhatIsDue(t *testing.T) {
	t.Parallel()

	s := shape()
	s.Clean = true
	l := load.NewLedger(s)
	n := 0
	for _, passed := range l.Crossers() {
		n += len(passed)
	}
	seen, _ := perfect(l, true)
	require.Equal(t, seen.Crossings(), n)
	require.Empty(t, seen.Differences(true))
}

func TestGrow(t *testing.T) {
	t.Parallel()

	s := shape()
	s.Clean = true
	l := load.NewLedger(s)
	keys := l.Keys
	l.Grow(5000)
	require.Equal(t, int64(125_000), l.Shape.Events)
	require.Greater(t, l.Keys, keys)
	seen, _ := perfect(l, true)
	require.Empty(t, seen.Differences(true))
}

func TestEvenly(t *testing.T) {
	t.Parallel()

	l := load.NewLedger(load.Shape{Events: 16_000, Clients: 1000, Meters: 8, Partitions: 1, Clean: true})
	// of keys that are met twice on average, all but e^-2 are met
	require.InDelta(t, 6917, l.Keys, 150)
}

func TestBusiestShare(t *testing.T) {
	t.Parallel()

	require.InDelta(t, 0.01, load.BusiestShare(100_000, 0, 0.01), 1e-9)
	require.InDelta(t, 0.5, load.BusiestShare(100_000, 0.918, 0.01), 0.005)
}

// registry gives one id.
type registry uint32

func (r registry) Register(context.Context, string, string) (uint32, error) { return uint32(r), nil }

func TestWriter(t *testing.T) {
	t.Parallel()

	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "usage"), kfake.SeedTopics(1, "contracts"))
	require.NoError(t, err)
	t.Cleanup(kafka.Close)
	brokers := kafka.ListenAddrs()[0]
	w, err := load.NewWriter(t.Context(), brokers, registry(7))
	require.NoError(t, err)
	require.Equal(t, uint32(7), w.SchemaID)

	s := shape()
	s.Events, s.Clean = 20_000, true
	l := load.NewLedger(s)
	require.NoError(t, w.Contracts(t.Context(), l, "contracts"))
	catalog := &usage.Catalog{Schedule: usage.Schedule{Kind: usage.Lifetime, Zone: time.UTC}}
	for _, name := range load.Names[:s.Meters] {
		catalog.Meters = append(catalog.Meters, usage.Meter{Name: name, Aggregation: usage.Sum})
	}
	table := contracts.NewTable(catalog)
	for i, r := range consume(t, brokers, "contracts", s.Contracts) {
		require.NoError(t, table.Apply(r.Key, r.Value, int64(i)), "%s", r.Value)
	}

	bytes, err := w.Fill(t.Context(), l, "usage")
	require.NoError(t, err)
	require.NoError(t, w.Continue(t.Context(), l, "usage", 100))
	sent, err := w.Pace(t.Context(), load.NewLedger(s), "usage", 1_000_000)
	require.NoError(t, err)
	require.NotEmpty(t, sent)
	written := 0
	for _, r := range consume(t, brokers, "usage", int(2*s.Events+100)) {
		written += len(r.Key) + len(r.Value)
		require.Equal(t, []byte{0, 0, 0, 0, 7}, r.Value[:5])
	}
	require.Greater(t, written, 2*int(bytes)-int(bytes)/10)
}

func consume(t *testing.T, brokers, topic string, n int) (records []*kgo.Record) {
	t.Helper()

	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	for len(records) < n {
		fetches := client.PollFetches(t.Context())
		require.NoError(t, fetches.Err())
		records = append(records, fetches.Records()...)
	}
	require.Len(t, records, n)
	return records
}
