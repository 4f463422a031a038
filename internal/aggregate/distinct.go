package aggregate

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"github.com/zeebo/xxh3"
)

// MaxExact is up to how many distinct values are counted exactly.
const MaxExact = 1024

// DistinctError is the standard error of the number of distinct values beyond
// MaxExact: 1.04/√16384 (Flajolet et al., HyperLogLog, 2007).
const DistinctError = "0.0081"

// distinct is a set of values as far as it takes to count them: their hashes
// of 64 bits, of which two fall together once in 10^13 sets of MaxExact, and
// beyond MaxExact a HyperLogLog sketch.
type distinct struct {
	exact  map[uint64]struct{}
	added  []uint64 // to exact, since it was marked
	sketch *sketch

	estimate int64 // of the sketch
}

// distinctMark is what undo returns to.
type distinctMark struct {
	of     *distinct
	sketch *sketch
	size   int64
}

func newDistinct() *distinct { return &distinct{exact: map[uint64]struct{}{}} }

func hashOfValue(value []byte) uint64 { return xxh3.Hash(value) }

// mark notes what undo returns to. The last mark counts.
func (d *distinct) mark() distinctMark {
	d.added = d.added[:0]
	if d.sketch == nil {
		return distinctMark{of: d}
	}
	d.exact = nil
	was := *d.sketch
	return distinctMark{of: d, sketch: &was, size: d.estimate}
}

// undo returns the set that was marked, as it was then.
func (m *distinctMark) undo() *distinct {
	d := m.of
	d.sketch, d.estimate = m.sketch, m.size
	for _, hash := range d.added {
		delete(d.exact, hash)
	}
	d.added = d.added[:0]
	return d
}

// add adds a value to the set.
func (d *distinct) add(hash uint64) {
	if d.sketch != nil {
		if d.sketch.add(hash) {
			d.estimate = d.sketch.estimate()
		}
		return
	}
	if _, known := d.exact[hash]; known {
		return
	}
	d.exact[hash] = struct{}{}
	d.added = append(d.added, hash)
	if len(d.exact) > MaxExact {
		d.draw()
	}
}

// draw makes the sketch of what is known exactly.
func (d *distinct) draw() {
	d.sketch = newSketch()
	for hash := range d.exact {
		d.sketch.add(hash)
	}
	d.estimate = d.sketch.estimate()
}

// merge adds all values of o.
func (d *distinct) merge(o *distinct) {
	if o.sketch == nil {
		for hash := range o.exact {
			d.add(hash)
		}
		return
	}
	if d.sketch == nil {
		d.draw()
	}
	d.sketch.merge(o.sketch)
	d.estimate = d.sketch.estimate()
}

// size returns how many values are in the set.
func (d *distinct) size() int64 {
	if d.sketch != nil {
		return d.estimate
	}
	return int64(len(d.exact))
}

func (d *distinct) estimated() bool { return d.sketch != nil }

// The first byte of a set in the changelog.
const (
	exactSet  = 0
	sketchSet = 1
)

// bytes returns the set for the changelog: equal sets give equal bytes. Of no
// set it is nil.
func (d *distinct) bytes() []byte {
	if d == nil {
		return nil
	}
	if d.sketch != nil {
		return append([]byte{sketchSet}, d.sketch.registers[:]...)
	}
	b := make([]byte, 1, 1+8*len(d.exact))
	b[0] = exactSet
	for _, hash := range slices.Sorted(maps.Keys(d.exact)) {
		b = binary.BigEndian.AppendUint64(b, hash)
	}
	return b
}

var errBadSet = errors.New("not a set of distinct values")

// distinctOf reads what bytes wrote.
func distinctOf(b []byte) (*distinct, error) {
	d := newDistinct()
	switch {
	case len(b) == 0:
		return d, nil
	case b[0] == sketchSet && len(b) == 1+1<<precision:
		d.exact, d.sketch = nil, newSketch()
		for i, rank := range b[1:] {
			if rank > maxRank {
				return nil, errBadSet
			}
			d.sketch.raise(i, rank)
		}
		d.estimate = d.sketch.estimate()
		return d, nil
	case b[0] != exactSet || len(b)%8 != 1 || len(b) > 1+8*MaxExact:
		return nil, errBadSet
	}
	for b = b[1:]; len(b) > 0; b = b[8:] {
		d.exact[binary.BigEndian.Uint64(b)] = struct{}{}
	}
	return d, nil
}
