package condition_test

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/expr-lang/expr"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/condition"
	"github.com/meterd/meterd/internal/usage"
)

// made is a random condition: its text, and what it means by a way of its own.
type made struct {
	source string
	holds  func(record) bool
}

// The fields of random records, by their type.
var (
	texts    = []string{"t", "p.t", "p.q.t"}
	numbers  = []string{"n", "p.n", "m"}
	booleans = []string{"b", "p.b"}
)

// values that are often equal, and whose floats are exact, so that the other
// evaluator is right about them.
var (
	someTexts   = []string{"", "a", "ab", "b", "ba", "é", `"\`}
	someNumbers = []string{"0", "1", "-1", "2", "0.5", "-0.25", "1000000", "0.125"}
)

func drawCondition(t *rapid.T, depth int) made {
	if depth == 0 {
		return drawComparison(t)
	}
	switch rapid.IntRange(0, 4).Draw(t, "node") {
	case 0:
		l, r := drawCondition(t, depth-1), drawCondition(t, depth-1)
		op := rapid.SampledFrom([]string{"&&", "and"}).Draw(t, "and")
		return made{"(" + l.source + ") " + op + " (" + r.source + ")", func(e record) bool { return l.holds(e) && r.holds(e) }}
	case 1:
		l, r := drawCondition(t, depth-1), drawCondition(t, depth-1)
		op := rapid.SampledFrom([]string{"||", "or"}).Draw(t, "or")
		return made{"(" + l.source + ") " + op + " (" + r.source + ")", func(e record) bool { return l.holds(e) || r.holds(e) }}
	case 2:
		inner := drawCondition(t, depth-1)
		op := rapid.SampledFrom([]string{"!", "not "}).Draw(t, "not")
		return made{op + "(" + inner.source + ")", func(e record) bool { return !inner.holds(e) }}
	default:
		return drawComparison(t)
	}
}

func drawComparison(t *rapid.T) made {
	switch rapid.IntRange(0, 5).Draw(t, "comparison") {
	case 0:
		path := rapid.SampledFrom(booleans).Draw(t, "field")
		return made{path, func(e record) bool { return e[path].True }}
	case 1:
		path := rapid.SampledFrom(append(texts, numbers...)).Draw(t, "field")
		return made{path + " != nil", func(e record) bool { return e[path].Kind != usage.NullValue }}
	case 2:
		return drawIn(t)
	case 3:
		return drawTextOperator(t)
	case 4:
		return drawOrder(t, texts, someTexts, func(v usage.Value) string { return string(v.Text) }, func(s string) string { return s }, strconv.Quote)
	default:
		return drawOrder(t, numbers, someNumbers, func(v usage.Value) float64 { return v.Float }, mustFloat, func(s string) string { return s })
	}
}

func mustFloat(s string) float64 {
	f, _ := strconv.ParseFloat(s, 64)
	return f
}

// drawOrder draws a comparison of a field with a literal or with another field.
func drawOrder[T string | float64](t *rapid.T, paths, literals []string, of func(usage.Value) T, mean func(string) T, write func(string) string) made {
	op := rapid.SampledFrom([]string{"==", "!=", "<", "<=", ">", ">="}).Draw(t, "op")
	holds := func(a, b T) bool {
		return map[string]bool{"==": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]
	}
	path, literal := rapid.SampledFrom(paths).Draw(t, "field"), rapid.SampledFrom(literals).Draw(t, "literal")
	there := func(e record, path string) bool { return e[path].Kind != usage.NullValue }
	switch rapid.IntRange(0, 2).Draw(t, "sides") {
	case 0:
		return made{path + op + write(literal), func(e record) bool { return there(e, path) && holds(of(e[path]), mean(literal)) }}
	case 1:
		return made{write(literal) + " " + op + " " + path, func(e record) bool { return there(e, path) && holds(mean(literal), of(e[path])) }}
	}
	other := rapid.SampledFrom(paths).Draw(t, "other")
	return made{path + " " + op + other, func(e record) bool {
		return there(e, path) && there(e, other) && holds(of(e[path]), of(e[other]))
	}}
}

func drawIn(t *rapid.T) made {
	path := rapid.SampledFrom(texts).Draw(t, "field")
	list := rapid.SliceOfN(rapid.SampledFrom(someTexts), 1, 12).Draw(t, "list")
	var quoted []string
	for _, text := range list {
		quoted = append(quoted, strconv.Quote(text))
	}
	want, op := true, " in "
	if rapid.Bool().Draw(t, "not") {
		want, op = false, " not in "
	}
	return made{path + op + "[" + strings.Join(quoted, ", ") + "]", func(e record) bool {
		found := false
		for _, text := range list {
			found = found || text == string(e[path].Text)
		}
		return e[path].Kind != usage.NullValue && found == want
	}}
}

func drawTextOperator(t *rapid.T) made {
	path, literal := rapid.SampledFrom(texts).Draw(t, "field"), rapid.SampledFrom(someTexts).Draw(t, "literal")
	op := rapid.SampledFrom([]string{"contains", "startsWith", "endsWith"}).Draw(t, "op")
	want, not := true, ""
	if rapid.Bool().Draw(t, "not") {
		want, not = false, "not "
	}
	return made{fmt.Sprintf("%s %s%s %s", path, not, op, strconv.Quote(literal)), func(e record) bool {
		text := string(e[path].Text)
		holds := map[string]bool{
			"contains": strings.Contains(text, literal), "startsWith": strings.HasPrefix(text, literal), "endsWith": strings.HasSuffix(text, literal),
		}[op]
		return e[path].Kind != usage.NullValue && holds == want
	}}
}

// drawRecord draws a value of its type for each field, or null if it may be.
func drawRecord(t *rapid.T, nulls bool) record {
	e := record{}
	there := func() bool { return !nulls || rapid.IntRange(0, 2).Draw(t, "null") > 0 }
	for _, path := range texts {
		if there() {
			e[path] = text(rapid.SampledFrom(someTexts).Draw(t, path))
		}
	}
	for _, path := range numbers {
		if there() {
			written := rapid.SampledFrom(someNumbers).Draw(t, path)
			d, err := usage.ParseDecimal(written)
			require.NoError(t, err)
			e[path] = usage.Value{Kind: usage.NumberValue, Number: d, Float: mustFloat(written)}
		}
	}
	for _, path := range booleans {
		if there() {
			e[path] = boolean(rapid.Bool().Draw(t, path))
		}
	}
	return e
}

// environment is e as the language's own evaluator takes it.
func (r record) environment() map[string]any {
	env := map[string]any{}
	for path, v := range r {
		at, parts := env, strings.Split(path, ".")
		for _, part := range parts[:len(parts)-1] {
			if at[part] == nil {
				at[part] = map[string]any{}
			}
			at = at[part].(map[string]any)
		}
		at[parts[len(parts)-1]] = map[usage.ValueKind]any{
			usage.TextValue: string(v.Text), usage.NumberValue: v.Float, usage.BooleanValue: v.True,
		}[v.Kind]
	}
	return env
}

// Where all fields are there, a condition means what the language's own
// evaluator says; where some are not, what this package promises.
func TestRandomConditions(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		m := drawCondition(t, rapid.IntRange(0, 4).Draw(t, "depth"))
		c, paths, err := compile(m.source)
		require.NoError(t, err, m.source)

		whole := drawRecord(t, false)
		got, err := c.Holds(whole.fields(paths))
		require.NoError(t, err, m.source)
		want, err := expr.Eval(m.source, whole.environment())
		require.NoError(t, err, m.source)
		require.Equal(t, want, got, m.source)

		partial := drawRecord(t, true)
		got, err = c.Holds(partial.fields(paths))
		require.NoError(t, err, m.source)
		require.Equal(t, m.holds(partial), got, m.source)
	})
}

// Comparing numbers is exact, whatever their scales.
func TestRandomNumbers(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (units int64, scale int, written string) {
			units = rapid.OneOf(rapid.Int64Range(-50, 50), rapid.Int64Range(-usageMax, usageMax)).Draw(t, label)
			scale = rapid.IntRange(0, usage.MaxDecimals).Draw(t, label+" scale")
			return units, scale, usage.Quantity(units).Format(scale)
		}
		aUnits, aScale, a := draw("a")
		bUnits, bScale, b := draw("b")
		want := compareBig(aUnits, aScale, bUnits, bScale)
		for op, holds := range map[string]bool{"==": want == 0, "!=": want != 0, "<": want < 0, "<=": want <= 0, ">": want > 0, ">=": want >= 0} {
			// As a point is there, the parser reads a float, and exactness is ours.
			c, paths, err := compile("a " + op + " " + pointed(b))
			require.NoError(t, err)
			d, err := usage.ParseDecimal(a)
			require.NoError(t, err)
			got, err := c.Holds(record{"a": {Kind: usage.NumberValue, Number: d, Float: mustFloat(a)}}.fields(paths))
			require.NoError(t, err)
			require.Equal(t, holds, got, "%s %s %s", a, op, b)
		}
	})
}

// Whatever is written, there is a condition or an error, and a condition has an
// answer for whatever stands in a record.
func FuzzCompile(f *testing.F) {
	f.Add(`meter == "api_calls" && properties.region == "eu"`)
	f.Add(`!(a["b"] in [1, 2.5, -3e4] or $env["x y"] not contains 'z') and (c matches "^a+$" || d)`)
	f.Add("1 < a < 10 && b != nil // so it is")
	f.Add(`a ? b : c; let x = 1; any(a, # == 1)`)
	f.Add("`a``b` == a")
	f.Fuzz(func(t *testing.T, source string) {
		c, paths, err := compile(source)
		if err != nil {
			require.Nil(t, c)
			require.NotEmpty(t, err.Error())
			return
		}
		require.LessOrEqual(t, len(source), condition.MaxBytes)
		for _, path := range paths {
			require.True(t, utf8.ValidString(path))
			require.NotContains(t, strings.Split(path, "."), "")
		}
		for _, v := range []usage.Value{{}, text("a"), {Kind: usage.NumberValue, Number: usage.DecimalOf(1), Float: 1}, {Kind: usage.NumberValue, Number: usage.Decimal{TooLarge: true}, Float: 1e300}, boolean(true), unfit} {
			fields := make([]usage.Value, len(paths))
			for i := range fields {
				fields[i] = v
			}
			got, err := c.Holds(fields)
			if v.Kind == usage.NullValue {
				require.NoError(t, err)
			}
			require.False(t, got && err != nil)
		}
	})
}

const usageMax = int64(usage.MaxQuantity)

func compareBig(a int64, aScale int, b int64, bScale int) int {
	scaled := func(n int64, scale int) *big.Int {
		factor := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(usage.MaxDecimals-scale)), nil)
		return factor.Mul(factor, big.NewInt(n))
	}
	return scaled(a, aScale).Cmp(scaled(b, bScale))
}

// pointed returns a number with a point in it.
func pointed(written string) string {
	if strings.Contains(written, ".") {
		return written
	}
	return written + ".0"
}
