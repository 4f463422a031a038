// Package alerts is the rule of limits: from a counter's total before and
// after, and a limit, to the thresholds it passed, and from those to the limit
// event that tells of them.
//
// All of it is pure. Totals and thresholds are in the meter's smallest unit
// and belong to one period.
package alerts

import (
	"cmp"
	"slices"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// Passed returns the thresholds that are crossed in going from before to
// after, or cleared where after is the smaller, lowest first. thresholds must
// be in order of their values.
//
// Rising, a threshold t is crossed when before < t <= after: reaching it
// counts, and standing on it does not count again. Falling, it is cleared when
// after < t <= before.
func Passed(before, after usage.Quantity, thresholds []contracts.Threshold) []contracts.Threshold {
	low, high := before, after
	if after < before {
		low, high = after, before
	}
	var passed []contracts.Threshold
	for _, t := range thresholds {
		if low < t.Value && t.Value <= high {
			passed = append(passed, t)
		}
	}
	return passed
}

// Settle compares the thresholds that stand (with the values they were crossed
// at) with those of a limit at total, and returns what is to be cleared, what
// is to be crossed, and what stands then, each lowest value first.
//
// It is the one rule for every cause. A label that stood is cleared when the
// limit no longer has it or has it at a value above total; a label that did not
// stand is crossed when total has reached its value. A label that stays says
// nothing and keeps the value it was crossed at.
func Settle(standing []contracts.Threshold, total usage.Quantity, limit []contracts.Threshold) (cleared, crossed, after []contracts.Threshold) {
	for _, t := range standing {
		if i := indexOf(limit, t.Label); i < 0 || limit[i].Value > total {
			cleared = append(cleared, t)
		} else {
			after = append(after, t)
		}
	}
	for _, t := range limit {
		if t.Value <= total && indexOf(standing, t.Label) < 0 {
			crossed = append(crossed, t)
		}
	}
	after = append(after, crossed...)
	// What stood may have been crossed under other values than the limit has now.
	for _, list := range [][]contracts.Threshold{cleared, after} {
		slices.SortStableFunc(list, func(a, b contracts.Threshold) int { return cmp.Compare(a.Value, b.Value) })
	}
	return cleared, crossed, after
}

func indexOf(thresholds []contracts.Threshold, label string) int {
	return slices.IndexFunc(thresholds, func(t contracts.Threshold) bool { return t.Label == label })
}

// Labels returns the labels of thresholds, never nil.
func Labels(thresholds []contracts.Threshold) []string {
	labels := make([]string, 0, len(thresholds))
	for _, t := range thresholds {
		labels = append(labels, t.Label)
	}
	return labels
}
