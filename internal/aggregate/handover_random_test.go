package aggregate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
)

// owners is several partitions and the topic of contracts. Each reads that by
// itself, and clients belong to the partition that their names begin with.
type owners struct {
	t      require.TestingT
	topic  []contractRecord
	owners []*owner
	events map[string]map[int64]string // by identity but for the sequence
}

type contractRecord struct{ id, value string }

// owner is a partition with its present owner, and an earlier one that does not
// know that it has been replaced.
type owner struct {
	*rig
	next   int64 // of the topic of contracts
	zombie *owner
	asked  map[aggregate.Held]map[int]bool
	got    map[aggregate.Held][]aggregate.LimitRecord
	handed []aggregate.Handover // in the open transaction
	used   []ev                 // likewise
}

func newOwners(t require.TestingT, n int) *owners {
	o := &owners{t: t, events: map[string]map[int64]string{}}
	for i := range n {
		cfg := config(t)
		cfg.Partition, cfg.Handover = int32(i), true
		cfg.Owns = func(client string) bool { return strings.HasPrefix(client, fmt.Sprint(i)) }
		p := &owner{rig: newRig(t, cfg)}
		p.forget()
		o.owners = append(o.owners, p)
	}
	return o
}

func (p *owner) forget() {
	p.asked, p.got = map[aggregate.Held]map[int]bool{}, map[aggregate.Held][]aggregate.LimitRecord{}
	p.handed, p.used = nil, nil
}

// write puts a contract on the topic, or with client "" removes it.
func (o *owners) write(id, client, value string) {
	text := ""
	if client != "" {
		text = fmt.Sprintf(`{"id":%q,"client":%q,"starts_at":"2026-01-01T00:00:00Z","limits":[%s]}`, id, client, limit("l", value, ""))
	}
	o.topic = append(o.topic, contractRecord{id: id, value: text})
}

// read lets p's table read the topic up to next.
func (o *owners) read(p *owner, next int64) {
	for ; p.next < next; p.next++ {
		r := o.topic[p.next]
		value := []byte(r.value)
		if r.value == "" {
			value = nil
		}
		require.NoError(o.t, p.table.Apply([]byte(r.id), value, p.next))
	}
}

// ask has the partition to say what p asks for. Answers that are complete are
// taken in.
func (o *owners) ask(p *owner, to int, answering *owner) {
	held := p.state.Held()
	slices.SortFunc(held, func(a, b aggregate.Held) int { return strings.Compare(a.Contract, b.Contract) })
	for _, h := range answering.state.HandOver(held) {
		if p.asked[h.Held] == nil {
			p.asked[h.Held] = map[int]bool{}
		}
		if p.asked[h.Held][to] {
			continue
		}
		p.asked[h.Held][to] = true
		p.got[h.Held] = append(p.got[h.Held], h.Limits...)
		if len(p.asked[h.Held]) < len(o.owners)-1 {
			continue
		}
		whole := aggregate.Handover{Held: h.Held, Limits: p.got[h.Held]}
		delete(p.asked, h.Held)
		delete(p.got, h.Held)
		p.do(func(s *aggregate.State) { s.TakeHandover(&whole) })
		p.handed = append(p.handed, whole)
	}
}

func (o *owners) use(p *owner, e ev) {
	p.use(e)
	p.used = append(p.used, e)
}

// commit notes what was told, and demands that each number is given once.
func (o *owners) commit(p *owner) {
	told := len(p.told)
	p.taken()
	p.keep(p.state.Changes(p.clock))
	p.state.Committed(p.clock)
	p.handed, p.used = nil, nil
	for _, e := range p.told[told:] {
		o.note(e)
	}
}

func (o *owners) note(e *alerts.Event) {
	key := fmt.Sprintf("%s/%s %s", e.Contract, e.LimitID, e.Period.ID)
	if o.events[key] == nil {
		o.events[key] = map[int64]string{}
	}
	text := fmt.Sprintf("%s %s %s", e.ID, e.Client, e.Kind)
	require.NotContains(o.t, o.events[key], e.Sequence, "%s #%d is told of %s, and was of %s", key, e.Sequence, text, o.events[key][e.Sequence])
	if e.Sequence > 1 {
		require.Contains(o.t, o.events[key], e.Sequence-1, "%s #%d comes before the one before it", key, e.Sequence)
	}
	o.events[key][e.Sequence] = text
}

// rollback undoes the open transaction and does it again, with what others had
// answered or without: then it asks again.
func (o *owners) rollback(p *owner, again bool) {
	p.state.Rollback()
	if again {
		p.taken()
		for i := range p.handed {
			p.do(func(s *aggregate.State) { s.TakeHandover(&p.handed[i]) })
		}
	} else {
		p.handed = nil
	}
	for _, e := range p.used {
		p.use(e)
	}
}

// restart makes another owner of the partition, which has read contracts up to
// about next. The one before goes on to answer.
func (o *owners) restart(p *owner, next int64) {
	before := *p
	before.rig = &rig{t: p.t, cfg: p.cfg, table: p.table, state: p.state, clock: p.clock}
	p.zombie = &before
	p.table, p.next = contracts.NewTable(p.cfg.Catalog), 0
	p.restart()
	p.forget()
	o.read(p, max(next, p.state.Awaits()))
}

// settle lets all read everything, commit, and ask until nothing is held.
func (o *owners) settle() {
	for range len(o.owners) * 4 {
		for _, p := range o.owners {
			o.read(p, int64(len(o.topic)))
			p.taken()
		}
		for _, p := range o.owners {
			o.commit(p)
		}
		for _, p := range o.owners {
			for to, other := range o.owners {
				if other != p {
					o.ask(p, to, other)
				}
			}
		}
	}
	for i, p := range o.owners {
		o.commit(p)
		require.Empty(o.t, p.state.Held(), "partition %d", i)
	}
}

// Whatever moves where, and whoever dies, is behind or does not know that it is
// replaced: the numbers of a limit's events are those of its contract, each
// once, without gaps.
func TestNumbersAreTheContracts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := newOwners(t, rapid.IntRange(2, 3).Draw(t, "partitions"))
		some := func() *owner { return o.owners[rapid.IntRange(0, len(o.owners)-1).Draw(t, "partition")] }
		client := func(p int32) string {
			return fmt.Sprintf("%d%s", p, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "client"))
		}
		end := func() int64 { return int64(len(o.topic)) }
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				to := ""
				if rapid.IntRange(0, 4).Draw(t, "keeps") > 0 {
					to = client(some().cfg.Partition)
				}
				o.write(rapid.SampledFrom([]string{"k", "m"}).Draw(t, "contract"), to, rapid.SampledFrom([]string{"100", "200"}).Draw(t, "limit"))
			},
			"read": func(t *rapid.T) {
				p := some()
				o.read(p, rapid.Int64Range(p.next, end()).Draw(t, "next"))
				p.taken()
			},
			"read ahead of taking in": func(t *rapid.T) {
				p := some()
				o.read(p, rapid.Int64Range(p.next, end()).Draw(t, "next"))
			},
			"use": func(t *rapid.T) {
				p := some()
				p.taken()
				e := ev{client: client(p.cfg.Partition), qty: rapid.SampledFrom([]string{"40", "70", "-50", "-90"}).Draw(t, "quantity")}
				o.use(p, e)
			},
			"use before taking in": func(t *rapid.T) {
				p := some()
				if p.state.ContractsBehind() && p.fresh() {
					return // contracts come first
				}
				o.useAsIs(p, ev{client: client(p.cfg.Partition), qty: "60"})
			},
			"commit":   func(*rapid.T) { o.commit(some()) },
			"rollback": func(t *rapid.T) { o.rollback(some(), rapid.Bool().Draw(t, "again")) },
			"restart":  func(t *rapid.T) { o.restart(some(), rapid.Int64Range(0, end()).Draw(t, "next")) },
			"ask": func(t *rapid.T) {
				p, q := some(), some()
				if p != q {
					o.ask(p, int(q.cfg.Partition), q)
				}
			},
			"ask a zombie": func(t *rapid.T) {
				p, q := some(), some()
				if p == q || q.zombie == nil {
					return
				}
				o.read(q.zombie, rapid.Int64Range(q.zombie.next, end()).Draw(t, "next"))
				q.zombie.taken()
				o.ask(p, int(q.cfg.Partition), q.zombie)
			},
			"idle": func(*rapid.T) {
				p := some()
				p.do(func(s *aggregate.State) { s.Idle(p.clock) })
			},
			"settle": func(*rapid.T) { o.settle() },
		})
		o.settle()
	})
}

// fresh tells whether p has taken no contracts in yet.
func (p *owner) fresh() bool { return p.state.Judging() == 0 }

// useAsIs folds an event in while the table may be ahead.
func (o *owners) useAsIs(p *owner, e ev) {
	p.state.Begin(p.clock)
	defer p.state.End()
	in, u := p.input(e)
	require.Equal(o.t, aggregate.Counted, p.state.Fold(in, u).Fate)
	p.used = append(p.used, e)
}
