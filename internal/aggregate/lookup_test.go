package aggregate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
)

func TestSeedsOfPeriodsThatHaveEnded(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "60"})
	ask := r.asks()[0]
	r.advance("12-02")
	require.Empty(t, r.commit(), "nothing stood")
	r.answer(ask, 25, 0)
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50 80%=80] 0..85 [50% 80%] seed late seeded"}, r.commit())
	require.Empty(t, r.blocked())
	r.restart()
	r.advance("12-03")
	require.Empty(t, r.commit())

	r.advance("2027-01-01")
	r.commit()
	require.EqualValues(t, -1, r.total("acme", "bytes", "2026-11"))
	r.answer(ask, 25, 4)
	require.Empty(t, r.commit())
	require.EqualValues(t, -1, r.total("acme", "calls", "2026-11"), "too late for a period that is not kept")
}

func TestLookUp(t *testing.T) {
	t.Parallel()

	r := announced(t)
	require.False(t, r.state.View("acme", aggregate.Selection{}).Known, "before there is a time, nothing is known")
	r.do(func(s *aggregate.State) { require.False(t, s.LookUp("acme"), "and there is no period to ask for") })
	r.advance("11-10T12:00")
	r.commit()
	require.False(t, r.state.View("acme", aggregate.Selection{}).Known)
	r.do(func(s *aggregate.State) { require.True(t, s.LookUp("acme")) })
	asks := r.asks()
	require.Equal(t, []aggregate.Ask{askOf(t, "acme")}, asks)

	r.answer(asks[0], 30, 0)
	require.False(t, r.state.View("acme", aggregate.Selection{}).Known, "until it is committed")
	r.taken()
	require.Empty(t, r.state.TakeAsks())
	r.commit()
	view := r.state.View("acme", aggregate.Selection{})
	require.True(t, view.Known)
	require.True(t, view.Complete)
	require.EqualValues(t, 30, view.Counters[0].Total)
	r.do(func(s *aggregate.State) { require.False(t, s.LookUp("acme")) })

	r.answer(askOf(t, "nobody"), 0, 0)
	r.commit()
	require.True(t, r.state.View("nobody", aggregate.Selection{}).Known, "history has nothing of it")
	require.Empty(t, r.state.View("nobody", aggregate.Selection{}).Counters)
	r.do(func(s *aggregate.State) { require.False(t, s.LookUp("nobody")) })
}

func TestALimitsOwnAnswerSaysNothingOfTheWholePeriod(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.advance("11-10T12:00")
	r.commit()
	r.put("k", "acme", `"starts_at":"2026-11-05T00:00:00Z"`, limit("l", "100", full))
	asks := r.asks()
	require.Len(t, asks, 1)
	require.Equal(t, at(t, "11-05"), asks[0].Period.Start)
	r.remove("k")
	r.commit()
	r.answer(asks[0], 0, 0)
	require.Empty(t, r.commit())
	require.False(t, r.state.View("acme", aggregate.Selection{}).Known, "it may have used something before the contract began")
	r.do(func(s *aggregate.State) { require.True(t, s.LookUp("acme")) })
	r.answer(r.asks()[0], 30, 0)
	r.commit()
	require.EqualValues(t, 30, r.total("acme", "bytes", ""))
}

func TestAClientOfTheOpenTransactionIsNotKnownYet(t *testing.T) {
	t.Parallel()

	r := announced(t)
	r.advance("11-10T12:00")
	r.commit()
	r.use(ev{qty: "60"})
	view := r.state.View("acme", aggregate.Selection{})
	require.Empty(t, view.Counters)
	require.False(t, view.Known, "zero would be wrong")
	r.commit()
	require.True(t, r.state.View("acme", aggregate.Selection{}).Known)
}
