package aggregate

import (
	"strconv"

	"github.com/meterd/meterd/internal/usage"
)

// taking is a meter that takes an event, and what the event is to it.
type taking struct {
	meter  int
	amount usage.Quantity // the quantity; of Count, one
	fits   bool           // the amount is one of the meter's
	hash   uint64         // of the value that Unique counts
	valued bool           // there is such a value
	values [][]byte       // of the meter's dimensions
}

// maxValue bounds the bytes of a dimension's value.
const maxValue = usage.MaxIDBytes

// gather notes the meters that take ev. It is false where one of them, or what
// says which they are, finds a field that it has no use for.
func (s *State) gather(ev *usage.Event) bool {
	s.takings, s.texts, s.text = s.takings[:0], s.texts[:0], s.text[:0]
	if !s.cfg.MeterMapped {
		for _, m := range s.plain {
			if !s.takes(m, ev) {
				return false
			}
		}
	} else if m, ok := s.meters[string(ev.Meter)]; ok && s.cfg.Catalog.Meters[m].When == nil {
		if !s.takes(m, ev) {
			return false
		}
	}
	for _, m := range s.conditional {
		holds, err := s.cfg.Catalog.Meters[m].When.Holds(ev.Fields)
		if err != nil || holds && !s.takes(m, ev) {
			return false
		}
	}
	return true
}

// takes notes that meter m takes ev.
func (s *State) takes(m int, ev *usage.Event) bool {
	meter := &s.cfg.Catalog.Meters[m]
	t := taking{meter: m}
	switch meter.Aggregation {
	case usage.Count:
		t.amount, t.fits = usage.DecimalOf(1).Quantity(meter.Decimals)
	case usage.Unique:
		t.fits = true
		value, ok := s.textOf(&ev.Fields[meter.Value])
		if !ok {
			return false
		}
		if t.valued = ev.Fields[meter.Value].Kind != usage.NullValue; t.valued {
			t.hash = hashOfValue(value)
		}
	default:
		t.amount, t.fits = ev.Quantity.Quantity(meter.Decimals)
	}
	from := len(s.texts)
	for _, d := range meter.Dimensions {
		value, ok := s.textOf(&ev.Fields[d.Field])
		if !ok || len(value) > maxValue {
			return false
		}
		s.texts = append(s.texts, value)
	}
	t.values = s.texts[from:]
	s.takings = append(s.takings, t)
	return true
}

// textOf returns v as the value of a dimension: text as it is, nothing as no
// text, numbers in their shortest plain form. It is good until the next event.
func (s *State) textOf(v *usage.Value) (text []byte, ok bool) {
	switch v.Kind {
	case usage.TextValue:
		return v.Text, true
	case usage.NullValue:
		return nil, true
	case usage.BooleanValue:
		from := len(s.text)
		s.text = strconv.AppendBool(s.text, v.True)
		return s.text[from:], true
	case usage.NumberValue:
		if v.Number.TooLarge {
			return nil, false
		}
		from := len(s.text)
		s.text = append(s.text, v.Number.String()...)
		return s.text[from:], true
	default:
		return nil, false
	}
}
