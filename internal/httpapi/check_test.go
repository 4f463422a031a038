package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return data
}

func (n *node) check(t *testing.T, body string) response {
	t.Helper()
	return n.sendBody(t, http.MethodPost, "/v1/check", body, "Content-Type", "application/json")
}

// decision is an answer of /v1/check.
type decision struct {
	Allowed bool
	Limits  []decided
}

type decided struct {
	Contract         string
	LimitID          string `json:"limit_id"`
	Dimensions       map[string]string
	Limit, Usage     string
	Remaining        string
	Enforcement      string
	Allowed, Blocked bool
	NextReset        *string `json:"next_reset"`
}

// ids returns contract/limit of all limits.
func (d *decision) ids() string {
	var list []string
	for _, l := range d.Limits {
		list = append(list, l.Contract+"/"+l.LimitID)
	}
	return strings.Join(list, " ")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	serve(t, n, nil)

	n.check(t, `{"client":"acme","meter":"bytes_out","quantity":"1"}`).want(t, http.StatusOK, `{
		"allowed": false,
		"as_of": {"topic": "usage", "partition": 3, "offset": 1234568, "time": "2026-11-22T05:00:00.131Z", "lag_records": 12},
		"limits": [{"contract": "acme-2026", "limit_id": "traffic", "dimensions": {}, "enforcement": "hard", "limit": "1000000",
			"usage": "1000003", "remaining": "0", "allowed": false, "blocked": true, "next_reset": "2026-11-30T23:00:00Z"}]
	}`)
	// A soft limit tells, and never denies.
	n.check(t, `{"client":"acme","meter":"gb_hours","quantity":"100.000001","dimensions":{}}`).want(t, http.StatusOK, `{
		"allowed": true,
		"as_of": {"topic": "usage", "partition": 3, "offset": 1234568, "time": "2026-11-22T05:00:00.131Z", "lag_records": 12},
		"limits": [{"contract": "acme-2026", "limit_id": "store", "dimensions": {}, "enforcement": "soft", "limit": "1.5",
			"usage": "0.5", "remaining": "1", "allowed": true, "blocked": false, "next_reset": null}]
	}`)
	require.Contains(t, n.check(t, `{"client":"acme","meter":"api_calls"}`).body, `"allowed":true,`)
	require.Contains(t, n.check(t, `{"client":"acme","meter":"api_calls"}`).body, `"limits":[]`)
	require.Equal(t, aggregate.Selection{Meter: "bytes_out"}, n.running[3].selected[0])
}

func TestCheckBadRequests(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	serve(t, n, nil)

	tests := map[string]struct{ body, detail string }{
		"nothing":                       {``, "ends too early"},
		"not JSON":                      {`{"client":`, "ends too early"},
		"not an object":                 {`["acme"]`, "wrong type"},
		"two objects":                   {`{"client":"acme","meter":"bytes_out"}{}`, "something follows"},
		"not UTF-8":                     {"{\"client\":\"\xff\",\"meter\":\"bytes_out\"}", "UTF-8"},
		"an unknown key":                {`{"client":"acme","meter":"bytes_out","amount":"1"}`, `unknown field "amount"`},
		"no client":                     {`{"meter":"bytes_out"}`, "client"},
		"a client of the wrong type":    {`{"client":7,"meter":"bytes_out"}`, "client has the wrong type"},
		"a client that can be none":     {`{"client":"` + strings.Repeat("x", 257) + `","meter":"bytes_out"}`, "256"},
		"no meter":                      {`{"client":"acme"}`, "meter: is missing"},
		"an unknown meter":              {`{"client":"acme","meter":"none"}`, `"none" is not configured`},
		"a negative quantity":           {`{"client":"acme","meter":"bytes_out","quantity":"-1"}`, "negative"},
		"a negative number":             {`{"client":"acme","meter":"bytes_out","quantity":-1}`, "negative"},
		"a quantity that is none":       {`{"client":"acme","meter":"bytes_out","quantity":"many"}`, "not a decimal"},
		"an empty quantity":             {`{"client":"acme","meter":"bytes_out","quantity":""}`, "not a decimal"},
		"a quantity with an exponent":   {`{"client":"acme","meter":"bytes_out","quantity":"1e3"}`, "not a decimal"},
		"a quantity that is an object":  {`{"client":"acme","meter":"bytes_out","quantity":{}}`, "not a decimal"},
		"a quantity finer than a meter": {`{"client":"acme","meter":"bytes_out","quantity":"0.5"}`, "does not fit 0 decimals"},
		"finer than the finest":         {`{"client":"acme","meter":"gb_hours","quantity":"0.0000005"}`, "does not fit 6 decimals"},
		"a quantity beyond all range":   {`{"client":"acme","meter":"bytes_out","quantity":"9223372036854775808"}`, "does not fit"},
		"an unknown dimension":          {`{"client":"acme","meter":"searches","dimensions":{"endpont":"/a"}}`, `"endpont" is not a dimension of meter "searches"`},
		"a dimension of the wrong type": {`{"client":"acme","meter":"searches","dimensions":{"endpoint":7}}`, "wrong type"},
		"a value that is too long":      {`{"client":"acme","meter":"searches","dimensions":{"endpoint":"` + strings.Repeat("x", 257) + `"}}`, "256"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, n.check(t, tt.body).refused(t, http.StatusBadRequest, "bad-request"), tt.detail)
		})
	}
	n.sendBody(t, http.MethodPost, "/v1/check?x", `{}`).refused(t, http.StatusBadRequest, "bad-request")
	n.sendBody(t, http.MethodPost, "/v1/check", `<x/>`, "Content-Type", "text/xml").refused(t, http.StatusBadRequest, "bad-request")
	require.Empty(t, n.running[3].selected)

	for _, quantity := range []string{`"3"`, `3`, `"3.0"`, `null`, `0`, `3e0`} {
		require.Equal(t, http.StatusOK, n.check(t, `{"client":"acme","meter":"bytes_out","quantity":`+quantity+`}`).StatusCode, quantity)
	}
}

// shopper is a client with limits on everything, and on what it searches.
func shopper(t *testing.T) (n *node, view *aggregate.View) {
	t.Helper()
	n = newNode()
	put := func(id, value string, revision int64) {
		require.NoError(t, n.table.Apply([]byte(id), []byte(value), revision))
	}
	contract := func(id, starts string) string {
		return `{"id":"` + id + `","client":"shop","starts_at":"` + starts + `","limits":[]}`
	}
	put("a", contract("a", "2026-01-01T00:00:00Z"), 1)
	put("b", contract("b", "2026-01-01T00:00:00Z"), 2)
	put("future", contract("future", "2026-12-01T00:00:00Z"), 3)
	limit := func(contract, id string, value usage.Quantity, where map[string]string, per ...string) *contracts.Limit {
		e, ok := n.table.Entry(contract)
		require.True(t, ok)
		l := contracts.Limit{
			ID: id, Meter: 3, MeterName: "searches", Value: value, Enforcement: contracts.Hard, Where: where, Per: per,
			Schedule: n.catalog.Schedule, Thresholds: []contracts.Threshold{{Label: "100%", Value: value}},
		}
		e.Contract.Limits = append(e.Contract.Limits, l)
		return &l
	}
	contractOf := func(id string) *contracts.Contract {
		e, ok := n.table.Entry(id)
		require.True(t, ok)
		return e.Contract
	}
	all := limit("b", "all", 100, nil)
	eu := limit("b", "eu", 50, map[string]string{"region": "eu"})
	each := limit("a", "each", 10, nil, "endpoint")
	later := limit("future", "later", 1, nil)
	laterEach := limit("future", "later-each", 1, nil, "region")
	view = &aggregate.View{
		Client: "shop", Complete: true, Known: true,
		AsOf: aggregate.Committed{Position: 5, Time: at(t, "2026-11-22T05:00:00Z"), At: at(t, "2026-11-22T05:00:00Z")},
	}
	add := func(contract string, l *contracts.Limit, total usage.Quantity, per map[string]string) {
		view.Limits = append(view.Limits, aggregate.LimitView{
			Contract: contractOf(contract), Limit: l, Dimensions: per, Period: november(t), Total: total, Seed: aggregate.Seed{State: aggregate.SeedNone},
		})
	}
	add("b", all, 99, nil)
	add("b", eu, 50, nil)
	add("a", each, 10, map[string]string{"endpoint": "/full"})
	add("a", each, 3, map[string]string{"endpoint": ""})
	add("future", later, 5, nil)
	add("future", laterEach, 5, map[string]string{"region": "eu"})
	n.running[0].views = map[string]aggregate.View{"shop": *view}
	return n, view
}

func TestCheckWhichLimitsApply(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		body    string
		allowed bool
		ids     string
		denied  string
	}{
		"the total and the empty value": {`"quantity":"1"`, true, "a/each b/all", ""},
		"a quantity by default":         {`"dimensions":null`, true, "a/each b/all", ""},
		"one too many for the total":    {`"quantity":"2"`, false, "a/each b/all", "b/all"},
		"a value that has used all":     {`"dimensions":{"endpoint":"/full"}`, false, "a/each b/all", "a/each"},
		"a value that was never seen":   {`"dimensions":{"endpoint":"/new"}`, true, "a/each b/all", ""},
		"a value that where names":      {`"dimensions":{"region":"eu"}`, false, "a/each b/all b/eu", "b/eu"},
		"a value that where does not":   {`"dimensions":{"region":"us"}`, true, "a/each b/all", ""},
		"nothing is always allowed":     {`"quantity":"0","dimensions":{"region":"us","endpoint":"/full"}`, true, "a/each b/all", ""},
		"too many for a value":          {`"quantity":11,"dimensions":{"endpoint":"/new"}`, false, "a/each b/all", "a/each b/all"},
		"all of them at once":           {`"quantity":"8","dimensions":{"region":"eu"}`, false, "a/each b/all b/eu", "a/each b/all b/eu"},
	}
	n, _ := shopper(t)
	serve(t, n, nil)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var d decision
			decode(t, n.check(t, `{"client":"shop","meter":"searches",`+tt.body+`}`), &d)
			require.Equal(t, tt.ids, d.ids())
			require.Equal(t, tt.allowed, d.Allowed)
			var denied []string
			for _, l := range d.Limits {
				if !l.Allowed {
					denied = append(denied, l.Contract+"/"+l.LimitID)
				}
			}
			require.Equal(t, tt.denied, strings.Join(denied, " "))
		})
	}

	var d decision
	decode(t, n.check(t, `{"client":"shop","meter":"searches","dimensions":{"endpoint":"/new"}}`), &d)
	reset := "2026-12-01T00:00:00Z"
	require.Equal(t, decided{
		Contract: "a", LimitID: "each", Dimensions: map[string]string{"endpoint": "/new"}, Limit: "10", Usage: "0", Remaining: "10",
		Enforcement: "hard", Allowed: true, NextReset: &reset,
	}, d.Limits[0])
}

// TestCheckWhenContractsCover looks at the partition's time, and at the clock
// where nothing was read yet.
func TestCheckWhenContractsCover(t *testing.T) {
	t.Parallel()
	n, view := shopper(t)
	serve(t, n, nil)
	ids := func() string {
		n.running[0].mu.Lock()
		n.running[0].views["shop"] = *view
		n.running[0].mu.Unlock()
		var d decision
		decode(t, n.check(t, `{"client":"shop","meter":"searches","dimensions":{"region":"us"}}`), &d)
		return d.ids()
	}

	view.AsOf.Time = at(t, "2026-12-01T00:00:00Z")
	require.Equal(t, "a/each b/all future/later future/later-each", ids())
	view.AsOf.Time = usage.MinTime
	require.Equal(t, "a/each b/all", ids())
	for i := range view.Limits {
		view.Limits[i].Ended = view.Limits[i].Contract.ID == "b"
	}
	require.Equal(t, "a/each", ids())
}

func TestCheckIsRefusedWhileIncomplete(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change   func(*aggregate.View)
		endpoint string
		refused  bool
	}{
		"a limit's seed is pending":     {func(v *aggregate.View) { v.Limits[0].Seed.State = aggregate.SeedPending }, "", true},
		"a limit's seed failed so far":  {func(v *aggregate.View) { v.Limits[0].Seed.State = aggregate.SeedFailed }, "", true},
		"that of a limit it is not for": {func(v *aggregate.View) { v.Limits[1].Seed.State = aggregate.SeedPending }, "", false},
		"history was not asked":         {func(v *aggregate.View) { v.Known = false }, "", true},
		"a seed that is bounded":        {func(v *aggregate.View) { v.Limits[0].Seed.State = aggregate.SeedBounded }, "", false},
		"a new value of a pending sum":  {func(v *aggregate.View) { v.Complete = false }, "/new", true},
		"a known value meanwhile":       {func(v *aggregate.View) { v.Complete = false }, "/full", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, view := shopper(t)
			tt.change(view)
			n.running[0].views["shop"] = *view
			serve(t, n, nil)

			r := n.check(t, `{"client":"shop","meter":"searches","dimensions":{"endpoint":"`+tt.endpoint+`"}}`)
			if !tt.refused {
				require.Equal(t, http.StatusOK, r.StatusCode, r.body)
				return
			}
			r.refused(t, http.StatusServiceUnavailable, "incomplete")
			require.Equal(t, "1", r.Header.Get("Retry-After"))
		})
	}
}

// TestCheckWithoutLimits is allowed whatever history says.
func TestCheckWithoutLimits(t *testing.T) {
	t.Parallel()
	n := newNode()
	n.running[0].unknown = true
	serve(t, n, nil)

	var d decision
	decode(t, n.check(t, `{"client":"nobody","meter":"bytes_out","quantity":"9223372036854775807"}`), &d)
	require.Equal(t, decision{Allowed: true, Limits: []decided{}}, d)
	require.Equal(t, []string{"0 nobody"}, n.lookedUp)
}

func TestCheckIsForwarded(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)

	for _, n := range []*node{one, two} {
		var d decision
		decode(t, n.check(t, `{"client":"zoe","meter":"bytes_out","quantity":"1"}`), &d)
		require.False(t, d.Allowed)
		require.Equal(t, "acme-2026/traffic", d.ids())
	}
	two.set(func() { two.running = nil })
	r := one.check(t, `{"client":"zoe","meter":"bytes_out"}`)
	r.refused(t, http.StatusServiceUnavailable, "not-ready")
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	// What is wrong with a request is told at once.
	one.check(t, `{"client":"zoe","meter":"none"}`).refused(t, http.StatusBadRequest, "bad-request")
}
