package verify_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const acme = `{"id":"acme-1","client":"acme","starts_at":"2026-01-01T00:00:00Z","limits":[
	{"id":"traffic","meter":"bytes","limit":"100","thresholds":["50%","80%","100%"]},
	{"id":"burst","meter":"calls","period":"hour","limit":"3","enforcement":"soft"}]}`

// ordinary is two days of everything that happens without trouble.
func ordinary(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.contract("acme-1", acme)
	w.now += 60_000
	w.start(0)
	w.use("acme", "bytes", "30.5") // 0
	w.use("acme", "bytes", "25")   // 1: 50%
	w.send("acme", "bytes", "25", "e2", w.now)
	w.raw("acme", `{"cut":`) // 3
	w.use("acme", "calls", "1")
	w.use("acme", "calls", "1")
	w.use("acme", "calls", "7") // 6: burst
	w.count()
	w.use("acme", "bytes", "60") // 7: 80%, 100%
	w.use("beta", "bytes", "5")
	w.use("beta", "elephants", "5") // 9: ignored
	w.send("beta", "bytes", "1", "old", w.now.Add(-72*time.Hour))
	w.count()
	w.now = at(t, "2026-11-21T09:00:00Z")
	w.use("acme", "bytes", "10") // 11: the day has ended
	w.use("acme", "bytes", "49") // 12: 50% of the new day
	w.send("acme", "bytes", "-20", "late", w.now.Add(-24*time.Hour))
	w.count()
	return w
}

func TestNothingIsFoundWhereAllIsWell(t *testing.T) {
	t.Parallel()

	w := ordinary(t)
	found, report := w.check()
	require.Empty(t, found)
	require.EqualValues(t, 14, report.Records)
	require.EqualValues(t, 10, report.Counted)
	require.EqualValues(t, 1, report.Duplicates)
	require.EqualValues(t, 1, report.Ignored)
	require.EqualValues(t, 2, report.DeadLettered)
	require.EqualValues(t, len(w.events), report.LimitEvents)
	require.Len(t, w.events, 7)
	require.Empty(t, report.Unchecked)
}
