package scenario

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/alerts"
)

func trace(change func(*Trace)) *Trace {
	t := &Trace{
		Events:   []Told{{Event: &alerts.Event{Kind: alerts.Crossed, LimitID: "a"}}, {Event: &alerts.Event{Kind: alerts.Reset, LimitID: "a"}}},
		States:   map[string][]string{"key": {"crossed", "cleared", "nothing"}},
		Letters:  []Letter{{Step: 1, Reason: "future"}},
		Counters: map[string]string{"counter": "1"},
	}
	if change != nil {
		change(t)
	}
	return t
}

func TestDifferences(t *testing.T) {
	t.Parallel()

	require.Empty(t, differences(trace(nil), trace(nil)))
	for name, tt := range map[string]struct {
		change func(*Trace)
		want   string
	}{
		"a limit event is missing":       {func(t *Trace) { t.Events = t.Events[:1] }, "not told"},
		"one more limit event":           {func(t *Trace) { t.Events = append(t.Events, t.Events[0]) }, "not to be"},
		"another order":                  {func(t *Trace) { t.Events[0], t.Events[1] = t.Events[1], t.Events[0] }, "limit event 0"},
		"any field of a limit event":     {func(t *Trace) { t.Events[1].Event.Enforcement = "soft" }, "limit event 1"},
		"a dead letter is missing":       {func(t *Trace) { t.Letters = nil }, "dead letters"},
		"a dead letter of another step":  {func(t *Trace) { t.Letters[0].Step = 2 }, "dead letters"},
		"a counter is missing":           {func(t *Trace) { delete(t.Counters, "counter") }, "counter"},
		"a counter has another total":    {func(t *Trace) { t.Counters["counter"] = "2" }, "counter"},
		"a limit state is missing":       {func(t *Trace) { delete(t.States, "key") }, "limit-state"},
		"a limit state of nothing":       {func(t *Trace) { t.States["other"] = []string{"crossed"} }, "limit-state"},
		"a limit state ends otherwise":   {func(t *Trace) { t.States["key"] = []string{"crossed", "cleared"} }, "limit-state"},
		"a limit state in another order": {func(t *Trace) { t.States["key"] = []string{"cleared", "crossed", "nothing"} }, "limit-state"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			wrong := differences(trace(nil), trace(tt.change))
			require.NotEmpty(t, wrong)
			require.Contains(t, wrong[0], tt.want)
		})
	}
	require.Empty(t, differences(trace(nil), trace(func(t *Trace) { t.States["key"] = []string{"cleared", "nothing"} })),
		"what others followed in the same transaction need not be seen")
}
