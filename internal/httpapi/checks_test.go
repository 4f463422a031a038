package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/internal/usage"
)

// checks is a batch of uses.
func checks(uses ...string) string { return `{"checks":[` + strings.Join(uses, ",") + `]}` }

const (
	ofZoe   = `{"client":"zoe","meter":"bytes_out","quantity":"1"}`
	ofHours = `{"client":"zoe","meter":"gb_hours","quantity":"0.5"}`
	ofA     = `{"client":"a","meter":"bytes_out"}`
)

// known makes all clients of both instances known.
func known(t *testing.T) (one, two *node) {
	t.Helper()
	one, two = pair(t, nil)
	for _, n := range []*node{one, two} {
		for _, r := range n.running {
			r.unknown = false
			for name, v := range r.views {
				v.Client, v.Known, v.Complete = name, true, true
				v.AsOf.Time = at(t, "2026-11-22T05:00:00Z")
				r.views[name] = v
			}
		}
	}
	return one, two
}

func TestCheckOfManyUses(t *testing.T) {
	t.Parallel()
	one, two := known(t)
	var want string
	for _, n := range []*node{one, two} {
		r := n.sendBody(t, http.MethodPost, "/v1/check", checks(ofA, ofZoe, ofHours, ofZoe))
		require.Equal(t, http.StatusOK, r.StatusCode, r.body)
		require.Empty(t, r.Header.Get("Retry-After"))
		var a struct {
			Allowed bool
			Results []struct {
				Allowed bool
				Limits  []struct {
					LimitID   string      `json:"limit_id"`
					NextReset *usage.Time `json:"next_reset"`
				}
			}
		}
		decode(t, r, &a)
		require.False(t, a.Allowed)
		require.Len(t, a.Results, 4)
		require.True(t, a.Results[0].Allowed)
		require.Empty(t, a.Results[0].Limits)
		require.False(t, a.Results[1].Allowed)
		require.Equal(t, "traffic", a.Results[1].Limits[0].LimitID)
		require.True(t, a.Results[2].Allowed)
		require.Nil(t, a.Results[2].Limits[0].NextReset, "the lifetime has no end, on any instance")
		require.Equal(t, a.Results[1], a.Results[3])
		if want == "" {
			want = r.body
		}
		require.Equal(t, want, r.body)
	}
	require.True(t, strings.HasPrefix(one.sendBody(t, http.MethodPost, "/v1/check", checks(ofA, ofHours)).body, `{"allowed":true`))
}

func TestCheckOfManyUsesIsAllOrNone(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change func(one, two *node)
		status int
		kind   string
	}{
		"the other does not run it": {func(_, two *node) { two.set(func() { two.running = nil }) }, http.StatusServiceUnavailable, "not-ready"},
		"the other is away":         {func(one, _ *node) { one.instances[0].Address = "127.0.0.1:1" }, http.StatusServiceUnavailable, "not-ready"},
		"nobody has it":             {func(one, _ *node) { one.instances = one.instances[1:] }, http.StatusServiceUnavailable, "not-ready"},
		"it is handed over":         {func(one, _ *node) { one.gone[0] = 2 }, http.StatusServiceUnavailable, "not-ready"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := known(t)
			tt.change(one, two)
			one.sendBody(t, http.MethodPost, "/v1/check", checks(ofA, ofZoe)).refused(t, tt.status, tt.kind)
		})
	}
}

func TestBadChecks(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	serve(t, n, nil)

	many := make([]string, 101)
	for i := range many {
		many[i] = ofA
	}
	tests := map[string]struct{ body, says string }{
		"none":                {checks(), "1 to 100"},
		"too many":            {checks(many...), "1 to 100"},
		"not a list":          {`{"checks":{}}`, "checks"},
		"something beside it": {`{"checks":[],"client":"acme"}`, "nothing"},
		"one that is bad":     {checks(ofA, `{"client":"a","meter":"none"}`), "checks[1]: meter"},
		"one with other keys": {checks(`{"client":"a","meter":"bytes_out","x":1}`), "checks[0]"},
		"one of nobody":       {checks(`{"meter":"bytes_out"}`), "checks[0]: client"},
		"null":                {checks("null"), "checks[0]"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, n.sendBody(t, http.MethodPost, "/v1/check", tt.body).refused(t, http.StatusBadRequest, "bad-request"), tt.says)
		})
	}
}

// TestCheckSaysWhenToComeAgain: when all limits that leave no room begin anew.
func TestCheckSaysWhenToComeAgain(t *testing.T) {
	t.Parallel()
	one, two := known(t)
	for _, n := range []*node{one, two} {
		r := n.sendBody(t, http.MethodPost, "/v1/check", ofZoe)
		require.Contains(t, r.body, `"allowed":false`)
		until := time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC).Sub(n.now).Seconds()
		require.Equal(t, fmt.Sprint(int64(until)), r.Header.Get("Retry-After"))
		require.Empty(t, n.sendBody(t, http.MethodPost, "/v1/check", ofHours).Header.Get("Retry-After"))
	}
}

// TestCheckForOtherProtocols is what those are answered by.
func TestCheckForOtherProtocols(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	s := serve(t, n, func(c *httpapi.Config) { c.TokensFile = file(t, "a check\nb client=zoe\n") })
	use := func(client, meter, quantity string) []httpapi.Use {
		return []httpapi.Use{{Client: client, Meter: meter, Quantity: quantity}}
	}

	decisions, err := s.Check(t.Context(), "Bearer a", append(use("acme", "bytes_out", "5"), use("acme", "api_calls", "1")...))
	require.NoError(t, err)
	require.Len(t, decisions, 2)
	require.False(t, decisions[0].Allowed)
	require.Equal(t, "traffic", decisions[0].Limits[0].LimitID)
	require.Equal(t, "0", decisions[0].Limits[0].Remaining)
	require.Equal(t, httpapi.Decision{Allowed: true}, decisions[1])

	for _, tt := range []struct {
		authorization string
		uses          []httpapi.Use
		status        int
	}{
		{"", use("acme", "bytes_out", "5"), http.StatusUnauthorized},
		{"Bearer c", use("acme", "bytes_out", "5"), http.StatusUnauthorized},
		{"Bearer b", use("acme", "bytes_out", "5"), http.StatusForbidden},
		{"Bearer a", use("", "bytes_out", "5"), http.StatusBadRequest},
		{"Bearer a", use(strings.Repeat("x", 257), "bytes_out", "5"), http.StatusBadRequest},
		{"Bearer a", use("acme", "none", "5"), http.StatusBadRequest},
		{"Bearer a", use("acme", "bytes_out", "-1"), http.StatusBadRequest},
	} {
		_, err := s.Check(t.Context(), tt.authorization, tt.uses)
		status, detail := httpapi.StatusOf(err)
		require.Equal(t, tt.status, status, detail)
	}
}
