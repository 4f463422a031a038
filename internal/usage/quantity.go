package usage

import (
	"errors"
	"math"
	"math/big"
	"strconv"
)

// Quantity is an amount in a meter's smallest unit: fixed point, never a
// float. All of int64 but its least value is used, so that a quantity and its
// negative both exist.
type Quantity int64

// MaxQuantity bounds quantities and totals on both sides of zero.
const MaxQuantity Quantity = math.MaxInt64

// Add returns q + r and whether the sum is within ±MaxQuantity.
func (q Quantity) Add(r Quantity) (Quantity, bool) {
	sum := q + r
	if (r > 0 && sum < q) || (r < 0 && sum > q) || sum < -MaxQuantity {
		return 0, false
	}
	return sum, true
}

// Format returns q of a meter with the given decimals in the shortest plain
// decimal form: no exponent, no trailing zeros, no "+", no "-0".
func (q Quantity) Format(decimals int) string {
	return string(q.Append(nil, decimals))
}

// Append appends the form of Format to dst.
func (q Quantity) Append(dst []byte, decimals int) []byte {
	for decimals > 0 && q%10 == 0 {
		q /= 10
		decimals--
	}
	if decimals <= 0 {
		return strconv.AppendInt(dst, int64(q), 10)
	}
	if q < 0 {
		dst = append(dst, '-')
		q = -q
	}
	unit := Quantity(pow10[decimals])
	dst = strconv.AppendInt(dst, int64(q/unit), 10)
	dst = append(dst, '.')
	fraction := strconv.AppendInt(nil, int64(q%unit), 10)
	for range decimals - len(fraction) {
		dst = append(dst, '0')
	}
	return append(dst, fraction...)
}

var pow10 = [19]int64{
	1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9,
	1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
}

// Decimal is an exact number as a record or a contract has it, before a
// meter's decimals are known: Units × 10^-Scale, with the least Scale that
// holds it. TooLarge marks a number that no meter can hold, for its size or
// for its fineness; its Units mean nothing.
type Decimal struct {
	Units    int64
	Scale    uint8
	TooLarge bool
}

// ErrNotDecimal is returned when a text is not a decimal number.
var ErrNotDecimal = errors.New("not a decimal number")

// maxDecimalText bounds the text of a number: longer ones are refused rather
// than looked at.
const maxDecimalText = 64

// DecimalOf returns n as a Decimal.
func DecimalOf(n int64) Decimal { return Decimal{Units: n} }

// DecimalOfFloat returns the shortest decimal that reads back as f, or
// ErrNotDecimal for NaN and the infinities. bits is 32 for a number that was
// a float32, else 64.
func DecimalOfFloat(f float64, bits int) (Decimal, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Decimal{}, ErrNotDecimal
	}
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 && bits == 64 {
		return Decimal{Units: int64(f)}, nil
	}
	var buf [32]byte
	return ParseDecimal(strconv.AppendFloat(buf[:0], f, 'e', -1, bits))
}

// DecimalOfBytes returns the number whose unscaled value is the big-endian
// two's complement in b, as Avro's logical type decimal has it.
func DecimalOfBytes(b []byte, scale int) Decimal {
	for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		b = b[1:]
	}
	if len(b) == 0 {
		return Decimal{}
	}
	if len(b) <= 8 {
		units := int64(int8(b[0]))
		for _, c := range b[1:] {
			units = units<<8 | int64(c)
		}
		if units == math.MinInt64 {
			return Decimal{TooLarge: true}
		}
		return normalize(units, scale)
	}
	if len(b) > maxDecimalText {
		return Decimal{TooLarge: true}
	}
	n := new(big.Int).SetBytes(b)
	if b[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
	}
	// Trailing zeros of a fine scale may be all that makes it wide.
	ten, rest := big.NewInt(10), new(big.Int)
	for scale > 0 && !n.IsInt64() {
		quotient := new(big.Int)
		if quotient.QuoRem(n, ten, rest); rest.Sign() != 0 {
			break
		}
		n = quotient
		scale--
	}
	if !n.IsInt64() || n.Int64() == math.MinInt64 {
		return Decimal{TooLarge: true}
	}
	return normalize(n.Int64(), scale)
}

// normalize returns units × 10^-scale with the least scale. A negative scale
// multiplies.
func normalize(units int64, scale int) Decimal {
	if units == 0 {
		return Decimal{}
	}
	for ; scale > 0 && units%10 == 0; scale-- {
		units /= 10
	}
	for ; scale < 0; scale++ {
		if units > math.MaxInt64/10 || units < -math.MaxInt64/10 {
			return Decimal{TooLarge: true}
		}
		units *= 10
	}
	if scale > MaxDecimals {
		return Decimal{TooLarge: true}
	}
	return Decimal{Units: units, Scale: uint8(scale)}
}

// ParseDecimal reads a decimal number: an optional minus, digits with an
// optional point, an optional exponent. Anything else is ErrNotDecimal; a
// number that is well written but that no meter can hold has TooLarge set.
func ParseDecimal[T string | []byte](s T) (Decimal, error) {
	if len(s) == 0 || len(s) > maxDecimalText {
		return Decimal{}, ErrNotDecimal
	}
	var (
		i        int
		negative bool
		digits   int // all that were seen
		zeros    int // held back: they count only if another digit follows
		units    int64
		scale    int
		point    bool
		fits     = true
	)
	if s[0] == '-' {
		negative = true
		i++
	}
scan:
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.' && !point && digits > 0:
			point = true
		case '0' <= c && c <= '9':
			digits++
			if point {
				scale++
			}
			if c == '0' {
				zeros++
				continue
			}
			for ; zeros > 0; zeros-- {
				units, fits = shift(units, 0, fits)
			}
			units, fits = shift(units, int64(c-'0'), fits)
		default:
			break scan
		}
	}
	if digits == 0 || s[i-1] == '.' {
		return Decimal{}, ErrNotDecimal
	}
	exponent, err := parseExponent(s[i:])
	if err != nil {
		return Decimal{}, err
	}
	if !fits {
		return Decimal{TooLarge: true}, nil
	}
	if negative {
		units = -units
	}
	return normalize(units, scale-zeros-exponent), nil
}

// shift returns units × 10 + digit, and false where that, or what came before
// it, does not fit.
func shift(units, digit int64, fits bool) (int64, bool) {
	if !fits || units > (math.MaxInt64-digit)/10 {
		return 0, false
	}
	return units*10 + digit, true
}

// parseExponent reads what may follow the digits: nothing, or e and a number
// of at most four digits.
func parseExponent[T string | []byte](s T) (int, error) {
	if len(s) == 0 {
		return 0, nil
	}
	if s[0] != 'e' && s[0] != 'E' || len(s) < 2 || len(s) > 6 {
		return 0, ErrNotDecimal
	}
	if s[1] == '+' && len(s) > 2 && s[2] != '-' && s[2] != '+' {
		s = s[1:]
	}
	n, err := strconv.Atoi(string(s[1:]))
	if err != nil {
		return 0, ErrNotDecimal
	}
	return n, nil
}

// Quantity returns d in the smallest unit of a meter with the given decimals,
// and false where d is too large or finer than that unit: nothing is rounded.
func (d Decimal) Quantity(decimals int) (Quantity, bool) {
	if d.TooLarge || int(d.Scale) > decimals {
		return 0, false
	}
	factor := pow10[decimals-int(d.Scale)]
	if factor == 1 {
		return Quantity(d.Units), d.Units != math.MinInt64
	}
	if d.Units > math.MaxInt64/factor || d.Units < -(math.MaxInt64/factor) {
		return 0, false
	}
	return Quantity(d.Units * factor), true
}

// String returns d in the shortest plain form, and "(too large)" for a number
// that no meter can hold.
func (d Decimal) String() string {
	if d.TooLarge {
		return "(too large)"
	}
	return Quantity(d.Units).Format(int(d.Scale))
}

// Utilization returns total / limit with at most 6 digits after the point,
// rounded down. limit is positive.
func Utilization(total, limit Quantity) string {
	const digits = 6
	n := new(big.Int).Mul(big.NewInt(int64(total)), big.NewInt(pow10[digits]))
	// Euclidean division rounds down for a positive divisor.
	n.Div(n, big.NewInt(int64(limit)))
	if n.IsInt64() {
		return Quantity(n.Int64()).Format(digits)
	}
	// Only a limit of a few units under a total near the edge comes here.
	quotient, rest := new(big.Int).DivMod(n, big.NewInt(pow10[digits]), new(big.Int))
	text := quotient.String()
	if rest.Sign() != 0 {
		text += Quantity(rest.Int64()).Format(digits)[1:]
	}
	return text
}
