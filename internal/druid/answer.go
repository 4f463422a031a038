package druid

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"math/bits"
	"slices"
	"strconv"

	"github.com/meterd/meterd/internal/usage"
)

// control is what an answer says of some rows below the boundary: of all of
// them, or of those of a client. It is comparable: two answers from the same
// rows have equal ones.
type control struct {
	rows, minOffset, maxOffset int64
	sumOffset                  int64 // wraps, as Druid's does
}

// complete tells whether the rows are the offsets 0 to boundary-1, each once.
// The sum tells a lost range from a repeated one of the same length.
func (c control) complete(boundary int64) bool {
	high, low := bits.Mul64(uint64(boundary), uint64(boundary-1))
	want := int64(high<<63 | low>>1) // the product is even; its half wraps as the sum does
	return c == control{rows: boundary, maxOffset: boundary - 1, sumOffset: want}
}

func (c *control) add(o control) {
	if c.rows == 0 {
		c.minOffset, c.maxOffset = o.minOffset, o.maxOffset
	}
	c.rows += o.rows
	c.minOffset, c.maxOffset = min(c.minOffset, o.minOffset), max(c.maxOffset, o.maxOffset)
	c.sumOffset += o.sumOffset
}

// answer is what a question's queries said.
type answer struct {
	control control            // of all rows
	clients map[string]control // of those of each client that was asked for and has any
	digests map[string]uint64  // of all cells of a client's rows, whatever their order
	totals  []Total            // by client, meter, fields, void
	groups  []string           // of totals, what tells them from others
	bad     map[string]error   // clients of whom a total is not exact: none of theirs is there
	again   map[string]error   // clients whose totals are proven only when asked for again
	latest  map[moment]last    // of an answer to that query
}

// moment is an event time of a group.
type moment struct {
	group string
	at    usage.Time
}

// last is the quantity of a moment's row with the greatest position.
type last struct{ units, position int64 }

// errAnswer is returned when an answer is not what was asked for: cut short,
// no JSON, another shape, rows that were not asked for.
var errAnswer = errors.New("unusable answer")

// parser reads the rows of one answer. Any flaw discards all of it; numbers
// never pass through a float.
type parser struct {
	answer
	cfg   *Config
	kinds kinds
	asked map[string]bool
	seen  map[string]bool
	seed  maphash.Seed
}

func newParser(cfg *Config, q *Question, kinds kinds, seed maphash.Seed) *parser {
	p := &parser{
		answer: answer{
			clients: map[string]control{}, digests: map[string]uint64{},
			bad: map[string]error{}, latest: map[moment]last{},
		},
		cfg: cfg, kinds: kinds, seed: seed,
		asked: make(map[string]bool, len(q.Clients)), seen: map[string]bool{},
	}
	for _, c := range q.Clients {
		p.asked[c] = true
	}
	return p
}

// read hands all rows of an answer to row.
func (p *parser) read(r io.Reader, width int, row func(*cells) error) (answer, error) {
	err := rows(r, func(raw []json.RawMessage) error {
		if len(raw) != width {
			return fmt.Errorf("%d cells instead of %d", len(raw), width)
		}
		c := &cells{raw: raw}
		return cmp.Or(row(c), c.err)
	})
	if err != nil {
		return answer{}, err
	}
	p.sort()
	return p.answer, nil
}

// sort orders the totals and leaves out those of clients that are not exact.
func (p *parser) sort() {
	order := make([]int, 0, len(p.totals))
	for i := range p.totals {
		if p.bad[p.totals[i].Client] == nil {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := &p.totals[i], &p.totals[j]
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Meter, b.Meter), cmp.Compare(p.groups[i], p.groups[j]))
	})
	var totals []Total
	var groups []string
	for _, i := range order {
		totals, groups = append(totals, p.totals[i]), append(groups, p.groups[i])
	}
	p.totals, p.groups = totals, groups
}

// rows calls each with the cells of every row of a JSON array of arrays, which
// must be all that r has.
func rows(r io.Reader, each func([]json.RawMessage) error) error {
	dec := json.NewDecoder(r)
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return malformed("does not begin with an array", err)
	}
	var cells []json.RawMessage
	for dec.More() {
		cells = cells[:0]
		if err := dec.Decode(&cells); err != nil {
			return malformed("row", err)
		}
		if err := each(cells); err != nil {
			return fmt.Errorf("%w: row: %w", errAnswer, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return malformed("does not end", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return malformed("goes on after its end", err)
	}
	return nil
}

func malformed(what string, err error) error {
	if err == nil {
		return fmt.Errorf("%w: %s", errAnswer, what)
	}
	return fmt.Errorf("%w: %s: %w", errAnswer, what, err)
}

// group reads the dimensions by which totals are kept apart: those of a total,
// and what tells them from others. unfit says which value is no boolean, where
// one must be.
func (p *parser) group(c *cells) (t Total, key string, unfit error) {
	t.Client = c.text()
	buf := strconv.AppendQuote(nil, t.Client)
	columns := &p.cfg.Columns
	var v usage.Value
	if columns.Meter != "" {
		v, buf = c.value(kindString, buf)
		t.Meter = string(v.Text)
	}
	boolean := func(column string) {
		b, ok := truth(v)
		if v = b; !ok {
			unfit = fmt.Errorf("%w: column %q: %s is neither true nor false", ErrColumns, column, c.raw[c.next-1])
		}
	}
	for i, column := range columns.Fields {
		v, buf = c.value(p.kinds[column], buf)
		if columns.boolean(i) {
			boolean(column)
		}
		t.Fields = append(t.Fields, v)
	}
	if columns.Void != "" {
		v, buf = c.value(p.kinds[columns.Void], buf)
		boolean(columns.Void)
		t.Void = v.True
	}
	return t, string(buf), unfit
}

// count reads and notes the control aggregates of a row of the client.
func (p *parser) count(client string, c *cells) (control, error) {
	control := c.control()
	switch {
	case c.err != nil:
		return control, c.err
	case control.rows == 0 || control.minOffset > control.maxOffset || control.rows > math.MaxInt64-p.control.rows,
		control.minOffset < 0 && !p.cfg.Bounded():
		return control, errContradiction
	case client != "" && !p.asked[client]:
		return control, fmt.Errorf("client %q was not asked for", client)
	}
	p.control.add(control)
	if client != "" {
		of := p.clients[client]
		of.add(control)
		p.clients[client] = of
		var h maphash.Hash
		h.SetSeed(p.seed)
		for _, cell := range c.raw {
			_, _ = h.Write(cell)
			_ = h.WriteByte(0)
		}
		p.digests[client] += h.Sum64()
	}
	return control, nil
}

var (
	errContradiction = errors.New("counts contradict one another")
	errTwice         = errors.New("the same group twice")
)

// controlRow reads a row of the answer to Question.control.
func (p *parser) controlRow(c *cells) error {
	client := c.text()
	if _, err := p.count(client, c); err != nil {
		return err
	}
	if p.seen[client] {
		return errTwice
	}
	p.seen[client] = true
	return nil
}

// totalRow reads a row of the answer to Question.whole or details.
func (p *parser) totalRow(c *cells) error {
	t, key, unfit := p.group(c)
	counted, err := p.count(t.Client, c)
	if err != nil {
		return err
	}
	rows := counted.rows
	t.Events = c.count()
	rolledUp := p.cfg.Columns.Count != ""
	switch {
	case c.err != nil:
		return c.err
	case t.Events > rows && !rolledUp:
		return errContradiction
	case p.seen[key]:
		return errTwice
	}
	p.seen[key] = true
	// Usage without a meter is no usage where meters are mapped: counting
	// rejects such a record, and history must not count it either.
	if t.Client == "" || t.Events == 0 || (t.Meter == "" && p.cfg.Columns.Meter != "") {
		return nil
	}
	if unfit != nil {
		p.bad[t.Client] = unfit
		return nil
	}
	t.First, t.Last = usage.Time(c.integer()), usage.Time(c.integer())
	if !rolledUp {
		rows = t.Events
	}
	return p.total(t, key, rows, c)
}

// total reads the sums of rows rows.
func (p *parser) total(t Total, key string, rows int64, c *cells) error {
	s := sums{nulls: t.Events}
	if p.cfg.Columns.Quantity != "" {
		s = c.sums(rows, p.cfg.Columns.Count != "")
	}
	switch {
	case c.err != nil:
		return c.err
	case t.First > t.Last || s.values < 0 || s.nulls > t.Events || s.min > s.max:
		return errors.New("aggregates contradict one another")
	}
	if err := s.exact(&t); err != nil {
		p.bad[t.Client] = fmt.Errorf("meter %q: %w", t.Meter, err)
		return nil
	}
	if p.cfg.Columns.Count != "" {
		t.Min, t.Max = usage.Decimal{}, usage.Decimal{}
	}
	if p.cfg.Latest {
		t.Latest = usage.DecimalOf(1)
	}
	p.totals = append(p.totals, t)
	p.groups = append(p.groups, key)
	return nil
}

// latestRow reads a row of the answer to Question.latest.
func (p *parser) latestRow(c *cells) error {
	t, key, _ := p.group(c)
	text, ok := c.optional(c.take())
	counted, err := p.count(t.Client, c)
	if err != nil {
		return err
	}
	if p.seen[key+" "+text] {
		return errTwice
	}
	p.seen[key+" "+text] = true
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return err
	}
	units := int64(1) // of null
	if !isNull(c.raw[c.next]) {
		units = c.integer()
	}
	p.latest[moment{key, usage.Time(n)}] = last{units, counted.maxOffset}
	return nil
}

// setLatest gives the totals their latest quantities, and orders those of a
// client by when that was.
func (a *answer) setLatest(of map[moment]last) error {
	type placed struct {
		total    Total
		position int64
	}
	list := make([]placed, 0, len(a.totals))
	for i, t := range a.totals {
		found, ok := of[moment{a.groups[i], t.Last}]
		if !ok || found.units < t.Min.Units || found.units > t.Max.Units {
			return fmt.Errorf("%w: the latest quantity of client %q is not among its quantities", errAnswer, t.Client)
		}
		t.Latest = usage.DecimalOf(found.units)
		list = append(list, placed{t, found.position})
	}
	slices.SortStableFunc(list, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.total.Client, b.total.Client), cmp.Compare(a.total.Last, b.total.Last), cmp.Compare(a.position, b.position))
	})
	for i := range list {
		a.totals[i] = list[i].total
	}
	a.groups = nil // of another order
	return nil
}
