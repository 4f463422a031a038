package httpapi_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// previewed is a limit event of a client.
func previewed(t *testing.T, kind alerts.EventKind, client string) *alerts.Event {
	t.Helper()
	topic, partition, offset := "contracts", int32(0), int64(8)
	return &alerts.Event{
		ID: "3f2b1c56-0000-5000-8000-000000000000", Kind: kind, Client: client, Meter: "bytes_out", Dimensions: map[string]string{},
		Contract: "n", ContractRevision: 8, LimitID: "l", Limit: "7", Enforcement: contracts.Hard,
		Thresholds: []alerts.PassedThreshold{{Threshold: "100%", Value: "7"}}, Highest: "100%", Standing: []string{"100%"},
		UsageBefore: "9", UsageAfter: "9", Utilization: "1.285714",
		Period:   alerts.PeriodInfo{ID: "2026-11", Start: at(t, "2026-11-01T00:00:00Z"), End: at(t, "2026-12-01T00:00:00Z"), Timezone: "UTC"},
		Cause:    alerts.Cause{Kind: alerts.ByContract, Topic: &topic, Partition: &partition, Offset: &offset},
		Sequence: 3, DecidedAt: at(t, "2026-11-22T05:00:00Z"), // the clock's
	}
}

type dryRun struct {
	Events  []alerts.Event
	Pending bool
	Away    []string
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	n.running[0].previews = map[string]aggregate.Preview{"acme": {Events: []*alerts.Event{previewed(t, alerts.Crossed, "acme")}, Pending: true}}
	serve(t, n, nil)

	r := n.put(t, "/v1/contracts/n?dry_run=true", contractN)
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	require.Empty(t, r.Header.Get("ETag"))
	var a dryRun
	decode(t, r, &a)
	require.Equal(t, dryRun{Events: []alerts.Event{*previewed(t, alerts.Crossed, "acme")}, Pending: true}, a)
	asked := n.running[0].trials[0]
	require.Equal(t, "acme n", asked.client+" "+asked.id)
	require.Equal(t, usage.Quantity(7), asked.next.Limits[0].Value)
	require.EqualValues(t, 8, asked.revision)

	n.delete(t, "/v1/contracts/b?dry_run=true").want(t, http.StatusOK, string(mustJSON(t, map[string]any{
		"events": []*alerts.Event{previewed(t, alerts.Crossed, "acme")}, "pending": true,
	})))
	require.Equal(t, trial{client: "acme", id: "b", revision: 8}, n.running[0].trials[1])
	// What was never good can go without a word.
	n.delete(t, "/v1/contracts/d?dry_run=true").want(t, http.StatusOK, `{"events":[],"pending":false}`)
	n.delete(t, "/v1/contracts/nothing?dry_run=true").refused(t, http.StatusNotFound, "not-found")
	require.Empty(t, n.topic.written)
	require.Equal(t, http.StatusOK, n.put(t, "/v1/contracts/n?dry_run=false", contractN).StatusCode)
	require.Len(t, n.topic.written, 1)

	n.running[0].failure = errors.New("broken")
	n.put(t, "/v1/contracts/n?dry_run=true", contractN).refused(t, http.StatusInternalServerError, "internal")
}

// movers is a pair of instances of which one has a contract of its client a,
// and both know what they would tell when it moves to zoe, who is with two.
func movers(t *testing.T) (one, two *node) {
	t.Helper()
	one, two = pair(t, nil)
	for _, n := range []*node{one, two} {
		require.NoError(t, n.table.Apply([]byte("m"), []byte(`{"id":"m","client":"a","starts_at":"2026-01-01T00:00:00Z"}`), 3))
	}
	one.running[0].previews = map[string]aggregate.Preview{"a": {Events: []*alerts.Event{previewed(t, alerts.Cleared, "a")}}}
	two.running[1].previews = map[string]aggregate.Preview{"zoe": {Events: []*alerts.Event{previewed(t, alerts.Crossed, "zoe")}, Pending: true}}
	return one, two
}

const contractMoved = `{"id":"m","client":"zoe","starts_at":"2026-01-01T00:00:00Z"}`

func TestDryRunOfAMove(t *testing.T) {
	t.Parallel()
	one, two := movers(t)

	want := dryRun{Events: []alerts.Event{*previewed(t, alerts.Cleared, "a"), *previewed(t, alerts.Crossed, "zoe")}, Pending: true}
	for _, n := range []*node{one, two} {
		r := n.put(t, "/v1/contracts/m?dry_run=true", contractMoved, "If-Match", `"3"`)
		require.Equal(t, http.StatusOK, r.StatusCode, r.body)
		var a dryRun
		decode(t, r, &a)
		require.Equal(t, want, a)
	}
	require.Equal(t, "m", two.running[1].trials[0].id)
	// Where it is not, the request is passed on as it is.
	r := two.delete(t, "/v1/contracts/m?dry_run=true")
	var a dryRun
	decode(t, r, &a)
	require.Equal(t, want.Events[:1], a.Events)
	require.Empty(t, one.topic.written)
	require.Empty(t, two.topic.written)
	// An event comes through another instance as it would come from its own.
	two.running[1].previews["zoe"].Events[0].Period = alerts.PeriodInfo{ID: "lifetime", Start: usage.MinTime, End: usage.MaxTime, Timezone: "UTC"}
	r = one.put(t, "/v1/contracts/m?dry_run=true", contractMoved)
	require.Contains(t, r.body, `"period":{"id":"lifetime","start":null,"end":null,"timezone":"UTC"}`)
	require.Equal(t, two.put(t, "/v1/contracts/m?dry_run=true", contractMoved).body, r.body)
}

func TestDryRunWhileAnOwnerIsAway(t *testing.T) {
	t.Parallel()

	tests := map[string]func(one, two *node){
		"its partition is restoring":       func(_, two *node) { two.set(func() { two.running = nil }) },
		"its partition leaves meanwhile":   func(_, two *node) { two.gone[1] = 2 },
		"nobody answers at its address":    func(one, _ *node) { one.instances[0].Address = "127.0.0.1:1" },
		"nobody has its partition":         func(one, _ *node) { one.instances[0].Partitions = nil },
		"it fails":                         func(_, two *node) { two.running[1].failure = errors.New("broken") },
		"it has no meter of this name yet": func(_, two *node) { two.catalog.Meters = nil },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := movers(t)
			change(one, two)
			limited := `{"id":"m","client":"zoe","starts_at":"2026-01-01T00:00:00Z","limits":[{"id":"l","meter":"bytes_out","limit":"5"}]}`

			var a dryRun
			decode(t, one.put(t, "/v1/contracts/m?dry_run=true", limited), &a)
			require.Equal(t, []string{"zoe"}, a.Away)
			require.Equal(t, []alerts.Event{*previewed(t, alerts.Cleared, "a")}, a.Events)
			// One that concerns nobody else cannot be answered at all.
			fresh := `{"id":"f","client":"zoe","starts_at":"2026-01-01T00:00:00Z","limits":[{"id":"l","meter":"bytes_out","limit":"5"}]}`
			one.put(t, "/v1/contracts/f?dry_run=true", fresh).refused(t, http.StatusServiceUnavailable, "not-ready")
		})
	}
}
