package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

func november(t *testing.T) usage.Period {
	t.Helper()
	return usage.Period{ID: "2026-11", Start: at(t, "2026-11-01T00:00:00Z"), End: at(t, "2026-12-01T00:00:00Z"), Timezone: "UTC"}
}

// acme is a view with two counters and two limits.
func acme(t *testing.T) aggregate.View {
	t.Helper()
	contract := &contracts.Contract{ID: "acme-2026", Client: "acme", Revision: 42}
	return aggregate.View{
		Client:   "acme",
		AsOf:     aggregate.Committed{Position: 1234568, Time: at(t, "2026-11-22T05:00:00.123Z"), At: at(t, "2026-11-22T05:00:00.131Z")},
		Complete: true, Known: true,
		Counters: []aggregate.CounterView{
			{
				Meter: "bytes_out", Period: november(t), Total: 1000003, Events: 1003,
				First: at(t, "2026-11-01T00:00:01Z"), Last: at(t, "2026-11-22T04:59:59.5Z"),
				Seed:   aggregate.Seed{State: aggregate.SeedExact, Usage: 750000, Events: 700, Boundary: 991200},
				Limits: []aggregate.LimitRef{{Contract: "acme-2026", Limit: "traffic"}},
			},
			{
				Meter: "gb_hours", Decimals: 6, Total: -1500000, First: usage.MaxTime, Last: usage.MinTime,
				Period: usage.Period{ID: "lifetime", Start: usage.MinTime, End: usage.MaxTime, Timezone: "UTC"},
				Seed:   aggregate.Seed{State: aggregate.SeedNone},
			},
		},
		Limits: []aggregate.LimitView{
			{
				Contract: contract, Total: 1000003, Seed: aggregate.Seed{State: aggregate.SeedExact},
				Limit: &contracts.Limit{
					ID: "traffic", MeterName: "bytes_out", Value: 1000000, Enforcement: contracts.Hard,
					Thresholds: []contracts.Threshold{{Label: "80%", Value: 800000}, {Label: "120%", Value: 1200000}},
				},
				Period: usage.Period{
					ID: "2026-11", Start: at(t, "2026-10-31T23:00:00Z"), End: at(t, "2026-11-30T23:00:00Z"), Timezone: "Europe/Berlin",
				},
				Standing: []contracts.Threshold{{Label: "80%", Value: 790000}},
			},
			{
				Contract: contract, Total: 500000, Seed: aggregate.Seed{State: aggregate.SeedNone},
				Limit: &contracts.Limit{
					ID: "store", MeterName: "gb_hours", Decimals: 6, Value: 1500000, Enforcement: contracts.Soft,
					Thresholds: []contracts.Threshold{{Label: "0.5", Value: 500000}},
				},
				Period: usage.Period{ID: "lifetime", Start: at(t, "2026-01-01T00:00:00Z"), End: usage.MaxTime, Timezone: "UTC"},
			},
		},
	}
}

const (
	acmeUsage = `{
  "client": "acme",
  "as_of": {"topic": "usage", "partition": 3, "offset": 1234568, "time": "2026-11-22T05:00:00.131Z", "lag_records": 12},
  "complete": true,
  "counters": [
    {"meter": "bytes_out", "dimensions": {}, "period": {"id": "2026-11", "start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z", "timezone": "UTC"},
     "usage": "1000003", "events": 1003, "seed": {"state": "exact", "usage": "750000", "boundary": 991200},
     "first_event": "2026-11-01T00:00:01Z", "last_event": "2026-11-22T04:59:59.5Z", "limits": [{"contract": "acme-2026", "limit_id": "traffic"}]},
    {"meter": "gb_hours", "dimensions": {}, "period": {"id": "lifetime", "start": null, "end": null, "timezone": "UTC"},
     "usage": "-1.5", "events": 0, "seed": {"state": "none", "usage": "0", "boundary": 0},
     "first_event": null, "last_event": null, "limits": []}
  ]
}`
	acmeLimits = `{
  "client": "acme",
  "as_of": {"topic": "usage", "partition": 3, "offset": 1234568, "time": "2026-11-22T05:00:00.131Z", "lag_records": 12},
  "complete": true,
  "limits": [
    {"contract": "acme-2026", "contract_revision": 42, "limit_id": "traffic", "meter": "bytes_out", "dimensions": {}, "enforcement": "hard",
     "limit": "1000000", "usage": "1000003", "remaining": "0", "utilization": "1.000003",
     "thresholds": [{"threshold": "80%", "value": "800000", "crossed": true}, {"threshold": "120%", "value": "1200000", "crossed": false}],
     "period": {"id": "2026-11", "start": "2026-10-31T23:00:00Z", "end": "2026-11-30T23:00:00Z", "timezone": "Europe/Berlin"},
     "next_reset": "2026-11-30T23:00:00Z", "blocked": true},
    {"contract": "acme-2026", "contract_revision": 42, "limit_id": "store", "meter": "gb_hours", "dimensions": {}, "enforcement": "soft",
     "limit": "1.5", "usage": "0.5", "remaining": "1", "utilization": "0.333333",
     "thresholds": [{"threshold": "0.5", "value": "0.5", "crossed": false}],
     "period": {"id": "lifetime", "start": "2026-01-01T00:00:00Z", "end": null, "timezone": "UTC"},
     "next_reset": null, "blocked": false}
  ]
}`
)

// withAcme is an instance that runs partition 3, on which acme is.
func withAcme(t *testing.T) *node {
	t.Helper()
	n := newNode()
	n.clients = map[string]int32{"acme": 3}
	n.running[3] = &reader{views: map[string]aggregate.View{"acme": acme(t)}}
	return n
}

func TestUsageAndLimits(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	serve(t, n, nil)

	r := n.get(t, "/v1/clients/acme/usage")
	r.want(t, http.StatusOK, acmeUsage)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	n.get(t, "/v1/clients/acme/limits").want(t, http.StatusOK, acmeLimits)

	head := n.send(t, http.MethodHead, "/v1/clients/acme/usage")
	require.Equal(t, http.StatusOK, head.StatusCode)
	require.Equal(t, r.ContentLength, head.ContentLength)
	require.Empty(t, head.body)
}

func TestUsageIsNarrowed(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	serve(t, n, nil)

	n.get(t, "/v1/clients/acme/usage?meter=bytes_out&period=2026-W47")
	n.get(t, "/v1/clients/acme/usage?period=previous")
	n.get(t, "/v1/clients/acme/usage?period=")
	n.get(t, "/v1/clients/acme/usage?dimensions=endpoint:/v1/a:b&dimensions=region:")
	require.Equal(t, []aggregate.Selection{
		{Meter: "bytes_out", Period: "2026-W47"},
		{Period: aggregate.Previous},
		{},
		{Dimensions: map[string]string{"endpoint": "/v1/a:b", "region": ""}},
	}, n.running[3].selected)
}

// TestCountersOfDimensions has one of a combination, the one that takes what is
// beyond those kept apart, and an estimate whose seed is bounded.
func TestCountersOfDimensions(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	view := acme(t)
	one := view.Counters[0]
	one.Limits, one.Seed = nil, aggregate.Seed{State: aggregate.SeedNone}
	kept, rest, distinct := one, one, one
	kept.Dimensions = map[string]string{"endpoint": "/<a>", "region": usage.OverflowValue}
	rest.Dimensions = map[string]string{"endpoint": usage.OverflowValue, "region": usage.OverflowValue}
	distinct.Estimated, distinct.Seed = true, aggregate.Seed{State: aggregate.SeedBounded, Usage: 5, Boundary: 7, Cut: at(t, "2026-11-22T04:00:00Z")}
	view.Counters = []aggregate.CounterView{kept, rest, distinct}
	view.Limits = view.Limits[:1]
	view.Limits[0].Dimensions = map[string]string{"endpoint": "/a"}
	n.running[3].views["acme"] = view
	serve(t, n, nil)

	body := n.get(t, "/v1/clients/acme/usage").body
	require.Contains(t, body, `"dimensions":{"endpoint":"/<a>","region":"__overflow__"},"period"`)
	require.Contains(t, body, `"dimensions":{"endpoint":"__overflow__","region":"__overflow__"},"overflow":true,"period"`)
	require.Contains(t, body, `"usage":"1000003","estimated":true,"error":"0.0081","events":1003,`+
		`"seed":{"state":"bounded","usage":"5","boundary":7,"cut":"2026-11-22T04:00:00Z","bound":"history was asked`)
	require.Contains(t, n.get(t, "/v1/clients/acme/limits").body, `"dimensions":{"endpoint":"/a"}`)
}

func TestClientThatWasNeverSeen(t *testing.T) {
	t.Parallel()
	n := newNode()
	n.running[0].asOf = aggregate.Committed{Position: 5, At: usage.MinTime}
	serve(t, n, nil)
	const asOf = `{"topic":"usage","partition":0,"offset":5,"time":null,"lag_records":12}`

	n.get(t, "/v1/clients/nobody/usage").want(t, http.StatusOK, `{"client":"nobody","as_of":`+asOf+`,"complete":true,"counters":[]}`)
	n.get(t, "/v1/clients/nobody/limits").want(t, http.StatusOK, `{"client":"nobody","as_of":`+asOf+`,"complete":true,"limits":[]}`)
	require.Empty(t, n.lookedUp)

	n.running[0].unknown = true
	r := n.get(t, "/v1/clients/nobody/usage")
	r.refused(t, http.StatusServiceUnavailable, "incomplete")
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	require.Equal(t, []string{"0 nobody"}, n.lookedUp)
	// Without a contract there is no limit, whatever history says.
	n.get(t, "/v1/clients/nobody/limits").want(t, http.StatusOK, `{"client":"nobody","as_of":`+asOf+`,"complete":true,"limits":[]}`)
}

func TestPendingUsageIsMarked(t *testing.T) {
	t.Parallel()

	tests := map[string]func(*aggregate.View){
		"a seed is pending":      func(v *aggregate.View) { v.Complete, v.Counters[0].Seed.State = false, aggregate.SeedPending },
		"history was not asked":  func(v *aggregate.View) { v.Known = false },
		"a seed failed so far":   func(v *aggregate.View) { v.Complete, v.Counters[0].Seed.State = false, aggregate.SeedFailed },
		"a limit's seed, pends":  func(v *aggregate.View) { v.Complete, v.Limits[0].Seed.State = false, aggregate.SeedPending },
		"neither, nor the other": func(v *aggregate.View) { v.Complete, v.Known = false, false },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := withAcme(t)
			view := acme(t)
			change(&view)
			n.running[3].views["acme"] = view
			serve(t, n, nil)

			for _, what := range []string{"usage", "limits"} {
				r := n.get(t, "/v1/clients/acme/"+what)
				require.Equal(t, http.StatusOK, r.StatusCode)
				require.Contains(t, r.body, `"complete":false`)
			}
		})
	}
}

func TestIDsArePercentDecodedOnce(t *testing.T) {
	t.Parallel()

	tests := map[string]struct{ path, client string }{
		"a slash":                 {path: "a%2Fb", client: "a/b"},
		"a small slash":           {path: "a%2fb", client: "a/b"},
		"only a slash":            {path: "%2F", client: "/"},
		"dots":                    {path: "%2E%2E", client: ".."},
		"dots as they are":        {path: "..", client: ".."},
		"a percent":               {path: "100%25", client: "100%"},
		"an escape, escaped":      {path: "a%252Fb", client: "a%2Fb"},
		"an escape and a slash":   {path: "a%2Fb%2525", client: "a/b%25"},
		"a space":                 {path: "a%20b", client: "a b"},
		"a plus is a plus":        {path: "a+b", client: "a+b"},
		"a question mark":         {path: "a%3Fmeter=b", client: "a?meter=b"},
		"a colon and an at":       {path: "urn:a@b", client: "urn:a@b"},
		"what JSON must escape":   {path: "%22%5C%0A", client: "\"\\\n"},
		"what HTML must":          {path: "%3Cb%3E&", client: "<b>&"},
		"letters beyond ASCII":    {path: "%C3%BCber", client: "über"},
		"as long as they may be":  {path: strings.Repeat("x", 256), client: strings.Repeat("x", 256)},
		"as long, and all quoted": {path: strings.Repeat("%2F", 256), client: strings.Repeat("/", 256)},
	}
	n := newNode()
	n.clients = map[string]int32{}
	n.running[1] = &reader{}
	for _, tt := range tests {
		n.clients[tt.client] = 1
	}
	n.running[0], n.running[1].views = nil, map[string]aggregate.View{}
	for _, tt := range tests {
		n.running[1].views[tt.client] = aggregate.View{Client: tt.client, Complete: true, Known: true}
	}
	serve(t, n, nil)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := n.get(t, "/v1/clients/"+tt.path+"/limits")
			require.Equal(t, http.StatusOK, r.StatusCode, r.body)
			var a struct{ Client string }
			decode(t, r, &a)
			require.Equal(t, tt.client, a.Client)
		})
	}
}

func TestPartitionIsAway(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	delete(n.running, 3)
	serve(t, n, nil)

	r := n.get(t, "/v1/clients/acme/usage")
	r.refused(t, http.StatusServiceUnavailable, "not-ready")
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	n.get(t, "/v1/clients/acme/limits").refused(t, http.StatusServiceUnavailable, "not-ready")
}

func TestPartitionThatLeavesWhileItIsRead(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	n.gone[3] = 2 // it is there to be looked at, and away when the answer is to go out
	serve(t, n, nil)

	n.get(t, "/v1/clients/acme/usage").refused(t, http.StatusServiceUnavailable, "not-ready")
}

func TestTimeOfTheAnswerIsInUTC(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	view := acme(t)
	view.AsOf.At = usage.TimeOf(time.Date(2026, 11, 1, 0, 0, 0, 0, time.FixedZone("", 3600)))
	n.running[3].views["acme"] = view
	serve(t, n, nil)

	require.Contains(t, n.get(t, "/v1/clients/acme/usage").body, `"time":"2026-10-31T23:00:00Z"`)
}
