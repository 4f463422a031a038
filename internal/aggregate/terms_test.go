package aggregate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
)

const full = `"thresholds":["100%"]`

// used is a rig whose client acme has used 120 of a limit of 100.
func used(t *testing.T) *rig {
	t.Helper()
	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{meter: "calls"})
	r.use(ev{qty: "120"})
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50 80%=80 100%=100] 0..120 [50% 80% 100%] usage"}, r.commit())
	r.told = nil
	return r
}

func TestALimitIsRaised(t *testing.T) {
	t.Parallel()

	r := used(t)
	r.put("k", "acme", "", limit("l", "200", ""))
	require.Equal(t, []string{"cleared k/l 2026-11 #2 [80%=80 100%=100] 120..120 [50%] contract"}, r.commit())
	topic, partition, offset := "contracts", int32(0), int64(1)
	e := r.told[0]
	require.Equal(t, alerts.Cause{Kind: alerts.ByContract, Topic: &topic, Partition: &partition, Offset: &offset}, e.Cause)
	require.Equal(t, "200", e.Limit)
	require.Equal(t, "0.6", e.Utilization)
	require.EqualValues(t, 1, e.ContractRevision)
	require.Equal(t, []string{"k/l 2026-11 [50%]"}, r.blocked())

	r.use(ev{qty: "39"})
	require.Empty(t, r.commit())
	r.use(ev{qty: "1"})
	r.use(ev{qty: "40"})
	require.Equal(t, []string{
		"crossed k/l 2026-11 #3 [80%=160] 159..160 [50% 80%] usage",
		"crossed k/l 2026-11 #4 [100%=200] 160..200 [50% 80% 100%] usage",
	}, r.commit())
}

func TestContractRevisions(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change  func(r *rig)
		want    []string
		blocked []string
	}{
		"the same again says nothing": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "100", "")) },
			[]string{},
			[]string{"k/l 2026-11 [50% 80% 100%]"},
		},
		"another enforcement says nothing": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "100", `"enforcement":"soft"`)) },
			[]string{},
			[]string{"k/l 2026-11 [50% 80% 100%]"},
		},
		"a limit raised beyond all of it": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "1000", "")) },
			[]string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"},
			[]string{},
		},
		"a new threshold that is reached": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "100", `"thresholds":["50%","80%","100%","120"]`)) },
			[]string{"crossed k/l 2026-11 #2 [120=120] 120..120 [50% 80% 100% 120] contract"},
			[]string{"k/l 2026-11 [50% 80% 100% 120]"},
		},
		"a threshold that is gone": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "100", `"thresholds":["80%","100%"]`)) },
			[]string{"cleared k/l 2026-11 #2 [50%=50] 120..120 [80% 100%] contract"},
			[]string{"k/l 2026-11 [80% 100%]"},
		},
		"cleared comes before crossed": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "200", `"thresholds":["50%","80%","100%","110"]`)) },
			[]string{
				"cleared k/l 2026-11 #2 [80%=80 100%=100] 120..120 [50%] contract",
				"crossed k/l 2026-11 #3 [110=110] 120..120 [50% 110] contract",
			},
			[]string{"k/l 2026-11 [50% 110]"},
		},
		"a new limit of what was used already": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "100", ""), limit("new", "60", full)) },
			[]string{"crossed k/new 2026-11 #1 [100%=60] 120..120 [100%] contract"},
			[]string{"k/l 2026-11 [50% 80% 100%]", "k/new 2026-11 [100%]"},
		},
		"a dropped limit": {
			func(r *rig) { r.put("k", "acme", "") },
			[]string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"},
			[]string{},
		},
		"a removed contract": {
			func(r *rig) { r.remove("k") },
			[]string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"},
			[]string{},
		},
		"removed and put again goes on counting its events": {
			func(r *rig) { r.remove("k"); r.put("k", "acme", "", limit("l", "100", full)) },
			[]string{
				"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract",
				"crossed k/l 2026-11 #3 [100%=100] 120..120 [100%] contract",
			},
			[]string{"k/l 2026-11 [100%]"},
		},
		"each revision in turn": {
			func(r *rig) {
				r.put("k", "acme", "", limit("l", "120", full))
				r.put("k", "acme", "", limit("l", "121", full))
				r.put("k", "acme", "", limit("l", "110", full))
			},
			[]string{
				"cleared k/l 2026-11 #2 [50%=50 80%=80] 120..120 [100%] contract",
				"cleared k/l 2026-11 #3 [100%=100] 120..120 [] contract",
				"crossed k/l 2026-11 #4 [100%=110] 120..120 [100%] contract",
			},
			[]string{"k/l 2026-11 [100%]"},
		},
		"another meter is another counter": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "100", `"meter":"calls","thresholds":["1"]`)) },
			[]string{
				"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract",
				"crossed k/l 2026-11 #3 [1=1] 1..1 [1] contract",
			},
			[]string{"k/l 2026-11 [1]"},
		},
		"another period is another counter": {
			func(r *rig) { r.put("k", "acme", "", limit("l", "100", `"period":"day"`)) },
			[]string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"},
			[]string{},
		},
		"a bad revision changes nothing": {
			func(r *rig) {
				require.Error(r.t, r.table.Apply([]byte("k"), []byte("{}"), r.revision))
			},
			[]string{},
			[]string{"k/l 2026-11 [50% 80% 100%]"},
		},
		"an end in the past": {
			func(r *rig) { r.put("k", "acme", `"ends_at":"2026-11-05T00:00:00Z"`, limit("l", "100", "")) },
			[]string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"},
			[]string{},
		},
		"an end in a past period": {
			func(r *rig) { r.put("k", "acme", `"ends_at":"2026-11-01T00:00:00Z"`, limit("l", "100", "")) },
			[]string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"},
			[]string{},
		},
		"an end in this period keeps the total": {
			func(r *rig) { r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, limit("l", "100", "")) },
			[]string{},
			[]string{"k/l 2026-11 [50% 80% 100%]"},
		},
		"a start in the future": {
			func(r *rig) { r.put("k", "acme", `"starts_at":"2026-12-01T00:00:00Z"`, limit("l", "100", "")) },
			[]string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"},
			[]string{},
		},
		"a start in this period is another counter": {
			func(r *rig) { r.put("k", "acme", `"starts_at":"2026-11-02T00:00:00Z"`, limit("l", "100", "")) },
			[]string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"},
			[]string{},
		},
		"a move to another client": {
			func(r *rig) {
				r.use(ev{client: "bolt", qty: "60"})
				r.put("k", "bolt", "", limit("l", "100", ""))
			},
			[]string{
				"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract",
				"bolt crossed k/l 2026-11 #3 [50%=50] 60..60 [50%] contract",
			},
			[]string{"k/l 2026-11 [50%]"},
		},
		"a second contract": {
			func(r *rig) { r.put("a", "acme", "", limit("x", "120", full)) },
			[]string{"crossed a/x 2026-11 #1 [100%=120] 120..120 [100%] contract"},
			[]string{"a/x 2026-11 [100%]", "k/l 2026-11 [50% 80% 100%]"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			t.Run("while running", func(t *testing.T) {
				t.Parallel()

				r := used(t)
				tt.change(r)
				require.Equal(t, tt.want, r.commit())
				require.Equal(t, tt.blocked, r.blocked())
				r.restart()
				require.Empty(t, r.commit(), "a restart says nothing")
				require.Equal(t, tt.blocked, r.blocked())
			})
			t.Run("rolled back and done again", func(t *testing.T) {
				t.Parallel()

				r := used(t)
				tt.change(r)
				r.use(ev{id: "x", qty: "1"})
				r.taken()
				first := snapshot(t, r.state.Changes(r.clock))
				for range 3 {
					r.state.Rollback()
					r.state.Begin(r.clock)
					r.state.TakeContracts()
					r.state.End()
				}
				r.state.Rollback()
				other := used(t)
				tt.change(other)
				other.use(ev{id: "x", qty: "1"})
				require.Equal(t, first, snapshot(t, other.state.Changes(other.clock)))
			})
		})
	}
}

func TestRevisionsWhileMeterdWasDown(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change func(r *rig)
		want   []string
	}{
		"a raised limit":     {func(r *rig) { r.put("k", "acme", "", limit("l", "200", "")) }, []string{"cleared k/l 2026-11 #2 [80%=80 100%=100] 120..120 [50%] contract"}},
		"a removed contract": {func(r *rig) { r.remove("k") }, []string{"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract"}},
		"only the last of several": {func(r *rig) {
			r.put("k", "acme", "", limit("l", "1000", ""))
			r.put("k", "acme", "", limit("l", "100", ""))
		}, []string{}},
		"a move to a client that comes before": {func(r *rig) {
			r.put("k", "aaa", "", limit("l", "100", ""))
			r.put("o", "acme", "", limit("l", "1000", ""))
		}, []string{
			"cleared k/l 2026-11 #2 [50%=50 80%=80 100%=100] 120..120 [] contract",
			"aaa crossed k/l 2026-11 #3 [50%=50] 60..60 [50%] contract",
		}},
		"an end in this period": {func(r *rig) { r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, limit("l", "100", "")) }, []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			r := used(t)
			r.use(ev{client: "aaa", qty: "60"})
			r.commit()
			tt.change(r)
			r.restart()
			r.taken()
			first := snapshot(t, r.state.Changes(r.clock))
			r.state.Rollback()
			r.taken()
			require.Equal(t, first, snapshot(t, r.state.Changes(r.clock)), "a rollback does not take the table in change by change")
			require.Equal(t, tt.want, r.commit())
			r.restart()
			require.Empty(t, r.commit())
		})
	}
}

func TestRemovalNamesTheTombstone(t *testing.T) {
	t.Parallel()

	for name, restart := range map[string]func(r *rig){"running": func(*rig) {}, "down": (*rig).restart} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			r := used(t)
			r.revision = 17
			r.remove("k")
			restart(r)
			r.commit()
			require.EqualValues(t, 17, r.told[0].ContractRevision)
			require.EqualValues(t, 17, *r.told[0].Cause.Offset)
			require.Equal(t, "100", r.told[0].Limit)
			require.Equal(t, "1.2", r.told[0].Utilization)
		})
	}
}

func TestAPeriodOfASupersededScheduleBeginsUnnoticed(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", full))
	r.seek("11-30T23:57")
	r.use(ev{qty: "100", time: "12-01T00:01"})
	r.commit()
	r.put("k", "acme", "", limit("l", "100", full+`,"period":"lifetime"`))
	r.use(ev{qty: "100"})
	require.Equal(t, []string{
		"cleared k/l 2026-12 #2 [100%=100] 100..100 [] contract",
		"crossed k/l lifetime #1 [100%=100] 0..100 [100%] usage",
	}, r.commit())
	r.advance("12-01")
	require.Empty(t, r.commit())
	require.Equal(t, []string{"k/l lifetime [100%]"}, r.blocked())
}

func TestRollbackBringsTheOldTermsBack(t *testing.T) {
	t.Parallel()

	r := used(t)
	r.use(ev{qty: "-21"})
	r.commit()
	r.put("k", "acme", "", limit("l", "1000", ""), limit("d", "10", `"period":"day"`))
	r.use(ev{qty: "1"})
	r.state.Rollback()
	require.Len(t, r.state.View("acme", aggregate.Selection{}).Limits, 1)
	r.state.Begin(r.clock)
	in, e := r.input(ev{qty: "1"})
	r.state.Fold(in, e)
	require.Equal(t, []string{"crossed k/l 2026-11 #3 [100%=100] 99..100 [50% 80% 100%] usage"}, linesOf(r.state.Changes(r.clock).Events))
	r.state.End()
}

func TestAMeterOfOtherDecimals(t *testing.T) {
	t.Parallel()

	r := used(t)
	r.put("k", "acme", "", limit("l", "2.5", `"meter":"hours"`))
	r.commit()
	e := r.told[0]
	require.Equal(t, "bytes", e.Meter)
	require.Equal(t, "2.5", e.Limit, "the new revision's")
	require.Equal(t, []alerts.PassedThreshold{{Threshold: "50%", Value: "50"}, {Threshold: "80%", Value: "80"}, {Threshold: "100%", Value: "100"}}, e.Thresholds)
	require.Equal(t, "120", e.UsageAfter)
	require.Equal(t, "48", e.Utilization)
}

func TestOneRevisionOfSeveralLimits(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("c", "100", full), limit("b", "100", full), limit("a", "100", full))
	r.use(ev{qty: "120"})
	r.commit()
	r.put("k", "acme", "", limit("n", "60", full), limit("a", "200", full), limit("b", "100", full+`,"meter":"calls"`), limit("m", "60", full))
	require.Equal(t, []string{
		"cleared k/c 2026-11 #2 [100%=100] 120..120 [] contract",
		"crossed k/n 2026-11 #1 [100%=60] 120..120 [100%] contract",
		"cleared k/a 2026-11 #2 [100%=100] 120..120 [] contract",
		"cleared k/b 2026-11 #2 [100%=100] 120..120 [] contract",
		"crossed k/m 2026-11 #1 [100%=60] 120..120 [100%] contract",
	}, r.commit(), "what is gone first, then in the contract's order")
}

func TestAClientWithContractsAndNoUseIsForgottenWithThem(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", full))
	r.commit()
	require.Len(t, r.state.View("acme", aggregate.Selection{}).Limits, 1)
	require.Empty(t, r.state.Clients("", 10), "it has no counters")
	r.remove("k")
	r.commit()
	require.Empty(t, r.state.View("acme", aggregate.Selection{}).Limits)
}

func TestClientsElsewhere(t *testing.T) {
	t.Parallel()

	cfg := config(t)
	cfg.Owns = func(client string) bool { return client == "acme" }
	r := newRig(t, cfg)
	r.put("k", "bolt", "", limit("l", "10", full))
	r.use(ev{qty: "1"})
	r.taken()
	require.Zero(t, r.state.Changes(r.clock).Misplaced)
	require.Empty(t, r.state.View("bolt", aggregate.Selection{}).Limits)

	r.use(ev{client: "bolt", qty: "10"})
	r.taken()
	changes := r.state.Changes(r.clock)
	require.Equal(t, 1, changes.Misplaced)
	require.Equal(t, []string{"bolt crossed k/l 2026-11 #1 [100%=10] 0..10 [100%] usage"}, linesOf(changes.Events), "it is counted here")
	r.state.Rollback()
	r.use(ev{client: "bolt", qty: "10"})
	require.Equal(t, 1, r.state.Changes(r.clock).Misplaced)
	r.commit()
	r.use(ev{client: "bolt", qty: "10"})
	require.Zero(t, r.state.Changes(r.clock).Misplaced, "once is enough")
}

func TestATableTooFarAhead(t *testing.T) {
	t.Parallel()

	r := used(t)
	value := []byte(`{"id":"other","client":"other","starts_at":"2026-01-01T00:00:00Z"}`)
	for i := range int64(100_001) {
		var err error
		if i%2 == 0 {
			err = r.table.Apply([]byte("other"), value, r.revision+i)
		} else {
			err = r.table.Apply([]byte("other"), nil, r.revision+i)
		}
		require.NoError(t, err)
	}
	r.put("k", "acme", "", limit("l", "200", ""))
	require.Equal(t, []string{"cleared k/l 2026-11 #2 [80%=80 100%=100] 120..120 [50%] contract"}, r.commit())
	require.False(t, r.state.ContractsBehind())
	require.Equal(t, r.table.Version(), r.state.Judging())
	require.Equal(t, contracts.Hard, r.told[0].Enforcement)
}

// A contract that was taken in while there was nothing to commit stays in force
// when a later transaction is undone.
func TestContractsTakenInWhileIdleOutlastARollback(t *testing.T) {
	t.Parallel()

	r := newRig(t, config(t))
	r.use(ev{qty: "10"})
	r.commit()
	r.put("k", "acme", "", limit("l", "100", ""))
	r.do(func(s *aggregate.State) { s.Idle(r.clock) })
	r.use(ev{qty: "90"})
	r.state.Rollback()
	r.use(ev{qty: "90"})
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50 80%=80 100%=100] 10..100 [50% 80% 100%] usage"}, r.commit())
}
