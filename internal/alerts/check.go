package alerts

import (
	"math/big"
	"strings"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// Use is what a client is about to do, and asks leave for.
type Use struct {
	Meter       string
	Aggregation usage.Aggregation // of the meter
	Quantity    usage.Quantity    // in the meter's smallest unit, never negative
	Dimensions  map[string]string // a dimension that is missing is ""
}

// Concerns tells whether limit judges the counter, or one of the counters, that
// u would be counted in. Whether its contract covers the time is for the caller
// to know.
func (u *Use) Concerns(limit *contracts.Limit) bool {
	if u.Meter != limit.MeterName {
		return false
	}
	for dimension, value := range limit.Where {
		if u.Dimensions[dimension] != value {
			return false
		}
	}
	return true
}

// Per returns the values of the dimensions of each of whose values limit is for
// itself, nil where there are none.
func (u *Use) Per(limit *contracts.Limit) map[string]string {
	if len(limit.Per) == 0 {
		return nil
	}
	values := make(map[string]string, len(limit.Per))
	for _, dimension := range limit.Per {
		values[dimension] = u.Dimensions[dimension]
	}
	return values
}

// Allowed tells whether limit leaves room for u beside total, which is that of
// the limit's counter. Using up all of it is allowed. A soft limit allows
// everything.
//
// What u does to the total depends on its aggregation: sum and count add, of
// max the larger one counts, of latest the quantity alone. Of min, which a use
// can only lower, and of unique, which says nothing of the quantity, the total
// is what counts.
func (u *Use) Allowed(limit *contracts.Limit, total usage.Quantity) bool {
	if limit.Enforcement != contracts.Hard {
		return true
	}
	after, fits := total, true
	switch u.Aggregation {
	case usage.Max:
		after = max(total, u.Quantity)
	case usage.Latest:
		after = u.Quantity
	case usage.Min, usage.Unique:
	default:
		after, fits = total.Add(u.Quantity)
	}
	return fits && after <= limit.Value // what fits no counter fits no limit
}

// Blocked tells whether limit, with total in its counter, blocks its client:
// a hard one that is reached.
func Blocked(limit *contracts.Limit, total usage.Quantity) bool {
	return limit.Enforcement == contracts.Hard && total >= limit.Value
}

// Remaining returns max(0, limit-total) as a decimal. Of a total far below zero
// more may remain than a Quantity can hold.
func Remaining(limit *contracts.Limit, total usage.Quantity) string {
	decimals := limit.Decimals
	if rest, ok := limit.Value.Add(-total); ok {
		return max(0, rest).Format(decimals)
	}
	rest := new(big.Int).Sub(big.NewInt(int64(limit.Value)), big.NewInt(int64(total)))
	if decimals == 0 {
		return rest.String()
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil)
	text := new(big.Rat).SetFrac(rest, unit).FloatString(decimals)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}
