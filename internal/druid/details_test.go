package druid_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

// detailColumns are the types of the columns of these tests' datasource.
func detailColumns() map[string]string {
	return map[string]string{
		"client_id": "STRING", "meter": "STRING", "quantity": "LONG", "k_partition": "LONG", "k_offset": "LONG",
		"region": "STRING", "status": "LONG", "ratio": "DOUBLE", "share": "FLOAT", "cached": "STRING", "takes_back": "STRING",
	}
}

// detailed makes a configuration ask for all that there is.
func detailed(c *druid.Config) {
	c.Columns.Fields = []string{"region", "status", "ratio", "share", "cached"}
	c.Columns.Booleans = []bool{false, false, false, false, true}
	c.Columns.Void, c.Latest, c.Extremes = "takes_back", true, true
}

// ask returns a seeder that asks e, without a network.
func ask(t *testing.T, e *engine, change func(*druid.Config)) *druid.Seeder {
	t.Helper()
	return newSeeder(t, "http://druid", through(e.fake), time.Now, change)
}

func all(boundary int64, clients ...string) druid.Question {
	return druid.Question{Boundary: boundary, Start: usage.MinTime, End: usage.MaxTime, Clients: clients}
}

func text(s string) usage.Value { return usage.Value{Kind: usage.TextValue, Text: []byte(s)} }

func number(t *testing.T, s string, float float64) usage.Value {
	t.Helper()
	d, err := usage.ParseDecimal(s)
	require.NoError(t, err)
	return usage.Value{Kind: usage.NumberValue, Number: d, Float: float}
}

func TestFieldsAreWhatRecordsHave(t *testing.T) {
	t.Parallel()

	boolean := func(b bool) usage.Value { return usage.Value{Kind: usage.BooleanValue, True: b} }
	tests := map[string]struct {
		column string
		in     any
		want   usage.Value
	}{
		"text":                  {"region", "eu", text("eu")},
		"no text is not null":   {"region", "", text("")},
		"text with marks":       {"region", "q\"u\\o,ü\n", text("q\"u\\o,ü\n")},
		"null":                  {"region", nil, usage.Value{}},
		"the text null":         {"region", "null", text("null")},
		"the text true is text": {"region", "true", text("true")},
		"integer":               {"status", int64(-404), number(t, "-404", -404)},
		"zero is not null":      {"status", int64(0), number(t, "0", 0)},
		"the least integer":     {"status", int64(math.MinInt64), usage.Value{Kind: usage.NumberValue, Number: usage.Decimal{TooLarge: true}, Float: -0x1p63}},
		"null integer":          {"status", nil, usage.Value{}},
		"double":                {"ratio", 0.1, number(t, "0.1", 0.1)},
		"large double":          {"ratio", 1e17, number(t, "100000000000000000", 1e17)},
		"double not a number":   {"ratio", math.NaN(), usage.Value{Kind: usage.UnfitValue}},
		"float":                 {"share", float32(0.1), number(t, "0.1", float64(float32(0.1)))},
		"true":                  {"cached", "true", boolean(true)},
		"false":                 {"cached", "false", boolean(false)},
		"null boolean":          {"cached", nil, usage.Value{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			at := int64(5)
			e := newEngine(t, detailColumns(), row{"client_id": "a", "meter": "m", "quantity": at, "k_partition": int64(0), "k_offset": int64(0), "__time": at, tt.column: tt.in})
			totals, err := ask(t, e, func(c *druid.Config) {
				detailed(c)
				c.Columns.Fields, c.Columns.Booleans = []string{tt.column}, []bool{tt.column == "cached"}
			}).Ask(t.Context(), all(1, "a"))
			require.NoError(t, err)
			five := usage.DecimalOf(5)
			require.Equal(t, []druid.Total{{
				Client: "a", Meter: "m", Fields: []usage.Value{tt.want}, Events: 1,
				Quantity: five, Min: five, Max: five, Latest: five, First: 5, Last: 5,
			}}, totals)
		})
	}
}

func TestABooleanMayBeOneOrZero(t *testing.T) {
	t.Parallel()

	columns := detailColumns()
	columns["cached"], columns["takes_back"] = "LONG", "LONG"
	record := func(offset int64, cached, back any) row {
		return row{"client_id": "a", "meter": "m", "k_partition": int64(0), "k_offset": offset, "__time": offset, "cached": cached, "takes_back": back}
	}
	e := newEngine(t, columns, record(0, int64(1), int64(0)), record(1, int64(0), int64(1)), record(2, nil, nil))
	totals, err := ask(t, e, detailed).Ask(t.Context(), all(3, "a"))
	require.NoError(t, err)
	require.Len(t, totals, 3)
	said := map[string]bool{}
	for _, one := range totals {
		said[fmt.Sprint(one.Fields[4].Kind, one.Fields[4].True, one.Void)] = true
	}
	require.Equal(t, map[string]bool{"3 true false": true, "3 false true": true, "0 false false": true}, said)
}

func TestWhatIsNoBooleanConcernsItsClientAlone(t *testing.T) {
	t.Parallel()

	tests := map[string]row{
		"a void that is neither":  {"takes_back": "yes"},
		"a field that is neither": {"cached": "TRUE"},
	}
	for name, fields := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			odd := row{"client_id": "odd", "meter": "m", "k_partition": int64(0), "k_offset": int64(0), "__time": int64(1)}
			maps.Copy(odd, fields)
			e := newEngine(t, detailColumns(), odd, row{"client_id": "a", "meter": "m", "k_partition": int64(0), "k_offset": int64(1), "__time": int64(1)})
			s := ask(t, e, detailed)
			_, err := s.Ask(t.Context(), all(2, "a", "odd"))
			require.ErrorIs(t, err, druid.ErrColumns)
			require.ErrorContains(t, err, `client "odd"`)
			require.NotContains(t, err.Error(), `client "a"`)
			totals, err := s.Ask(t.Context(), all(2, "a"))
			require.NoError(t, err)
			require.Len(t, totals, 1)
		})
	}
}

// world makes rows at random, many of them alike.
func world(r *rand.Rand, n int) []row {
	some := func(of ...any) any { return of[r.IntN(len(of))] }
	rows := make([]row, n)
	for i := range rows {
		rows[i] = row{
			"client_id": some("a", "b", "c", "d"), "meter": some("m", "n", "", nil), "quantity": some(nil, r.Int64N(100)-30),
			"k_partition": int64(0), "k_offset": int64(i), "__time": r.Int64N(12),
			"region": some("eu", "us", "", nil), "status": some(int64(0), int64(7), nil), "ratio": some(0.5, nil),
			"share": float32(1), "cached": some("true", nil), "takes_back": some("true", "false"),
		}
	}
	r.Shuffle(n, func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	return rows
}

// sum is what the totals of rows must be, without their fields.
func sum(rows []row, boundary int64, start, end usage.Time, clients ...string) map[string]druid.Total {
	totals, last := map[string]druid.Total{}, map[string][]int64{}
	for _, r := range rows {
		client, meter, at := r["client_id"].(string), r["meter"], usage.Time(r["__time"].(int64))
		offset := r["k_offset"].(int64)
		if offset >= boundary || at < start || at >= end || !slices.Contains(clients, client) || meter == nil || meter == "" {
			continue
		}
		q := int64(1)
		if v, ok := r["quantity"].(int64); ok {
			q = v
		}
		key := fmt.Sprintf("%q %q %#v %#v %#v %#v %v", client, meter, r["region"], r["status"], r["ratio"], r["cached"], r["takes_back"])
		one, ok := totals[key]
		if !ok {
			one = druid.Total{Client: client, Meter: meter.(string), Void: r["takes_back"] == "true", Min: usage.DecimalOf(q), Max: usage.DecimalOf(q), First: at, Last: at}
		}
		one.Events++
		one.Quantity.Units += q
		one.Min.Units, one.Max.Units = min(one.Min.Units, q), max(one.Max.Units, q)
		one.First, one.Last = min(one.First, at), max(one.Last, at)
		if moment := []int64{int64(at), offset}; slices.Compare(moment, last[key]) > 0 {
			last[key], one.Latest = moment, usage.DecimalOf(q)
		}
		totals[key] = one
	}
	return totals
}

// key is that of a total in sum.
func key(one *druid.Total) string {
	shown := func(field int) any {
		switch v := one.Fields[field]; v.Kind {
		case usage.NullValue:
			return nil
		case usage.NumberValue:
			if v.Number.Scale == 0 {
				return v.Number.Units
			}
			return v.Float
		case usage.BooleanValue:
			return strconv.FormatBool(v.True)
		default:
			return string(v.Text)
		}
	}
	return fmt.Sprintf("%q %q %#v %#v %#v %#v %v", one.Client, one.Meter, shown(0), shown(1), shown(2), shown(4), one.Void)
}

// Whatever the rows are, there is a total for each group of them, and it is
// right.
func TestDetailsOfRandomRows(t *testing.T) {
	t.Parallel()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		n := 1 + r.IntN(200)
		rows := world(r, n)
		q := all(int64(1+r.IntN(n)), "a", "b", "nobody")
		if r.IntN(2) == 0 {
			q.Start, q.End = usage.Time(r.IntN(6)), usage.Time(6+r.IntN(8))
		}
		totals, err := ask(t, newEngine(t, detailColumns(), rows...), detailed).Ask(t.Context(), q)
		require.NoError(t, err)
		got := map[string]druid.Total{}
		for i := range totals {
			one := totals[i]
			one.Fields = nil
			got[key(&totals[i])] = one
		}
		require.Len(t, got, len(totals))
		require.Equal(t, sum(rows, q.Boundary, q.Start, q.End, q.Clients...), got)
	}
}

// Whoever adds totals up finds the latest quantity of them all at the end.
func TestOfEqualTimesTheGreaterOffsetComesLast(t *testing.T) {
	t.Parallel()

	var rows []row
	for offset, region := range []string{"z", "m", "a", "m"} {
		rows = append(rows, row{
			"client_id": "a", "meter": "m", "quantity": int64(offset), "k_partition": int64(0), "k_offset": int64(offset),
			"__time": int64(max(4, 6-offset)), "region": region,
		})
	}
	totals, err := ask(t, newEngine(t, detailColumns(), rows...), detailed).Ask(t.Context(), all(4, "a"))
	require.NoError(t, err)
	var order []string
	for _, one := range totals {
		order = append(order, fmt.Sprintf("%s %s at %d", one.Fields[0].Text, one.Latest, one.Last))
	}
	require.Equal(t, []string{"a 2 at 4", "m 1 at 5", "z 0 at 6"}, order)
	for _, r := range rows {
		r["__time"] = int64(4)
	}
	totals, err = ask(t, newEngine(t, detailColumns(), rows...), detailed).Ask(t.Context(), all(4, "a"))
	require.NoError(t, err)
	order = nil
	for _, one := range totals {
		order = append(order, fmt.Sprintf("%s %s", one.Fields[0].Text, one.Latest))
	}
	require.Equal(t, []string{"z 0", "a 2", "m 3"}, order)
}

func TestDetailsMustBeOfTheRowsThatWereCounted(t *testing.T) {
	t.Parallel()

	rows := world(rand.New(rand.NewPCG(1, 1)), 60)
	tests := map[string]struct {
		lose func(n int, r row) bool
		says string
	}{
		"the count lacks a row":          {func(n int, r row) bool { return n == 0 && r["k_offset"] == int64(7) }, "59 rows of offsets"},
		"the sums lack a row":            {func(n int, r row) bool { return n == 1 && r["client_id"] == "a" && r["__time"] == int64(3) }, "rows, and then"},
		"the sums lack a client":         {func(n int, r row) bool { return n == 1 && r["client_id"] == "b" }, "rows, and then 0"},
		"the latest quantity lacks rows": {func(n int, r row) bool { return n == 2 && r["client_id"] == "a" && r["__time"] == int64(3) }, "rows, and then"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			e := newEngine(t, detailColumns(), rows...)
			e.lose = tt.lose
			s := ask(t, e, detailed)
			totals, err := s.Ask(t.Context(), all(60, "a", "b"))
			require.ErrorIs(t, err, druid.ErrIncomplete)
			require.ErrorContains(t, err, tt.says)
			require.Empty(t, totals)
			totals, err = s.Ask(t.Context(), all(60, "a", "b"))
			require.NoError(t, err)
			require.NotEmpty(t, totals)
		})
	}
}

// A row with several values is in several groups, and would count in each.
func TestSeveralValuesAreNeverCounted(t *testing.T) {
	t.Parallel()

	rows := world(rand.New(rand.NewPCG(2, 2)), 20)
	e := newEngine(t, detailColumns(), rows...)
	s := ask(t, e, detailed)
	_, err := s.Ask(t.Context(), all(20, "a"))
	require.NoError(t, err)

	several := row{"client_id": "a", "meter": "m", "k_partition": int64(0), "k_offset": int64(20), "__time": int64(1), "region": []string{"eu", "us"}}
	e.set(append(rows, several)...)
	_, err = s.Ask(t.Context(), all(21, "a"))
	require.ErrorIs(t, err, druid.ErrIncomplete)
	e.columns = strings.Replace(e.columns, `"region":{`, `"region":{"hasMultipleValues":true,`, 1)
	_, err = s.Ask(t.Context(), all(21, "a"))
	require.ErrorIs(t, err, druid.ErrColumns, "columns are looked at again")
	require.ErrorContains(t, err, `column "region" has several values in a row`)
}

func TestFieldsOfAnUnsuitableColumn(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		column, kind string
		says         string
	}{
		"several values of a type of its own": {"region", "ARRAY<STRING>", `column "region" is ARRAY<STRING>, not STRING or LONG or DOUBLE or FLOAT`},
		"a boolean that is a double":          {"cached", "DOUBLE", `column "cached" is DOUBLE, not LONG or STRING`},
		"a void that is a double":             {"takes_back", "DOUBLE", `column "takes_back" is DOUBLE, not LONG or STRING`},
		"a column that is not there":          {"share", "", `no column "share"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			columns := detailColumns()
			columns[tt.column] = tt.kind
			if tt.kind == "" {
				delete(columns, tt.column)
			}
			_, err := ask(t, newEngine(t, columns), detailed).Ask(t.Context(), all(1, "a"))
			require.ErrorIs(t, err, druid.ErrColumns)
			require.ErrorContains(t, err, tt.says)
		})
	}
}

func TestOneQueryProvesThatNobodyUsedAnything(t *testing.T) {
	t.Parallel()

	e := newEngine(t, detailColumns(), world(rand.New(rand.NewPCG(3, 3)), 20)...)
	totals, err := ask(t, e, detailed).Ask(t.Context(), all(20, "nobody"))
	require.NoError(t, err)
	require.Empty(t, totals)
	require.Len(t, e.asked(), 1)
}

func TestQueriesByFields(t *testing.T) {
	t.Parallel()

	at := int64(1795328000005)
	e := newEngine(t, detailColumns(), row{"client_id": "a", "meter": "m", "quantity": int64(3), "k_partition": int64(0), "k_offset": int64(0), "__time": at})
	q := all(1, "b", "a")
	q.Start = 1795328000000
	_, err := ask(t, e, detailed).Ask(t.Context(), q)
	require.NoError(t, err)
	requireQueries(t, e.fake, "query-fields.json")
}

// requireQueries compares the groupBys that f was asked with recorded ones.
func requireQueries(t *testing.T, f *fake, name string) {
	t.Helper()
	asked := f.asked()
	for _, q := range asked {
		delete(q, "context")
	}
	text, err := json.MarshalIndent(asked, "", "  ")
	require.NoError(t, err)
	require.JSONEq(t, recorded(t, name), string(text))
}
