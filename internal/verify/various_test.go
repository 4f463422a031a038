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
	"github.com/meterd/meterd/internal/usage"
	"github.com/meterd/meterd/internal/verify"
)

const variousContract = `{"id":"acme-2","client":"acme","starts_at":"2026-01-01T00:00:00Z","limits":[
	{"id":"regions","meter":"egress","limit":"100","per":["region"],"thresholds":["50%","100%"]},
	{"id":"pages","meter":"hits","limit":"2","where":{"region":"eu"},"per":["endpoint"],"timezone":"Asia/Kolkata"},
	{"id":"us","meter":"hits","limit":"2","where":{"region":"us"}},
	{"id":"all","meter":"hits","limit":"4"},
	{"id":"people","meter":"users","limit":"2"},
	{"id":"faults","meter":"errors","limit":"100"}]}`

// various is a day of meters and limits of all kinds. Its limit events are: 0
// regions of eu 50%, 1 100% and 2 that cleared by a void, 3 pages of /a, 4 us
// and 5 all by one record, 6 people, 7 faults.
func various(t *testing.T, changes ...func(*verify.Config)) *world {
	t.Helper()
	w := newWorld(t, append([]func(*verify.Config){rich}, changes...)...)
	w.contract("acme-2", variousContract)
	w.now += 60_000
	w.start(0)
	w.give("acme", "egress", "60", `"region":"eu"`) // 0
	w.give("acme", "egress", "30", `"region":"us"`)
	w.give("acme", "egress", "50", `"region":"eu"`) // 2
	w.count()
	w.takeBack("acme", w.sent[2]) // 3
	w.takeBack("acme", w.sent[2]) // 4: a duplicate
	w.give("acme", "hits", "1", `"region":"eu","endpoint":"/a"`)
	w.give("acme", "hits", "1", `"region":"eu","endpoint":"/a"`)
	w.give("acme", "hits", "1", `"region":"us","endpoint":"/a"`)
	w.give("acme", "hits", "1", `"region":"us","endpoint":"/b"`) // 8
	w.count()
	w.give("acme", "hits", "1", `"region":"eu","endpoint":7`)
	w.give("acme", "hits", "1", `"region":"ap","endpoint":true`) // 10: one combination too many
	w.give("acme", "users", "1", `"user":"u1"`)
	w.give("acme", "users", "1", `"user":"u2","region":"eu"`)
	w.give("acme", "users", "1", `"user":"u2"`)
	w.give("acme", "bytes", "120", `"status":503`) // 14: of bytes and of errors
	w.give("acme", "egress", "1", `"region":[]`)   // 15: bad_field
	void := strings.Replace(w.sent[0], `"e1"`, `"x"`, 1)
	w.takeBack("acme", void) // 16: remembered
	w.raw("acme", void)      // 17: a duplicate
	w.takeBack("acme", strings.Replace(w.sent[9], `"e10"`, `"y"`, 1))
	w.give("acme", "gauge", "5", "")
	w.give("acme", "peak", "5", "")
	w.give("acme", "low", "5", "")
	w.full("acme", "gauge", "9", "older", w.now.Add(-time.Hour), "")
	w.give("acme", "low", "-7.5", "")
	w.takeBack("acme", strings.NewReplacer(`"e1"`, `"z"`, `"60"`, `"0.0000000001"`).Replace(w.sent[0])) // 24: overflow
	w.count()
	return w
}

func TestNothingIsFoundOfVariousMeters(t *testing.T) {
	t.Parallel()

	w := various(t)
	found, report := w.check()
	require.Empty(t, found)
	require.Len(t, w.events, 8)
	require.Equal(t, []int64{25, 18, 2, 2, 3}, []int64{report.Records, report.Counted, report.Duplicates, report.Voided, report.DeadLettered})
	require.Empty(t, report.Unchecked)
}

const (
	euEgress   = `counter partition 0 ["counter","acme","egress",{},{"region":"eu"},"2026-11-20"]: `
	overflowed = `counter partition 0 ["counter","acme","hits",{},{"endpoint":"__overflow__","region":"__overflow__"},"2026-11-20"]: `
	anchored   = `counter partition 0 ["counter","acme","hits",{"contract":"acme-2","per":"[\"endpoint\"]","period":"day","starts_at":"2026-01-01T00:00:00Z","timezone":"Asia/Kolkata","where":"{\"region\":\"eu\"}"},{"region":"eu"},"2026-11-20"]: `
	people     = `counter partition 0 ["counter","acme","users",{},{},"2026-11-20"]: `
	pagesOfA   = `["acme-2","pages",{"endpoint":"/a"}] 2026-11-20`
	euRegions  = `["acme-2","regions",{"region":"eu"}] 2026-11-20`
)

// TestDefectsOfVariousMeters is TestDefects for dimensions, conditions, voids
// and all aggregations.
func TestDefectsOfVariousMeters(t *testing.T) {
	t.Parallel()

	by := func(total usage.Quantity, events int64, parts ...string) func(*world) {
		return func(w *world) {
			w.counter(func(c *aggregate.CounterRecord) { c.Total, c.Events = c.Total+total, c.Events+events }, parts...)
		}
	}
	marks := func(void bool, change func(*aggregate.DedupeRecord)) func(*world) {
		return func(w *world) {
			w.records(func(r any) {
				if d, ok := r.(*aggregate.DedupeRecord); ok && d.Void == void && len(d.Hashes) > 0 {
					change(d)
				}
			})
		}
	}
	tests := map[string]struct {
		plant func(*world)
		want  []string
	}{
		"a combination that lost an event": {
			by(-600, -1, `"egress"`, `"region":"eu"`),
			[]string{euEgress + `total is 0 of 0 events, recomputed 60 of 1`},
		},
		"a void that was not subtracted": {
			by(500, 1, `"egress"`, `"region":"eu"`),
			[]string{euEgress + `total is 110 of 2 events, recomputed 60 of 1`},
		},
		"an overflow that lost its event": {
			by(-1, -1, `"hits"`, `__overflow__`),
			[]string{overflowed + `total is 0 of 0 events, recomputed 1 of 1`},
		},
		"an anchor with an event of another region": {
			by(1, 1, `"hits"`, `Kolkata`, `,{"region":"eu"}`),
			[]string{anchored + `total is 4 of 4 events, recomputed 3 of 3`},
		},
		"one distinct value too many": {
			by(1, 0, `"users",{},{},`),
			[]string{people + `total is 3 of 3 events, recomputed 2 of 3`},
		},
		"a set that lacks a distinct value": {
			func(w *world) {
				w.counter(func(c *aggregate.CounterRecord) { c.Distinct = c.Distinct[:max(0, len(c.Distinct)-8)] }, `"users",{},{},`)
			},
			[]string{people + `its set lacks a distinct value that was counted`},
		},
		"a condition that was not heeded": {
			func(w *world) { w.cfg.Catalog.Meters[4].When = atLeast{2, 504} },
			[]string{
				`counter partition 0 ["counter","acme","errors",{},{"endpoint":""},"2026-11-20"]: nothing counts in it, its total is 120 of 1 events`,
				`counter partition 0 ["counter","acme","errors",{},{},"2026-11-20"]: nothing counts in it, its total is 120 of 1 events`,
				`limit-event partition 0 ["acme-2","faults",{}] 2026-11-20 #1: its cause is no record that counts in its counter`,
			},
		},
		"a largest quantity that is not": {
			by(10, 0, `"peak"`),
			[]string{`counter partition 0 ["counter","acme","peak",{},{},"2026-11-20"]: total is 6 of 1 events, recomputed 5 of 1`},
		},
		"a smallest quantity that is not": {
			by(75, 0, `"low"`),
			[]string{`counter partition 0 ["counter","acme","low",{},{},"2026-11-20"]: total is 0 of 2 events, recomputed -7.5 of 2`},
		},
		"the quantity of an earlier time": {
			by(40, 0, `"gauge"`),
			[]string{`counter partition 0 ["counter","acme","gauge",{},{},"2026-11-20"]: total is 9 of 2 events, recomputed 5 of 2`},
		},
		"a dead letter of a bad field that is missing": {
			func(w *world) { cut(&w.letters, 0) },
			[]string{`dead-letter partition 0 offset 15: is missing, the record is bad_field`},
		},
		"a dead letter of what cannot be undone that is missing": {
			func(w *world) { cut(&w.letters, 1) },
			[]string{`dead-letter partition 0 offset 18: is missing, the record is not_undoable`},
		},
		"a dead letter of a void that does not fit that is missing": {
			func(w *world) { cut(&w.letters, 2) },
			[]string{`dead-letter partition 0 offset 24: is missing, the record is overflow`},
		},
		"a dead letter of what can be undone": {
			func(w *world) { w.letters[1].Headers[4].Value = []byte("overflow") },
			[]string{
				`dead-letter partition 0 offset 18: reason is overflow, but the void takes nothing back`,
			},
		},
		"a clearing by a void that is missing": {
			func(w *world) { cut(&w.events, 2) },
			[]string{
				`limit-event partition 0 ` + euRegions + `: is missing: offset 3 takes the total from 110 to 60, cleared 100%`,
				`limit-record partition 0 ["limit","acme-2","regions",{"region":"eu"},"2026-11-20"]: it tells of limit event #3, which is not in the topic`,
				`limit-record partition 0 ["limit","acme-2","regions",{"region":"eu"},"2026-11-20"]: sequence is 3, the last limit event's 2`,
				`limit-state partition 0 ["acme-2","regions",{"region":"eu"}]: is limit event`,
			},
		},
		"a void that is told of as a usage": {
			func(w *world) { w.spoil(2, func(e *alerts.Event) { e.Cause.Kind = alerts.ByUsage }) },
			[]string{`limit-event partition 0 ` + euRegions + ` #3: cause is {"kind":"usage"`},
		},
		"a limit on one value that is missing": {
			func(w *world) { cut(&w.events, 3) },
			[]string{
				`limit-event partition 0 ` + pagesOfA + `: is missing: offset 6 takes the total from 1 to 2, crossed 100%`,
				`limit-record partition 0 ["limit","acme-2","pages",{"endpoint":"/a"},"2026-11-20"]: 1 limit events were told, the topic has none`,
			},
		},
		"limits of one record in another order than the contract's": {
			func(w *world) { w.events[4], w.events[5] = w.events[5], w.events[4] },
			[]string{`limit-event partition 0 ["acme-2","us",{}] 2026-11-20 #1: it stands after an event of the same cause that must come later`},
		},
		"a limit record of another place": {
			func(w *world) {
				w.lastLimit("people", "2026-11-20", func(l *aggregate.LimitRecord) { l.Place = 1 })
			},
			[]string{`limit-record partition 0 ["limit","acme-2","people",{},"2026-11-20"]: place is 1, must be 4`},
		},
		"a limit record of other required values": {
			func(w *world) {
				w.lastLimit("us", "2026-11-20", func(l *aggregate.LimitRecord) { l.Where = nil })
			},
			[]string{`limit-record partition 0 ["limit","acme-2","us",{},"2026-11-20"]: where is {}, must be {"region":"us"}`},
		},
		"a limit record that forgot what was told": {
			func(w *world) {
				w.lastLimit("us", "2026-11-20", func(l *aggregate.LimitRecord) { l.Told = nil })
			},
			[]string{`limit-record partition 0 ["limit","acme-2","us",{},"2026-11-20"]: it does not tell of 1 limit events`},
		},
		"an id that would be counted again": {
			marks(false, func(d *aggregate.DedupeRecord) { d.Hashes = d.Hashes[1:] }),
			[]string{`dedupe partition 0: 3 ids that were counted within the window are missing`},
		},
		"an id that nobody counted": {
			marks(false, func(d *aggregate.DedupeRecord) { d.Hashes[0].Lo++ }),
			[]string{
				`dedupe partition 0 ["dedupe","2026-11-20T10:07:30Z",0,0]: 1 of its 3 ids are of no event that was there`,
				`dedupe partition 0 ["dedupe","2026-11-20T10:07:30Z",3,0]: 1 of its`,
				`dedupe partition 0 ["dedupe","2026-11-20T10:07:30Z",9,0]: 1 of its`,
				`dedupe partition 0: 3 ids that were counted within the window are missing`,
			},
		},
		"a void that is forgotten": {
			marks(true, func(d *aggregate.DedupeRecord) { d.Hashes = nil }),
			[]string{`dedupe partition 0: 2 ids that were taken back within the window are missing`},
		},
		"a void that is remembered for a day": {
			marks(true, func(d *aggregate.DedupeRecord) { d.Bucket += 86_400_000 }),
			[]string{
				`counter partition 0 ["void",`, `counter partition 0 ["void",`, // under the key of another
				`dedupe partition 0 ["void",`, `dedupe partition 0 ["void",`,
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			w := various(t)
			tt.plant(w)
			found, _ := w.check()
			slices.Sort(found)
			require.Len(t, found, len(tt.want), "%s", strings.Join(found, "\n"))
			for i, want := range tt.want {
				require.True(t, strings.HasPrefix(found[i], want), "have %s\nwant %s", found[i], want)
			}
		})
	}
}

// revised is a contract that is raised when its limit was reached, after which
// its new thresholds are crossed. The limit events are: 0 all of the first
// revision, 1 cleared by the second, 2 and 3 crossed again.
func revised(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.contract("acme-1", acme)
	w.now += 60_000
	w.start(0)
	w.use("acme", "bytes", "120")
	w.count()
	w.now += 120_000
	w.contract("acme-1", strings.Replace(acme, `"limit":"100"`, `"limit":"200"`, 1))
	w.count()
	w.now += 120_000
	w.use("acme", "calls", "1")
	w.count()
	w.use("acme", "bytes", "45") // 2: 80%
	w.use("acme", "bytes", "45") // 3: 100%
	w.count()
	w.now += 120_000
	w.use("acme", "calls", "1")
	w.count()
	return w
}

// Under several revisions too, what was left untold is found.
func TestDefectsOfRevisions(t *testing.T) {
	t.Parallel()

	w := revised(t)
	require.Len(t, w.events, 4)
	found, _ := w.check()
	require.Empty(t, found)

	tests := map[string]struct {
		drop []int
		want []string
	}{
		"a crossing that is missing": {[]int{3}, []string{
			`limit-event partition 0 ` + firstDay + `: is missing: offset 3 takes the total from 165 to 210, crossed 100%`,
		}},
		"a crossing before another one that is missing": {[]int{2}, []string{
			`limit-event partition 0 ` + firstDay + `: is missing: offset 2 takes the total from 120 to 165, crossed 80%`,
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			w := revised(t)
			for _, n := range tt.drop {
				cut(&w.events, n)
			}
			found, _ := w.check()
			for _, want := range tt.want {
				require.Contains(t, found, want)
			}
		})
	}
}

// A contract of which nothing was told in spite of what its counter had come to
// is found by what must stand in the end.
func TestUntoldContract(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	w.contract("acme-1", strings.Replace(acme, `"limit":"100"`, `"limit":"1000"`, 1))
	w.now += 60_000
	w.start(0)
	w.use("acme", "bytes", "120")
	w.count()
	w.now += 120_000
	w.contract("acme-1", acme)
	w.count()
	w.now += 120_000
	w.use("acme", "calls", "1")
	w.count()
	require.Len(t, w.events, 1)
	found, _ := w.check()
	require.Empty(t, found)

	w.events, w.states = nil, nil
	w.without(dayRecord)
	found, _ = w.check()
	require.Equal(t, []string{
		`limit-event partition 0 ` + firstDay + `: a limit event is missing: no thresholds stand, the total is 120 and has reached 50%, 80%, 100%`,
	}, found)
}

// What a seed has crossed in silence is known by its total.
func TestSeedsThatAreMarked(t *testing.T) {
	t.Parallel()

	life := func() *world {
		w := newWorld(t, func(c *verify.Config) { c.History, c.MarkSeeded = true, true })
		w.contract("acme-1", acme)
		w.use("acme", "bytes", "85") // below the boundary
		w.now += 60_000
		w.start(1)
		w.use("acme", "bytes", "5")
		w.count()
		for _, ask := range w.state.Pending() {
			w.answer(t, ask, map[bool]string{true: "85"}[ask.Scope.Default()])
		}
		w.now += 120_000
		w.use("acme", "calls", "1")
		w.count()
		w.use("acme", "bytes", "20") // 100%
		w.count()
		return w
	}
	w := life()
	require.Len(t, w.events, 1)
	found, _ := w.check()
	require.Empty(t, found)

	w.spoil(0, func(e *alerts.Event) { e.Standing = []string{"80%", "100%"} })
	found, _ = w.check()
	require.Len(t, found, 1)
	require.Contains(t, found[0], `standing is ["80%" "100%"], must be ["50%" "80%" "100%"]: the thresholds that the total has reached`)

	w = life()
	cut(&w.events, 0)
	found, _ = w.check()
	require.Contains(t, found, fmt.Sprintf(`limit-event partition 0 %s: is missing: offset 3 takes the total from 90 to 110, crossed 100%%`, firstDay))

	w = life()
	w.lastLimit("traffic", "2026-11-20", func(l *aggregate.LimitRecord) { l.Standing = l.Standing[1:] })
	found, _ = w.check()
	require.Equal(t, []string{
		`limit-event partition 0 ` + firstDay + `: a limit event is missing: 80%, 100% stand, the total is 110 and has reached 50%, 80%, 100%`,
	}, found)
}
