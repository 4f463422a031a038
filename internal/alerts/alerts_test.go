package alerts_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

func th(label string, value usage.Quantity) contracts.Threshold {
	return contracts.Threshold{Label: label, Value: value}
}

func list(thresholds ...contracts.Threshold) []contracts.Threshold { return thresholds }

func TestPassed(t *testing.T) {
	t.Parallel()

	limit := list(th("80%", 80), th("80", 80), th("100%", 100))
	tests := map[string]struct {
		before, after usage.Quantity
		want          []contracts.Threshold
	}{
		"below every threshold":            {0, 79, nil},
		"reaching a threshold counts":      {79, 80, list(th("80%", 80), th("80", 80))},
		"standing on it does not":          {80, 80, nil},
		"leaving it upward does not":       {80, 81, nil},
		"one jump can pass several":        {0, 500, limit},
		"past the last, nothing fires":     {100, 500, nil},
		"a correction clears":              {100, 99, list(th("100%", 100))},
		"falling onto it does not clear":   {120, 100, nil},
		"a correction can clear several":   {100, -5, limit},
		"from the least to the most":       {-usage.MaxQuantity, usage.MaxQuantity, limit},
		"below zero there are none":        {-100, 0, nil},
		"falling from above and onto them": {99, 80, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, alerts.Passed(tt.before, tt.after, limit))
		})
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()

	limit100 := list(th("50%", 50), th("80%", 80), th("100%", 100))
	limit200 := list(th("50%", 100), th("80%", 160), th("100%", 200))
	tests := map[string]struct {
		standing                []contracts.Threshold
		total                   usage.Quantity
		limit                   []contracts.Threshold
		cleared, crossed, after []contracts.Threshold
	}{
		"nothing stands, nothing is reached":                   {total: 49, limit: limit100},
		"what is reached and does not stand is crossed":        {total: 80, limit: limit100, crossed: limit100[:2], after: limit100[:2]},
		"what stands says nothing":                             {standing: limit100[:2], total: 99, limit: limit100, after: limit100[:2]},
		"what stands and is above the total is cleared":        {standing: limit100, total: 79, limit: limit100, cleared: limit100[1:], after: limit100[:1]},
		"a raised limit clears with the values of before":      {standing: limit100, total: 120, limit: limit200, cleared: limit100[1:], after: limit100[:1]},
		"a lowered limit crosses what is reached now":          {standing: limit200[:1], total: 120, limit: limit100, crossed: limit100[1:], after: list(th("80%", 80), th("50%", 100), th("100%", 100))},
		"a label that is gone is cleared":                      {standing: limit100[:2], total: 90, limit: limit100[:1], cleared: limit100[1:2], after: limit100[:1]},
		"a new label that is reached is crossed":               {standing: limit100[:1], total: 90, limit: list(th("50%", 50), th("60", 60)), crossed: list(th("60", 60)), after: list(th("50%", 50), th("60", 60))},
		"one change can clear and cross":                       {standing: list(th("100%", 100)), total: 120, limit: list(th("60", 60), th("100%", 200)), cleared: list(th("100%", 100)), crossed: list(th("60", 60)), after: list(th("60", 60))},
		"a total below zero clears all":                        {standing: limit100, total: -1, limit: limit100, cleared: limit100},
		"no limit clears all":                                  {standing: limit100, total: 1000, cleared: limit100},
		"cleared ones stand in the order of the values of old": {standing: list(th("b", 90), th("a", 80)), total: 10, limit: limit100, cleared: list(th("a", 80), th("b", 90))},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			cleared, crossed, after := alerts.Settle(tt.standing, tt.total, tt.limit)
			require.Equal(t, tt.cleared, cleared)
			require.Equal(t, tt.crossed, crossed)
			require.Equal(t, tt.after, after)
		})
	}
}

// Over any walk of totals and changes of the limit, a label stands exactly
// when the total has reached its value, no label is crossed again before it
// was cleared, and none is cleared that did not stand.
func TestSettleOverRandomWalks(t *testing.T) {
	t.Parallel()

	labels := []string{"a", "b", "c", "d", "e"}
	rapid.Check(t, func(t *rapid.T) {
		var (
			limit, standing []contracts.Threshold
			total           usage.Quantity
			stands          = map[string]usage.Quantity{} // and the value it was crossed at
		)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "new limit") {
				limit = nil
				value := usage.Quantity(1)
				for _, label := range rapid.Permutation(labels).Draw(t, "labels")[:rapid.IntRange(0, 5).Draw(t, "n")] {
					value += usage.Quantity(rapid.IntRange(0, 10).Draw(t, "above"))
					limit = append(limit, th(label, value))
				}
			}
			total += usage.Quantity(rapid.IntRange(-15, 20).Draw(t, "delta"))
			kept := append([]contracts.Threshold(nil), standing...)
			cleared, crossed, after := alerts.Settle(standing, total, limit)
			require.Equal(t, kept, standing, "what it was given is not changed")

			for _, c := range cleared {
				require.Equal(t, stands[c.Label], c.Value, "%s is cleared with another value than it fired at", c.Label)
				delete(stands, c.Label)
			}
			for _, c := range crossed {
				require.NotContains(t, stands, c.Label, "crossed twice")
				stands[c.Label] = c.Value
			}
			require.Len(t, after, len(stands))
			for i, a := range after {
				require.Equal(t, stands[a.Label], a.Value)
				require.True(t, i == 0 || after[i-1].Value <= a.Value)
			}
			for _, l := range limit {
				require.Equal(t, l.Value <= total, hasLabel(after, l.Label), "%s at %d of %v", l.Label, total, limit)
			}
			require.LessOrEqual(t, len(after), len(limit))
			standing = after
		}
	})
}

// While the limit stays, Settle and Passed tell the same of every change of
// the total.
func TestSettleIsPassedWhileTheLimitStays(t *testing.T) {
	t.Parallel()

	limit := list(th("a", 10), th("b", 10), th("c", 25), th("d", 40))
	rapid.Check(t, func(t *rapid.T) {
		total, standing := usage.Quantity(0), list()
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			before := total
			total += usage.Quantity(rapid.IntRange(-30, 30).Draw(t, "delta"))
			cleared, crossed, after := alerts.Settle(standing, total, limit)
			if total < before {
				require.Empty(t, crossed)
				require.Equal(t, alerts.Passed(before, total, limit), cleared)
			} else {
				require.Empty(t, cleared)
				require.Equal(t, alerts.Passed(before, total, limit), crossed)
			}
			standing = after
		}
	})
}

func hasLabel(thresholds []contracts.Threshold, label string) bool {
	for _, t := range thresholds {
		if t.Label == label {
			return true
		}
	}
	return false
}

func TestLabelsAreNeverNil(t *testing.T) {
	t.Parallel()

	require.Equal(t, []string{}, alerts.Labels(nil))
	require.Equal(t, []string{"80%", "25"}, alerts.Labels(list(th("80%", 80), th("25", 90))))
}
