package aggregate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// seeded is a rig with history below offset 1000.
func seeded(t *testing.T, change func(cfg *aggregate.Config)) *rig {
	t.Helper()
	cfg := config(t)
	cfg.History = true
	if change != nil {
		change(&cfg)
	}
	r := newRig(t, cfg)
	r.state.Start(1000, r.clock)
	return r
}

func announced(t *testing.T) *rig { return seeded(t, nil) }

// asks returns what the open transaction asks, and commits it.
func (r *rig) asks() []aggregate.Ask {
	r.taken()
	asks := r.state.TakeAsks()
	r.commit()
	return asks
}

// answer is an answer to a question about bytes and calls.
func (r *rig) answer(ask aggregate.Ask, bytes, calls int64) {
	var totals []aggregate.SeedTotal
	if bytes != 0 {
		totals = append(totals, aggregate.SeedTotal{Meter: "bytes", Events: 3, Quantity: usage.DecimalOf(bytes), First: at(r.t, "11-02"), Last: at(r.t, "11-09")})
	}
	if calls != 0 {
		totals = append(totals, aggregate.SeedTotal{Meter: "calls", Events: calls, First: at(r.t, "11-03"), Last: at(r.t, "11-08")})
	}
	r.do(func(s *aggregate.State) { require.NoError(r.t, s.TakeSeed(ask, totals)) })
}

var november = usage.Period{ID: "2026-11", Timezone: "UTC"}

func askOf(t *testing.T, client string) aggregate.Ask {
	t.Helper()
	p := november
	p.Start, p.End = at(t, "11-01"), at(t, "12-01")
	return aggregate.Ask{Client: client, Period: p, Boundary: 1000}
}

func TestNoEventsWhileASeedIsPending(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "60"})
	require.Equal(t, []aggregate.Ask{askOf(t, "acme")}, r.asks())
	require.Empty(t, r.told)
	view := r.state.View("acme", aggregate.Selection{})
	require.False(t, view.Complete)
	require.EqualValues(t, 60, view.Counters[0].Total, "it counts on")
	require.Equal(t, aggregate.Seed{State: aggregate.SeedPending, Boundary: 1000}, view.Counters[0].Seed)
	require.Equal(t, map[aggregate.SeedState]int{aggregate.SeedPending: 1}, r.state.Seeds())

	r.put("k", "acme", "", limit("l", "50", ""))
	require.Empty(t, r.commit(), "revisions wait too")
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "10"})
	require.Empty(t, r.asks(), "it is asked once")

	r.answer(askOf(t, "acme"), 25, 0)
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50 80%=80] 0..95 [50% 80%] seed seeded"}, r.commit())
	require.Equal(t, alerts.Cause{Kind: alerts.BySeed}, r.told[0].Cause)
	require.Equal(t, []string{"k/l 2026-11 [50% 80%]"}, r.blocked())
	view = r.state.View("acme", aggregate.Selection{})
	require.True(t, view.Complete)
	require.Equal(t, aggregate.Seed{State: aggregate.SeedExact, Usage: 25, Events: 3, Boundary: 1000}, view.Counters[0].Seed)
	require.EqualValues(t, 5, view.Counters[0].Events)
	require.Equal(t, at(t, "11-02"), view.Counters[0].First)
	require.Equal(t, r.clock, view.Counters[0].Last)

	r.use(ev{qty: "5"})
	require.Equal(t, []string{"crossed k/l 2026-11 #2 [100%=100] 95..100 [50% 80% 100%] usage seeded"}, r.commit())
	r.restart()
	r.answer(askOf(t, "acme"), 25, 0)
	require.Empty(t, r.commit(), "an answer that nobody waits for changes nothing")
	require.EqualValues(t, 100, r.total("acme", "bytes", ""))
	r.advance("12-01")
	require.Equal(t, []string{"reset k/l 2026-11 #3 [50%=50 80%=80 100%=100] 100..0 [] period_end seeded"}, r.commit())
}

func TestASeedCanBeMarkedOnly(t *testing.T) {
	t.Parallel()

	r := seeded(t, func(cfg *aggregate.Config) { cfg.MarkSeeded = true })
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "60"})
	asks := r.asks()
	r.answer(asks[0], 25, 0)
	require.Empty(t, r.commit())
	require.Equal(t, []string{"k/l 2026-11 [50% 80%]"}, r.blocked())
	state := r.states[`["k","l",{}]`]
	require.EqualValues(t, 1, state.Sequence)
	require.Equal(t, "0", state.UsageBefore)
	require.Equal(t, "85", state.UsageAfter)
	require.True(t, state.Seeded)
	require.Equal(t, r.clock, state.DecidedAt)
	r.restart()
	r.use(ev{qty: "15"})
	require.Equal(t, []string{"crossed k/l 2026-11 #2 [100%=100] 85..100 [50% 80% 100%] usage seeded"}, r.commit(), "the sequence has advanced")
}

func TestAnAnswerOfNothing(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "60"})
	r.answer(r.asks()[0], 0, 0)
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50] 0..60 [50%] seed"}, r.commit(), "it waited, and has no history in it")
	require.Equal(t, map[aggregate.SeedState]int{aggregate.SeedExact: 1}, r.state.Seeds())
}

func TestASeedBringsMetersThatWereNotSeen(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("c", "10", `"meter":"calls"`), limit("l", "100", ""))
	r.asks()
	r.use(ev{qty: "1"})
	r.asks()
	r.answer(askOf(t, "acme"), 80, 9)
	r.taken()
	require.Empty(t, r.state.TakeAsks())
	require.Equal(t, []string{
		"crossed k/c 2026-11 #1 [50%=5 80%=8] 0..9 [50% 80%] seed seeded",
		"crossed k/l 2026-11 #1 [50%=50 80%=80] 0..81 [50% 80%] seed seeded",
	}, r.commit())
	require.EqualValues(t, 9, r.total("acme", "calls", ""))
	r.use(ev{meter: "hours", qty: "1"})
	require.Empty(t, r.asks(), "the answer had nothing of this meter")
	require.True(t, r.state.View("acme", aggregate.Selection{}).Complete)
}

func TestLimitsAskForClientsThatAreSilent(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.advance("11-10T12:01") // there is no period before there is a time
	require.Equal(t, []aggregate.Ask{askOf(t, "acme")}, r.asks())
	r.put("o", "bolt", "", limit("l", "100", ""))
	require.Equal(t, []aggregate.Ask{askOf(t, "bolt")}, r.asks())
	r.answer(askOf(t, "acme"), 120, 0)
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50 80%=80 100%=100] 0..120 [50% 80% 100%] seed seeded"}, r.commit())
}

func TestPendingSeedsAreThereAfterARestart(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", ""), limit("d", "100", `"period":"day"`))
	r.use(ev{qty: "60"})
	first := r.asks()
	require.Len(t, first, 2)
	require.ElementsMatch(t, first, r.state.Pending())
	r.restart()
	require.ElementsMatch(t, first, r.state.Pending())
	require.Empty(t, r.asks(), "whoever restarts asks again, the state does not")
	for _, ask := range first {
		r.answer(ask, 30, 0)
	}
	require.Empty(t, r.state.Pending())
	require.Equal(t, []string{
		"crossed k/l 2026-11 #1 [50%=50 80%=80] 0..90 [50% 80%] seed seeded",
		"crossed k/d 2026-11-10 #1 [50%=50 80%=80] 0..90 [50% 80%] seed seeded",
	}, r.commit())
}

func TestOwnCountersAskForThemselves(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.use(ev{qty: "60"})
	r.answer(r.asks()[0], 10, 0)
	r.commit()
	r.put("k", "acme", `"starts_at":"2026-11-05T00:00:00Z"`, limit("l", "100", full), limit("d", "100", full+`,"period":"day"`))
	r.taken()
	asks := r.asks()
	require.Len(t, asks, 2)
	for _, ask := range asks {
		require.EqualValues(t, 1001, ask.Boundary, "all that came before the contract was read")
		require.Equal(t, "k", ask.Scope.Contract)
	}
	require.Equal(t, at(t, "11-05"), asks[0].Period.Start)
	require.Equal(t, at(t, "11-10"), asks[1].Period.Start)
	r.use(ev{qty: "30"})
	require.Empty(t, r.commit())
	r.answer(asks[1], 70, 0)
	require.Equal(t, []string{"crossed k/d 2026-11-10 #1 [100%=100] 0..100 [100%] seed seeded"}, r.commit())
	r.answer(asks[0], 60, 5)
	require.Empty(t, r.commit())
	require.EqualValues(t, 90, r.state.View("acme", aggregate.Selection{}).Limits[0].Total)
	require.EqualValues(t, -1, r.total("acme", "calls", ""), "an answer to a limit's own question makes no default counters")
}

func TestAFailureIsOfTheCountersThatWaitForThatAnswer(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.use(ev{qty: "60"})
	r.answer(r.asks()[0], 10, 0)
	r.commit()
	ask := func() aggregate.Ask {
		r.put("k", "acme", "", limit("l", "100", full+`,"period":"day"`))
		r.taken()
		asks := r.asks()
		require.Len(t, asks, 1)
		return asks[0]
	}
	fail := func(ask aggregate.Ask) aggregate.SeedState {
		r.do(func(s *aggregate.State) { s.SeedFailed(ask) })
		require.False(t, r.state.Touched(), "it is not written down")
		return r.state.View("acme", aggregate.Selection{}).Limits[0].Seed.State
	}
	first := ask()
	r.remove("k")
	r.use(ev{qty: "5"})
	r.commit()
	second := ask()
	require.Less(t, first.Boundary, second.Boundary)
	require.Equal(t, aggregate.SeedPending, fail(first))
	require.Equal(t, aggregate.SeedFailed, fail(second))
	r.answer(second, 65, 0)
	r.commit()
	require.Equal(t, aggregate.SeedExact, fail(second))
}

func TestACutEndNeedsNoHistory(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", full))
	r.use(ev{qty: "60"})
	r.answer(r.asks()[0], 10, 0)
	r.commit()
	r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, limit("l", "100", full))
	require.Empty(t, r.asks(), "the default counter has it all")
	r.use(ev{qty: "30"})
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [100%=100] 70..100 [100%] usage seeded"}, r.commit())
}

func TestACutEndWhileTheDefaultCounterWaits(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", full))
	r.use(ev{qty: "60"})
	first := r.asks()[0]
	r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, limit("l", "100", full))
	own := r.asks()
	require.Len(t, own, 1)
	require.EqualValues(t, 1001, own[0].Boundary)
	r.answer(first, 10, 0)
	require.Empty(t, r.commit())
	r.answer(own[0], 70, 0)
	r.use(ev{qty: "30"})
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [100%=100] 70..100 [100%] usage seeded"}, r.commit())
}

func TestPeriodsAfterTheHorizonNeedNoSeed(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", full))
	r.advance("12-01T00:10")
	r.use(ev{qty: "100"})
	require.Empty(t, r.asks())
	require.Equal(t, []string{"crossed k/l 2026-12 #1 [100%=100] 0..100 [100%] usage"}, linesOf(r.told))
	require.True(t, r.state.View("nobody", aggregate.Selection{}).Known)

	r.use(ev{client: "bolt", time: "11-30"})
	require.Equal(t, []aggregate.Ask{askOf(t, "bolt")}, r.asks(), "but the period before may have one")
}

func TestWithoutHistoryBelowTheBoundary(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.state.Start(0, r.clock)
	r.use(ev{qty: "1"})
	require.Empty(t, r.asks(), "nothing lies below offset 0")
	require.True(t, r.state.View("acme", aggregate.Selection{}).Complete)
}

func TestASeedThatDoesNotFit(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.use(ev{qty: mostBytes})
	r.use(ev{meter: "hours", qty: "1"})
	asks := r.asks()
	require.Len(t, asks, 1, "one answer serves all meters")
	before := r.state.View("acme", aggregate.Selection{})
	for _, totals := range [][]aggregate.SeedTotal{
		{{Meter: "hours", Events: 1, Quantity: usage.DecimalOf(5)}, {Meter: "bytes", Events: 1, Quantity: usage.DecimalOf(1)}},
		{{Meter: "hours", Events: 1, Quantity: usage.Decimal{Units: 1, Scale: 3}}},
		{{Meter: "bytes", Events: 1, Quantity: usage.Decimal{TooLarge: true}}},
	} {
		r.do(func(s *aggregate.State) { require.ErrorIs(t, s.TakeSeed(asks[0], totals), aggregate.ErrSeedOverflow) })
		require.False(t, r.state.Touched())
		require.Equal(t, before, r.state.View("acme", aggregate.Selection{}))
	}
	r.do(func(s *aggregate.State) {
		require.NoError(t, s.TakeSeed(asks[0], []aggregate.SeedTotal{{Meter: "dreams", Events: 1}}))
	})
	r.commit()
	r.do(func(s *aggregate.State) {
		require.NoError(t, s.TakeSeed(asks[0], []aggregate.SeedTotal{{Meter: "bytes", Events: 1, Quantity: usage.DecimalOf(1)}}))
	})
	require.False(t, r.state.Touched(), "nobody waits any more")
}

func TestASeedIsRolledBack(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "60"})
	ask := r.asks()[0]
	r.answer(ask, 25, 7)
	first := snapshot(t, r.state.Changes(r.clock))
	r.state.Rollback()
	require.Len(t, r.state.Pending(), 1)
	require.False(t, r.state.View("acme", aggregate.Selection{}).Complete)
	r.answer(ask, 25, 7)
	require.Equal(t, first, snapshot(t, r.state.Changes(r.clock)))
}

func TestQuestionsAreAskedAgainAfterARollback(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, limit("l", "100", ""), limit("d", "100", `"period":"day"`))
	r.put("o", "bolt", "", limit("l", "100", ""))
	fold := func() (string, []aggregate.Ask) {
		r.use(ev{qty: "60"})
		r.use(ev{client: "corp"})
		r.taken()
		return snapshot(t, r.state.Changes(r.clock)), r.state.TakeAsks()
	}
	changes, asks := fold()
	require.NotEmpty(t, asks)
	for range 5 {
		r.state.Rollback()
		again, askedAgain := fold()
		require.Equal(t, changes, again)
		require.Equal(t, asks, askedAgain)
	}
}
