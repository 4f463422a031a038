// Package usage has the words of metering as types: events, meters, exact
// quantities, instants, schedules and the periods they cut time into.
//
// It does no I/O and knows no clock. All of its values are plain and may be
// copied; nothing in it changes after it was made, so any goroutine may use it.
package usage

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// Time is an instant in milliseconds since 1970-01-01T00:00:00Z. Everything
// meterd compares (record timestamps, event times, ends of periods) has this
// grain; finer event times are rounded down to it.
type Time int64

// MinTime and MaxTime stand for "no start" and "no end" of a period or a
// contract.
const (
	MinTime Time = math.MinInt64
	MaxTime Time = math.MaxInt64
)

// maxRFC3339 is the last instant whose year has four digits, and minRFC3339
// the first one: outside of them RFC 3339 has no form.
const (
	minRFC3339 Time = -62135596800000
	maxRFC3339 Time = 253402300799999
)

// TimeOf returns t rounded down to the millisecond.
func TimeOf(t time.Time) Time {
	return Time(t.UnixMilli())
}

// Std returns t as a time.Time in UTC.
func (t Time) Std() time.Time { return time.UnixMilli(int64(t)).UTC() }

// Add returns t + d, or MinTime or MaxTime where the sum leaves their range.
// MinTime and MaxTime stay what they are.
func (t Time) Add(d time.Duration) Time {
	ms := Time(d.Milliseconds())
	sum := t + ms
	switch {
	case t == MinTime || t == MaxTime:
		return t
	case ms > 0 && sum < t:
		return MaxTime
	case ms < 0 && sum > t:
		return MinTime
	}
	return sum
}

// Valid tells whether RFC 3339 has a form for t: years 1 to 9999.
func (t Time) Valid() bool { return minRFC3339 <= t && t <= maxRFC3339 }

// String returns t in RFC 3339 in UTC, with as many digits of a second as it
// needs, and "" for MinTime and MaxTime.
func (t Time) String() string {
	if t == MinTime || t == MaxTime {
		return ""
	}
	return t.Std().Format(time.RFC3339Nano)
}

// MarshalJSON writes the form of String, or null for MinTime and MaxTime.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == MinTime || t == MaxTime {
		return []byte("null"), nil
	}
	return strconv.AppendQuote(nil, t.String()), nil
}

// UnmarshalJSON reads RFC 3339. Null leaves t as it is, for the caller knows
// whether it means no start or no end.
func (t *Time) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	s, err := strconv.Unquote(string(data))
	if err != nil {
		return fmt.Errorf("time: %s is not a string", data)
	}
	std, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("time: %q is not RFC 3339", s)
	}
	*t = TimeOf(std)
	return nil
}

// Reason tells why a record went to the dead-letter topic. Its text is the
// value of the header meterd_reason and of the metrics' label. The empty
// Reason means that nothing is wrong.
type Reason string

// The reasons, in the order of the checks that give them: the first that
// applies to a record wins.
const (
	TooLarge      Reason = "too_large"
	Undecodable   Reason = "undecodable"
	UnknownSchema Reason = "unknown_schema"
	MissingField  Reason = "missing_field"
	BadField      Reason = "bad_field"
	UnknownMeter  Reason = "unknown_meter"
	Future        Reason = "future"
	TooLate       Reason = "too_late"
	NotUndoable   Reason = "not_undoable"
	Overflow      Reason = "overflow"
)

// Reasons returns every reason there is, for metrics that must not begin
// their life at the first bad record.
func Reasons() []Reason {
	return []Reason{
		TooLarge, Undecodable, UnknownSchema, MissingField, BadField,
		UnknownMeter, Future, TooLate, NotUndoable, Overflow,
	}
}

// MaxIDBytes bounds client, event, contract and limit ids.
const MaxIDBytes = 256

// Event is one use, as the usage topic's record tells it. Its byte slices
// belong to whoever decoded it and are good until the next event is decoded.
type Event struct {
	ID       []byte  // empty: without id, and never a duplicate
	Client   []byte  // who used it; never empty
	Meter    []byte  // what was used; empty where the configuration maps none
	Quantity Decimal // how much, as written
	Time     Time    // when, by the producer's clock
	Void     bool    // takes back the event of this ID
	Fields   []Value // at Catalog.Paths, in their order; empty where meters look at none
}

// Aggregation is how a meter makes one total of many events.
type Aggregation string

// The aggregations that meters have.
const (
	Count  Aggregation = "count"  // the number of events
	Sum    Aggregation = "sum"    // the sum of their quantities
	Max    Aggregation = "max"    // the largest quantity
	Min    Aggregation = "min"    // the smallest quantity
	Latest Aggregation = "latest" // the quantity of the latest event time
	Unique Aggregation = "unique" // the number of distinct values
)

// Meter is what is counted.
type Meter struct {
	Name        string
	Aggregation Aggregation
	Unit        string // for people only
	Decimals    int    // digits after the point of the smallest unit, 0 to 9

	// When tells which events the meter takes; nil: those that name it.
	When Condition
	// Dimensions are those of its group_by, in the order of their names.
	Dimensions []Dimension
	// Value is the index in Catalog.Paths of what Unique counts.
	Value int
	// MaxCombinations bounds the combinations of dimension values that a client
	// has counters for; what is beyond goes to the one whose values are
	// OverflowValue.
	MaxCombinations int
}

// OverflowValue is the value of every dimension of the counter that takes
// what is beyond MaxCombinations.
const OverflowValue = "__overflow__"

// MaxDecimals is the finest a meter may be.
const MaxDecimals = 9

// Catalog is all that the configuration says of counting: the meters, in its
// order, and the schedule of every meter's default counter.
type Catalog struct {
	Meters   []Meter
	Schedule Schedule
	Paths    []string // of records, that conditions, dimensions and values name; each once
}

// Find returns the index of the meter called name, or -1.
func (c *Catalog) Find(name string) int {
	return slices.IndexFunc(c.Meters, func(m Meter) bool { return m.Name == name })
}
