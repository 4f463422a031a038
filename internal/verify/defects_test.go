package verify_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
)

// cut drops message n.
func cut(list *[]kafka.Message, n int) { *list = slices.Delete(*list, n, n+1) }

// counter changes the last total of a counter whose key has all of parts.
func (w *world) counter(change func(*aggregate.CounterRecord), parts ...string) {
	w.records(func(r any) {
		c, ok := r.(*aggregate.CounterRecord)
		if !ok {
			return
		}
		key := string(c.AppendCounterKey(nil))
		for _, p := range parts {
			ok = ok && strings.Contains(key, p)
		}
		if ok {
			change(c)
		}
	})
}

// lastLimit changes the last record of a limit.
func (w *world) lastLimit(limit, period string, change func(*aggregate.LimitRecord)) {
	var last *aggregate.LimitRecord
	w.records(func(r any) {
		if l, ok := r.(*aggregate.LimitRecord); ok && l.Limit == limit && l.Period.ID == period {
			last = l
		}
	})
	require.NotNil(w.t, last)
	w.records(func(r any) {
		if l, ok := r.(*aggregate.LimitRecord); ok && l.Limit == limit && l.Period.ID == period && l.Sequence == last.Sequence && l.Closed == last.Closed {
			change(l)
		}
	})
}

const (
	firstDay    = `["acme-1","traffic",{}] 2026-11-20`
	secondDay   = `["acme-1","traffic",{}] 2026-11-21`
	dayRecord   = `["limit","acme-1","traffic",{},"2026-11-20"]`
	nextRecord  = `["limit","acme-1","traffic",{},"2026-11-21"]`
	nextCounter = `["counter","acme","bytes",{},{},"2026-11-21"]`
)

// TestDefects plants one defect each in topics that are all right, and demands
// that it is told, and nothing else but what follows from it.
//
// The limit events of ordinary are: 0 50% and 2 80% 100% of the first day, 1
// burst, 3 and 4 the resets of burst and the first day, 5 50% of the second
// day, 6 80% 100% cleared late.
func TestDefects(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		plant func(*world)
		want  []string
	}{
		"a lost event": {
			func(w *world) {
				w.counter(func(c *aggregate.CounterRecord) { c.Total, c.Events = c.Total-490, c.Events-1 }, `"acme","bytes"`, `"2026-11-21"`)
			},
			[]string{`counter partition 0 ` + nextCounter + `: total is 10 of 1 events, recomputed 59 of 2`},
		},
		"a duplicate that was counted": {
			func(w *world) {
				w.counter(func(c *aggregate.CounterRecord) { c.Total, c.Events = c.Total+250, c.Events+1 }, `"acme","bytes"`, `"2026-11-21"`)
			},
			[]string{`counter partition 0 ` + nextCounter + `: total is 84 of 3 events, recomputed 59 of 2`},
		},
		"a counter that is missing": {
			func(w *world) { w.without(nextCounter) },
			[]string{`counter partition 0 ` + nextCounter + `: is missing, 2 events add up to 59`},
		},
		"a counter of nothing": {
			func(w *world) {
				w.counter(func(c *aggregate.CounterRecord) {
					c.Client = "nobody"
					w.changelog = append(w.changelog, w.changelogOf(c))
					c.Client = "beta"
				}, `"beta"`)
			},
			[]string{`counter partition 0 ["counter","nobody","bytes",{},{},"2026-11-20"]: nothing counts in it, its total is 5 of 1 events`},
		},
		"a counter under the key of another": {
			func(w *world) { w.counter(func(c *aggregate.CounterRecord) { c.Client = "gamma" }, `"beta"`) },
			[]string{
				`counter partition 0 ["counter","beta","bytes",{},{},"2026-11-20"]: changelog offset OFFSET: its content belongs under ["counter","gamma","bytes",{},{},"2026-11-20"]`,
			},
		},
		"wrong times of the first and last event": {
			func(w *world) { w.counter(func(c *aggregate.CounterRecord) { c.Last += 5 }, `"beta"`) },
			[]string{`counter partition 0 ["counter","beta","bytes",{},{},"2026-11-20"]: first and last event are 2026-11-20T10:02:11Z and 2026-11-20T10:02:11.005Z, recomputed 2026-11-20T10:02:11Z and 2026-11-20T10:02:11Z`},
		},
		"a seed out of nowhere": {
			func(w *world) {
				w.counter(func(c *aggregate.CounterRecord) {
					c.Seed = aggregate.Seed{State: aggregate.SeedExact, Usage: 70, Events: 1, Boundary: 5}
				}, `"beta"`)
			},
			[]string{`counter partition 0 ["counter","beta","bytes",{},{},"2026-11-20"]: its seed's boundary is 5, the meter's 0`},
		},
		"a position of the group that is ahead": {
			func(w *world) { w.position = 15 },
			[]string{`position partition 0: the changelog is at 14, the group at 15`},
		},
		"no position of the group": {
			func(w *world) { w.position = -1 },
			[]string{`position partition 0: the changelog is at 14, the group has no position`},
		},
		"a position beyond the topic's end": {
			func(w *world) { cut(&w.usage, 13) },
			[]string{
				`counter partition 0 ["counter","acme","bytes",{},{},"2026-11-20"]: total is 95.5 of 4 events, recomputed 115.5 of 3`,
				`dedupe partition 0 ["dedupe","2026-11-21T09:07:30Z",11,0]: 1 of its 3 ids are of no event that was there`,
				`limit-event partition 0 ` + firstDay + ` #4: its cause is no record that counts in its counter`,
				`position partition 0: it is at 14, the usage topic ends at 13`,
			},
		},
		"a dead letter that is missing": {
			func(w *world) { cut(&w.letters, 0) },
			[]string{`dead-letter partition 0 offset 3: is missing, the record is undecodable`},
		},
		"a dead letter for its time that is missing": {
			func(w *world) { cut(&w.letters, 1) },
			[]string{`dead-letter partition 0 offset 10: is missing, the record is too_late`},
		},
		"a dead letter twice": {
			func(w *world) { w.letters = append(w.letters, w.letters[0]) },
			[]string{`dead-letter partition 0 at 2: there is another one for offset 3`},
		},
		"a dead letter of a record that was counted": {
			func(w *world) {
				w.letter(&w.usage[8], 8, usage.TooLate)
				w.letters[2].Timestamp = w.letters[1].Timestamp
			},
			[]string{
				`counter partition 0 ["counter","beta","bytes",{},{},"2026-11-20"]: nothing counts in it, its total is 5 of 1 events`,
				`dead-letter partition 0 offset 8: reason is too_late, but the event's period had not ended for so long`,
			},
		},
		"a dead letter of a duplicate": {
			func(w *world) {
				w.letter(&w.usage[2], 2, usage.Overflow)
				w.letters[2].Timestamp = w.letters[1].Timestamp
			},
			[]string{`dead-letter partition 0 offset 2: reason is overflow, but the event is a duplicate`},
		},
		"a dead letter with another reason": {
			func(w *world) { w.letters[0].Headers[4].Value = []byte("bad_field") },
			[]string{`dead-letter partition 0 offset 3: reason is bad_field, must be undecodable`},
		},
		"a dead letter that was changed": {
			func(w *world) { w.letters[0].Value = []byte(`{"cut"`) },
			[]string{`dead-letter partition 0 offset 3: its key, value or headers are not the input's`},
		},
		"a dead letter without the input's headers": {
			func(w *world) { w.letters[0].Headers = w.letters[0].Headers[1:] },
			[]string{`dead-letter partition 0 offset 3: its key, value or headers are not the input's`},
		},
		"a dead letter of another partition": {
			func(w *world) { w.letters[0].Headers[2].Value = []byte("7") },
			[]string{
				`dead-letter partition 0 at 0: meterd_partition is "7"`,
				`dead-letter partition 0 offset 3: is missing, the record is undecodable`,
			},
		},
		"a limit event that is missing": {
			func(w *world) { cut(&w.events, 2) },
			[]string{
				`limit-event partition 0 ` + firstDay + ` #3: sequence is 3, must be 2`,
				`limit-event partition 0 ` + firstDay + `: is missing: offset 7 takes the total from 55.5 to 115.5, crossed 80%, 100%`,
				`limit-record partition 0 ` + dayRecord + `: it tells of limit event #2, which is not in the topic`,
			},
		},
		"the last limit event that is missing": {
			func(w *world) { cut(&w.events, 5) },
			[]string{
				`limit-event partition 0 ` + secondDay + `: is missing: offset 12 takes the total from 10 to 59, crossed 50%`,
				`limit-record partition 0 ` + nextRecord + `: 1 limit events were told, the topic has none`,
			},
		},
		"a reset that is missing": {
			func(w *world) { cut(&w.events, 4) },
			[]string{
				`limit-event partition 0 ` + firstDay + ` #4: sequence is 4, must be 3`,
				`limit-event partition 0 ` + firstDay + ` #4: the reset is missing before it: 50%, 80%, 100% stood`,
				`limit-record partition 0 ` + dayRecord + `: it tells of limit event #3, which is not in the topic`,
			},
		},
		"a limit event twice": {
			func(w *world) { w.events = slices.Insert(w.events, 3, w.events[2]) },
			[]string{
				`limit-event partition 0 ` + firstDay + ` #2: id ID2 is there twice`,
				`limit-event partition 0 ` + firstDay + ` #2: sequence is 2, must be 3`,
			},
		},
		"a limit event out of order": {
			func(w *world) { w.events[0], w.events[1] = w.events[1], w.events[0] },
			[]string{`limit-event partition 0 ` + firstDay + ` #1: it stands after an event whose cause is offset 6`},
		},
		"a limit event with another total": {
			func(w *world) { w.spoil(5, func(e *alerts.Event) { e.UsageAfter = "60" }) },
			[]string{`limit-event partition 0 ` + secondDay + ` #1: usage_after is "60", must be "59"`},
		},
		"a limit event with fewer thresholds": {
			func(w *world) { w.spoil(2, func(e *alerts.Event) { e.Thresholds = e.Thresholds[1:] }) },
			[]string{`limit-event partition 0 ` + firstDay + ` #2: thresholds is [{"threshold":"100%","value":"100"}], must be [{"threshold":"80%","value":"80"},{"threshold":"100%","value":"100"}]`},
		},
		"a limit event with another standing": {
			func(w *world) { w.spoil(5, func(e *alerts.Event) { e.Standing = []string{"80%"} }) },
			[]string{`limit-event partition 0 ` + secondDay + ` #1: standing is ["80%"], must be ["50%"]`},
		},
		"a limit event of another cause": {
			func(w *world) { w.spoil(5, func(e *alerts.Event) { *e.Cause.Offset = 11 }) },
			[]string{
				`limit-event partition 0 ` + secondDay + ` #1: offset 11 takes the total from 0 to 10 and passes no threshold`,
				`limit-event partition 0 ` + secondDay + `: is missing: offset 12 takes the total from 10 to 59, crossed 50%`,
			},
		},
		"a limit event that says it is late": {
			func(w *world) { w.spoil(5, func(e *alerts.Event) { e.Late = true }) },
			[]string{`limit-event partition 0 ` + secondDay + ` #1: late is true, must be false`},
		},
		"a limit event of another revision": {
			func(w *world) { w.spoil(5, func(e *alerts.Event) { e.ContractRevision = 9 }) },
			[]string{
				`limit-event partition 0 ` + secondDay + ` #1: contract_revision 9 is not on the contracts topic`,
				`limit-event partition 0 ` + secondDay + ` #1: contract_revision is 9, must be 0`,
			},
		},
		"a limit event with another id": {
			func(w *world) { w.spoil(5, func(e *alerts.Event) { e.ID = "00000000-0000-5000-8000-000000000000" }) },
			[]string{`limit-event partition 0 ` + secondDay + ` #1: id is 00000000-0000-5000-8000-000000000000, must be ID5`},
		},
		"a limit event under another key": {
			func(w *world) { w.events[5].Key = []byte("beta") },
			[]string{`limit-event partition 0 ` + secondDay + ` #1: the record's key is "beta"`},
		},
		"a limit event with another header": {
			func(w *world) { w.events[5].Headers[2].Value = []byte("meterd.limit.cleared") },
			[]string{`limit-event partition 0 ` + secondDay + ` #1: header ce_type is "meterd.limit.cleared", must be "meterd.limit.crossed"`},
		},
		"a limit event with the time of the event": {
			func(w *world) { w.events[5].Timestamp = at(w.t, "2026-11-21T09:00:00Z").Std() },
			[]string{`limit-event partition 0 ` + secondDay + ` #1: decided_at is 2026-11-21T09:00:03Z, the record's timestamp 2026-11-21T09:00:00Z`},
		},
		"a limit record with another sequence": {
			func(w *world) {
				w.lastLimit("traffic", "2026-11-21", func(l *aggregate.LimitRecord) { l.Sequence = 7 })
			},
			[]string{`limit-record partition 0 ` + nextRecord + `: sequence is 7, the last limit event's 1`},
		},
		"a limit record with another standing": {
			func(w *world) {
				w.lastLimit("traffic", "2026-11-21", func(l *aggregate.LimitRecord) { l.Standing = nil })
			},
			[]string{`limit-record partition 0 ` + nextRecord + `: standing is [], must be [50% at 50]`},
		},
		"a limit record that is not closed": {
			func(w *world) {
				w.lastLimit("traffic", "2026-11-20", func(l *aggregate.LimitRecord) { l.Closed = false })
			},
			[]string{`limit-record partition 0 ` + dayRecord + `: closed is false, must be true`},
		},
		"a limit record that is missing": {
			func(w *world) { w.without(nextRecord) },
			[]string{`limit-record partition 0 ` + nextRecord + `: is missing, 1 limit events were told`},
		},
		"a limit state of before": {
			func(w *world) { cut(&w.states, len(w.states)-1) },
			[]string{`limit-state partition 0 ["acme-1","traffic",{}]: is limit event ID2, must be ID5`},
		},
		"a limit state that was not taken back": {
			func(w *world) {
				w.states = slices.DeleteFunc(w.states, func(m kafka.Message) bool { return strings.Contains(string(m.Key), "burst") && m.Value == nil })
			},
			[]string{`limit-state partition 0 ["acme-1","burst",{}]: is limit event ID1, must be null: nothing stands`},
		},
		"a limit state under another key": {
			func(w *world) { w.states[len(w.states)-1].Key = []byte(`["acme-1","other",{}]`) },
			[]string{
				`limit-state partition 0 ["acme-1","other",{}]: it shows a limit event of ["acme-1","traffic",{}]`,
				`limit-state partition 0 ["acme-1","traffic",{}]: is limit event ID2, must be ID5`,
			},
		},
		"a contract that nobody judged by": {
			func(w *world) {
				w.contracts[0].Value = []byte(strings.Replace(string(w.contracts[0].Value), `"limit":"3"`, `"limit":"2"`, 1))
			},
			[]string{
				`limit-event partition 0 ["acme-1","burst",{}] 2026-11-20T10+00:00 #1: offset 6 takes the total from 2 to 3 and passes no threshold`,
				`limit-event partition 0 ["acme-1","burst",{}] 2026-11-20T10+00:00 #2: limit is "3", must be "2"; thresholds is [{"threshold":"100%","value":"3"}], must be [{"threshold":"100%","value":"2"}]`,
				`limit-event partition 0 ["acme-1","burst",{}] 2026-11-20T10+00:00: is missing: offset 5 takes the total from 1 to 2, crossed 100%`,
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			w := ordinary(t)
			ids := map[string]string{}
			for n := range w.events {
				ids[w.event(n).ID] = fmt.Sprintf("ID%d", n)
			}
			tt.plant(w)
			found, _ := w.check()
			for i := range found {
				for id, name := range ids {
					found[i] = strings.ReplaceAll(found[i], id, name)
				}
				found[i] = offsets.ReplaceAllString(found[i], "changelog offset OFFSET")
			}
			slices.Sort(found)
			require.Equal(t, tt.want, found)
		})
	}
}

func TestWaitForTheEnd(t *testing.T) {
	t.Parallel()

	w := ordinary(t)
	w.use("acme", "bytes", "1")
	w.cfg.Wait = 100 * time.Millisecond
	found, _ := w.check()
	require.Equal(t, []string{"position partition 0: 14 is committed after 100ms, the topic ends at 15"}, found)
}
