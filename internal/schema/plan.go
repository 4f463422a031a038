package schema

import (
	"encoding/binary"
	"fmt"
)

// opcode says what is done with the next value of a record.
type opcode uint8

const (
	// Values that nobody asked for.
	skipLong opcode = iota
	skipInt
	skipBool
	skipEnum
	skipFixed
	skipBytes
	skipArray
	walkMap // its wanted keys are in sub
	walkCall

	// Values that go to a slot.
	takeNothing // nothing is read: the type alone says that it is null or unfit
	takeLong
	takeInt
	takeBool
	takeEnum
	takeFloat
	takeDouble
	takeText
	takeDecimal
	takeFixedDecimal

	// The way through a union.
	branch // jumps to where the branch begins
	jump
)

// op is one step of a plan.
type op struct {
	code opcode
	kind kind  // of takeNothing
	slot int8  // of take…
	arg  int32 // unit, scale, first symbol, type name, target of jump
	n    int   // bytes of a fixed, symbols of an enum
	sub  *sub
}

// sub is what an op needs beyond itself.
type sub struct {
	ops   []op    // items of an array, values of a map, body of a call
	zero  bool    // items that take no bytes: they are counted, not walked
	texts bool    // values of a map that are strings nobody asked for
	to    []int32 // where the branches of a union begin
	keys  []key   // wanted keys of a map
}

// key is a key of a map under which something is wanted.
type key struct {
	name string
	want *want
	ops  []op
}

// Plan reads the mapped fields of records of one writer's schema: the schema
// and the mapping, compiled to a flat list of steps. It never changes, and any
// number of goroutines may use it.
type Plan struct {
	ops     []op
	layout  *layout
	symbols [][]byte
}

// walker interprets a plan over one record.
type walker struct {
	found

	// Why a walk ended early.
	problem string
	where   int
}

// walk reads body into w's slots. The whole of it is walked, wanted or not:
// a record that is cut off, goes on after its end or has a value in it that
// cannot be is no record of this schema, and none of it is believed. For the
// usage event that costs some 20 ns on top of 50 (BenchmarkDecode); to stop at
// the last wanted field would take records for good that were cut off.
func (w *walker) walk(p *Plan, body []byte) error {
	w.begin(body, p.layout, p.symbols)
	switch end := w.run(p.ops, 0, 0); {
	case end < 0:
		return fmt.Errorf("%s, at byte %d of the body", w.problem, w.where)
	case end < len(body):
		return fmt.Errorf("%d bytes after the end of the record", len(body)-end)
	}
	return nil
}

// damaged ends a walk.
func (w *walker) damaged(problem string, pos int) int {
	w.problem, w.where = problem, pos
	return -1
}

// What is wrong with damaged bytes.
const (
	badNumber  = "number is cut off or too long"
	badLength  = "length reaches past the end"
	badBool    = "boolean is neither 0 nor 1"
	badSymbol  = "no such symbol of the enum"
	badBranch  = "no such branch of the union"
	badCount   = "count is more than the bytes can hold"
	badBlock   = "block size does not match the block"
	cutOff     = "record is cut off"
	tooNested  = "values are nested too deeply"
	notInteger = "integer does not fit 32 bits"
)

// run does ops from pos on and returns where they ended, or -1 after damage.
//
// Every step but those of constant number takes at least one byte, and items
// without bytes are not walked, so the work is bounded by the length of the
// record whatever counts it has.
func (w *walker) run(ops []op, pos, depth int) int {
	b := w.record
	if depth > maxDepth {
		return w.damaged(tooNested, pos)
	}
	for pc := 0; pc < len(ops); pc++ {
		o := &ops[pc]
		switch o.code {
		case takeText:
			var start, end int
			if short(b, pos) {
				start, end = pos+1, pos+1+int(b[pos]>>1)
			} else {
				start, end = span(b, pos)
			}
			if outside(end, b) {
				return w.damaged(badLength, pos)
			}
			c := &w.captures[o.slot]
			c.kind, c.start, c.end = text, int32(start), int32(end)
			pos = end
		case takeLong:
			n, next := varint(b, pos)
			if next < 0 {
				return w.damaged(badNumber, pos)
			}
			c := &w.captures[o.slot]
			c.kind, c.unit, c.n = integer, o.arg, n
			pos = next
		case skipBytes:
			var end int
			if short(b, pos) {
				end = pos + 1 + int(b[pos]>>1)
			} else {
				_, end = span(b, pos)
			}
			if outside(end, b) {
				return w.damaged(badLength, pos)
			}
			pos = end
		case skipLong:
			_, next := varint(b, pos)
			if next < 0 {
				return w.damaged(badNumber, pos)
			}
			pos = next
		case branch:
			n, next := varint32(b, pos)
			if next < 0 || uint64(n) >= uint64(len(o.sub.to)) {
				return w.damaged(badBranch, pos)
			}
			pos = next
			pc = int(o.sub.to[n]) - 1
		case jump:
			pc = int(o.arg) - 1
		case takeNothing:
			w.captures[o.slot] = capture{kind: o.kind, n: int64(o.arg)}
		case walkMap:
			if pos = w.entries(o.sub, pos, depth+1); pos < 0 {
				return -1
			}
		case skipArray:
			if pos = w.items(o.sub, pos, depth+1); pos < 0 {
				return -1
			}
		case walkCall:
			if pos = w.run(o.sub.ops, pos, depth+1); pos < 0 {
				return -1
			}
		default:
			if pos = w.scalar(o, pos); pos < 0 {
				return -1
			}
		}
	}
	return pos
}

// scalar does the steps that are rarer.
func (w *walker) scalar(o *op, pos int) int {
	b := w.record
	switch o.code {
	case skipInt, takeInt:
		n, next := varint32(b, pos)
		if next < 0 {
			return w.damaged(notInteger, pos)
		}
		if o.code == takeInt {
			w.captures[o.slot] = capture{kind: integer, unit: notTime, n: n}
		}
		return next
	case skipEnum, takeEnum:
		n, next := varint32(b, pos)
		if next < 0 || uint64(n) >= uint64(o.n) {
			return w.damaged(badSymbol, pos)
		}
		if o.code == takeEnum {
			w.captures[o.slot] = capture{kind: symbol, n: int64(o.arg) + n}
		}
		return next
	case skipBool, takeBool:
		if pos >= len(b) || b[pos] > 1 {
			return w.damaged(badBool, pos)
		}
		if o.code == takeBool {
			w.captures[o.slot] = capture{kind: boolean, n: int64(b[pos])}
		}
		return pos + 1
	}
	if o.code == takeDecimal {
		start, end := span(b, pos)
		if outside(end, b) {
			return w.damaged(badLength, pos)
		}
		w.captures[o.slot] = capture{kind: decimal, unit: o.arg, start: int32(start), end: int32(end)}
		return end
	}
	if o.n > len(b)-pos {
		return w.damaged(cutOff, pos)
	}
	switch o.code {
	case takeFloat:
		w.captures[o.slot] = capture{kind: float, n: int64(binary.LittleEndian.Uint32(b[pos:]))}
	case takeDouble:
		w.captures[o.slot] = capture{kind: double, n: int64(binary.LittleEndian.Uint64(b[pos:]))}
	case takeFixedDecimal:
		w.captures[o.slot] = capture{kind: decimal, unit: o.arg, start: int32(pos), end: int32(pos + o.n)}
	}
	return pos + o.n
}

// block reads the head of a block of an array or map: its count, and where it
// ends if that is told, else -1. Each of count items takes least bytes or more.
func (w *walker) block(pos, least int) (count int64, end, next int) {
	count, next = varint(w.record, pos)
	if next < 0 {
		return 0, 0, w.damaged(badNumber, pos)
	}
	end = -1
	if count < 0 {
		size, after := varint(w.record, next)
		if after < 0 || uint64(size) > uint64(len(w.record)-after) {
			return 0, 0, w.damaged(badBlock, next)
		}
		count, end, next = -count, after+int(size), after
	}
	// The least of all counts has no negative: it stays below zero.
	if count < 0 || least > 0 && count > int64(len(w.record)-next) {
		return 0, 0, w.damaged(badCount, pos)
	}
	return count, end, next
}

// entries walks a map. Of a key that is there twice, the last counts.
func (w *walker) entries(s *sub, pos, depth int) int {
	for {
		count, blockEnd, next := w.block(pos, 1)
		if next < 0 {
			return -1
		}
		if pos = next; count == 0 {
			return pos
		}
		for ; count > 0; count-- {
			start, end := span(w.record, pos)
			if outside(end, w.record) {
				return w.damaged(badLength, pos)
			}
			if pos = w.entry(s, start, end, depth); pos < 0 {
				return -1
			}
		}
		if blockEnd >= 0 && pos != blockEnd {
			return w.damaged(badBlock, pos)
		}
	}
}

// entry walks the value of a map that follows its key, which is from start to
// end.
func (w *walker) entry(s *sub, start, end, depth int) int {
	for i := range s.keys {
		if k := &s.keys[i]; k.name == string(w.record[start:end]) {
			w.drop(k.want.below)
			return w.run(k.ops, end, depth)
		}
	}
	if !s.texts {
		return w.run(s.ops, end, depth)
	}
	_, after := span(w.record, end)
	if outside(after, w.record) {
		return w.damaged(badLength, end)
	}
	return after
}

// items walks an array.
func (w *walker) items(s *sub, pos, depth int) int {
	least := 1
	if s.zero {
		least = 0
	}
	for {
		count, blockEnd, next := w.block(pos, least)
		if next < 0 {
			return -1
		}
		if pos = next; count == 0 {
			return pos
		}
		for ; count > 0 && !s.zero; count-- {
			if pos = w.run(s.ops, pos, depth); pos < 0 {
				return -1
			}
		}
		if blockEnd >= 0 && pos != blockEnd {
			return w.damaged(badBlock, pos)
		}
	}
}
