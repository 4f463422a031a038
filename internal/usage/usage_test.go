package usage_test

import (
	"math"
	"math/big"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/usage"
)

func TestParseDecimal(t *testing.T) {
	t.Parallel()

	tests := map[string]struct{ in, want string }{
		"zero":                               {"0", "0"},
		"no minus zero":                      {"-0.00", "0"},
		"trailing zeros go":                  {"1.500", "1.5"},
		"whole trailing zeros stay":          {"1500", "1500"},
		"an exponent":                        {"1.5e3", "1500"},
		"a negative exponent":                {"15E-1", "1.5"},
		"a plus in the exponent":             {"2e+2", "200"},
		"the finest":                         {"0.000000001", "0.000000001"},
		"finer than any meter":               {"0.0000000001", "(too large)"},
		"fine zeros are nothing":             {"1.00000000000000000000000", "1"},
		"the largest":                        {"9223372036854775807", "9223372036854775807"},
		"one more":                           {"9223372036854775808", "(too large)"},
		"the least":                          {"-9223372036854775807", "-9223372036854775807"},
		"one less":                           {"-9223372036854775808", "(too large)"},
		"large but an exponent takes it":     {"90000000000000000000e-1", "9000000000000000000"},
		"large for its exponent":             {"1e30", "(too large)"},
		"zero whatever its exponent":         {"0e999", "0"},
		"leading zeros are nothing":          {"0000000000000000000000000012", "12"},
		"nine digits after a large number":   {"9.223372036", "9.223372036"},
		"a fraction that makes it too large": {"9223372036854775807.1", "(too large)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			d, err := usage.ParseDecimal(tt.in)
			require.NoError(t, err)
			require.Equal(t, tt.want, d.String())
		})
	}
	for _, in := range []string{"", ".", "-", "1.", ".5", "+1", "1e", "1e-", "e5", "0x1", "1 ", "1_0", "NaN", "Infinity", "1e999999", "1e+-1", "--1", "1.2.3"} {
		_, err := usage.ParseDecimal(in)
		require.ErrorIs(t, err, usage.ErrNotDecimal, "%q", in)
	}
}

// A decimal is what math/big makes of the same text, or too large.
func TestParseDecimalAgainstBig(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?[0-9]{1,20}(\.[0-9]{1,14})?(e-?[0-9]{1,2})?`).Draw(t, "text")
		d, err := usage.ParseDecimal(text)
		require.NoError(t, err)
		want, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		require.Equal(t, !representable(want), d.TooLarge, text)
		if d.TooLarge {
			return
		}
		got, _ := new(big.Rat).SetString(d.String())
		require.Zero(t, want.Cmp(got), "%s became %s", text, d)
	})
}

// representable reports whether r, written with as few digits after the point
// as it takes, has at most MaxDecimals of them and its digits fit an int64.
func representable(r *big.Rat) bool {
	scaled := new(big.Rat).Set(r)
	for range usage.MaxDecimals {
		if scaled.IsInt() {
			break
		}
		scaled.Mul(scaled, big.NewRat(10, 1))
	}
	return scaled.IsInt() && scaled.Num().IsInt64() && scaled.Num().Int64() != math.MinInt64
}

func TestDecimalOfFloatIsTheShortest(t *testing.T) {
	t.Parallel()
	for in, want := range map[float64]string{0.1: "0.1", 1e21: "(too large)", 123456.789: "123456.789", -2: "-2", 1 << 60: "1152921504606847000"} {
		d, err := usage.DecimalOfFloat(in, 64)
		require.NoError(t, err)
		require.Equal(t, want, d.String())
	}
	d, err := usage.DecimalOfFloat(float64(float32(0.1)), 32)
	require.NoError(t, err)
	require.Equal(t, "0.1", d.String())
	for _, in := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		_, err := usage.DecimalOfFloat(in, 64)
		require.ErrorIs(t, err, usage.ErrNotDecimal)
	}
}

func TestDecimalOfBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "raw")
		scale := rapid.IntRange(0, 9).Draw(t, "scale")
		n := new(big.Int).SetBytes(raw)
		if raw[0] >= 0x80 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(raw))*8))
		}
		want := new(big.Rat).SetFrac(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))
		d := usage.DecimalOfBytes(raw, scale)
		require.Equal(t, !representable(want), d.TooLarge, want)
		if d.TooLarge {
			return
		}
		got, _ := new(big.Rat).SetString(d.String())
		require.Zero(t, want.Cmp(got), "% x at %d became %s", raw, scale, d)
	})
}

func TestQuantityNeverRounds(t *testing.T) {
	t.Parallel()
	d, err := usage.ParseDecimal("1.25")
	require.NoError(t, err)
	_, ok := d.Quantity(1)
	require.False(t, ok, "finer than the meter")
	q, ok := d.Quantity(2)
	require.True(t, ok)
	require.Equal(t, usage.Quantity(125), q)
	d, err = usage.ParseDecimal("9223372036854775807")
	require.NoError(t, err)
	_, ok = d.Quantity(1)
	require.False(t, ok, "larger than the meter")
}

func TestQuantityAdd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		edge := rapid.OneOf(rapid.Int64Range(-math.MaxInt64, math.MaxInt64), rapid.Int64Range(math.MaxInt64-2, math.MaxInt64), rapid.Int64Range(-math.MaxInt64, -math.MaxInt64+2), rapid.Int64Range(-2, 2))
		a, b := edge.Draw(t, "a"), edge.Draw(t, "b")
		want := new(big.Int).Add(big.NewInt(a), big.NewInt(b))
		sum, ok := usage.Quantity(a).Add(usage.Quantity(b))
		require.Equal(t, want.IsInt64() && want.Int64() != math.MinInt64, ok)
		if ok {
			require.Equal(t, want.Int64(), int64(sum))
		}
	})
}

func TestUtilization(t *testing.T) {
	t.Parallel()
	tests := []struct {
		total, limit usage.Quantity
		want         string
	}{
		{1000003, 1000000, "1.000003"},
		{1, 3, "0.333333"},
		{2, 3, "0.666666"},
		{0, 5, "0"},
		{-1, 3, "-0.333334"},
		{usage.MaxQuantity, 1, strconv.FormatInt(math.MaxInt64, 10)},
		{usage.MaxQuantity, 2, "4611686018427387903.5"},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, usage.Utilization(tt.total, tt.limit))
	}
}

func TestPeriods(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		kind           usage.Kind
		zone, at       string
		id, start, end string
	}{
		"an hour in UTC":                {"hour", "UTC", "2026-11-22T05:30:00Z", "2026-11-22T05+00:00", "2026-11-22T05:00:00Z", "2026-11-22T06:00:00Z"},
		"an hour half an hour off":      {"hour", "Asia/Kolkata", "2026-11-22T05:15:00Z", "2026-11-22T10+05:30", "2026-11-22T04:30:00Z", "2026-11-22T05:30:00Z"},
		"the first 02 of two":           {"hour", "Europe/Berlin", "2026-10-25T00:10:00Z", "2026-10-25T02+02:00", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"},
		"the second 02 of two":          {"hour", "Europe/Berlin", "2026-10-25T01:10:00Z", "2026-10-25T02+01:00", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"},
		"half an hour before the move":  {"hour", "Australia/Lord_Howe", "2026-04-04T14:40:00Z", "2026-04-05T01+11:00", "2026-04-04T14:00:00Z", "2026-04-04T15:00:00Z"},
		"half an hour after the move":   {"hour", "Australia/Lord_Howe", "2026-04-04T15:10:00Z", "2026-04-05T01+10:30", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"},
		"a day of 23 hours":             {"day", "Europe/Berlin", "2026-03-29T10:00:00Z", "2026-03-29", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		"a day of 25 hours":             {"day", "Europe/Berlin", "2026-10-25T10:00:00Z", "2026-10-25", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
		"a day that begins at one":      {"day", "Asia/Beirut", "2026-03-29T10:00:00Z", "2026-03-29", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"},
		"the day after a skipped date":  {"day", "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-31", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		"the day before a skipped date": {"day", "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
		"a midnight that comes twice":   {"day", "America/Havana", "2026-11-01T04:30:00Z", "2026-11-01", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		"a date come back to":           {"day", "America/Sao_Paulo", "2018-02-18T02:30:00Z", "2018-02-17", "2018-02-17T02:00:00Z", "2018-02-18T03:00:00Z"},
		"a week of the old year":        {"week", "UTC", "2027-01-02T00:00:00Z", "2026-W53", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		"a week before 1970":            {"week", "UTC", "1969-12-31T00:00:00Z", "1970-W01", "1969-12-29T00:00:00Z", "1970-01-05T00:00:00Z"},
		"a month":                       {"month", "UTC", "2026-11-30T23:59:59.999Z", "2026-11", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"},
		"a month elsewhere":             {"month", "Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"},
		"a quarter":                     {"quarter", "UTC", "2026-11-22T00:00:00Z", "2026-Q4", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		"a year":                        {"year", "UTC", "2026-11-22T00:00:00Z", "2026", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		"a lifetime":                    {"lifetime", "UTC", "2026-11-22T00:00:00Z", "lifetime", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			schedule, err := usage.NewSchedule(tt.kind, tt.zone)
			require.NoError(t, err)
			at, err := time.Parse(time.RFC3339Nano, tt.at)
			require.NoError(t, err)
			p := schedule.At(usage.TimeOf(at))
			require.Equal(t, tt.id, p.ID)
			require.Equal(t, tt.start, p.Start.String())
			require.Equal(t, tt.end, p.End.String())
			require.True(t, p.Contains(usage.TimeOf(at)))
		})
	}
}

func TestAnniversary(t *testing.T) {
	t.Parallel()

	schedule, err := usage.NewSchedule(usage.Anniversary, "Europe/Berlin")
	require.NoError(t, err)
	anchor, err := time.Parse(time.RFC3339, "2026-01-31T09:30:00Z")
	require.NoError(t, err)
	schedule.Anchor = usage.TimeOf(anchor)

	var ids, starts []string
	for p := schedule.At(schedule.Anchor); len(ids) < 5; p = schedule.Next(p) {
		ids, starts = append(ids, p.ID), append(starts, p.Start.String())
	}
	require.Equal(t, []string{"2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"}, ids)
	require.Equal(t, []string{"2026-01-31T09:30:00Z", "2026-02-28T09:30:00Z", "2026-03-31T08:30:00Z", "2026-04-30T08:30:00Z", "2026-05-31T08:30:00Z"}, starts)
	before := schedule.At(schedule.Anchor - 1)
	require.GreaterOrEqual(t, before.Start, before.End, "nothing comes before the first")
}

// Periods of a schedule cover all of time without a gap, and ids differ.
func TestPeriodsTile(t *testing.T) {
	t.Parallel()
	zones := []string{"UTC", "Europe/Berlin", "America/Havana", "Pacific/Apia", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"}
	kinds := []usage.Kind{usage.Hour, usage.Day, usage.Week, usage.Month, usage.Quarter, usage.Year, usage.Anniversary}
	rapid.Check(t, func(t *rapid.T) {
		schedule, err := usage.NewSchedule(rapid.SampledFrom(kinds).Draw(t, "kind"), rapid.SampledFrom(zones).Draw(t, "zone"))
		require.NoError(t, err)
		schedule.Anchor = usage.Time(rapid.Int64Range(0, 1_000_000_000_000).Draw(t, "anchor"))
		at := usage.Time(rapid.Int64Range(1_000_000_000_000, 1_900_000_000_000).Draw(t, "at"))
		p := schedule.At(at)
		require.True(t, p.Contains(at), "%v does not contain %s", p, at)
		require.Equal(t, p, schedule.At(p.Start))
		require.Equal(t, p, schedule.At(p.End-1))
		next := schedule.Next(p)
		require.Equal(t, p.End, next.Start)
		require.NotEqual(t, p.ID, next.ID)
	})
}

func TestPeriodsOutsideOfTheCalendar(t *testing.T) {
	t.Parallel()
	for _, kind := range []usage.Kind{usage.Hour, usage.Day, usage.Week, usage.Month, usage.Quarter, usage.Year, usage.Anniversary} {
		schedule, err := usage.NewSchedule(kind, "Europe/Berlin")
		require.NoError(t, err)
		for _, at := range []usage.Time{usage.MinTime, usage.MinTime + 1, -62135596800001, usage.MaxTime - 1, 253402300800000} {
			p := schedule.At(at)
			require.True(t, p.Contains(at), "%s of %d", kind, at)
		}
		for _, at := range []usage.Time{-62135596800000, 253402300799999} {
			p := schedule.At(at)
			require.True(t, p.Contains(at) || kind == usage.Anniversary, "%s of %d", kind, at)
		}
	}
}

func TestNewScheduleRefuses(t *testing.T) {
	t.Parallel()
	for _, bad := range [][2]string{{"fortnight", "UTC"}, {"day", "Mars/Base"}, {"day", "Local"}} {
		_, err := usage.NewSchedule(usage.Kind(bad[0]), bad[1])
		require.ErrorIs(t, err, usage.ErrBadSchedule)
	}
}

func TestCanonicalJSON(t *testing.T) {
	t.Parallel()
	require.Equal(t, "\"a\\\"\\\\\\b\\t\\n\\f\\r\\u0001/<é\u2028\U0001F600\"", string(usage.AppendCanonicalString(nil, "a\"\\\b\t\n\f\r\x01/<é\u2028\U0001F600")))
	require.Equal(t, "{}", string(usage.AppendCanonicalMap(nil, nil)))
	// UTF-16 puts the surrogates of U+1F600 before U+FB33; bytes would not.
	got := string(usage.AppendCanonicalMap(nil, map[string]string{"\ufb33": "1", "\U0001F600": "2", "a": "3"}))
	require.Equal(t, "{\"a\":\"3\",\"\U0001F600\":\"2\",\"\ufb33\":\"1\"}", got)
}

func TestTimeAddStaysInRange(t *testing.T) {
	t.Parallel()
	require.Equal(t, usage.MaxTime, usage.MaxTime.Add(-time.Hour))
	require.Equal(t, usage.MaxTime, (usage.MaxTime - 5).Add(time.Hour))
	require.Equal(t, usage.MinTime, (usage.MinTime + 5).Add(-time.Hour))
	require.Equal(t, usage.Time(3_600_000), usage.Time(0).Add(time.Hour))
}
