package model_test

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/model"
	"github.com/meterd/meterd/internal/usage"
)

// input is an input of both sides; a revision is bytes for one of them.
type input struct {
	model.Input
	revision *revision
}

type revision struct {
	id     string
	value  []byte // nil: removed
	offset int64
	bad    bool
	parsed *contracts.Contract
}

// transaction is what happens between two commits.
type transaction struct {
	clock   usage.Time
	restart bool        // the state is restored before
	offline []*revision // read while it was down, or before anything else
	fails   failure     // of a first attempt
	inputs  []*input
	again   int // how many of them come again after it has failed
}

type failure int

const (
	none failure = iota
	rolledBack
	crashed
)

// history draws a random life.
type history struct {
	*rapid.T
	world  *world
	clock  usage.Time
	unit   time.Duration // about the length of a default period
	offset int64         // of the contracts topic
	used   []used
}

// used is an event that was written, to be written again or taken back.
type used struct {
	event     usage.Event
	timestamp usage.Time
}

// upTo has the generators of small numbers, from 0.
var upTo = func() (list [201]*rapid.Generator[int]) {
	for i := range list {
		list[i] = rapid.IntRange(0, i)
	}
	return list
}()

// draw returns a number from 0 to most; small ones are likelier.
func (h *history) draw(what string, most int) int { return upTo[most].Draw(h.T, what) }

// rarely is true once in n times, about.
func (h *history) rarely(what string, n int) bool { return h.draw(what, n-1) == n-1 }

func of[E any](h *history, what string, list []E) E { return list[h.draw(what, len(list)-1)] }

// near draws an instant around the clock, often on the seam of two periods.
func (h *history) near(what string, back, ahead int) usage.Time {
	at := h.clock.Add(h.unit / 8 * time.Duration(ahead-h.draw(what, back+ahead)))
	if h.draw("on a seam", 2) == 2 {
		at = h.world.catalog.Schedule.At(at).Start
	}
	return at
}

var clients = []string{"a", "a", "a", "b"}

func (h *history) transactions() []*transaction {
	list := make([]*transaction, 2+h.draw("transactions", 3))
	for i := range list {
		h.clock = h.clock.Add(h.unit / 16 * time.Duration(h.draw("clock", 20)))
		tx := &transaction{clock: h.clock}
		if i == 0 {
			tx.restart = true
			tx.offline = append(tx.offline, h.contract())
		} else {
			tx.restart = h.rarely("restart", 5)
		}
		for range max(0, h.draw("revisions", 3)-1) {
			tx.offline = append(tx.offline, h.contract())
		}
		tx.fails = of(h, "fails", []failure{none, none, none, rolledBack, crashed})
		for range 1 + h.draw("inputs", 7) {
			tx.inputs = append(tx.inputs, h.input())
		}
		if tx.again = len(tx.inputs); tx.fails != none {
			tx.again -= h.draw("fewer", tx.again)
		}
		list[i] = tx
	}
	return list
}

func (h *history) input() *input {
	in := &input{Input: model.Input{At: h.clock}}
	kind := h.draw("input", 15)
	if h.world.cfg.History && kind >= 10 && kind <= 12 {
		in.Answer = h.answer()
		return in
	}
	switch kind {
	case 13:
		in.revision = h.contract()
	case 14:
		to := h.near("advance", 4, 1)
		in.Advance = &to
	default:
		in.Record = h.record()
	}
	return in
}

func (h *history) record() *model.Record {
	r := &model.Record{Timestamp: h.clock}
	if h.draw("another timestamp", 3) == 3 {
		if r.Timestamp = h.near("timestamp", 6, 1); h.rarely("no timestamp", 30) {
			r.Timestamp = of(h, "which", []usage.Time{-1, usage.MinTime, usage.MaxTime})
		}
	}
	kind := h.draw("kind", 11)
	if kind >= 8 && len(h.used) > 0 { // the same again, or taken back
		u := h.used[h.draw("again", len(h.used)-1)]
		r.Event = &u.event
		r.Event.Void = kind >= 9
		if h.draw("at its own time", 1) == 1 {
			r.Timestamp = min(r.Timestamp, u.timestamp)
		}
		return r
	}
	e := h.event(r.Timestamp)
	r.Event = e
	switch {
	case kind == 7:
		e.Void = h.draw("void before", 1) == 1
		fallthrough
	case kind >= 4:
		e.ID = []byte{'0' + byte(h.draw("id", 7))}
		h.used = append(h.used, used{*e, r.Timestamp})
	case kind == 3:
		switch h.draw("worse", 15) {
		case 15:
			r.Event = nil
		case 14:
			e.Void = true
		}
	}
	return r
}

func (h *history) event(timestamp usage.Time) *usage.Event {
	e := &usage.Event{Client: []byte(of(h, "client", clients)), Time: timestamp}
	m := &h.world.catalog.Meters[h.draw("meter", len(h.world.catalog.Meters)-1)]
	e.Meter = []byte(m.Name)
	e.Quantity = usage.Decimal{Units: int64(45 - h.draw("quantity", 70))}
	if m.Decimals == 2 {
		e.Quantity.Scale = 2
	}
	switch h.draw("odd", 29) {
	case 20:
		e.Time = of(h, "no time", []usage.Time{usage.MinTime, usage.MaxTime, -1 << 60, 1 << 60, 0})
	case 29:
		e.Quantity = usage.Decimal{Units: math.MaxInt64 - int64(h.draw("off the edge", 40))}
		if h.draw("negative", 1) == 1 {
			e.Quantity.Units = -e.Quantity.Units
		}
	case 28:
		e.Quantity = usage.Decimal{Units: 15, Scale: 3}
	case 27:
		e.Quantity = usage.Decimal{TooLarge: true}
	case 26:
		e.Meter = []byte("dreams")
	case 21, 22, 23:
		e.Time = h.near("time", 20, 4)
	case 24, 25:
		e.Time = h.clock.Add(h.unit / 16 * time.Duration(h.draw("early", 6)))
	}
	for _, values := range h.world.values {
		e.Fields = append(e.Fields, of(h, "field", values))
	}
	return e
}

func (h *history) answer() *model.Answer {
	a := &model.Answer{Pick: h.draw("pick", 5), Failed: h.rarely("failed", 12)}
	for i := range h.draw("rows", 3) {
		e := h.event(h.clock)
		r := model.Row{
			Meter: string(e.Meter), Fields: e.Fields, Events: int64(1 + h.draw("events", 4)), Void: h.rarely("void", 8),
			Quantity: e.Quantity, Min: e.Quantity, Max: e.Quantity, Latest: e.Quantity,
			First: time.Duration(h.draw("first", 3)) * h.unit / 16, Last: time.Duration(h.draw("last", 3))*h.unit/16 + time.Duration(i)*time.Second, // no two at once: an answer has no offsets
		}
		if !e.Quantity.TooLarge && r.Events > 1 {
			r.Min.Units -= 3
			r.Max.Units += 5
		}
		a.Rows = append(a.Rows, r)
	}
	return a
}

func (h *history) contract() *revision {
	v := &revision{id: of(h, "contract", []string{"k1", "k2"}), offset: h.offset}
	h.offset++
	kind := h.draw("contract kind", 15)
	switch kind {
	case 15:
		v.value, v.bad = []byte("{}"), true
		return v
	case 14:
		return v
	}
	var b strings.Builder
	starts := start - 300*24*3600*1000
	if kind >= 11 {
		starts = h.near("start", 24, 2)
	}
	fmt.Fprintf(&b, `{"id":%q,"client":%q,"starts_at":%q`, v.id, of(h, "client", clients), starts)
	if h.draw("ends", 2) == 2 {
		fmt.Fprintf(&b, `,"ends_at":%q`, max(h.end(), starts+1))
	}
	b.WriteString(`,"limits":[`)
	for i := range of(h, "limits", []int{2, 1, 3, 0}) {
		if i > 0 {
			b.WriteByte(',')
		}
		h.limit(&b, i)
	}
	b.WriteString(`]}`)
	v.value = []byte(b.String())
	parsed, err := contracts.Parse([]byte(v.id), v.value, v.offset, h.world.catalog)
	if err != nil {
		h.Fatalf("%s: %v", v.value, err)
	}
	v.parsed = parsed
	return v
}

func (h *history) limit(b *strings.Builder, i int) {
	m := &h.world.catalog.Meters[h.draw("meter", len(h.world.catalog.Meters)-1)]
	name := of(h, "limit", []string{"x", "x", "y"}) + strconv.Itoa(i)
	value := 10 + h.draw("value", 80)
	if m.Aggregation == usage.Count || m.Aggregation == usage.Unique {
		value = 1 + value/15
	}
	fmt.Fprintf(b, `{"id":%q,"meter":%q,"limit":"%s"`, name, m.Name, usage.Quantity(value).Format(m.Decimals))
	b.WriteString(of(h, "period", []string{"", "", "", `,"period":"hour"`, `,"period":"day"`, `,"period":"week"`, `,"period":"lifetime"`, `,"period":"anniversary"`}))
	b.WriteString(of(h, "zone", []string{"", "", "", "", `,"timezone":"Asia/Kathmandu"`}))
	b.WriteString(of(h, "enforcement", []string{"", "", `,"enforcement":"soft"`}))
	thresholds := of(h, "thresholds", []string{`"50%","80%","100%"`, `"100%","30%"`, `"20","80%","10"`, `"50%","50","120%"`})
	if m.Decimals == 2 {
		thresholds = strings.NewReplacer(`"20"`, `"0.2"`, `"50"`, `"0.5"`, `"10"`, `"0.1"`).Replace(thresholds)
	}
	fmt.Fprintf(b, `,"thresholds":[%s]`, thresholds)
	h.dimensions(b, m)
	b.WriteByte('}')
}

// dimensions draws where and per: each dimension is required, told apart or
// neither.
func (h *history) dimensions(b *strings.Builder, m *usage.Meter) {
	var where, per []string
	for _, d := range m.Dimensions {
		switch h.draw("dimension", 2) {
		case 1:
			per = append(per, strconv.Quote(d.Name))
		case 2:
			where = append(where, fmt.Sprintf("%q:%q", d.Name, of(h, "required", []string{"eu", "us", "", "7", usage.OverflowValue})))
		}
	}
	if len(where) > 0 {
		fmt.Fprintf(b, `,"where":{%s}`, strings.Join(where, ","))
	}
	if len(per) > 0 {
		fmt.Fprintf(b, `,"per":[%s]`, strings.Join(per, ","))
	}
}

// start is when counting begins.
const start = usage.Time(1_794_312_000_000) // 2026-11-10T12:00:00Z

// end draws the end of a contract: mostly in some period, or soon, where what is
// early lies behind it.
func (h *history) end() usage.Time {
	if h.draw("soon", 2) == 2 {
		return h.clock.Add(h.unit / 16 * time.Duration(h.draw("end", 6)))
	}
	return h.near("end", 8, 20)
}
