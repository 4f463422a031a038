package httpapi

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// routesOf walks over the routes of a server that has tokens and nothing else.
func routesOf(t *testing.T) (*chi.Mux, []string) {
	t.Helper()
	now := func() time.Time { return time.Unix(0, 0) }
	s := &Server{log: zap.NewNop(), metrics: newMetrics(prometheus.NewRegistry(), newStreams(0)), peers: &peers{}}
	s.parts.Now, s.parts.Checks = now, func() []Check { return nil }
	var err error
	s.tokens, err = newReloaded(func() (tokens, error) { return tokens{{sum: [32]byte{1}, granted: grant{admin: true}}}, nil }, now, nil)
	require.NoError(t, err)
	router := s.router(prometheus.NewRegistry())
	var routes []string
	require.NoError(t, chi.Walk(router, func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routes = append(routes, method+" "+pattern)
		return nil
	}))
	require.NotEmpty(t, routes)
	return router, routes
}

// TestEveryRouteWantsAToken but the probes. What is not a route wants one too.
func TestEveryRouteWantsAToken(t *testing.T) {
	t.Parallel()
	router, routes := routesOf(t)

	parameter := regexp.MustCompile(`\{[a-z]+\}`)
	for _, route := range append(routes, "GET /nothing", "POST /v1/clients", "GET /livez/", "GET /readyz/x", "HEAD /metrics") {
		method, pattern, _ := strings.Cut(route, " ")
		for _, header := range []string{"", "Bearer wrong", "Basic d3Jvbmc6d3Jvbmc=", "Bearer"} {
			r := httptest.NewRequest(method, parameter.ReplaceAllString(pattern, "acme"), nil)
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			w := httptest.NewRecorder()
			router.ServeHTTP(w, r)
			if pattern == pathLivez || pattern == pathReadyz {
				require.Equal(t, http.StatusOK, w.Code, route)
				continue
			}
			require.Equal(t, http.StatusUnauthorized, w.Code, route)
			require.Contains(t, w.Header().Get("WWW-Authenticate"), `Bearer realm="meterd"`)
			require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			require.Contains(t, w.Body.String(), "/problems/unauthorized")
			require.NotContains(t, w.Body.String(), "wrong")
		}
	}
}

// TestOpenAPIDescribesAllRoutes and no others.
func TestOpenAPIDescribesAllRoutes(t *testing.T) {
	t.Parallel()
	_, routes := routesOf(t)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Responses   map[string]any
			Parameters  []struct {
				Ref  string `json:"$ref"`
				Name string
				In   string
			}
		}
	}
	require.NoError(t, json.Unmarshal(openAPI, &doc))
	require.Equal(t, "3.1.0", doc.OpenAPI)

	var described []string
	ids := map[string]bool{}
	for pattern, operations := range doc.Paths {
		for method, operation := range operations {
			described = append(described, strings.ToUpper(method)+" "+pattern)
			require.False(t, ids[operation.OperationID], operation.OperationID)
			ids[operation.OperationID] = true
			require.Contains(t, operation.Responses, "200")
			for _, name := range regexp.MustCompile(`\{[a-z]+\}`).FindAllString(pattern, -1) {
				require.NotEmpty(t, operation.Parameters, "%s of %s", name, pattern)
			}
		}
	}
	slices.Sort(routes)
	slices.Sort(described)
	require.Equal(t, routes, described)
}

// TestOpenAPIHasNoLooseEnds follows each reference, and finds nothing that
// none leads to.
func TestOpenAPIHasNoLooseEnds(t *testing.T) {
	t.Parallel()
	var doc map[string]any
	require.NoError(t, json.Unmarshal(openAPI, &doc))
	parts := map[string]bool{}
	for kind, list := range doc["components"].(map[string]any) {
		for name := range list.(map[string]any) {
			parts["#/components/"+kind+"/"+name] = true
		}
	}
	delete(parts, "#/components/securitySchemes/bearer")
	referred := map[string]bool{}
	var follow func(any)
	follow = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				if ref, ok := value.(string); ok && key == "$ref" {
					referred[ref] = true
				}
				follow(value)
			}
		case []any:
			for _, value := range v {
				follow(value)
			}
		}
	}
	follow(doc)
	require.Equal(t, slices.Sorted(maps.Keys(parts)), slices.Sorted(maps.Keys(referred)))
}

// TestOpenAPIKnowsEveryProblem that there is.
func TestOpenAPIKnowsEveryProblem(t *testing.T) {
	t.Parallel()
	var doc struct {
		Components struct {
			Schemas struct {
				Problem struct {
					Properties struct {
						Type struct{ Enum []string }
					}
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(openAPI, &doc))
	for _, kind := range kinds {
		require.Contains(t, doc.Components.Schemas.Problem.Properties.Type.Enum, "/problems/"+kind.name)
	}
}

func TestOpenAPIIsServed(t *testing.T) {
	t.Parallel()
	s := &Server{log: zap.NewNop(), metrics: newMetrics(prometheus.NewRegistry(), newStreams(0)), peers: &peers{}}
	w := httptest.NewRecorder()
	s.router(prometheus.NewRegistry()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	body, err := io.ReadAll(w.Body)
	require.NoError(t, err)
	require.Equal(t, string(openAPI), string(body))
}
