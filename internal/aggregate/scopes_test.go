package aggregate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

func TestContractsAreCut(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", `"starts_at":"2026-11-10T12:00:00Z","ends_at":"2026-12-10T00:00:00Z"`, limit("l", "100", full))
	r.use(ev{qty: "70", time: "11-10T11:59:59.999"})
	r.use(ev{qty: "99", time: "11-10T12:00"})
	require.Empty(t, r.commit())
	r.use(ev{qty: "1"})
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [100%=100] 99..100 [100%] usage"}, r.commit())
	require.Equal(t, alerts.PeriodInfo{ID: "2026-11", Start: at(t, "11-10T12:00"), End: at(t, "12-01"), Timezone: "UTC"}, r.told[0].Period)
	require.EqualValues(t, 170, r.total("acme", "bytes", ""), "the default counter has all")

	r.restart()
	r.advance("12-01")
	r.use(ev{qty: "100"})
	require.Equal(t, []string{
		"reset k/l 2026-11 #2 [100%=100] 100..0 [] period_end",
		"crossed k/l 2026-12 #1 [100%=100] 0..100 [100%] usage",
	}, r.commit())
	require.Equal(t, at(t, "12-10"), r.told[2].Period.End)

	r.restart()
	r.advance("12-10")
	require.Equal(t, []string{"reset k/l 2026-12 #2 [100%=100] 100..0 [] period_end"}, r.commit(), "the cut last period ends too")
	require.Empty(t, r.blocked())
	r.use(ev{qty: "1000"})
	require.Empty(t, r.commit())
	r.use(ev{qty: "10", time: "12-09"})
	require.Empty(t, r.commit(), "late, and past the threshold")
	require.EqualValues(t, 1110, r.total("acme", "bytes", ""))
	view := r.state.View("acme", aggregate.Selection{})
	require.Len(t, view.Limits, 1)
	require.EqualValues(t, 110, view.Limits[0].Total)
	require.Equal(t, at(t, "12-10"), view.Limits[0].Period.End)
}

func TestWholePeriodsUseTheDefaultCounter(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.use(ev{qty: "30"})
	r.put("k", "acme", `"starts_at":"2026-11-01T00:00:00Z","ends_at":"2027-01-15T00:00:00Z"`, limit("l", "100", full))
	r.use(ev{qty: "70"})
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [100%=100] 30..100 [100%] usage"}, r.commit())
	require.Len(t, r.state.View("acme", aggregate.Selection{Meter: "bytes"}).Counters, 1)
}

func TestMovedEnds(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	ends := func(at string) {
		r.put("k", "acme", `"ends_at":`+at, limit("l", "100", ""))
	}
	ends("null")
	r.use(ev{qty: "60"})
	r.commit()
	ends(`"2026-11-20T00:00:00Z"`)
	require.Empty(t, r.commit())
	r.use(ev{qty: "20"})
	require.Equal(t, []string{"crossed k/l 2026-11 #2 [80%=80] 60..80 [50% 80%] usage"}, r.commit(), "the counter goes on")
	require.Equal(t, at(t, "11-20"), r.told[1].Period.End)

	r.restart()
	ends("null")
	require.Empty(t, r.commit())
	r.use(ev{qty: "5"})
	ends(`"2026-11-25T00:00:00Z"`)
	r.use(ev{qty: "5"})
	require.Empty(t, r.commit())
	r.use(ev{qty: "10"})
	require.Equal(t, []string{"crossed k/l 2026-11 #3 [100%=100] 90..100 [50% 80% 100%] usage"}, r.commit(), "nothing was lost in between")

	ends(`"2026-11-22T00:00:00Z"`)
	require.Empty(t, r.commit())
	r.advance("11-22")
	require.Equal(t, []string{"reset k/l 2026-11 #4 [50%=50 80%=80 100%=100] 100..0 [] period_end"}, r.commit())
	r.use(ev{qty: "50"})
	require.Empty(t, r.commit())
	ends(`"2026-11-28T00:00:00Z"`)
	require.Equal(t, []string{"crossed k/l 2026-11 #5 [50%=50 80%=80 100%=100] 100..100 [50% 80% 100%] contract"}, r.commit(), "its total was kept")
	r.restart()
	require.Empty(t, r.commit())
	r.advance("12-01")
	require.Equal(t, []string{"reset k/l 2026-11 #6 [50%=50 80%=80 100%=100] 100..0 [] period_end"}, r.commit())
}

func TestOneRevisionMovesTheEndAndLowersTheLimit(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, limit("l", "100", ""))
	r.use(ev{qty: "60"})
	r.commit()
	r.put("k", "acme", `"ends_at":"2026-11-25T00:00:00Z"`, limit("l", "60", ""))
	require.Equal(t, []string{"crossed k/l 2026-11 #2 [80%=48 100%=60] 60..60 [50% 80% 100%] contract"}, r.commit())
}

func TestOwnCounters(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.use(ev{qty: "500"})
	r.put("k", "acme", "", limit("h", "100", full+`,"period":"hour"`), limit("also", "10", full+`,"period":"hour"`), limit("m", "1000", full))
	require.Empty(t, r.commit(), "an own counter begins when the contract is read")
	r.use(ev{qty: "99"})
	r.use(ev{qty: "99", time: "11-10T11:59:59.999"})
	r.use(ev{qty: "1", time: "11-10T12:04:59.999"})
	require.Equal(t, []string{
		"crossed k/also 2026-11-10T12+00:00 #1 [100%=10] 0..99 [100%] usage",
		"crossed k/also 2026-11-10T11+00:00 #1 [100%=10] 0..99 [100%] usage late",
		"crossed k/h 2026-11-10T12+00:00 #1 [100%=100] 99..100 [100%] usage",
	}, r.commit())
}

func TestLimitsWithOwnZones(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", full+`,"timezone":"Asia/Tokyo","period":"day"`), limit("life", "150", full+`,"period":"lifetime"`))
	r.seek("11-10T14:59")
	r.use(ev{qty: "100"})
	r.seek("11-10T15:01")
	r.use(ev{qty: "100"})
	require.Equal(t, []string{
		"crossed k/l 2026-11-10 #1 [100%=100] 0..100 [100%] usage",
		"reset k/l 2026-11-10 #2 [100%=100] 100..0 [] period_end",
		"crossed k/l 2026-11-11 #1 [100%=100] 0..100 [100%] usage",
		"crossed k/life lifetime #1 [100%=150] 100..200 [100%] usage",
	}, r.commit())
	require.Equal(t, alerts.PeriodInfo{ID: "lifetime", Start: at(t, "01-01"), End: usage.MaxTime, Timezone: "UTC"}, r.told[3].Period)
}

// A limit's own counter that comes back after nothing needed it for a while is
// asked for anew: what it had misses what came meanwhile.
func TestOwnCountersThatComeBackAreSeededAnew(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.History = true
	r := newRig(t, cfg)
	r.state.Start(1000, r.clock)
	answer := func(used int64) (asked int) {
		var asks []aggregate.Ask
		r.do(func(s *aggregate.State) { asks = s.TakeAsks() })
		for _, a := range asks {
			if a.Scope.Default() {
				r.do(func(s *aggregate.State) { require.NoError(t, s.TakeSeed(a, nil)) })
				continue
			}
			asked++
			r.do(func(s *aggregate.State) {
				require.NoError(t, s.TakeSeed(a, []aggregate.SeedTotal{
					{Meter: "bytes", Events: 1, Quantity: usage.DecimalOf(used), First: a.Period.Start, Last: a.Period.Start},
				}))
			})
		}
		return asked
	}
	put := func(ends string) {
		r.put("k", "acme", ends, limit("l", "10", `"period":"day","thresholds":["100%"]`))
		r.taken()
	}
	put("")
	r.use(ev{qty: "3"})
	require.Equal(t, 1, answer(1))
	r.commit()
	r.remove("k")
	r.use(ev{qty: "4"})
	r.commit()
	require.Len(t, r.totals("acme", "bytes"), 1, "the default counter alone")
	put("")
	r.use(ev{qty: "1"})
	require.Equal(t, 1, answer(8))
	require.Empty(t, r.commit(), "nine of ten")
	r.use(ev{qty: "1"})
	require.Equal(t, []string{"crossed k/l 2026-11-10 #1 [100%=10] 9..10 [100%] usage seeded"}, r.commit())

	r.advance("11-10T14:00")
	put(`"ends_at":"2026-11-10T13:00:00Z"`)
	r.commit()
	r.use(ev{qty: "5"})
	r.commit()
	put("")
	require.Equal(t, 1, answer(15))
	r.commit()
	require.Contains(t, r.totals("acme", "bytes"), "{} 2026-11-10 15 of 1 own")
}
