package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

const acmeExplained = `{
  "client": "acme",
  "as_of": {"topic": "usage", "partition": 3, "offset": 1234568, "time": "2026-11-22T05:00:00.131Z", "lag_records": 12},
  "complete": true,
  "contracts": [{"id": "acme-2026", "state": "active", "revision": 42, "starts_at": "2026-01-01T00:00:00Z", "ends_at": null}],
  "counters": [
    {"meter": "bytes_out", "dimensions": {}, "period": {"id": "2026-11", "start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z", "timezone": "UTC"},
     "usage": "1000003", "events": 1003, "seed": {"state": "exact", "usage": "750000", "boundary": 991200},
     "first_event": "2026-11-01T00:00:01Z", "last_event": "2026-11-22T04:59:59.5Z", "limits": [{"contract": "acme-2026", "limit_id": "traffic"}],
     "scope": {"contract": "acme-2026", "period": "month", "timezone": "Europe/Berlin"},
     "counted": {"from": 991200, "to": 1234568, "events": 303, "usage": "250003"}}
  ],
  "limits": [
    {"contract": "acme-2026", "contract_revision": 42, "limit_id": "traffic", "meter": "bytes_out", "dimensions": {}, "enforcement": "hard",
     "limit": "1000000", "usage": "1000003", "remaining": "0", "utilization": "1.000003",
     "thresholds": [{"threshold": "80%", "value": "800000", "crossed": true}, {"threshold": "120%", "value": "1200000", "crossed": false}],
     "period": {"id": "2026-11", "start": "2026-10-31T23:00:00Z", "end": "2026-11-30T23:00:00Z", "timezone": "Europe/Berlin"},
     "next_reset": "2026-11-30T23:00:00Z", "blocked": true,
     "events": [
       {"id": "ID", "sequence": 4, "kind": "crossed", "thresholds": ["80%"], "usage_before": "0", "usage_after": "790000", "contract_revision": 41,
        "cause": {"kind": "seed", "topic": null, "partition": null, "offset": null, "event_id": null, "event_time": null},
        "late": false, "decided_at": "2026-11-20T00:00:00Z", "marked": true}
     ]}
  ]
}`

func TestExplain(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	view := acme(t)
	view.Limits[0].Contract.StartsAt, view.Limits[0].Contract.EndsAt = at(t, "2026-01-01T00:00:00Z"), usage.MaxTime
	view.Counters = view.Counters[:1]
	view.Counters[0].Scope = aggregate.Scope{Contract: "acme-2026", Kind: usage.Month, Timezone: "Europe/Berlin"}
	view.Limits[0].Told = []aggregate.Telling{{
		Sequence: 4, Kind: alerts.Crossed, Labels: []string{"80%"}, Before: "0", After: "790000", Revision: 41,
		Cause: alerts.Cause{Kind: alerts.BySeed}, DecidedAt: at(t, "2026-11-20T00:00:00Z"), Silent: true,
	}}
	n.running[3].views["acme"] = view
	serve(t, n, nil)

	// The id is that of the limit event in its topic.
	id := alerts.Identity{ApplicationID: "meterd", Contract: "acme-2026", Limit: "traffic", Period: "2026-11", Sequence: 4}.ID()
	n.get(t, "/v1/clients/acme/explain?meter=bytes_out").want(t, http.StatusOK, strings.Replace(acmeExplained, `"ID"`, `"`+id+`"`, 1))
	require.Equal(t, aggregate.Selection{Meter: "bytes_out"}, n.running[3].selected[0])

	all := n.get(t, "/v1/clients/acme/explain")
	require.Equal(t, http.StatusOK, all.StatusCode)
	require.Contains(t, all.body, `"limit_id":"store"`)
	require.Equal(t, aggregate.Selection{}, n.running[3].selected[1])
}

// TestExplainWhatDoesNotAddUp has a counter whose seed and stream are no sum.
func TestExplainWhatDoesNotAddUp(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	view := acme(t)
	view.Limits = nil
	peak, gone, huge := view.Counters[0], view.Counters[0], view.Counters[0]
	peak.Meter, gone.Meter = "peak", "of-before"
	huge.Total, huge.Seed.Usage = -usage.MaxQuantity, usage.MaxQuantity
	view.Counters = []aggregate.CounterView{peak, gone, huge}
	n.running[3].views["acme"] = view
	serve(t, n, nil)

	r := n.get(t, "/v1/clients/acme/explain")
	require.Equal(t, 3, strings.Count(r.body, `"scope":null,"counted":{"from":991200,"to":1234568,"events":303,"usage":null}`), r.body)
	require.Contains(t, r.body, `"contracts":[],`)
}

func TestExplainWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	n := newNode()
	serve(t, n, nil)

	require.Contains(t, n.get(t, "/v1/clients/nobody/explain").body, `"complete":true,"contracts":[],"counters":[],"limits":[]}`)
	n.running[0].unknown = true
	n.get(t, "/v1/clients/nobody/explain").refused(t, http.StatusServiceUnavailable, "incomplete")
	require.Equal(t, []string{"0 nobody"}, n.lookedUp)
}
