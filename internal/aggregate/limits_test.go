package aggregate_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

func TestCrossings(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		quantities []string
		want       []string
	}{
		"below every threshold":       {[]string{"49"}, []string{}},
		"reaching a threshold counts": {[]string{"49", "1"}, []string{"crossed k/l 2026-11 #1 [50%=50] 49..50 [50%] usage"}},
		"standing on it does not":     {[]string{"50", "0", "29"}, []string{"crossed k/l 2026-11 #1 [50%=50] 0..50 [50%] usage"}},
		"one jump lists several":      {[]string{"101"}, []string{"crossed k/l 2026-11 #1 [50%=50 80%=80 100%=100] 0..101 [50% 80% 100%] usage"}},
		"one after the other, gapless": {[]string{"50", "30", "20"}, []string{
			"crossed k/l 2026-11 #1 [50%=50] 0..50 [50%] usage",
			"crossed k/l 2026-11 #2 [80%=80] 50..80 [50% 80%] usage",
			"crossed k/l 2026-11 #3 [100%=100] 80..100 [50% 80% 100%] usage",
		}},
		"a correction clears, and it fires again": {[]string{"100", "-20", "-1", "21"}, []string{
			"crossed k/l 2026-11 #1 [50%=50 80%=80 100%=100] 0..100 [50% 80% 100%] usage",
			"cleared k/l 2026-11 #2 [100%=100] 100..80 [50% 80%] usage",
			"cleared k/l 2026-11 #3 [80%=80] 80..79 [50%] usage",
			"crossed k/l 2026-11 #4 [80%=80 100%=100] 79..100 [50% 80% 100%] usage",
		}},
		"a correction below zero clears all": {[]string{"60", "-100"}, []string{
			"crossed k/l 2026-11 #1 [50%=50] 0..60 [50%] usage",
			"cleared k/l 2026-11 #2 [50%=50] 60..-40 [] usage",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			r := newTestRig(t)
			r.put("k", "acme", "", limit("l", "100", ""))
			for _, q := range tt.quantities {
				r.use(ev{qty: q})
			}
			require.Equal(t, tt.want, r.commit())
		})
	}
}

func TestOrderOfOneCause(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k2", "acme", "", limit("z", "10", `"thresholds":["100%"]`), limit("a", "10", `"thresholds":["100%"],"period":"hour"`))
	r.put("k1", "acme", "", limit("m", "10", `"thresholds":["100%"],"period":"day"`), limit("b", "10", `"thresholds":["100%"]`))
	r.use(ev{qty: "10"})
	require.Equal(t, []string{
		"crossed k1/m 2026-11-10 #1 [100%=10] 0..10 [100%] usage",
		"crossed k1/b 2026-11 #1 [100%=10] 0..10 [100%] usage",
		"crossed k2/z 2026-11 #1 [100%=10] 0..10 [100%] usage",
		"crossed k2/a 2026-11-10T12+00:00 #1 [100%=10] 0..10 [100%] usage",
	}, r.commit())
}

func TestPeriodEnds(t *testing.T) {
	t.Parallel()

	crossed := "crossed k/l 2026-11 #1 [50%=50 80%=80] 0..80 [50% 80%] usage"
	reset := "reset k/l 2026-11 #2 [50%=50 80%=80] 80..0 [] period_end"
	tests := map[string]struct {
		then func(r *rig)
		want []string
	}{
		"by the clock, for a silent client": {func(r *rig) { r.advance("12-01") }, []string{reset}},
		"not a moment before":               {func(r *rig) { r.advance("11-30T23:59:59.999") }, []string{}},
		"by another client's record, before that is counted": {func(r *rig) {
			r.put("o", "bolt", "", limit("l", "1", `"thresholds":["100%"]`))
			r.seek("12-01T00:01")
			r.use(ev{client: "bolt", stamp: "12-01T00:00:00.001"})
		}, []string{reset, "bolt crossed o/l 2026-12 #1 [100%=1] 0..1 [100%] usage"}},
		"by the client's own next record": {func(r *rig) {
			r.seek("12-02")
			r.use(ev{qty: "60"})
		}, []string{reset, "crossed k/l 2026-12 #1 [50%=50] 0..60 [50%] usage"}},
		"by a record that is a dead letter": {func(r *rig) {
			r.seek("12-02")
			r.do(func(s *aggregate.State) { s.Reject(aggregate.Input{Offset: s.Position(), Timestamp: r.clock}) })
		}, []string{reset}},
		"once": {func(r *rig) {
			r.advance("12-01")
			r.advance("12-05")
			r.use(ev{qty: "1"})
			r.advance("2027-02-01")
		}, []string{reset}},
		"though meterd was down at that moment": {func(r *rig) {
			r.commit()
			r.told = nil
			r.seek("12-03")
			r.restart()
			r.advance("12-03")
		}, []string{reset}},
		"not by a timestamp ahead of the clock": {func(r *rig) { r.use(ev{qty: "1", stamp: "12-01T00:00", time: "11-10T12:00"}) }, []string{}},
		"not by an event of the next period": {func(r *rig) {
			r.seek("11-30T23:57")
			r.use(ev{qty: "1", time: "12-01T00:01"})
		}, []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			r := newTestRig(t)
			r.put("k", "acme", "", limit("l", "100", ""))
			r.use(ev{qty: "80"})
			require.Equal(t, []string{crossed}, r.commit())
			r.told = nil
			tt.then(r)
			require.Equal(t, tt.want, r.commit())
		})
	}
}

func TestAResetHasTheRevisionInForce(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "100"})
	r.commit()
	r.put("k", "acme", "", limit("l", "160", `"thresholds":["50%"],"enforcement":"soft"`))
	r.taken()
	r.advance("12-01")
	require.Equal(t, []string{
		"cleared k/l 2026-11 #2 [80%=80 100%=100] 100..100 [50%] contract",
		"reset k/l 2026-11 #3 [50%=50] 100..0 [] period_end",
	}, r.commit())
	reset := r.told[2]
	require.Equal(t, "160", reset.Limit)
	require.Equal(t, contracts.Soft, reset.Enforcement)
	require.EqualValues(t, 1, reset.ContractRevision)
}

func TestResetsOfSeveral(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	one := `"thresholds":["100%"]`
	r.put("k2", "bolt", "", limit("z", "10", one), limit("y", "10", one))
	r.put("k1", "bolt", "", limit("x", "10", one+`,"period":"day"`))
	r.put("k3", "acme", "", limit("w", "10", one))
	r.use(ev{client: "bolt", qty: "10"})
	r.use(ev{client: "acme", qty: "10"})
	r.commit()
	r.advance("12-01")
	want := []string{
		"bolt reset k1/x 2026-11-10 #2 [100%=10] 10..0 [] period_end",
		"reset k3/w 2026-11 #2 [100%=10] 10..0 [] period_end",
		"bolt reset k2/z 2026-11 #2 [100%=10] 10..0 [] period_end",
		"bolt reset k2/y 2026-11 #2 [100%=10] 10..0 [] period_end",
	}
	r.taken()
	first := snapshot(t, r.state.Changes(r.clock))
	r.state.Rollback()
	r.restart()
	r.advance("12-01")
	require.Equal(t, first, snapshot(t, r.state.Changes(r.clock)), "in the same order after a restart")
	require.Equal(t, want, r.commit())
}

func TestLateEvents(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "60"})
	r.commit()
	r.advance("12-01T01:00")
	r.use(ev{qty: "80"})
	require.Equal(t, []string{
		"reset k/l 2026-11 #2 [50%=50] 60..0 [] period_end",
		"crossed k/l 2026-12 #1 [50%=50 80%=80] 0..80 [50% 80%] usage",
	}, r.commit())
	require.Equal(t, []string{"k/l 2026-12 [50% 80%]"}, r.blocked())

	require.Equal(t, aggregate.Result{Fate: aggregate.Counted, Late: true}, r.fold(ev{qty: "50", time: "11-30T23:59"}))
	require.Equal(t, []string{"crossed k/l 2026-11 #3 [80%=80 100%=100] 60..110 [80% 100%] usage late"}, r.commit())
	require.Equal(t, []string{"k/l 2026-12 [50% 80%]"}, r.blocked(), "the current period's state stays")
	require.EqualValues(t, 110, r.total("acme", "bytes", "2026-11"))
	require.EqualValues(t, 80, r.total("acme", "bytes", ""))

	r.restart()
	r.advance("2027-01-01")
	require.Equal(t, []string{"reset k/l 2026-12 #2 [50%=50 80%=80] 80..0 [] period_end"}, r.commit(), "what came late is never reset")
}

func TestLateCrossingOfAPeriodWithoutAny(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "10"})
	r.advance("12-01T01:00")
	r.use(ev{qty: "50", time: "11-30"})
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50] 10..60 [50%] usage late"}, r.commit())
	require.Empty(t, r.blocked())
	r.restart()
	r.advance("12-02")
	require.Empty(t, r.commit(), "the end of the period is evaluated once, and that was before")
	r.use(ev{qty: "-20", time: "11-30"})
	require.Equal(t, []string{"cleared k/l 2026-11 #2 [50%=50] 60..40 [] usage late"}, r.commit())
}

func TestLateIsDecidedByTheRecordItself(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "1", `"thresholds":["100%"]`))
	r.seek("12-01T00:10")
	require.False(t, r.fold(ev{stamp: "11-30T23:59:59.999"}).Late)
	require.True(t, r.fold(ev{client: "bolt", stamp: "12-01T00:00", time: "11-30T23:59:59.999"}).Late)
	require.False(t, r.fold(ev{stamp: "12-01T00:00"}).Late)
}

func TestEarlyEvents(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.seek("11-30T23:57")
	r.use(ev{qty: "50"})
	r.use(ev{qty: "80", time: "12-01T00:02"})
	require.Equal(t, []string{
		"crossed k/l 2026-11 #1 [50%=50] 0..50 [50%] usage",
		"crossed k/l 2026-12 #1 [50%=50 80%=80] 0..80 [50% 80%] usage",
	}, r.commit())
	require.Equal(t, []string{"k/l 2026-11 [50%]"}, r.blocked(), "the next period has not begun")

	r.restart()
	r.advance("12-01")
	require.Equal(t, []string{"reset k/l 2026-11 #2 [50%=50] 50..0 [] period_end"}, r.commit())
	require.Equal(t, []string{"k/l 2026-12 [50% 80%]"}, r.blocked(), "it has begun with labels standing")

	r.advance("2027-01-01")
	require.Equal(t, []string{"reset k/l 2026-12 #2 [50%=50 80%=80] 80..0 [] period_end"}, r.commit())
	require.Empty(t, r.blocked())
}

func TestEarlyEventsWithNothingBefore(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.seek("11-30T23:57")
	r.use(ev{qty: "80", time: "12-01T00:02"})
	require.Len(t, r.commit(), 1)
	require.Empty(t, r.blocked())
	r.use(ev{qty: "-70", time: "12-01T00:02"})
	r.use(ev{qty: "45", time: "12-01T00:02"})
	require.Len(t, r.commit(), 2)
	r.advance("12-01")
	require.Empty(t, r.commit())
	require.Equal(t, []string{"k/l 2026-12 [50%]"}, r.blocked())
}

func TestEarlyEventsMeetARevision(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.seek("11-30T23:57")
	r.use(ev{qty: "80", time: "12-01T00:02"})
	r.commit()
	r.put("k", "acme", "", limit("l", "160", ""))
	require.Equal(t, []string{"cleared k/l 2026-12 #2 [80%=80] 80..80 [50%] contract"}, r.commit())
	require.Empty(t, r.blocked(), "but it has not begun")
	r.remove("k")
	require.Equal(t, []string{"cleared k/l 2026-12 #3 [50%=50] 80..80 [] contract"}, r.commit())
	r.advance("2027-01-01")
	require.Empty(t, r.commit(), "nothing to reset later")
	require.Empty(t, r.blocked())
}

func TestSequencesStartAnewWithEachPeriod(t *testing.T) {
	t.Parallel()

	cfg := config(t)
	cfg.Catalog.Schedule = schedule(t, usage.Hour, "UTC")
	cfg.AllowedLateness = time.Hour
	r := newRig(t, cfg)
	r.put("k", "acme", "", limit("l", "10", `"thresholds":["100%"]`))
	ids := map[string]bool{}
	for _, clock := range []string{"11-10T12:10", "11-10T13:10", "11-10T14:10", "11-10T15:10"} {
		r.advance(clock)
		r.use(ev{qty: "10"})
		r.commit()
		r.restart()
	}
	r.advance("11-10T16:00")
	r.commit()
	require.Len(t, r.told, 8)
	for i, e := range r.told {
		require.EqualValues(t, i%2+1, e.Sequence)
		ids[e.ID] = true
	}
	require.Len(t, ids, 8)
}

func TestLimitStateIsWrittenOnceACommit(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	for range 10 {
		r.use(ev{qty: "10"})
	}
	r.taken()
	require.True(t, r.state.Urgent())
	changes := r.state.Changes(r.clock)
	require.Len(t, changes.Events, 3)
	require.Len(t, changes.States, 1)
	require.Same(t, changes.Events[2], changes.States[0].Event)
	require.Equal(t, "acme", changes.States[0].Client)
}

// What was crossed late in the cut last period of a contract stands in the
// current one when the contract goes on after all, and is reset with it.
func TestLateLabelsGoOnWithTheirContract(t *testing.T) {
	t.Parallel()
	for _, more := range []string{"", `,"timezone":"Europe/Berlin"`, `,"period":"year"`} {
		r := newTestRig(t)
		put := func(ends, more string) {
			r.put("k", "acme", `"ends_at":"`+ends+`T00:00:00Z"`, limit("l", "10", `"thresholds":["100%"]`+more))
		}
		put("2026-11-20", more)
		r.seek("11-21")
		r.use(ev{qty: "10", time: "11-19"})
		require.Len(t, r.commit(), 1, "late")
		require.Empty(t, r.blocked())
		put("2027-06-01", more)
		require.Empty(t, r.commit(), "the label stays")
		require.Len(t, r.blocked(), 1, "and stands in the current period")
		r.advance("2027-01-02")
		require.Len(t, r.commit(), 1, "it is reset")
		require.Empty(t, r.blocked())
	}
}

// Readers see the labels of the counter that a limit has now.
func TestLabelsOfAnotherCounterAreNotShown(t *testing.T) {
	t.Parallel()
	r := newTestRig(t)
	r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, limit("l", "10", `"thresholds":["100%"]`))
	r.seek("11-21")
	r.use(ev{qty: "10", time: "11-19"})
	require.Len(t, r.commit(), 1)
	r.put("k", "acme", `"ends_at":"2027-06-01T00:00:00Z"`, limit("l", "10", `"thresholds":["100%"],"meter":"calls"`))
	require.Empty(t, r.commit())
	view := r.state.View("acme", aggregate.Selection{}).Limits[0]
	require.Zero(t, view.Total)
	require.Empty(t, view.Standing)
}

// Labels that stand are listed by the values that they have now.
func TestStandingIsInTheOrderOfTheRevision(t *testing.T) {
	t.Parallel()
	r := newTestRig(t)
	put := func(value string) { r.put("k", "acme", "", limit("l", value, `"thresholds":["100%","110%","130%"]`)) }
	put("100")
	r.use(ev{qty: "120"})
	r.commit()
	put("50")
	require.Equal(t, []string{"crossed k/l 2026-11 #2 [130%=65] 120..120 [100% 110% 130%] contract"}, r.commit())
}

// The same where the cut period had been reset before: the one that goes on has
// not.
func TestLateLabelsGoOnAfterAReset(t *testing.T) {
	t.Parallel()
	r := newTestRig(t)
	put := func(ends string) {
		r.put("k", "acme", `"ends_at":"`+ends+`T00:00:00Z"`, limit("l", "10", `"thresholds":["100%"]`))
	}
	put("2026-11-20")
	r.seek("11-18")
	r.use(ev{qty: "10"})
	r.commit()
	r.advance("11-21")
	require.Len(t, r.commit(), 1, "reset")
	r.use(ev{qty: "-5", time: "11-19"})
	r.use(ev{qty: "5", time: "11-19"})
	require.Len(t, r.commit(), 2, "late")
	put("2027-06-01")
	require.Empty(t, r.commit())
	require.Equal(t, []string{"k/l 2026-11 [100%]"}, r.blocked())
	r.advance("12-02")
	require.Len(t, r.commit(), 1, "reset with the period that went on")
	require.Empty(t, r.blocked())
}
