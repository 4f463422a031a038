package aggregate_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

func TestReadersSeeCommittedValuesOnly(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.commit()
	see := func() (usage.Quantity, int, []string) {
		view := r.state.View("acme", aggregate.Selection{})
		var total usage.Quantity
		for _, k := range view.Counters {
			total = k.Total
		}
		require.Equal(t, total, view.Limits[0].Total)
		return total, len(view.Limits[0].Standing), r.state.Clients("", 10)
	}
	requireSeen := func(total usage.Quantity, standing int, clients ...string) {
		t.Helper()
		gotTotal, gotStanding, gotClients := see()
		require.Equal(t, total, gotTotal)
		require.Equal(t, standing, gotStanding)
		require.Equal(t, clients, gotClients)
	}
	requireSeen(0, 0)
	r.use(ev{qty: "60"})
	requireSeen(0, 0)
	r.state.Rollback()
	requireSeen(0, 0)
	r.use(ev{qty: "60"})
	r.commit()
	requireSeen(60, 1, "acme")
	r.use(ev{qty: "60"})
	r.use(ev{client: "bolt"})
	requireSeen(60, 1, "acme")
	r.taken()
	r.state.Changes(r.clock)
	requireSeen(60, 1, "acme")
	r.state.Rollback()
	requireSeen(60, 1, "acme")
	r.use(ev{qty: "60"})
	r.use(ev{client: "bolt"})
	r.commit()
	requireSeen(120, 3, "acme", "bolt")

	asOf := r.state.AsOf()
	require.Equal(t, aggregate.Committed{Position: 3, Time: r.clock, At: r.clock}, asOf)
	r.seek("11-10T13:00")
	r.use(ev{})
	require.Equal(t, asOf, r.state.AsOf())
}

func TestAMovedEndIsNotSeenBeforeItsCommit(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, limit("l", "100", ""))
	r.use(ev{qty: "60"})
	r.commit()
	ends := func() usage.Time {
		counters := r.state.View("acme", aggregate.Selection{}).Counters
		require.Len(t, counters, 2)
		return counters[1].Period.End
	}
	require.Equal(t, at(t, "11-20"), ends())
	r.put("k", "acme", `"ends_at":"2026-11-25T00:00:00Z"`, limit("l", "100", ""))
	r.taken()
	require.Equal(t, at(t, "11-20"), ends())
	r.commit()
	require.Equal(t, at(t, "11-25"), ends())
}

func TestSelections(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", full), limit("d", "100", full+`,"period":"day"`))
	r.use(ev{qty: "1"})
	r.use(ev{qty: "2", meter: "hours"})
	r.advance("11-11T12:00")
	r.use(ev{qty: "4"})
	r.advance("12-01T12:00")
	r.use(ev{qty: "8"})
	r.commit()
	tests := map[string]struct {
		selection aggregate.Selection
		want      []string
	}{
		"the newest of each":        {aggregate.Selection{}, []string{"bytes 2026-12 8", "hours 2026-12 0", "bytes/k 2026-12-01 8"}},
		"of one meter":              {aggregate.Selection{Meter: "hours"}, []string{"hours 2026-12 0"}},
		"the one before":            {aggregate.Selection{Period: aggregate.Previous}, []string{"bytes 2026-11 5", "hours 2026-11 200"}},
		"a period by its id":        {aggregate.Selection{Period: "2026-11-11"}, []string{}},
		"one that there never was":  {aggregate.Selection{Period: "2025"}, []string{}},
		"a meter that is not there": {aggregate.Selection{Meter: "dreams"}, []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			lines := []string{}
			for _, k := range r.state.View("acme", tt.selection).Counters {
				name := k.Meter
				if !k.Scope.Default() {
					name += "/" + k.Scope.Contract
				}
				lines = append(lines, fmt.Sprint(name, " ", k.Period.ID, " ", k.Total))
			}
			require.Equal(t, tt.want, lines)
		})
	}
}

func TestAPeriodWithoutUseIsZero(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", full))
	r.use(ev{qty: "1"})
	r.advance("12-05")
	r.commit()
	view := r.state.View("acme", aggregate.Selection{})
	require.Equal(t, []aggregate.CounterView{{
		Meter: "bytes", Period: usage.Period{ID: "2026-12", Start: at(t, "12-01"), End: at(t, "2027-01-01"), Timezone: "UTC"},
		First: usage.MaxTime, Last: usage.MinTime, Seed: aggregate.Seed{State: aggregate.SeedNone},
		Limits: []aggregate.LimitRef{{Contract: "k", Limit: "l"}},
	}}, view.Counters)
	require.Equal(t, "2026-12", view.Limits[0].Period.ID)
	require.True(t, view.Complete)
	require.True(t, view.Known)
}

func TestIdleTimeIsSeen(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.use(ev{qty: "1"})
	r.commit()
	r.advance("12-03")
	require.Equal(t, at(t, "11-10T12:00"), r.state.AsOf().Time)
	r.do(func(s *aggregate.State) { s.Idle(r.clock) })
	require.Equal(t, at(t, "12-03"), r.state.AsOf().Time)
	require.Equal(t, "2026-12", r.state.View("acme", aggregate.Selection{}).Counters[0].Period.ID)
	r.state.Rollback()
	require.True(t, r.fold(ev{stamp: "11-30", time: "11-30"}).Late, "time that was seen is not taken back")
	r.clock = at(t, "12-06")
	r.do(func(s *aggregate.State) { s.Idle(r.clock) })
	require.Equal(t, at(t, "12-03"), r.state.AsOf().Time, "with something to commit, that tells")
}

// Partition time does not go back over a restart, though it was idle that moved
// it and nobody had anything to tell.
func TestIdleTimeOutlastsARestart(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "10"})
	r.commit()
	idle := func(to string) {
		r.advance(to)
		r.do(func(s *aggregate.State) { s.Idle(r.clock) })
	}
	idle("11-10T12:14:59")
	require.False(t, r.state.Touched(), "no period has ended")
	idle("12-01T00:00")
	require.True(t, r.state.Touched())
	r.state.Rollback()
	idle("12-01T00:01")
	require.True(t, r.state.Touched(), "it was not committed")
	require.Empty(t, r.commit())
	idle("12-01T00:02")
	require.False(t, r.state.Touched(), "once is enough")

	r.restart()
	require.True(t, r.fold(ev{qty: "80", stamp: "11-30T23:59"}).Late)
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50 80%=80] 10..90 [50% 80%] usage late"}, r.commit())
	r.advance("12-01T00:03")
	require.Empty(t, r.commit(), "late crossings are never reset")
}

func TestClientsPageByPage(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	for _, client := range []string{"b", "ä", "a", "c"} {
		r.use(ev{client: client})
	}
	r.commit()
	require.Equal(t, []string{"a", "b"}, r.state.Clients("", 2))
	require.Equal(t, []string{"c", "ä"}, r.state.Clients("b", 2))
	require.Empty(t, r.state.Clients("ä", 2))
}

// Every event adds 2 and every second transaction is rolled back: readers see
// even totals that never fall, and the total of a limit with them.
func TestReadersWhileFolding(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""), limit("d", "100", `"period":"day"`))
	r.commit()
	const commits, batch = 200, 20
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var last usage.Quantity
			for finished := false; !finished; {
				select {
				case <-done:
					finished = true
				default:
				}
				view := r.state.View("acme", aggregate.Selection{Meter: "bytes"})
				clients := r.state.Clients("", 5)
				r.state.AsOf()
				r.state.Judging()
				r.state.Seeds()
				r.state.Pending()
				r.state.Due()
				if len(view.Counters) == 0 {
					continue
				}
				total := view.Counters[0].Total
				if total < last || total%(2*batch) != 0 || len(view.Limits) != 2 || view.Limits[0].Total != total || len(clients) == 0 {
					t.Errorf("saw %d after %d, limits %+v, clients %v", total, last, view.Limits, clients)
					return
				}
				last = total
			}
		})
	}
	for i := range 2 * commits {
		r.do(func(s *aggregate.State) {
			for n := range batch {
				in, u := r.input(ev{qty: "2", id: fmt.Sprint(i, "-", n)})
				s.Fold(in, u)
				in, u = r.input(ev{client: fmt.Sprint("client", n), qty: "-1"})
				s.Fold(in, u)
			}
		})
		r.state.Changes(r.clock)
		if i%2 == 0 {
			r.state.Rollback()
		} else {
			r.state.Committed(r.clock)
			r.clock += 1000
		}
		if i%50 == 0 {
			r.put("k", "acme", "", limit("l", fmt.Sprint(100+i), ""), limit("d", "100", `"period":"day"`))
		}
	}
	close(done)
	readers.Wait()
	require.EqualValues(t, commits*batch*2, r.total("acme", "bytes", ""))
}
