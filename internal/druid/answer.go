package druid

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strconv"

	"github.com/meterd/meterd/internal/usage"
)

// control is what an answer says of all rows below the boundary. It is
// comparable: two answers from the same rows have equal ones.
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

func (c *control) add(rows, low, high, sum int64) {
	if c.rows == 0 {
		c.minOffset, c.maxOffset = low, high
	}
	c.rows += rows
	c.minOffset, c.maxOffset = min(c.minOffset, low), max(c.maxOffset, high)
	c.sumOffset += sum
}

// answer is what one groupBy said. bad has the clients of whom a total is not
// exact; they have no totals.
type answer struct {
	control control
	totals  []Total
	bad     map[string]error
}

// errAnswer is returned when an answer is not what was asked for: cut short,
// no JSON, another shape, rows that were not asked for.
var errAnswer = errors.New("unusable answer")

// parseAnswer reads the rows of an answer to its end. Any flaw discards all of
// it; numbers never pass through a float.
func parseAnswer(r io.Reader, q *Question, columns Columns) (answer, error) {
	p := parser{
		asked:  make(map[string]bool, len(q.Clients)),
		seen:   make(map[[2]string]bool),
		shape:  columns,
		answer: answer{bad: make(map[string]error)},
	}
	for _, c := range q.Clients {
		p.asked[c] = true
	}
	if err := rows(r, p.row); err != nil {
		return answer{}, err
	}
	p.totals = slices.DeleteFunc(p.totals, func(t Total) bool { return p.bad[t.Client] != nil })
	slices.SortFunc(p.totals, func(a, b Total) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Meter, b.Meter))
	})
	return p.answer, nil
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

type parser struct {
	answer
	asked map[string]bool
	seen  map[[2]string]bool
	shape Columns
}

func (p *parser) row(raw []json.RawMessage) error {
	if p.shape.Meter == "" && len(raw) > 0 { // there is no such dimension: give the row its place
		raw = slices.Insert(raw, cellMeter, json.RawMessage("null"))
	}
	want := cells
	if p.shape.Quantity == "" {
		want = cellNulls
	}
	if len(raw) != want {
		return fmt.Errorf("%d cells instead of %d", len(raw), want)
	}
	c := cellReader{raw: raw}
	client, meter := c.text(cellClient), c.text(cellMeter)
	rows, events := c.count(cellRows), c.count(cellEvents)
	low, high, sum := c.integer(cellMinOffset), c.integer(cellMaxOffset), c.integer(cellSumOffset)
	switch {
	case c.err != nil:
		return c.err
	case rows == 0 || events > rows || low < 0 || low > high || rows > math.MaxInt64-p.control.rows:
		return errors.New("counts contradict one another")
	case client != "" && !p.asked[client]:
		return fmt.Errorf("client %q was not asked for", client)
	case p.seen[[2]string{client, meter}]:
		return errors.New("the same group twice")
	}
	p.seen[[2]string{client, meter}] = true
	p.control.add(rows, low, high, sum)
	// Usage without a meter is no usage where meters are mapped: counting
	// rejects such a record, and history must not count it either.
	if client == "" || events == 0 || (meter == "" && p.shape.Meter != "") {
		return nil
	}
	return p.total(Total{Client: client, Meter: meter, Events: events}, &c)
}

func (p *parser) total(t Total, c *cellReader) error {
	t.First, t.Last = usage.Time(c.integer(cellFirst)), usage.Time(c.integer(cellLast))
	s := sums{nulls: t.Events}
	if p.shape.Quantity != "" {
		s = c.sums(t.Events)
	}
	switch {
	case c.err != nil:
		return c.err
	case t.First > t.Last || s.nulls > t.Events || s.min > s.max:
		return errors.New("aggregates contradict one another")
	}
	if err := s.exact(&t); err != nil {
		p.bad[t.Client] = fmt.Errorf("meter %q: %w", t.Meter, err)
		return nil
	}
	p.totals = append(p.totals, t)
	return nil
}

// sums are the aggregates of the quantity column in one group: values of
// them not null, and nulls.
type sums struct {
	values, nulls int64
	sum, min, max int64
	float         float64
}

// exact sets t's quantities, or tells why they are not known exactly. Druid's
// longSum wraps around silently, and cuts the digits after the point from
// columns that are not long. What unmasks both is the doubleSum of the same
// rows: its error is at most values² × 2⁻⁵² × the largest magnitude, in
// whatever order it was added up, while a wrapped sum is off by 2⁶⁴.
func (s *sums) exact(t *Total) error {
	if s.values > 0 {
		largest := max(magnitude(s.min), magnitude(s.max))
		high, bound := bits.Mul64(uint64(s.values), largest)
		deviation := math.Abs(s.float - float64(s.sum))
		slack := float64(s.values) * float64(s.values) * float64(largest) * 0x1p-52
		switch {
		case math.IsNaN(deviation) || math.IsInf(deviation, 0):
			return fmt.Errorf("%w: not a number", ErrColumns)
		case high > 0 || bound > math.MaxInt64: // it may have wrapped
			if slack >= 0x1p62 || deviation >= 0x1p63 {
				return ErrOverflow
			}
		case bound < 1<<53: // a double holds every partial sum
			slack = 0
		}
		if deviation > slack {
			return fmt.Errorf("%w: quantities have digits after the point", ErrColumns)
		}
	}
	quantity, ok := usage.Quantity(s.sum).Add(usage.Quantity(s.nulls))
	if !ok || s.sum == math.MinInt64 || s.min == math.MinInt64 {
		return ErrOverflow
	}
	low, high := s.min, s.max
	switch {
	case s.values == 0:
		low, high = 1, 1
	case s.nulls > 0:
		low, high = min(low, 1), max(high, 1)
	}
	t.Quantity = usage.DecimalOf(int64(quantity))
	t.Min, t.Max = usage.DecimalOf(low), usage.DecimalOf(high)
	return nil
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// cellReader reads the cells of a row and keeps the first error.
type cellReader struct {
	raw []json.RawMessage
	err error
}

func (c *cellReader) fail(cell int, err error) {
	if c.err == nil {
		c.err = fmt.Errorf("cell %d: %w", cell, err)
	}
}

// text reads a string; null is the empty one.
func (c *cellReader) text(cell int) string {
	var s *string
	if err := json.Unmarshal(c.raw[cell], &s); err != nil {
		c.fail(cell, err)
	}
	if s == nil {
		return ""
	}
	return *s
}

func (c *cellReader) integer(cell int) int64 {
	n, err := strconv.ParseInt(string(c.raw[cell]), 10, 64)
	if err != nil {
		c.fail(cell, err)
	}
	return n
}

func (c *cellReader) count(cell int) int64 {
	n := c.integer(cell)
	if n < 0 {
		c.fail(cell, errors.New("negative count"))
	}
	return n
}

// sums reads the quantity's aggregates of a group with events rows. Without a
// value that is not null they are null.
func (c *cellReader) sums(events int64) sums {
	s := sums{nulls: c.count(cellNulls)}
	s.values = events - s.nulls
	if s.values <= 0 {
		return s
	}
	s.sum, s.min, s.max = c.integer(cellSum), c.integer(cellMin), c.integer(cellMax)
	text := string(bytes.Trim(c.raw[cellFloatSum], `"`)) // NaN and the infinities come as strings
	var err error
	if s.float, err = strconv.ParseFloat(text, 64); err != nil && !errors.Is(err, strconv.ErrRange) {
		c.fail(cellFloatSum, err)
	}
	return s
}
