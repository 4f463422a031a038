package verify

import (
	"strconv"

	"github.com/zeebo/xxh3"

	"github.com/meterd/meterd/internal/usage"
)

// take is a meter that takes an event, and what the event is to it.
type take struct {
	meter    int
	amount   usage.Quantity // what it adds or, to a meter that does not add, its quantity
	fits     bool           // the amount is one of the meter's
	values   []string       // of the meter's dimensions, in their order
	distinct uint64         // stands for the value that Unique counts
	valued   bool           // there is such a value
}

// takers returns the meters that the event at offset counts on, or the reason
// for which one of them cannot have it. The list is good until the next call.
func (a *audit) takers(ev *usage.Event, offset int64) ([]take, usage.Reason) {
	a.takes = a.takes[:0]
	for i := range a.cfg.Catalog.Meters {
		meter := &a.cfg.Catalog.Meters[i]
		if offset < a.boundaryOf(meter.Name) {
			continue // the configuration did not have it yet
		}
		takes := !a.cfg.MeterMapped || meter.Name == string(ev.Meter)
		if meter.When != nil {
			var err error
			if takes, err = meter.When.Holds(ev.Fields); err != nil {
				return nil, usage.BadField
			}
		}
		if !takes {
			continue
		}
		t := take{meter: i}
		if !t.read(meter, ev) {
			return nil, usage.BadField
		}
		a.takes = append(a.takes, t)
	}
	return a.takes, ""
}

// boundaryOf returns the offset from which on a meter is counted.
func (a *audit) boundaryOf(meter string) int64 {
	position := a.kept.position
	for i := range position.Meters {
		if position.Meters[i].Name == meter {
			return position.Meters[i].Boundary
		}
	}
	return position.Boundary
}

// read takes in what meter looks at. It returns false where that cannot be
// used.
func (t *take) read(meter *usage.Meter, ev *usage.Event) bool {
	switch meter.Aggregation {
	case usage.Count, usage.Unique:
		t.amount, t.fits = usage.DecimalOf(1).Quantity(meter.Decimals)
	default:
		t.amount, t.fits = ev.Quantity.Quantity(meter.Decimals)
	}
	for _, d := range meter.Dimensions {
		text, ok := textOf(&ev.Fields[d.Field])
		if !ok || len(text) > usage.MaxIDBytes {
			return false
		}
		t.values = append(t.values, text)
	}
	if meter.Aggregation == usage.Unique {
		value := &ev.Fields[meter.Value]
		text, ok := textOf(value)
		if !ok {
			return false
		}
		t.distinct, t.valued = xxh3.HashString(text), value.Kind != usage.NullValue
	}
	return true
}

// textOf returns a value as dimensions have it, and false for one that none
// can have.
func textOf(v *usage.Value) (string, bool) {
	switch v.Kind {
	case usage.NullValue:
		return "", true
	case usage.TextValue:
		return string(v.Text), true
	case usage.BooleanValue:
		return strconv.FormatBool(v.True), true
	case usage.NumberValue:
		return v.Number.String(), !v.Number.TooLarge
	}
	return "", false
}

// undoable tells whether a void can take back what all of takes have counted.
func (a *audit) undoable(takes []take) bool {
	for i := range takes {
		if !additive(&a.cfg.Catalog.Meters[takes[i].meter]) {
			return false
		}
	}
	return true
}

// additive tells whether a meter's total is a sum.
func additive(m *usage.Meter) bool {
	return m.Aggregation == usage.Count || m.Aggregation == usage.Sum
}
