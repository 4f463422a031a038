package druid

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/meterd/meterd/internal/usage"
)

// cells are those of one row, read from left to right. The first error is
// kept, and what is read after it means nothing.
type cells struct {
	raw  []json.RawMessage
	next int
	err  error
}

func (c *cells) fail(err error) {
	if c.err == nil {
		c.err = fmt.Errorf("cell %d: %w", c.next-1, err)
	}
}

// take returns the next cell; null where there is none.
func (c *cells) take() json.RawMessage {
	c.next++
	if c.next > len(c.raw) {
		c.fail(errors.New("is missing"))
		return json.RawMessage("null")
	}
	return c.raw[c.next-1]
}

// text reads a string; null is the empty one.
func (c *cells) text() string {
	text, _ := c.optional(c.take())
	return text
}

// optional reads a string, and whether there is one.
func (c *cells) optional(raw json.RawMessage) (string, bool) {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil {
		c.fail(err)
	}
	if s == nil {
		return "", false
	}
	return *s, true
}

func (c *cells) integer() int64 {
	n, err := strconv.ParseInt(string(c.take()), 10, 64)
	if err != nil {
		c.fail(err)
	}
	return n
}

func (c *cells) count() int64 {
	n := c.integer()
	if n < 0 {
		c.fail(errors.New("negative count"))
	}
	return n
}

// float reads a double; NaN and the infinities come as strings.
func (c *cells) float() float64 {
	f, err := parseFloat(c.take(), 64)
	if err != nil {
		c.fail(err)
	}
	return f
}

func parseFloat(raw json.RawMessage, bits int) (float64, error) {
	f, err := strconv.ParseFloat(string(bytes.Trim(raw, `"`)), bits)
	if errors.Is(err, strconv.ErrRange) { // an infinity
		err = nil
	}
	return f, err
}

// skip passes over n cells.
func (c *cells) skip(n int) { c.next += n }

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// control reads the aggregates of that name.
func (c *cells) control() control {
	return control{rows: c.count(), minOffset: c.integer(), maxOffset: c.integer(), sumOffset: c.integer()}
}

// sums reads the quantity's aggregates of a group of so many rows within the
// time bounds. Without a value that is not null they are null.
func (c *cells) sums(rows int64, rolledUp bool) sums {
	nulls := c.count()
	s := sums{values: rows - nulls, nulls: nulls}
	if rolledUp {
		if raw := c.take(); nulls > 0 {
			c.next--
			s.nulls = c.count()
		} else if !isNull(raw) && string(raw) != "0" {
			c.fail(errors.New("events without rows"))
		}
	}
	if s.values <= 0 {
		c.skip(4)
		return s
	}
	s.sum, s.float = c.integer(), c.float()
	s.min, s.max = c.integer(), c.integer()
	return s
}

// value reads a column of the kind; key has what tells it from other values.
func (c *cells) value(kind string, key []byte) (usage.Value, []byte) {
	raw := c.take()
	key = append(key, ',')
	if isNull(raw) {
		return usage.Value{}, key
	}
	if kind == kindString {
		text, _ := c.optional(raw)
		return usage.Value{Kind: usage.TextValue, Text: []byte(text)}, strconv.AppendQuote(key, text)
	}
	v, err := number(raw, kind)
	if err != nil {
		c.fail(err)
	}
	return v, append(key, raw...)
}

// number reads a value of a numeric column as records have it: floats as the
// shortest decimal that reads back.
func number(raw json.RawMessage, kind string) (usage.Value, error) {
	if kind == kindLong {
		n, err := strconv.ParseInt(string(raw), 10, 64)
		v := usage.Value{Kind: usage.NumberValue, Number: usage.DecimalOf(n), Float: float64(n)}
		if n == math.MinInt64 {
			v.Number = usage.Decimal{TooLarge: true}
		}
		return v, err
	}
	bits := 64
	if kind == kindFloat {
		bits = 32
	}
	f, err := parseFloat(raw, bits)
	if err != nil {
		return usage.Value{}, err
	}
	decimal, err := usage.DecimalOfFloat(f, bits)
	if err != nil {
		return usage.Value{Kind: usage.UnfitValue}, nil
	}
	return usage.Value{Kind: usage.NumberValue, Number: decimal, Float: f}, nil
}

// truth makes a boolean of a value that stands for one, and leaves null.
func truth(v usage.Value) (usage.Value, bool) {
	switch {
	case v.Kind == usage.NullValue:
		return v, true
	case v.Kind == usage.TextValue && (string(v.Text) == "true" || string(v.Text) == "false"):
		return usage.Value{Kind: usage.BooleanValue, True: string(v.Text) == "true"}, true
	case v.Kind == usage.NumberValue && (v.Float == 0 || v.Float == 1):
		return usage.Value{Kind: usage.BooleanValue, True: v.Float == 1}, true
	}
	return v, false
}
