package httpapi_test

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/httpapi"
)

const tokensOfAllKinds = `
# name       scopes
all
boss         admin
viewer       read
gateway      check
acme         client=acme
zoe          client=zoe
both         client=acme client=zoe
odd          client=a%20b/%C3%BC
`

// TestScopes walks over every route that is described with every kind of
// credential.
func TestScopes(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	tells(t, n, nil)
	n.set(func() { n.judges = 9 })
	serve(t, n, func(c *httpapi.Config) { c.TokensFile = file(t, tokensOfAllKinds) })

	everybody := []string{"all", "boss", "viewer", "gateway", "acme", "zoe", "both", "odd"}
	seers := []string{"all", "boss", "viewer"}
	ofAcme := append([]string{"acme", "both"}, seers...)
	admins := []string{"all", "boss"}
	allowed := map[string][]string{
		"GET /v1/clients":                  seers,
		"GET /v1/clients/{client}/usage":   ofAcme,
		"GET /v1/clients/{client}/limits":  ofAcme,
		"GET /v1/clients/{client}/explain": ofAcme,
		"GET /v1/limit-events":             ofAcme,
		"GET /v1/overview":                 seers,
		"GET /v1/overview/stream":          seers,
		"POST /v1/check":                   append([]string{"gateway"}, ofAcme...),
		"GET /v1/contracts":                ofAcme,
		"GET /v1/contracts/{id}":           ofAcme,
		"PUT /v1/contracts/{id}":           admins,
		"DELETE /v1/contracts/{id}":        admins,
		"GET /v1/assignments":              seers,
		"POST /v1/internal/handover":       admins,
		"GET /metrics":                     seers,
		"GET /openapi.json":                everybody,
		"GET /livez":                       nil,
		"GET /readyz":                      nil,
	}
	doc, _ := readDocument(t)
	revision := int64(3)
	for path, operations := range doc.Paths {
		for method := range operations {
			// the operation before may have been to delete it
			revision++
			require.NoError(t, n.table.Apply([]byte("c"), []byte(`{"id":"c","client":"acme","starts_at":"2026-01-01T00:00:00Z"}`), revision))
			method = strings.ToUpper(method)
			kinds, ok := allowed[method+" "+path]
			require.True(t, ok, "%s %s is not in this test", method, path)
			target, body := strings.NewReplacer("{client}", "acme", "{id}", "c").Replace(path), ""
			switch path {
			case "/v1/limit-events", "/v1/contracts":
				target += "?client=acme"
			case "/v1/check":
				body = `{"client":"acme","meter":"api_calls"}`
			}
			ask := func(authorization ...string) response {
				asked := method
				if strings.Contains(path, "stream") || path == "/v1/limit-events" {
					asked = http.MethodHead // else it does not end
				}
				return n.sendBody(t, asked, target, body, authorization...)
			}
			if kinds == nil {
				require.Equal(t, http.StatusOK, ask().StatusCode, target)
				continue
			}
			for _, wrong := range [][]string{
				nil,
				{"Authorization", "Bearer nobody"},
				{"Authorization", "Bearer"},
				{"Authorization", "Basic Ym9zczo="},
				{"Authorization", "Bearer boss admin"},
				{"Authorization", "Bearer client=acme"},
				{"Authorization", "Bearer admin"},
			} {
				require.Equal(t, http.StatusUnauthorized, ask(wrong...).StatusCode, "%s %s with %s", method, target, wrong)
			}
			for _, token := range everybody {
				status := ask("Authorization", "Bearer "+token).StatusCode
				require.NotEqual(t, http.StatusUnauthorized, status)
				require.Equal(t, !slices.Contains(kinds, token), status == http.StatusForbidden, "%s %s with %s: %d", method, target, token, status)
			}
		}
	}
	n.get(t, "/nothing", "Authorization", "Bearer acme").refused(t, http.StatusNotFound, "not-found")
	n.get(t, "/v1/clients", "Authorization", "Bearer acme").refused(t, http.StatusForbidden, "forbidden")
	require.Equal(t, http.StatusOK, n.get(t, "/v1/clients/a%20b%2F%C3%BC/usage", "Authorization", "Bearer odd").StatusCode)
	require.Equal(t, http.StatusForbidden, n.get(t, "/v1/clients/acme%2Fusage/usage", "Authorization", "Bearer acme").StatusCode)
}

// TestClientsSeeThemselvesAlone where a route is about all clients.
func TestClientsSeeThemselvesAlone(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	topic := tells(t, n, nil)
	for i, client := range []string{"acme", "zoe"} {
		value := `{"id":"of-` + client + `","client":"` + client + `","starts_at":"2026-01-01T00:00:00Z"}`
		require.NoError(t, n.table.Apply([]byte("of-"+client), []byte(value), int64(i)))
		topic.tell(0, &alerts.Event{Kind: alerts.Crossed, Client: client})
	}
	n.set(func() { n.judges = 9 })
	serve(t, n, func(c *httpapi.Config) { c.TokensFile = file(t, tokensOfAllKinds) })
	zoe := []string{"Authorization", "Bearer zoe"}

	list := n.get(t, "/v1/contracts", zoe...)
	require.Contains(t, list.body, "of-zoe")
	require.NotContains(t, list.body, "acme")
	n.get(t, "/v1/contracts?client=acme", zoe...).refused(t, http.StatusForbidden, "forbidden")
	require.Equal(t, http.StatusOK, n.get(t, "/v1/contracts/of-zoe", zoe...).StatusCode)
	// Whether there are others is nothing to know.
	others := n.get(t, "/v1/contracts/of-acme", zoe...).refused(t, http.StatusForbidden, "forbidden")
	require.Equal(t, others, n.get(t, "/v1/contracts/none", zoe...).refused(t, http.StatusForbidden, "forbidden"))

	require.Contains(t, n.follow(t, "/v1/limit-events?last_event_id=earliest", zoe...).next(t).data, "zoe")
	n.get(t, "/v1/limit-events?client=acme", zoe...).refused(t, http.StatusForbidden, "forbidden")
	n.get(t, "/v1/limit-events", "Authorization", "Bearer both").refused(t, http.StatusForbidden, "forbidden") // which one is not said
	n.sendBody(t, http.MethodPost, "/v1/check", `{"client":"acme","meter":"api_calls"}`, zoe...).refused(t, http.StatusForbidden, "forbidden")
}

// TestScopesAreReadAgain with the file: whoever lost one is refused.
func TestScopesAreReadAgain(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	name := file(t, "a read\n")
	serve(t, n, func(c *httpapi.Config) { c.TokensFile = name })
	status := func() int { return n.get(t, "/v1/clients/acme/usage", "Authorization", "Bearer a").StatusCode }
	require.Equal(t, http.StatusOK, status())
	for content, want := range map[string]int{"a client=zoe": http.StatusForbidden, "a client=acme": http.StatusOK, "b": http.StatusUnauthorized} {
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
		n.set(func() { n.now = n.now.Add(3 * time.Second) })
		require.Equal(t, want, status(), content)
	}
}

// TestScopesOnOtherInstances: the owner looks at the token as well.
func TestScopesOnOtherInstances(t *testing.T) {
	t.Parallel()
	name := file(t, "x client=zoe\ny client=acme\nz\n")
	one, _ := pair(t, func(c *httpapi.Config) { c.TokensFile = name })
	require.Equal(t, http.StatusOK, one.get(t, "/v1/clients/zoe/usage", "Authorization", "Bearer x").StatusCode)
	one.get(t, "/v1/clients/zoe/usage", "Authorization", "Bearer y").refused(t, http.StatusForbidden, "forbidden")
	one.get(t, "/v1/clients/zoe/usage", "Authorization", "Bearer y", "Meterd-Forwarded", "two").refused(t, http.StatusForbidden, "forbidden")
}
