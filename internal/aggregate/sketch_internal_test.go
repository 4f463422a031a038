package aggregate

import (
	"fmt"
	"math"
	"testing"

	"github.com/axiomhq/hyperloglog"
	"github.com/stretchr/testify/require"
)

// The estimate stays within five standard errors of the truth, and agrees
// with another implementation fed with the same hashes.
func TestSketch(t *testing.T) {
	t.Parallel()
	ours, other := newSketch(), hyperloglog.NewNoSparse()
	next := 1
	for n := 1; n <= 1_000_000; n++ {
		hash := hashOfValue(fmt.Append(nil, "value-", n))
		ours.add(hash)
		other.InsertHash(hash)
		if n < next {
			continue
		}
		next = n*5/4 + 1
		got := float64(ours.estimate())
		require.InDelta(t, n, got, max(1, 5*0.0081*float64(n)), "%d values", n)
		require.InDelta(t, float64(other.Estimate()), got, max(1, 0.02*float64(n)), "%d values", n)
	}
	require.False(t, ours.add(hashOfValue([]byte("value-1"))), "it is known")
	require.Equal(t, int64(0), newSketch().estimate())

	half, rest := newSketch(), newSketch()
	for n := 1; n <= 1_000_000; n++ {
		into := half
		if n%2 == 0 {
			into = rest
		}
		into.add(hashOfValue(fmt.Append(nil, "value-", n)))
	}
	half.merge(rest)
	require.Equal(t, *ours, *half, "whatever the order")
	require.InDelta(t, 0.0081, 1.04/math.Sqrt(1<<precision), 0.0001, "DistinctError")
}

func TestSetsOfDistinctValuesSurvive(t *testing.T) {
	t.Parallel()
	d := newDistinct()
	for n := range 3000 {
		if n == 0 || n == MaxExact || n == MaxExact+1 || n == 2999 {
			again, err := distinctOf(d.bytes())
			require.NoError(t, err)
			require.Equal(t, d.size(), again.size())
			require.Equal(t, d.estimated(), again.estimated())
			require.Equal(t, d.bytes(), again.bytes())
		}
		d.add(hashOfValue(fmt.Append(nil, n)))
	}
	for name, b := range map[string][]byte{
		"an unknown form": {7}, "half a hash": {exactSet, 1, 2}, "too many": make([]byte, 1+8*(MaxExact+1)),
		"a short sketch": {sketchSet, 1}, "a register too high": append([]byte{sketchSet, 99}, make([]byte, 1<<precision-1)...),
	} {
		_, err := distinctOf(b)
		require.ErrorIs(t, err, errBadSet, name)
	}
}

func BenchmarkDistinct(b *testing.B) {
	for _, known := range []bool{true, false} {
		b.Run(fmt.Sprintf("known=%t", known), func(b *testing.B) {
			d := newDistinct()
			for n := range 10_000 {
				d.add(hashOfValue(fmt.Append(nil, n)))
			}
			hash := hashOfValue([]byte("1"))
			for b.Loop() {
				if !known {
					hash = hash*6364136223846793005 + 1442695040888963407
				}
				d.add(hash)
			}
		})
	}
}
