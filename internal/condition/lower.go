package condition

import (
	"fmt"
	"slices"

	"github.com/meterd/meterd/internal/usage"
)

// always is what a condition between literals comes to.
func always(holds bool) build {
	return func() (predicate, error) {
		return func([]usage.Value) (bool, error) { return holds, nil }, nil
	}
}

func not(holds predicate) predicate {
	return func(fields []usage.Value) (bool, error) {
		ok, err := holds(fields)
		return !ok && err == nil, err
	}
}

func and(left, right predicate) predicate {
	return func(fields []usage.Value) (bool, error) {
		if ok, err := left(fields); !ok || err != nil {
			return false, err
		}
		return right(fields)
	}
}

func or(left, right predicate) predicate {
	return func(fields []usage.Value) (bool, error) {
		if ok, err := left(fields); ok || err != nil {
			return ok, err
		}
		return right(fields)
	}
}

// bare is a boolean field that stands for itself.
func bare(n *name) predicate {
	i, wrong := n.index, mismatch(n, usage.BooleanValue)
	return func(fields []usage.Value) (bool, error) {
		switch v := &fields[i]; v.Kind {
		case usage.BooleanValue:
			return v.True, nil
		case usage.NullValue:
			return false, nil
		default:
			return false, wrong.of(v.Kind)
		}
	}
}

// present tells whether there is a value, of whatever type.
func present(i int, want bool) predicate { //revive:disable-line:flag-parameter // == nil and != nil
	return func(fields []usage.Value) (bool, error) {
		return (fields[i].Kind != usage.NullValue) == want, nil
	}
}

// fieldWithLiteral compares a field with a literal. Equality of texts, which
// nearly all conditions are, has a way of its own.
func fieldWithLiteral(n *name, literal usage.Value, holds outcomes) predicate {
	i, wrong := n.index, mismatch(n, literal.Kind)
	if literal.Kind == usage.TextValue && (holds == equal || holds == less|greater) {
		text, want := string(literal.Text), holds == equal
		return func(fields []usage.Value) (bool, error) {
			switch v := &fields[i]; v.Kind {
			case usage.TextValue:
				return (string(v.Text) == text) == want, nil
			case usage.NullValue:
				return false, nil
			default:
				return false, wrong.of(v.Kind)
			}
		}
	}
	return func(fields []usage.Value) (bool, error) {
		switch v := &fields[i]; v.Kind {
		case literal.Kind:
			return holds.has(compare(v, &literal)), nil
		case usage.NullValue:
			return false, nil
		default:
			return false, wrong.of(v.Kind)
		}
	}
}

// fieldWithField compares two fields. Where nothing tells their type, they must
// be of the same one in each event.
func fieldWithField(left, right *name, holds outcomes) predicate {
	i, j, kind := left.index, right.index, left.root().kind
	wrongLeft, wrongRight := mismatch(left, kind), mismatch(right, kind)
	different := fmt.Errorf("%s and %s cannot be compared: they are of different types, or of one that is not compared so", left.path, right.path)
	ordered := holds != equal && holds != less|greater
	return func(fields []usage.Value) (bool, error) {
		a, b := &fields[i], &fields[j]
		switch {
		case a.Kind == usage.NullValue || b.Kind == usage.NullValue:
			return false, nil
		case kind != usage.NullValue && a.Kind != kind:
			return false, wrongLeft.of(a.Kind)
		case kind != usage.NullValue && b.Kind != kind:
			return false, wrongRight.of(b.Kind)
		case a.Kind != b.Kind || a.Kind >= usage.UnfitValue || ordered && a.Kind == usage.BooleanValue:
			return false, different
		}
		return holds.has(compare(a, b)), nil
	}
}

// inList tells whether a field is one of values, which have its type.
func inList(n *name, values []usage.Value, s sense) predicate {
	kind, holds := values[0].Kind, within(values)
	i, wrong := n.index, mismatch(n, kind)
	return func(fields []usage.Value) (bool, error) {
		switch v := &fields[i]; v.Kind {
		case kind:
			return holds(v) == bool(s), nil
		case usage.NullValue:
			return false, nil
		default:
			return false, wrong.of(v.Kind)
		}
	}
}

// short is how many texts are looked through rather than looked up.
const short = 8

// within returns what tells whether a value is one of values, all of one kind.
func within(values []usage.Value) func(v *usage.Value) bool {
	switch {
	case values[0].Kind != usage.TextValue:
	case len(values) > short:
		texts := make(map[string]struct{}, len(values))
		for i := range values {
			texts[string(values[i].Text)] = struct{}{}
		}
		return func(v *usage.Value) bool {
			_, ok := texts[string(v.Text)]
			return ok
		}
	default:
		texts := make([]string, len(values))
		for i := range values {
			texts[i] = string(values[i].Text)
		}
		return func(v *usage.Value) bool {
			return slices.Contains(texts, string(v.Text))
		}
	}
	return func(v *usage.Value) bool {
		for i := range values {
			if compare(v, &values[i]) == 0 {
				return true
			}
		}
		return false
	}
}

// text is an operand of an operator between texts: a field, or a literal if
// wrong is nil.
type text struct {
	index   int
	literal []byte
	wrong   *mismatches
}

func textOf(o operand) text {
	if o.name == nil {
		return text{literal: o.literal.Text}
	}
	return text{index: o.name.index, wrong: mismatch(o.name, usage.TextValue)}
}

// text returns the text of t, and false if it is null.
func (t *text) text(fields []usage.Value) ([]byte, bool, error) {
	if t.wrong == nil {
		return t.literal, true, nil
	}
	switch v := &fields[t.index]; v.Kind {
	case usage.TextValue:
		return v.Text, true, nil
	case usage.NullValue:
		return nil, false, nil
	default:
		return nil, false, t.wrong.of(v.Kind)
	}
}
