package aggregate

import (
	"math"
	"math/bits"
)

// sketch counts distinct values by a HyperLogLog of 2^14 registers, and says
// how many there are at any time without looking at all of them: it keeps how
// many registers have each value.
//
// The estimate is the improved raw estimator of Ertl, "New cardinality
// estimation algorithms for HyperLogLog sketches" (2017), which needs no
// correction at either end. It depends on the values alone, not on their order.
type sketch struct {
	registers [1 << precision]uint8
	counts    [maxRank + 1]int32 // of registers, by their value
}

const (
	precision = 14
	maxRank   = 64 - precision + 1
)

func newSketch() *sketch {
	s := &sketch{}
	s.counts[0] = 1 << precision
	return s
}

// add adds a value's hash, and tells whether that may change the estimate.
func (s *sketch) add(hash uint64) bool {
	return s.raise(int(hash>>(64-precision)), uint8(min(bits.LeadingZeros64(hash<<precision)+1, maxRank)))
}

func (s *sketch) raise(i int, rank uint8) bool {
	was := s.registers[i]
	if rank <= was {
		return false
	}
	s.registers[i] = rank
	s.counts[was]--
	s.counts[rank]++
	return true
}

// merge adds all values of o.
func (s *sketch) merge(o *sketch) {
	for i, rank := range o.registers {
		s.raise(i, rank)
	}
}

// estimate returns about how many values were added.
func (s *sketch) estimate() int64 {
	const m = 1 << precision
	z := m * tau(1-float64(s.counts[maxRank])/m)
	for rank := maxRank - 1; rank > 0; rank-- {
		z = 0.5 * (z + float64(s.counts[rank]))
	}
	z += m * sigma(float64(s.counts[0])/m)
	return int64(math.Round(m * m / (2 * math.Ln2 * z)))
}

func sigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	y, z := 1.0, x
	for {
		x *= x
		before := z
		z += x * y
		y += y
		if z == before {
			return z
		}
	}
}

func tau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	y, z := 1.0, 1-x
	for {
		x = math.Sqrt(x)
		before := z
		y *= 0.5
		z -= (1 - x) * (1 - x) * y
		if z == before {
			return z / 3
		}
	}
}
