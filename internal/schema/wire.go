package schema

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// wireHeader is the length of Confluent's header: a zero and a schema id.
const wireHeader = 5

// WireID returns the schema id in the header of a value in Confluent's wire
// format, and false where there is no such header.
func WireID(value []byte) (uint32, bool) {
	if len(value) < wireHeader || value[0] != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint32(value[1:]), true
}

// AppendHeader appends the header of Confluent's wire format.
func AppendHeader(dst []byte, schemaID uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0), schemaID)
}

// varint reads an Avro int or long at pos and returns what follows it, or -1
// where it is cut off or does not fit 64 bits.
func varint(b []byte, pos int) (int64, int) {
	var u uint64
	for shift := uint(0); uint(pos) < uint(len(b)); shift += 7 {
		c := b[pos]
		pos++
		if c < 0x80 {
			if shift == 63 && c > 1 {
				break
			}
			u |= uint64(c) << shift
			return int64(u>>1) ^ -int64(u&1), pos
		}
		if shift == 63 {
			break
		}
		u |= uint64(c&0x7f) << shift
	}
	return 0, -1
}

// maxIntBytes is the longest an Avro int may be written.
const maxIntBytes = 5

// varint32 is varint for a value that must fit 32 bits.
func varint32(b []byte, pos int) (int64, int) {
	n, next := varint(b, pos)
	if next-pos > maxIntBytes || n != int64(int32(n)) {
		return 0, -1
	}
	return n, next
}

// short tells whether a length of one byte stands at pos, as nearly all do.
// It is small enough to be inlined; span is for the others.
func short(b []byte, pos int) bool { return uint(pos) < uint(len(b)) && b[pos]&0x81 == 0 }

// span reads a length at pos and returns where the bytes that it tells of
// begin and end. The end is outside of b where they are not all there.
func span(b []byte, pos int) (start, end int) {
	if short(b, pos) {
		return pos + 1, pos + 1 + int(b[pos]>>1)
	}
	n, start := varint(b, pos)
	if start < 0 || uint64(n) > uint64(len(b)-start) {
		return 0, -1
	}
	return start, start + int(n)
}

// outside tells whether an end that span returned is none.
func outside(end int, b []byte) bool { return uint(end) > uint(len(b)) }

// appendString appends an Avro string.
func appendString(dst []byte, s string) []byte {
	return append(binary.AppendVarint(dst, int64(len(s))), s...)
}

// appendBool appends an Avro boolean.
func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// reader reads the Avro of our own schemas. After the first error it returns
// zeros and keeps that error.
type reader struct {
	b      []byte
	pos    int
	err    error
	intern map[string]string // of strings that repeat; nil keeps none
}

// fail keeps the first error; all later reads find nothing.
func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s, at byte %d", ErrForeign, fmt.Sprintf(format, args...), r.pos)
		r.pos = len(r.b)
	}
}

// done returns the error, which is one too where bytes are left.
func (r *reader) done() error {
	if r.err == nil && r.pos != len(r.b) {
		r.fail("%d bytes after the end", len(r.b)-r.pos)
	}
	return r.err
}

func (r *reader) long() int64 {
	n, next := varint(r.b, r.pos)
	if next < 0 {
		r.fail("bad number")
		return 0
	}
	r.pos = next
	return n
}

func (r *reader) int() int {
	n, next := varint32(r.b, r.pos)
	if next < 0 {
		r.fail("bad number")
		return 0
	}
	r.pos = next
	return int(n)
}

// index reads the index of an enum's symbol or of a union's branch.
func (r *reader) index(of int) int {
	n := r.int()
	if n < 0 || n >= of {
		r.fail("%d is none of %d", n, of)
		return 0
	}
	return n
}

func (r *reader) bool() bool {
	if r.pos >= len(r.b) || r.b[r.pos] > 1 {
		r.fail("bad boolean")
		return false
	}
	r.pos++
	return r.b[r.pos-1] == 1
}

// bytes returns a part of what is read, not a copy.
func (r *reader) bytes() []byte {
	start, end := span(r.b, r.pos)
	if outside(end, r.b) {
		r.fail("bad length")
		return nil
	}
	r.pos = end
	return r.b[start:end]
}

// copied is bytes as a copy, and nil where there are none.
func (r *reader) copied() []byte {
	if b := r.bytes(); len(b) > 0 {
		return slices.Clone(b)
	}
	return nil
}

func (r *reader) string() string { return string(r.bytes()) }

// maxInterned bounds how many strings a reader keeps to share them.
const maxInterned = 4096

// shared is string for what few records differ in: meters, zones, periods.
func (r *reader) shared() string {
	b := r.bytes()
	if s, ok := r.intern[string(b)]; ok || len(b) == 0 {
		return s
	}
	s := string(b)
	if r.intern != nil && len(r.intern) < maxInterned {
		r.intern[s] = s
	}
	return s
}

// blocks calls each for every item of an array or a map. Items take at least
// one byte.
func (r *reader) blocks(each func()) {
	for r.err == nil {
		count, end := r.long(), -1
		if count < 0 {
			size := r.long()
			count = -count
			if size < 0 || size > int64(len(r.b)-r.pos) {
				r.fail("bad block size")
				return
			}
			end = r.pos + int(size)
		}
		if count == 0 {
			return
		}
		if uint64(count) > uint64(len(r.b)-r.pos) {
			r.fail("bad count")
			return
		}
		for ; count > 0 && r.err == nil; count-- {
			each()
		}
		if end >= 0 && r.pos != end {
			r.fail("bad block size")
		}
	}
}
