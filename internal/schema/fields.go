package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/usage"
)

// kind is what was found at a mapped path.
type kind uint8

const (
	missing kind = iota // nothing
	null
	text    // UTF-8, not yet checked
	escaped // text as between the quotes of JSON, with escapes
	symbol  // of an enum
	integer
	float  // 32 bits
	double // 64 bits
	number // text of a JSON number
	decimal
	boolean
	other // a type that no field takes
)

// capture is a value as it was found. It has no pointers: what it tells of
// stays in the record until the whole record was walked.
type capture struct {
	kind  kind
	unit  int32 // integers: how many make a millisecond, or notTime; decimals: scale
	start int32 // of the text or bytes in the record
	end   int32
	n     int64 // integer, bits of a float, index of a symbol, 0 or 1, name of another type
}

// notTime marks integers that are no instant.
const notTime = 0

// captures has a slot for every path there can be, and one in which nothing is
// ever found, for the fields that are not mapped.
type captures [maxSlots + 1]capture

const (
	maxSlots = int(fields) + MaxFields
	unmapped = int8(maxSlots)
)

// drop forgets what was found at slots.
func (c *captures) drop(slots []int8) {
	for _, s := range slots {
		c[s] = capture{}
	}
}

// found is a walked record: its bytes and what was found in it.
type found struct {
	captures
	layout  *layout
	record  []byte
	symbols [][]byte      // of all wanted enums of the schema
	scratch []byte        // for text that had escapes
	values  []usage.Value // of Mapping.Fields, of events one after another
	spent   int           // how many of values are in use
}

// begin forgets the last record.
func (f *found) begin(record []byte, l *layout, symbols [][]byte) {
	f.record, f.layout, f.symbols = record, l, symbols
	// The first slots, mostly all there are, are cleared without a call.
	*(*[fields]capture)(f.captures[:fields]) = [fields]capture{}
	if l.used > int8(fields) {
		clear(f.captures[fields:l.used])
	}
}

// at returns what was found for a field.
func (f *found) at(of field) *capture { return &f.captures[f.layout.slots[of]] }

// empty tells whether nothing stands at the path of a field, or a text of no
// length.
func (c *capture) empty() bool {
	return c.kind <= null || (c.kind == text || c.kind == escaped) && c.start == c.end
}

// event makes an event of what was found. The first missing field is told
// before any bad one.
func (f *found) event(recordTime usage.Time, ev *usage.Event) (usage.Reason, error) {
	void := f.at(voidField)
	ev.Void = void.kind == boolean && void.n == 1
	if of, ok := f.lacks(ev.Void); ok {
		return usage.MissingField, fmt.Errorf("%s: missing, null or empty", of)
	}
	var err error
	if ev.Client, err = f.id(clientField); err != nil {
		return usage.BadField, err
	}
	if ev.Meter, err = f.text(meterField); err != nil {
		return usage.BadField, err
	}
	if ev.ID, err = f.id(idField); err != nil {
		return usage.BadField, err
	}
	if ev.Quantity, err = f.quantity(); err != nil {
		return usage.BadField, fmt.Errorf("quantity: %w", err)
	}
	if ev.Time, err = f.time(recordTime); err != nil {
		return usage.BadField, fmt.Errorf("time: %w", err)
	}
	if void.kind > null && void.kind != boolean {
		return usage.BadField, fmt.Errorf("void: %w", void.wrong("boolean"))
	}
	ev.Fields = f.room(len(f.layout.extra))
	for i, slot := range f.layout.extra {
		f.value(&f.captures[slot], &ev.Fields[i])
	}
	return "", nil
}

// eventsAhead is how many events' values are made room for at once.
const eventsAhead = 16

// room returns n values that no event refers to.
func (f *found) room(n int) []usage.Value {
	if n == 0 {
		return nil
	}
	if len(f.values)-f.spent < n {
		f.values, f.spent = make([]usage.Value, n*eventsAhead), 0
	}
	f.spent += n
	return f.values[f.spent-n : f.spent : f.spent]
}

// lacks returns the first field that must be there and is not. A void must
// have all that the event had that it takes back, as far as it is mapped:
// without it the wrong amount or period would be corrected. Mapping.Fields are
// not among it: the event itself may have had none of them (null is a value to
// conditions, and "" to dimensions), so that a void without them may be its true
// copy, and nothing here could tell it from one that left them out.
func (f *found) lacks(void bool) (field, bool) {
	if f.at(clientField).empty() {
		return clientField, true
	}
	if f.layout.slots[meterField] != unmapped && f.at(meterField).empty() {
		return meterField, true
	}
	if !void {
		return 0, false
	}
	if f.at(idField).empty() {
		return idField, true
	}
	for _, of := range [...]field{quantityField, timeField} {
		if f.layout.slots[of] != unmapped && f.at(of).kind <= null {
			return of, true
		}
	}
	return 0, false
}

// id is text of at most usage.MaxIDBytes.
func (f *found) id(of field) ([]byte, error) {
	b, err := f.text(of)
	if len(b) > usage.MaxIDBytes {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", of, len(b), usage.MaxIDBytes)
	}
	return b, err
}

var errNotUTF8 = errors.New("not UTF-8")

// text returns a string or symbol, and nil where nothing was found.
func (f *found) text(of field) ([]byte, error) {
	c := f.at(of)
	var b []byte
	switch c.kind {
	case missing, null:
		return nil, nil
	case symbol:
		return f.symbols[c.n], nil
	case text:
		b = f.record[c.start:c.end]
	case escaped:
		begin := len(f.scratch)
		var ok bool
		if f.scratch, ok = unescape(f.scratch, f.record[c.start:c.end]); !ok {
			return nil, fmt.Errorf("%s: %w", of, errNotUTF8)
		}
		b = f.scratch[begin:]
	default:
		return nil, fmt.Errorf("%s: %w", of, c.wrong("string"))
	}
	if !ascii(b) && !utf8.Valid(b) {
		return nil, fmt.Errorf("%s: %w", of, errNotUTF8)
	}
	return b, nil
}

// ascii tells that b is ASCII, as nearly all ids are. It is quicker with their
// last bytes than utf8.Valid: the last eight are looked at once more instead of
// one by one.
func ascii(b []byte) bool {
	const high = 0x8080808080808080
	var seen uint64
	if len(b) < 8 {
		for _, c := range b {
			seen |= uint64(c)
		}
		return seen&high == 0
	}
	for rest := b; len(rest) >= 8; rest = rest[8:] {
		seen |= binary.LittleEndian.Uint64(rest)
	}
	return (seen|binary.LittleEndian.Uint64(b[len(b)-8:]))&high == 0
}

// quantity is 1 where nothing was found.
func (f *found) quantity() (usage.Decimal, error) {
	c := f.at(quantityField)
	switch c.kind {
	case missing, null:
		return usage.DecimalOf(1), nil
	case integer:
		return usage.Decimal{Units: c.n, TooLarge: c.n == math.MinInt64}, nil
	case float:
		return usage.DecimalOfFloat(float64(math.Float32frombits(uint32(c.n))), 32)
	case double:
		return usage.DecimalOfFloat(math.Float64frombits(uint64(c.n)), 64)
	case decimal:
		if c.start == c.end {
			return usage.Decimal{}, usage.ErrNotDecimal
		}
		return usage.DecimalOfBytes(f.record[c.start:c.end], int(c.unit)), nil
	case number:
		d, err := usage.ParseDecimal(f.record[c.start:c.end])
		if err != nil { // JSON calls it a number: then it is only longer than any that fits
			return usage.Decimal{TooLarge: true}, nil
		}
		return d, nil
	case text, escaped:
		b, err := f.text(quantityField)
		if err != nil {
			return usage.Decimal{}, errNotUTF8
		}
		return usage.ParseDecimal(b)
	default:
		return usage.Decimal{}, c.wrong("number")
	}
}

// Instants outside of these are no event times: before them RFC 3339 has no
// year, and usage.MaxTime means "no end". What lies far ahead is passed on,
// for whoever knows the clock to call it too early.
const (
	firstTime usage.Time = -62135596800000
	lastTime             = usage.MaxTime - 1
)

var errTimeRange = errors.New("before the year 1")

// time is the record's own timestamp where nothing was found.
func (f *found) time(recordTime usage.Time) (usage.Time, error) {
	c := f.at(timeField)
	var t usage.Time
	switch c.kind {
	case missing, null:
		return recordTime, nil
	case integer:
		if c.unit == notTime {
			return 0, c.wrong("time")
		}
		if t = usage.Time(c.n); c.unit != 1 {
			t = usage.Time(floorDiv(c.n, int64(c.unit)))
		}
	case number:
		ms, err := floorMillis(f.record[c.start:c.end])
		if err != nil {
			return 0, err
		}
		t = usage.Time(ms)
	case text, escaped:
		b, err := f.text(timeField)
		if err != nil {
			return 0, errNotUTF8
		}
		var std time.Time
		if err := std.UnmarshalText(b); err != nil {
			return 0, errors.New("not RFC 3339")
		}
		t = usage.TimeOf(std)
	default:
		return 0, c.wrong("time")
	}
	if t < firstTime {
		return 0, errTimeRange
	}
	return min(t, lastTime), nil
}

// floorDiv returns n / by rounded down; by is positive.
func floorDiv(n, by int64) int64 {
	q := n / by
	if n%by < 0 {
		q--
	}
	return q
}

var errBadMillis = errors.New("not a number of milliseconds")

// floorMillis returns the JSON number s rounded down to an integer.
func floorMillis(s []byte) (int64, error) {
	point := -1
	for i, c := range s {
		switch c {
		case 'e', 'E':
			d, err := usage.ParseDecimal(s)
			if err != nil || d.TooLarge {
				return 0, errBadMillis
			}
			for ; d.Scale > 0; d.Scale-- {
				d.Units = floorDiv(d.Units, 10)
			}
			return d.Units, nil
		case '.':
			point = i
		}
	}
	whole, fraction := s, []byte(nil)
	if point >= 0 {
		whole, fraction = s[:point], s[point+1:]
	}
	ms, err := strconv.ParseInt(string(whole), 10, 64)
	if err != nil {
		return 0, errBadMillis
	}
	if s[0] == '-' && ms > math.MinInt64 {
		for _, c := range fraction {
			if c != '0' {
				return ms - 1, nil
			}
		}
	}
	return ms, nil
}

// wrong tells of a value whose type the field does not take.
func (c *capture) wrong(wanted string) error {
	return fmt.Errorf("%s is no %s", c.typeName(), wanted)
}

// typeNames are what c.n means for other.
var typeNames = [...]string{"a value", "null", "an array", "a map", "a record", "bytes", "a fixed", "an object"}

const (
	aNull = iota + 1
	anArray
	aMap
	aRecord
	aBytes
	aFixed
	anObject
)

func (c *capture) typeName() string {
	switch c.kind {
	case text, escaped:
		return "a string"
	case symbol:
		return "an enum"
	case integer:
		return "an integer of this type"
	case float, double, number, decimal:
		return "a number"
	case boolean:
		return "a boolean"
	default:
		return typeNames[c.n]
	}
}
