package schema

import (
	"fmt"

	"github.com/hamba/avro/v2"
)

// maxOps bounds a plan. A path through unions of many records has steps for
// each of them at each of its parts.
const maxOps = 1 << 16

// NewPlan compiles the mapping for records written with s. A path that s does
// not have is missing from every record, one that leads to a type that its
// field does not take makes every record bad that has a value there. Every
// error is an ErrBadSchema.
func NewPlan(s Schema, m Mapping) (*Plan, error) {
	record, err := s.parse()
	if err != nil {
		return nil, err
	}
	l := m.layout()
	c := &compiler{calls: map[string]*sub{}, zero: map[*avro.RecordSchema]bool{}}
	ops := c.value(nil, record, l.root)
	if c.err != nil {
		return nil, c.err
	}
	return &Plan{ops: ops, layout: l, symbols: c.symbols}, nil
}

// compiler makes the steps of one plan.
type compiler struct {
	calls   map[string]*sub // of records in which nothing is wanted, by full name
	zero    map[*avro.RecordSchema]bool
	symbols [][]byte
	ops     int
	depth   int
	err     error
}

// add appends a step, unless the plan has become too large.
func (c *compiler) add(ops []op, o op) []op {
	if c.ops++; c.ops > maxOps && c.err == nil {
		c.err = fmt.Errorf("%w: too many types lie on the mapped paths", ErrBadSchema)
	}
	return append(ops, o)
}

// value appends the steps that walk a value of type s, in which w is wanted
// (nil: nothing).
func (c *compiler) value(ops []op, s avro.Schema, w *want) []op {
	c.depth++
	defer func() { c.depth-- }()
	if c.depth > maxDepth && c.err == nil {
		c.err = fmt.Errorf("%w: its types are nested too deeply", ErrBadSchema)
	}
	if c.err != nil {
		return ops
	}
	switch s := s.(type) {
	case *avro.RefSchema:
		return c.value(ops, s.Schema(), w)
	case *avro.RecordSchema:
		return c.record(ops, s, w)
	case *avro.UnionSchema:
		return c.union(ops, s, w)
	case *avro.ArraySchema:
		ops = c.unfit(ops, w, anArray)
		return c.add(ops, op{code: skipArray, sub: &sub{ops: c.value(nil, s.Items(), nil), zero: c.zeroBytes(s.Items())}})
	case *avro.MapSchema:
		return c.add(c.unfit(ops, w, aMap), op{code: walkMap, sub: c.entries(s, w)})
	case *avro.EnumSchema:
		return c.enum(ops, s, w)
	case *avro.FixedSchema:
		if d, ok := s.Logical().(*avro.DecimalLogicalSchema); ok && w.taken() {
			return c.add(ops, op{code: takeFixedDecimal, slot: w.slot, n: s.Size(), arg: scale(d)})
		}
		return c.fixed(c.unfit(ops, w, aFixed), s.Size())
	case *avro.NullSchema:
		if w.taken() {
			ops = c.add(ops, op{code: takeNothing, slot: w.slot, kind: null, arg: aNull})
		}
		return ops
	case *avro.PrimitiveSchema:
		return c.primitive(ops, s, w)
	default:
		c.err = fmt.Errorf("%w: it has a type that is not known", ErrBadSchema)
		return ops
	}
}

// taken tells whether the value itself is wanted.
func (w *want) taken() bool { return w != nil && w.slot != noSlot }

// within tells whether something within the value is wanted.
func (w *want) within() bool { return w != nil && len(w.inner) > 0 }

// unfit notes a value of a type that no field takes, if it is wanted.
func (c *compiler) unfit(ops []op, w *want, typeName int32) []op {
	if !w.taken() {
		return ops
	}
	return c.add(ops, op{code: takeNothing, slot: w.slot, kind: other, arg: typeName})
}

// record walks the fields in place where something in them is wanted; else it
// calls steps that are made once a type, as types may hold themselves.
func (c *compiler) record(ops []op, s *avro.RecordSchema, w *want) []op {
	ops = c.unfit(ops, w, aRecord)
	if w.within() {
		for _, f := range s.Fields() {
			ops = c.value(ops, f.Type(), w.find([]byte(f.Name())))
		}
		return ops
	}
	call, ok := c.calls[s.FullName()]
	if !ok {
		call = &sub{}
		c.calls[s.FullName()] = call
		for _, f := range s.Fields() {
			call.ops = c.value(call.ops, f.Type(), nil)
		}
	}
	if c.zeroBytes(s) {
		return ops
	}
	return c.add(ops, op{code: walkCall, sub: call})
}

// union walks one of its branches.
func (c *compiler) union(ops []op, s *avro.UnionSchema, w *want) []op {
	to := make([]int32, len(s.Types()))
	ops = c.add(ops, op{code: branch, sub: &sub{to: to}})
	var jumps []int
	for i, t := range s.Types() {
		to[i] = int32(len(ops))
		ops = c.value(ops, t, w)
		if i < len(to)-1 {
			jumps = append(jumps, len(ops))
			ops = c.add(ops, op{code: jump})
		}
	}
	for _, at := range jumps {
		ops[at].arg = int32(len(ops))
	}
	return ops
}

// entries is what walks a map: every value is skipped but those of wanted keys.
func (c *compiler) entries(s *avro.MapSchema, w *want) *sub {
	m := &sub{ops: c.value(nil, s.Values(), nil)}
	m.texts = len(m.ops) == 1 && m.ops[0].code == skipBytes
	if w.within() {
		for _, inner := range w.inner {
			m.keys = append(m.keys, key{name: inner.name, want: inner, ops: c.value(nil, s.Values(), inner)})
		}
	}
	return m
}

// enum takes the symbol.
func (c *compiler) enum(ops []op, s *avro.EnumSchema, w *want) []op {
	if !w.taken() {
		return c.add(ops, op{code: skipEnum, n: len(s.Symbols())})
	}
	first := len(c.symbols)
	for _, name := range s.Symbols() {
		c.symbols = append(c.symbols, []byte(name))
		c.ops++
	}
	return c.add(ops, op{code: takeEnum, slot: w.slot, n: len(s.Symbols()), arg: int32(first)})
}

// fixed skips n bytes.
func (c *compiler) fixed(ops []op, n int) []op {
	switch {
	case n < 0:
		c.err = fmt.Errorf("%w: a fixed of %d bytes", ErrBadSchema, n)
		return ops
	case n == 0:
		return ops
	}
	return c.add(ops, op{code: skipFixed, n: n})
}

// maxScale is finer than any number of a length that is read.
const maxScale = 1000

func scale(d *avro.DecimalLogicalSchema) int32 { return int32(min(d.Scale(), maxScale)) }

// primitive takes or skips a value without parts.
func (c *compiler) primitive(ops []op, s *avro.PrimitiveSchema, w *want) []op {
	if !w.taken() {
		switch s.Type() {
		case avro.Float:
			return c.fixed(ops, 4)
		case avro.Double:
			return c.fixed(ops, 8)
		}
		return c.add(ops, op{code: skips(s.Type())})
	}
	o := op{slot: w.slot}
	switch s.Type() {
	case avro.String:
		o.code = takeText
	case avro.Long:
		o.code, o.arg = takeLong, timeUnit(s)
	case avro.Int:
		o.code = takeInt
	case avro.Boolean:
		o.code = takeBool
	case avro.Float:
		o.code, o.n = takeFloat, 4
	case avro.Double:
		o.code, o.n = takeDouble, 8
	default:
		if d, ok := s.Logical().(*avro.DecimalLogicalSchema); ok {
			o.code, o.arg = takeDecimal, scale(d)
			break
		}
		return c.add(c.unfit(ops, w, aBytes), op{code: skipBytes})
	}
	return c.add(ops, o)
}

// skips returns how a primitive of varying length is skipped.
func skips(t avro.Type) opcode {
	switch t {
	case avro.Long:
		return skipLong
	case avro.Int:
		return skipInt
	case avro.Boolean:
		return skipBool
	default:
		return skipBytes
	}
}

// timeUnit returns how many of a long's unit make a millisecond, or notTime. A
// logical type that Avro does not know is none, and a plain long is
// milliseconds. Local timestamps are read as if in UTC.
func timeUnit(s *avro.PrimitiveSchema) int32 {
	name, _ := s.Prop("logicalType").(string)
	if l := s.Logical(); l != nil {
		name = string(l.Type())
	}
	switch name {
	case "time-micros":
		return notTime
	case "timestamp-micros", "local-timestamp-micros":
		return 1_000
	case "timestamp-nanos", "local-timestamp-nanos":
		return 1_000_000
	default:
		return 1
	}
}

// zeroBytes tells whether every value of type s takes no bytes at all.
func (c *compiler) zeroBytes(s avro.Schema) bool {
	switch s := s.(type) {
	case *avro.NullSchema:
		return true
	case *avro.FixedSchema:
		return s.Size() == 0
	case *avro.RefSchema:
		return c.zeroBytes(s.Schema())
	case *avro.RecordSchema:
		if zero, ok := c.zero[s]; ok {
			return zero
		}
		c.zero[s] = false // for a record that holds itself: it has no end
		for _, f := range s.Fields() {
			if !c.zeroBytes(f.Type()) {
				return false
			}
		}
		c.zero[s] = true
		return true
	default:
		return false
	}
}
