package schema

import (
	"math"
	"math/big"
	"strconv"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/usage"
)

// value makes a value of what was found at one of Mapping.Fields. It never
// fails: what no meter can use is unfit, for whoever needs it to complain. A
// number's Float is the nearest to the number as it is written. Integers that
// are times, finer than milliseconds or not, are numbers of milliseconds.
//
// Only numbers that no meter can hold may allocate.
func (f *found) value(c *capture, v *usage.Value) {
	*v = usage.Value{}
	switch c.kind {
	case missing, null:
	case text, escaped:
		f.textValue(c, v)
	case symbol:
		v.Kind, v.Text = usage.TextValue, f.symbols[c.n]
	case boolean:
		v.Kind, v.True = usage.BooleanValue, c.n == 1
	case integer:
		n := c.n
		if c.unit > 1 { // a time that is finer than milliseconds
			n = floorDiv(n, int64(c.unit))
		}
		v.Kind, v.Float = usage.NumberValue, float64(n)
		v.Number = usage.Decimal{Units: n, TooLarge: n == math.MinInt64}
	case float, double:
		floatValue(c, v)
	case decimal:
		if c.start == c.end {
			v.Kind = usage.UnfitValue
			return
		}
		b := f.record[c.start:c.end]
		v.Kind, v.Number = usage.NumberValue, usage.DecimalOfBytes(b, int(c.unit))
		if v.Float = floatOf(v.Number); v.Number.TooLarge {
			v.Float = floatOfBytes(b, int(c.unit))
		}
	case number:
		v.Kind = usage.NumberValue
		b := f.record[c.start:c.end]
		var err error
		if v.Number, err = usage.ParseDecimal(b); err != nil { // longer than any that fits
			v.Number = usage.Decimal{TooLarge: true}
		}
		if v.Float = floatOf(v.Number); v.Number.TooLarge {
			v.Float = parseFloat(b)
		}
	default:
		v.Kind = usage.UnfitValue
	}
}

// textValue is text that is UTF-8.
func (f *found) textValue(c *capture, v *usage.Value) {
	b := f.record[c.start:c.end]
	good := true
	if c.kind == escaped {
		begin := len(f.scratch)
		f.scratch, good = unescape(f.scratch, b)
		b = f.scratch[begin:]
	}
	if !good || !ascii(b) && !utf8.Valid(b) {
		v.Kind = usage.UnfitValue
		return
	}
	v.Kind, v.Text = usage.TextValue, b
}

// floatValue is a float of either size: the shortest decimal that reads back
// as it.
func floatValue(c *capture, v *usage.Value) {
	bits, n := 64, math.Float64frombits(uint64(c.n))
	if c.kind == float {
		bits, n = 32, float64(math.Float32frombits(uint32(c.n)))
	}
	var err error
	if v.Number, err = usage.DecimalOfFloat(n, bits); err != nil {
		v.Kind = usage.UnfitValue
		return
	}
	v.Kind, v.Float = usage.NumberValue, n
	if bits == 32 { // 0.1 and not 0.10000000149011612, as it is in Number
		if v.Float = floatOf(v.Number); v.Number.TooLarge {
			var buf [32]byte
			v.Float = parseFloat(strconv.AppendFloat(buf[:0], n, 'e', -1, bits))
		}
	}
}

// tens are the powers of ten that a Decimal's scale can be.
var tens = [usage.MaxDecimals + 1]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// floatOf returns the float64 nearest to d, which is not too large.
func floatOf(d usage.Decimal) float64 {
	if -1<<53 <= d.Units && d.Units <= 1<<53 { // both are exact, so their quotient is the nearest
		return float64(d.Units) / tens[d.Scale]
	}
	var buf [32]byte
	b := strconv.AppendInt(buf[:0], d.Units, 10)
	return parseFloat(strconv.AppendInt(append(b, 'e'), -int64(d.Scale), 10))
}

// parseFloat returns the float64 nearest to a well-written number. It is
// infinite where there is none.
func parseFloat(s []byte) float64 {
	f, _ := strconv.ParseFloat(string(s), 64) // its only error is the infinity
	return f
}

// maxFloatBytes is more than a number has that is finite as a float64 with the
// largest scale there is.
const maxFloatBytes = 600

// floatOfBytes returns the float64 nearest to a number as DecimalOfBytes reads
// it.
func floatOfBytes(b []byte, scale int) float64 {
	sign := byte(0)
	if b[0] >= 0x80 {
		sign = 0xff
	}
	for len(b) > 1 && b[0] == sign && (b[1]^sign) < 0x80 {
		b = b[1:]
	}
	switch {
	case len(b) > maxFloatBytes && sign != 0:
		return math.Inf(-1)
	case len(b) > maxFloatBytes:
		return math.Inf(1)
	}
	n := new(big.Int).SetBytes(b)
	if sign != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
	}
	return parseFloat(strconv.AppendInt(append(n.Append(nil, 10), 'e'), -int64(scale), 10))
}
