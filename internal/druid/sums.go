package druid

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/meterd/meterd/internal/usage"
)

// sums are the aggregates of the quantity column in one group: values is how
// many rows are not null, nulls how many events are (as many as rows, where
// rows are not rolled up).
type sums struct {
	values, nulls int64
	sum, min, max int64
	float         float64
}

// exact sets t's quantities, or tells why they are not known exactly. Druid's
// longSum wraps around silently, and cuts the digits after the point from
// columns that are not long. What unmasks both is the doubleSum of the same
// rows: its error is at most values² × 2⁻⁵² × the largest magnitude, in
// whatever order it was added up, while a wrapped sum is off by 2⁶⁴.
func (s *sums) exact(t *Total) error {
	if s.values > 0 {
		largest := max(magnitude(s.min), magnitude(s.max))
		high, bound := bits.Mul64(uint64(s.values), largest)
		deviation := math.Abs(s.float - float64(s.sum))
		slack := float64(s.values) * float64(s.values) * float64(largest) * 0x1p-52
		switch {
		case math.IsNaN(deviation) || math.IsInf(deviation, 0):
			return fmt.Errorf("%w: not a number", ErrColumns)
		case high > 0 || bound > math.MaxInt64: // it may have wrapped
			if slack >= 0x1p62 || deviation >= 0x1p63 {
				return ErrOverflow
			}
		case bound < 1<<53: // a double holds every partial sum
			slack = 0
		}
		if deviation > slack {
			return fmt.Errorf("%w: quantities have digits after the point", ErrColumns)
		}
	}
	quantity, ok := usage.Quantity(s.sum).Add(usage.Quantity(s.nulls))
	if !ok || s.sum == math.MinInt64 || s.min == math.MinInt64 {
		return ErrOverflow
	}
	low, high := s.min, s.max
	switch {
	case s.values == 0:
		low, high = 1, 1
	case s.nulls > 0:
		low, high = min(low, 1), max(high, 1)
	}
	t.Quantity = usage.DecimalOf(int64(quantity))
	t.Min, t.Max = usage.DecimalOf(low), usage.DecimalOf(high)
	return nil
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}
