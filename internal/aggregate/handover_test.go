package aggregate_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
)

// lines commits, and returns what p told.
func (o *owners) lines(p *owner) []string {
	told := len(p.told)
	o.commit(p)
	return linesOf(p.told[told:])
}

// arrive lets all read the topic and take it in, but nobody answer.
func (o *owners) arrive() {
	for _, p := range o.owners {
		o.read(p, int64(len(o.topic)))
		p.taken()
	}
}

// moved is two partitions: contract k of client 0a has crossed 50 % there, and
// has come to client 1b, who has used 90.
func moved(t *testing.T) (o *owners, p, q *owner) {
	t.Helper()
	o = newOwners(t, 2)
	p, q = o.owners[0], o.owners[1]
	o.write("k", "0a", "100")
	o.settle()
	o.use(p, ev{client: "0a", qty: "60"})
	require.Equal(t, []string{"0a crossed k/l 2026-11 #1 [50%=50] 0..60 [50%] usage"}, o.lines(p))
	o.use(q, ev{client: "1b", qty: "90"})
	require.Empty(t, o.lines(q))
	o.write("k", "1b", "100")
	return o, p, q
}

func TestNumbersGoOnInAnotherPartition(t *testing.T) {
	t.Parallel()
	o, p, q := moved(t)
	o.arrive()

	o.ask(q, 0, p)
	require.Equal(t, []aggregate.Held{{Contract: "k", Revision: 1}}, q.state.Held(), "what p has cleared is not committed")
	require.True(t, p.state.Urgent(), "and others wait for it")
	require.Equal(t, []string{"0a cleared k/l 2026-11 #2 [50%=50] 60..60 [] contract"}, o.lines(p))
	o.ask(q, 0, p)
	require.Equal(t, []string{"1b crossed k/l 2026-11 #3 [50%=50 80%=80] 90..90 [50% 80%] contract"}, o.lines(q))

	o.write("k", "0a", "100")
	o.settle()
	require.Equal(t, []string{
		"1b cleared k/l 2026-11 #4 [50%=50 80%=80] 90..90 [] contract",
	}, linesOf(q.told[1:]))
	require.Equal(t, "0a crossed k/l 2026-11 #5 [50%=50] 60..60 [50%] contract", linesOf(p.told)[2])

	o.write("k", "1b", "100")
	o.settle()
	require.Equal(t, "1b crossed k/l 2026-11 #7 [50%=50 80%=80] 90..90 [50% 80%] contract", linesOf(q.told)[2])
}

func TestAHeldContractCountsAndTellsNothing(t *testing.T) {
	t.Parallel()
	o, p, q := moved(t)
	o.arrive()
	o.use(q, ev{client: "1b", qty: "20"})
	require.Empty(t, o.lines(q))
	require.True(t, q.state.IsHeld("k"))
	require.Equal(t, 1, q.state.HeldCount())
	view := q.state.View("1b", aggregate.Selection{})
	require.Len(t, view.Limits, 1)
	require.EqualValues(t, 110, view.Limits[0].Total)
	require.Empty(t, view.Limits[0].Standing)
	q.advance("11-20")
	require.Empty(t, o.lines(q))

	o.commit(p)
	o.ask(q, 0, p)
	require.Equal(t, []string{"1b crossed k/l 2026-11 #3 [50%=50 80%=80 100%=100] 110..110 [50% 80% 100%] contract"}, o.lines(q))
	require.False(t, q.state.IsHeld("k"))
}

// Each row is what happens to the partition that the contract comes to, before
// the other one answers.
func TestNothingForgetsThatAContractIsHeld(t *testing.T) {
	t.Parallel()
	tests := map[string]func(o *owners, q *owner){
		"nothing":                            func(*owners, *owner) {},
		"it was down when the contract came": func(o *owners, q *owner) { o.restart(q, int64(len(o.topic))) },
		"a restart":                          func(o *owners, q *owner) { o.arrive(); o.restart(q, int64(len(o.topic))) },
		"a restart after a commit": func(o *owners, q *owner) {
			o.arrive()
			o.use(q, ev{client: "1b", qty: "1"})
			o.use(q, ev{client: "1b", qty: "-1"})
			o.commit(q)
			o.restart(q, int64(len(o.topic)))
		},
		"a rollback": func(o *owners, q *owner) { o.arrive(); o.rollback(q, true) },
		"a rollback of what was answered": func(o *owners, q *owner) {
			o.arrive()
			o.commit(o.owners[0])
			o.ask(q, 0, o.owners[0])
			o.rollback(q, false)
			q.taken()
			require.Equal(t, 1, q.state.HeldCount())
		},
		"another revision": func(o *owners, _ *owner) { o.arrive(); o.write("k", "1b", "100") },
		"another client of the partition has had it": func(o *owners, _ *owner) {
			o.write("k", "1a", "100")
			o.arrive()
			o.write("k", "1b", "100")
		},
		"it was deleted in between": func(o *owners, _ *owner) {
			o.write("k", "", "")
			o.write("k", "1b", "100")
		},
	}
	for name, then := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, _, q := moved(t)
			then(o, q)
			o.arrive()
			require.Empty(t, o.lines(q))
			told := len(q.told)
			o.settle()
			require.Equal(t, []string{"1b crossed k/l 2026-11 #3 [50%=50 80%=80] 90..90 [50% 80%] contract"}, linesOf(q.told[told:]))
		})
	}
}

// A contract that was deleted and is there again for a client elsewhere goes on
// with its numbers, though nothing says that it was elsewhere before.
func TestNumbersOutliveADeletion(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2)
	p, q := o.owners[0], o.owners[1]
	o.write("k", "0a", "100")
	o.settle()
	o.use(p, ev{client: "0a", qty: "60"})
	o.write("k", "", "")
	o.settle()
	o.use(q, ev{client: "1b", qty: "60"})
	o.write("k", "1b", "100")
	o.settle()
	require.Equal(t, []string{"1b crossed k/l 2026-11 #3 [50%=50] 60..60 [50%] contract"}, linesOf(q.told))
}

// What stands shows that the contract was here all the time.
func TestARestartHoldsNothingThatStands(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2)
	p := o.owners[0]
	o.write("k", "0a", "100")
	o.settle()
	o.use(p, ev{client: "0a", qty: "60"})
	o.commit(p)
	told := len(p.told)
	o.write("k", "0a", "200")
	o.restart(p, int64(len(o.topic)))
	p.taken()
	require.Empty(t, p.state.Held())
	require.Equal(t, []string{"0a cleared k/l 2026-11 #2 [50%=50] 60..60 [] contract"}, o.lines(p)[told-1:])
}

// An answer to a question that is no longer asked is of no use.
func TestAnAnswerIsOfARevision(t *testing.T) {
	t.Parallel()
	o, p, q := moved(t)
	o.arrive()
	o.commit(p)
	old := p.state.HandOver(q.state.Held())
	require.Len(t, old, 1)
	o.write("k", "0a", "100")
	o.write("k", "1b", "100")
	o.arrive()
	q.do(func(s *aggregate.State) { s.TakeHandover(&old[0]) })
	require.Equal(t, []aggregate.Held{{Contract: "k", Revision: 3}}, q.state.Held())
	require.Empty(t, o.lines(q))
}

// What came from another partition goes with its period, also where the client
// has no counter that it could go with.
func TestHandedNumbersExpire(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			t.Parallel()
			o := newOwners(t, 2)
			p, q := o.owners[0], o.owners[1]
			o.write("k", "0a", "100")
			o.settle()
			o.use(p, ev{client: "0a", qty: "60"})
			o.write("k", "1c", "100")
			o.settle()
			const key = `["limit","k","l",{},"2026-11"]`
			require.Contains(t, q.log, key)
			record, ok := q.log[key].(*aggregate.LimitRecord)
			require.True(t, ok)
			require.EqualValues(t, 2, record.Sequence)
			if restart {
				o.restart(q, 0)
				o.settle()
			}
			q.advance("2027-01-01")
			o.commit(q)
			require.NotContains(t, q.log, key)
		})
	}
}

// A partition that is alone asks nobody.
func TestOnePartitionHoldsNothing(t *testing.T) {
	t.Parallel()
	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.taken()
	require.Empty(t, r.state.Held())
	r.use(ev{qty: "60"})
	require.Equal(t, []string{"crossed k/l 2026-11 #1 [50%=50] 0..60 [50%] usage"}, r.commit())
	r.put("k", "bolt", "", limit("l", "100", ""))
	r.taken()
	require.Empty(t, r.state.Held())
}
