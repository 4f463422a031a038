package druid

import (
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/usage"
)

func TestControlIsCompleteOnlyForEveryOffsetOnce(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		offsets []int64
		want    bool
	}{
		"all of them":                {[]int64{0, 1, 2, 3, 4}, true},
		"in any order":               {[]int64{3, 1, 4, 0, 2}, true},
		"none":                       {nil, false},
		"the first is missing":       {[]int64{1, 2, 3, 4}, false},
		"the last is missing":        {[]int64{0, 1, 2, 3}, false},
		"one is missing":             {[]int64{0, 1, 3, 4}, false},
		"one is there twice":         {[]int64{0, 1, 2, 2, 3, 4}, false},
		"one missing, another twice": {[]int64{0, 1, 1, 3, 4}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			var c control
			for _, o := range tt.offsets {
				c.add(control{1, o, o, o})
			}
			require.Equal(t, tt.want, c.complete(5))
		})
	}
}

func TestControlOfLargeBoundaries(t *testing.T) {
	t.Parallel()

	for _, boundary := range []int64{1, 2, 3, 1 << 32, 6_074_001_001, math.MaxInt64 - 1, math.MaxInt64} {
		sum := new(big.Int).Mul(big.NewInt(boundary), big.NewInt(boundary-1))
		sum.Rsh(sum, 1)
		sum.And(sum, new(big.Int).SetUint64(math.MaxUint64))
		c := control{rows: boundary, maxOffset: boundary - 1, sumOffset: int64(sum.Uint64())}
		require.True(t, c.complete(boundary), boundary)
		c.sumOffset++
		require.False(t, c.complete(boundary), boundary)
	}
}

func TestSumsAreExactOrRefused(t *testing.T) {
	t.Parallel()

	const maximum, minimum = math.MaxInt64, math.MinInt64
	tests := map[string]struct {
		sums            sums
		want, low, high int64
		err             error
	}{
		"a plain sum":                      {sums: sums{values: 3, sum: 60, min: 10, max: 30, float: 60}, want: 60, low: 10, high: 30},
		"corrections":                      {sums: sums{values: 2, sum: -5, min: -10, max: 5, float: -5}, want: -5, low: -10, high: 5},
		"a null is one":                    {sums: sums{values: 2, nulls: 3, sum: 60, min: 20, max: 40, float: 60}, want: 63, low: 1, high: 40},
		"only nulls":                       {sums: sums{nulls: 3}, want: 3, low: 1, high: 1},
		"the largest there is":             {sums: sums{values: 1, sum: maximum, min: maximum, max: maximum, float: 0x1p63}, want: maximum, low: maximum, high: maximum},
		"beyond a double's digits":         {sums: sums{values: 2, sum: 1<<60 + 1, min: 1, max: 1 << 60, float: 0x1p60}, want: 1<<60 + 1, low: 1, high: 1 << 60},
		"a wide range that stays in":       {sums: sums{values: 4, sum: 0, min: -maximum, max: maximum, float: 0}, want: 0, low: -maximum, high: maximum},
		"wrapped once":                     {sums: sums{values: 2, sum: -2, min: maximum, max: maximum, float: 0x1p64}, err: ErrOverflow},
		"wrapped to the right sign":        {sums: sums{values: 3, sum: maximum - 2, min: maximum, max: maximum, float: 0x1.8p64}, err: ErrOverflow},
		"wrapped below":                    {sums: sums{values: 2, sum: 2, min: -maximum, max: -maximum, float: -0x1p64}, err: ErrOverflow},
		"too many to tell":                 {sums: sums{values: 1 << 40, sum: 0, min: -maximum, max: maximum, float: 0}, err: ErrOverflow},
		"the least number has no opposite": {sums: sums{values: 1, sum: minimum, min: minimum, max: minimum, float: -0x1p63}, err: ErrOverflow},
		"nulls lift it over the edge":      {sums: sums{values: 1, nulls: 1, sum: maximum, min: maximum, max: maximum, float: 0x1p63}, err: ErrOverflow},
		"digits after the point":           {sums: sums{values: 2, sum: 2, min: 1, max: 1, float: 3}, err: ErrColumns},
		"a little after the point":         {sums: sums{values: 1, sum: 1 << 51, min: 1 << 51, max: 1 << 51, float: 0x1p51 + 0.5}, err: ErrColumns},
		"not a number":                     {sums: sums{values: 1, float: math.NaN()}, err: ErrColumns},
		"infinity":                         {sums: sums{values: 1, float: math.Inf(1)}, err: ErrColumns},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			var got Total
			err := tt.sums.exact(&got)
			require.ErrorIs(t, err, tt.err)
			require.Equal(t, usage.DecimalOf(tt.want), got.Quantity)
			require.Equal(t, [2]usage.Decimal{usage.DecimalOf(tt.low), usage.DecimalOf(tt.high)}, [2]usage.Decimal{got.Min, got.Max})
		})
	}
}

// Sums of random values, as Druid adds them up: never a wrong total, and no
// refusal of what stays far from the edge.
func TestSumsOfRandomValues(t *testing.T) {
	t.Parallel()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		s := sums{values: 1 + r.Int64N(40), min: math.MaxInt64, max: math.MinInt64 + 1}
		exact, shift := new(big.Int), r.IntN(63)
		for range s.values {
			v := int64(r.Uint64()) >> shift
			if r.IntN(2) == 0 && v < 0 {
				v = max(-v, 0)
			}
			exact.Add(exact, big.NewInt(v))
			s.sum += v
			s.float += float64(v)
			s.min, s.max = min(s.min, v), max(s.max, v)
		}
		var total Total
		err := s.exact(&total)
		fits := exact.IsInt64() && exact.Int64() != math.MinInt64 && s.min != math.MinInt64
		require.Equal(t, fits, err == nil, "%v of %s", err, exact)
		if fits {
			require.Equal(t, usage.DecimalOf(exact.Int64()), total.Quantity)
		}
	}
}

// parseWhole reads the answer to a question of the default configuration.
func parseWhole(r io.Reader, q *Question) (answer, error) {
	cfg := Default()
	p := newParser(&cfg, q, nil, maphash.MakeSeed())
	return p.read(r, q.whole(&cfg).cells, p.totalRow)
}

func TestABadTotalSparesTheOtherClients(t *testing.T) {
	t.Parallel()

	q := Question{Boundary: 5, Clients: []string{"whale", "minnow"}}
	const body = `[["minnow","m",1,0,0,0,1,5,5,0,7,7.0,7,7],["whale","m",2,1,2,3,2,5,6,0,-2,1.8446744073709552E19,9223372036854775807,9223372036854775807],` +
		`["whale","n",1,3,3,3,1,5,5,0,7,7.0,7,7],["minnow",null,1,4,4,4,1,5,5,0,7,7.0,7,7]]`
	a, err := parseWhole(strings.NewReader(body), &q)
	require.NoError(t, err)
	require.True(t, a.control.complete(5))
	require.Len(t, a.totals, 1, "nothing of the whale, and what has no meter is no usage")
	require.Equal(t, "minnow", a.totals[0].Client)
	require.Equal(t, "m", a.totals[0].Meter)
	require.Len(t, a.bad, 1)
	require.ErrorIs(t, a.bad["whale"], ErrOverflow)
}

// FuzzAnswer: whatever Druid says, what is taken from it is consistent.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"complete.json", "bounded.json", "whole.json", "historical-lost.json", "timeout.json"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`[[null,null,1,0,0,0,1,5,5,1,null,null,null,null]]`))
	q := Question{Boundary: 40, Clients: []string{"client-00001", "client-00627", "client-00973"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseWhole(strings.NewReader(string(data)), &q)
		if err != nil {
			require.ErrorIs(t, err, errAnswer)
			require.Empty(t, a.totals)
			return
		}
		var events int64
		seen := make(map[string]bool)
		for _, total := range a.totals {
			require.Contains(t, q.Clients, total.Client)
			require.NotEmpty(t, total.Meter)
			require.Positive(t, total.Events)
			require.LessOrEqual(t, total.First, total.Last)
			require.NotContains(t, a.bad, total.Client)
			key := fmt.Sprintf("%q %q", total.Client, total.Meter)
			require.False(t, seen[key], key)
			seen[key] = true
			events += total.Events
		}
		require.LessOrEqual(t, events, a.control.rows)
		require.LessOrEqual(t, a.control.minOffset, a.control.maxOffset)
	})
}

// FuzzDetails: the same of the answers by fields, rolled up or not, and of
// latest quantities.
func FuzzDetails(f *testing.F) {
	f.Add([]byte(`[["a","m","eu",7,0.5,1.5,"true","false",2,0,1,1,2,5,6,0,7,7.0,3,4]]`))
	f.Add([]byte(`[["a",null,null,null,"NaN",null,null,null,1,0,0,0,3,5,5,1,3,null,null,null,null]]`))
	f.Add([]byte(`[["a","m","",-7,1E10,0.1,"false",null,"5",1,0,0,0,9]]`))
	kinds := kinds{"s": kindString, "l": kindLong, "d": kindDouble, "f": kindFloat, "b": kindString, "v": kindString}
	q := Question{Boundary: 40, Clients: []string{"a", "b"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, count := range []string{"", "n"} {
			cfg := Default()
			cfg.Columns.Fields, cfg.Columns.Booleans = []string{"s", "l", "d", "f", "b"}, []bool{false, false, false, false, true}
			cfg.Columns.Void, cfg.Columns.Count = "v", count
			p := newParser(&cfg, &q, kinds, maphash.MakeSeed())
			a, err := p.read(strings.NewReader(string(data)), q.details(&cfg, kinds).cells, p.totalRow)
			if err != nil {
				require.ErrorIs(t, err, errAnswer)
				require.Empty(t, a.totals)
			}
			require.Len(t, a.groups, len(a.totals))
			for _, total := range a.totals {
				require.Contains(t, q.Clients, total.Client)
				require.Len(t, total.Fields, 5)
				require.Positive(t, total.Events)
				require.NotContains(t, a.bad, total.Client)
				require.Contains(t, a.clients, total.Client)
				require.Contains(t, []usage.ValueKind{usage.NullValue, usage.BooleanValue}, total.Fields[4].Kind)
			}
			p = newParser(&cfg, &q, kinds, maphash.MakeSeed())
			if _, err = p.read(strings.NewReader(string(data)), q.latest(&cfg, kinds, nil).cells, p.latestRow); err != nil {
				require.ErrorIs(t, err, errAnswer)
			}
		}
	})
}
