package verify_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/verify"
)

// named is a world in which a limit names a combination that was counted beyond
// the bound before, so that it has a boundary of its own.
func named(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, rich, func(c *verify.Config) { c.History = true })
	for range 2 {
		w.use("c1", "bytes", "40")
	}
	w.start(2)
	hit := func(endpoint string) { w.give("c1", "hits", "1", fmt.Sprintf(`"region":"eu","endpoint":%q`, endpoint)) }
	for _, endpoint := range []string{"/1", "/2", "/3", "/4", "/5", "/5"} {
		hit(endpoint)
	}
	w.count()
	for _, ask := range w.state.Pending() {
		w.answer(t, ask, "")
	}
	w.contract("k", `{"id":"k","client":"c1","starts_at":"2026-01-01T00:00:00Z","limits":[`+
		`{"id":"five","meter":"hits","limit":"2","thresholds":["50%","100%"],"where":{"endpoint":"/5","region":"eu"}}]}`)
	w.now += 120_000
	w.count()
	for _, ask := range w.state.Pending() {
		w.answer(t, ask, "")
	}
	hit("/5")
	hit("/5")
	w.count()
	return w
}

func TestCombinationThatLayBeyondTheBound(t *testing.T) {
	t.Parallel()

	const key = `["counter","c1","hits",{},{"endpoint":"/5","region":"eu"},"2026-11-20"]`
	tests := map[string]struct {
		plant func(*world)
		want  string
	}{
		"all right":       {func(*world) {}, ""},
		"a lost event":    {func(w *world) { w.counter(func(c *aggregate.CounterRecord) { c.Total, c.Events = 1, 1 }, `"/5"`) }, key + ": total is 1 of 1 events, recomputed 2 of 2"},
		"no boundary":     {func(w *world) { w.counter(func(c *aggregate.CounterRecord) { c.Seed.Boundary = 2 }, `"/5"`) }, key + ": total is 2 of 2 events, recomputed 4 of 4"},
		"another order":   {func(w *world) { w.spoil(1, func(e *alerts.Event) { e.Standing = []string{"100%", "50%"} }) }, `standing is ["100%","50%"], must be ["50%","100%"]`},
		"another's bound": {func(w *world) { w.counter(func(c *aggregate.CounterRecord) { c.Seed.Boundary = 8 }, `"hits",{},{},`) }, "its seed's boundary is 8, the meter's 2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := named(t)
			tt.plant(w)
			list, _ := w.check()
			found := strings.Join(list, "\n")
			if tt.want == "" {
				require.Empty(t, found)
				return
			}
			require.Contains(t, found, tt.want)
		})
	}
}
