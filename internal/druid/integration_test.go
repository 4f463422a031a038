//go:build integration

package druid_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

// seeds submits every client of both partitions and waits for all to be
// answered but for those named, which must be failed.
func seeds(t *testing.T, s *druid.Seeder, boundaries map[int32]int64, cut usage.Time, failing string) map[druid.Request]druid.Update {
	t.Helper()
	sub := run(t, s)
	got, want := make(map[druid.Request]druid.Update), 0
	for p, boundary := range boundaries {
		for _, c := range bedClients() {
			want++
			require.Equal(t, 1, sub.Submit(druid.Request{Partition: p, Boundary: boundary, Start: usage.MinTime, End: usage.MaxTime, Cut: cut, Client: c}))
		}
	}
	late := time.After(patience)
	for done := 0; done < want; {
		select {
		case <-sub.Ready():
		case <-late:
			require.FailNow(t, "not seeded in time", "%d of %d", done, want)
		}
		for _, u := range sub.Take() {
			got[u.Request] = u
		}
		done = 0
		for r, u := range got {
			if u.State.Done() || r.Client == failing {
				done++
			}
		}
	}
	return got
}

func requireSeeds(t *testing.T, got map[druid.Request]druid.Update, totals map[int32]map[string][]druid.Total, failing string) {
	t.Helper()
	for r, u := range got {
		if r.Client == failing {
			continue
		}
		require.Equal(t, druid.Exact, u.State)
		require.Equal(t, totals[r.Partition][r.Client], u.Totals, "partition %d, client %q", r.Partition, r.Client)
	}
}

// requireDetails is requireSeeds for totals by fields, in any order.
func requireDetails(t *testing.T, got map[druid.Request]druid.Update, state druid.State, details func(partition int32) map[string][]druid.Total, failing string) {
	t.Helper()
	want := map[int32]map[string][]druid.Total{}
	for r, u := range got {
		if r.Client == failing {
			continue
		}
		require.Equal(t, state, u.State)
		if want[r.Partition] == nil {
			want[r.Partition] = details(r.Partition)
		}
		require.ElementsMatch(t, want[r.Partition][r.Client], u.Totals, "partition %d, client %q", r.Partition, r.Client)
	}
}

func TestSeedsEqualWhatWasProduced(t *testing.T) {
	b := newBed(t, "PT10M")
	b.produce(20_000)
	for p := range int32(bedPartitions) { // the sum of this client wraps around in Druid
		b.record(p, "whale", "meter-0", math.MaxInt64)
		b.record(p, "whale", "meter-0", math.MaxInt64)
		b.record(p, "whale", "meter-1", 1)
	}
	b.produce(100)
	boundaries, totals := b.edges()
	details := map[int32]map[string][]druid.Total{0: b.details(0), 1: b.details(1)}
	b.produce(5_000) // from here on the stream counts
	got := seeds(t, b.seeder(nil), boundaries, 0, "whale")
	requireSeeds(t, got, totals, "whale")
	for r, u := range got {
		if r.Client == "whale" {
			require.ErrorIs(t, u.Reason, druid.ErrOverflow)
		}
	}

	byFields := seeds(t, b.seeder(withFields), boundaries, 0, "whale")
	requireDetails(t, byFields, druid.Exact, func(p int32) map[string][]druid.Total { return details[p] }, "whale")

	// Cut in the middle of the time that the records have.
	s, middle := b.seeder(nil), b.start+3600*1000
	half := func(from, to usage.Time) druid.Total {
		all, err := s.Ask(t.Context(), druid.Question{Boundary: boundaries[0], Start: from, End: to, Clients: []string{"client-1", "nobody"}})
		require.NoError(t, err)
		var sum druid.Total
		for _, one := range all {
			require.True(t, from <= one.First && one.Last < to)
			sum.Events += one.Events
			sum.Quantity.Units += one.Quantity.Units
		}
		return sum
	}
	before, after, whole := half(usage.MinTime, middle), half(middle, usage.MaxTime), half(usage.MinTime, usage.MaxTime)
	require.Positive(t, before.Events)
	require.Positive(t, after.Events)
	require.Equal(t, whole.Events, before.Events+after.Events)
	require.Equal(t, whole.Quantity.Units, before.Quantity.Units+after.Quantity.Units)

	_, err := s.Ask(t.Context(), druid.Question{Boundary: b.next[0] + 1000, Start: usage.MinTime, End: usage.MaxTime, Clients: []string{"client-1"}})
	require.ErrorIs(t, err, druid.ErrIncomplete)
}

func TestSeedsOfATransactionalTopic(t *testing.T) {
	b := newBed(t, "PT1M", kgo.TransactionalID("seed-test"))
	for range 5 {
		require.NoError(t, b.kafka.BeginTransaction())
		b.produce(500)
		require.NoError(t, b.kafka.EndTransaction(t.Context(), kgo.TryCommit))
		for p := range int32(bedPartitions) {
			b.next[p]++ // the marker's
		}
	}
	boundaries, totals := b.edges()
	cut, details := b.clock(), b.details(0, 1)
	// Nothing is proven of a partition that ends with a marker: Druid's offsets
	// stop at its last record.
	require.NoError(t, b.kafka.BeginTransaction())
	b.produce(100)
	require.NoError(t, b.kafka.EndTransaction(t.Context(), kgo.TryCommit))
	requireSeeds(t, seeds(t, b.seeder(nil), boundaries, 0, ""), totals, "")

	// The same by record time, of both partitions together.
	bounded := b.seeder(func(c *druid.Config) {
		withFields(c)
		c.Columns.Partition, c.Columns.Offset, c.Columns.RecordTime = "", "", "k_ts"
	})
	delete(boundaries, 1)
	requireDetails(t, seeds(t, bounded, boundaries, cut, ""), druid.Bounded, func(int32) map[string][]druid.Total { return details }, "")

	s := b.seeder(func(c *druid.Config) { c.Supervisor = "" })
	_, err := s.Ask(t.Context(), druid.Question{Boundary: boundaries[0], Start: usage.MinTime, End: usage.MaxTime, Clients: []string{"client-1"}})
	require.ErrorIs(t, err, druid.ErrIncomplete)
}

// probe asks until an attempt ends as wanted. Whatever comes in between, no
// answer may be wrong.
func probe(t *testing.T, b *bed, s *druid.Seeder, wanted func(error) bool) {
	t.Helper()
	boundaries, totals := b.edges()
	clients := []string{"client-1", "client-2", "client-3", "nobody"}
	details, fields := b.details(0), b.seeder(withFields)
	var want, wantFields []druid.Total
	for _, c := range clients {
		want, wantFields = append(want, totals[0][c]...), append(wantFields, details[c]...)
	}
	var last error
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		q := druid.Question{Boundary: boundaries[0], Start: usage.MinTime, End: usage.MaxTime, Clients: clients}
		got, err := s.Ask(ctx, q)
		if err == nil {
			require.Equal(t, want, got)
		}
		if got, err := fields.Ask(ctx, q); err == nil {
			require.ElementsMatch(t, wantFields, got)
		}
		last = err
		return wanted(err)
	}, patience, 100*time.Millisecond, "last: %v", last)
}

func answered(err error) bool { return err == nil }
func silent(err error) bool   { return errors.Is(err, druid.ErrIncomplete) }

func TestAKilledHistoricalYieldsNoWrongTotal(t *testing.T) {
	b := newBed(t, "PT10M")
	b.produce(5_000)
	s := b.seeder(nil)
	probe(t, b, s, answered)
	require.Eventually(t, b.reports, patience, 200*time.Millisecond) // earlier, suspending would kill the task
	b.post("/druid/indexer/v1/supervisor/"+b.name+"/suspend", nil)   // publishes everything
	require.Eventually(t, b.handedOver, patience, 200*time.Millisecond)
	b.post("/druid/indexer/v1/supervisor/"+b.name+"/resume", nil)

	control(t, "kill", "historical")
	t.Cleanup(func() { control(t, "start", "historical") }) // does nothing if it runs
	probe(t, b, s, silent)                                  // 200, and rows are missing
	control(t, "start", "historical")
	probe(t, b, s, answered)
}

func TestAKilledIndexerYieldsNoWrongTotal(t *testing.T) {
	b := newBed(t, "PT10M")
	b.produce(5_000)
	s := b.seeder(nil)
	probe(t, b, s, answered)
	control(t, "kill", "indexer")
	t.Cleanup(func() { control(t, "start", "indexer") })
	probe(t, b, s, silent)
	control(t, "start", "indexer")
	boundaries, totals := b.edges()
	requireSeeds(t, seeds(t, s, boundaries, 0, ""), totals, "")
}

// taskList is the part of a supervisor's status that these tests look at.
type taskList struct {
	Payload struct {
		ActiveTasks []struct{ CurrentOffsets map[string]int64 }
	}
}

// reports tells whether a task has said how far it is.
func (b *bed) reports() bool {
	var status taskList
	return b.get("/druid/indexer/v1/supervisor/"+b.name+"/status", &status) &&
		len(status.Payload.ActiveTasks) == 1 && len(status.Payload.ActiveTasks[0].CurrentOffsets) == bedPartitions
}

// handedOver tells whether every task of b has ended well, which it does only
// when historicals serve its rows. The status of the supervisor would not do:
// for a moment it shows a task neither as active nor as publishing.
func (b *bed) handedOver() bool {
	var tasks []struct{ Status string }
	if !b.get("/druid/indexer/v1/tasks?datasource="+b.name, &tasks) {
		return false
	}
	return len(tasks) > 0 && !slices.ContainsFunc(tasks, func(t struct{ Status string }) bool { return t.Status != "SUCCESS" })
}

func (b *bed) get(path string, v any) bool {
	resp, err := b.http.Get(b.coordinator + path)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK && json.NewDecoder(resp.Body).Decode(v) == nil
}
