package httpapi_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/meterd/meterd/internal/httpapi"
)

func decode(t *testing.T, r response, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(r.body), v), r.body)
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	serve(t, n, nil)

	tests := map[string]struct{ path, detail string }{
		"an id that is too long":          {"/v1/clients/" + strings.Repeat("x", 257) + "/usage", "256"},
		"an id that is not UTF-8":         {"/v1/clients/%FF/limits", "UTF-8"},
		"an id that is empty":             {"/v1/clients//usage", "empty"},
		"a contract id that is too long":  {"/v1/contracts/" + strings.Repeat("x", 257), "256"},
		"a contract id that is not UTF-8": {"/v1/contracts/%C3%28", "UTF-8"},
		"an unknown parameter":            {"/v1/clients/acme/usage?metre=a", "meter, period, dimensions, and"},
		"one where there are none":        {"/v1/clients/acme/limits?meter=a", "no query parameters"},
		"a dimension without a value":     {"/v1/clients/acme/usage?dimensions=endpoint", "name:value"},
		"a dimension without a name":      {"/v1/clients/acme/usage?dimensions=:a", "name:value"},
		"a dimension twice":               {"/v1/clients/acme/usage?dimensions=a:b&dimensions=a:c", "more than once"},
		"a dimension that is not UTF-8":   {"/v1/clients/acme/usage?dimensions=a:b&dimensions=c:%FF", "UTF-8"},
		"a meter that is not configured":  {"/v1/clients/acme/explain?meter=none", "not configured"},
		"a period to explain":             {"/v1/clients/acme/explain?period=previous", "meter"},
		"one of the assignments":          {"/v1/assignments?x", "no query parameters"},
		"one of a contract":               {"/v1/contracts/a?state=active", "no query parameters"},
		"a parameter twice":               {"/v1/clients/acme/usage?meter=a&meter=b", "more than once"},
		"a parameter that is not UTF-8":   {"/v1/clients/acme/usage?meter=%FF", "UTF-8"},
		"a query that is broken":          {"/v1/clients/acme/usage?meter=%zz", "well-formed"},
		"no clients":                      {"/v1/clients?limit=0", "1 to 1000"},
		"too many clients":                {"/v1/clients?limit=1001", "1 to 1000"},
		"an empty limit":                  {"/v1/clients?limit=", "1 to 1000"},
		"a limit that is no number":       {"/v1/contracts?limit=ten", "1 to 1000"},
		"after what no id can be":         {"/v1/clients?after=" + strings.Repeat("x", 257), "after"},
		"a state that is none":            {"/v1/contracts?state=dead", "active, future, ended, rejected"},
		"a client that can be none":       {"/v1/contracts?client=" + strings.Repeat("x", 257), "client"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, n.get(t, tt.path).refused(t, http.StatusBadRequest, "bad-request"), tt.detail)
		})
	}
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	serve(t, n, nil)

	for _, path := range []string{
		"/", "/v1", "/v1/", "/v1/clients/", "/v1/clients/acme", "/v1/clients/acme/usage/", "/v1/clients/a/b/usage", "/v2/clients", "/debug/pprof/",
		"//v1/clients", "/v1/../metrics", "/%6Civez", "/v1%2Fclients",
	} {
		n.get(t, path).refused(t, http.StatusNotFound, "not-found")
		n.send(t, http.MethodPost, path).refused(t, http.StatusNotFound, "not-found")
	}
	for path, allowed := range map[string]string{
		"/v1/clients/acme/usage": "GET, HEAD", "/v1/clients": "GET, HEAD", "/metrics": "GET, HEAD", "/livez": "GET, HEAD",
		"/v1/contracts/a%2Fb": "GET, HEAD, PUT, DELETE", "/v1/check": "POST",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, http.MethodTrace, "BREW"} {
			if strings.Contains(allowed, method) {
				continue
			}
			r := n.send(t, method, path)
			r.refused(t, http.StatusMethodNotAllowed, "method-not-allowed")
			require.Equal(t, allowed, r.Header.Get("Allow"))
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	n := newNode()
	n.checks = []httpapi.Check{{Name: "group", OK: true}, {Name: "restore", OK: true, Detail: "8 partitions"}}
	serve(t, n, nil)

	n.get(t, "/readyz").want(t, http.StatusOK, `{"status":"ok"}`)
	n.get(t, "/readyz?verbose").want(t, http.StatusOK,
		`{"status":"ok","checks":[{"name":"group","ok":true,"detail":""},{"name":"restore","ok":true,"detail":"8 partitions"}]}`)

	n.set(func() { n.checks[1] = httpapi.Check{Name: "restore", Detail: "partition 3"} })
	n.get(t, "/readyz").want(t, http.StatusServiceUnavailable,
		`{"type":"/problems/not-ready","title":"Not ready","status":503,"detail":"1 of 2 checks failed"}`)
	n.get(t, "/readyz?verbose=true").want(t, http.StatusServiceUnavailable,
		`{"type":"/problems/not-ready","title":"Not ready","status":503,"detail":"1 of 2 checks failed",
		"checks":[{"name":"group","ok":true,"detail":""},{"name":"restore","ok":false,"detail":"partition 3"}]}`)
	n.get(t, "/livez").want(t, http.StatusOK, `{"status":"ok"}`)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	serve(t, n, nil)
	n.get(t, "/v1/clients/acme/usage")
	n.get(t, "/v1/clients/a%2Fb%25/usage?x")
	n.get(t, "/secret-client")
	n.send(t, http.MethodPost, "/v1/clients/acme/usage")

	r := n.get(t, "/metrics")
	require.Equal(t, http.StatusOK, r.StatusCode)
	for _, line := range []string{
		`http_request_duration_seconds_count{code="200",route="/v1/clients/{client}/usage"} 1`,
		`http_request_duration_seconds_count{code="400",route="/v1/clients/{client}/usage"} 1`,
		`http_request_duration_seconds_count{code="404",route="other"} 1`,
		`http_request_duration_seconds_count{code="405",route="other"} 1`,
	} {
		require.Contains(t, r.body, line+"\n")
	}
	require.NotContains(t, r.body, "acme")
	require.NotContains(t, r.body, "secret")
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	n := newNode()
	serve(t, n, nil)

	require.Equal(t, "abc-1", n.get(t, "/livez", "X-Request-Id", "abc-1").Header.Get("X-Request-Id"))
	first, second := n.get(t, "/livez").Header.Get("X-Request-Id"), n.get(t, "/livez").Header.Get("X-Request-Id")
	require.NotEmpty(t, first)
	require.NotEqual(t, first, second)
	for _, harmful := range []string{"a b", "a\tb", "ü", strings.Repeat("x", 129)} {
		require.NotEqual(t, harmful, n.get(t, "/livez", "X-Request-Id", harmful).Header.Get("X-Request-Id"))
	}
}

// TestCausesStayInside has a part fail in a way that nobody foresaw.
func TestCausesStayInside(t *testing.T) {
	t.Parallel()
	n := newNode()
	core, logs := observer.New(zap.DebugLevel)
	cfg := httpapi.Default()
	cfg.Listen = "127.0.0.1:0"
	parts := n.parts()
	parts.Checks = func() []httpapi.Check { panic("the password is swordfish") }
	s, err := httpapi.New(cfg, parts, zap.New(core), prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	n.url = "http://" + s.Addr().String()

	n.get(t, "/readyz").want(t, http.StatusInternalServerError, `{"type":"/problems/internal","title":"Internal error","status":500}`)
	entries := logs.FilterMessage("http request failed").All()
	require.Len(t, entries, 1)
	require.Contains(t, entries[0].ContextMap()["error"], "swordfish")
	require.Equal(t, "/readyz", entries[0].ContextMap()["route"])
	cancel()
	require.NoError(t, <-ended)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	tokens := file(t, "secret\n")

	tests := map[string]struct {
		change func(*httpapi.Config)
		want   string
	}{
		"an address without a port":         {func(c *httpapi.Config) { c.Listen = "localhost" }, "http.listen"},
		"open to all without tokens":        {func(c *httpapi.Config) { c.Listen = "0.0.0.0:0" }, "http.tokens_file"},
		"open to all, in other words":       {func(c *httpapi.Config) { c.Listen = ":0" }, "http.tokens_file"},
		"a name that may lead anywhere":     {func(c *httpapi.Config) { c.Listen = "meterd.example:0" }, "http.tokens_file"},
		"a certificate without a key":       {func(c *httpapi.Config) { c.TLS.CertFile = "x" }, "http.tls"},
		"roots without a certificate":       {func(c *httpapi.Config) { c.TLS.CAFile = "x" }, "http.tls"},
		"a certificate that is not there":   {func(c *httpapi.Config) { c.TLS.CertFile, c.TLS.KeyFile = "x", "y" }, "http.tls"},
		"no time to forward":                {func(c *httpapi.Config) { c.ForwardTimeout = 0 }, "http.forward_timeout"},
		"no time to write":                  {func(c *httpapi.Config) { c.ContractTimeout = time.Hour }, "http.contract_timeout"},
		"no connections":                    {func(c *httpapi.Config) { c.MaxConnections = 0 }, "http.max_connections"},
		"less than no streams":              {func(c *httpapi.Config) { c.MaxStreams = -1 }, "http.max_streams"},
		"tokens that are not there":         {func(c *httpapi.Config) { c.TokensFile = tokens + "x" }, "http.tokens_file"},
		"tokens that are none":              {func(c *httpapi.Config) { c.TokensFile = file(t, "# none\n\n") }, "no token"},
		"tokens with spaces":                {func(c *httpapi.Config) { c.TokensFile = file(t, "one\n\ntwo three\n") }, "line 3"},
		"a token twice":                     {func(c *httpapi.Config) { c.TokensFile = file(t, "one read\none\n") }, "line 2"},
		"a scope for nobody":                {func(c *httpapi.Config) { c.TokensFile = file(t, "one client=\n") }, "line 1"},
		"a scope that is not decoded":       {func(c *httpapi.Config) { c.TokensFile = file(t, "one client=%zz\n") }, "line 1"},
		"a port that cannot be listened on": {func(c *httpapi.Config) { c.Listen = "127.0.0.1:99999" }, "http.listen"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode()
			cfg := httpapi.Default()
			cfg.Listen = "127.0.0.1:0"
			tt.change(&cfg)
			_, err := httpapi.New(cfg, n.parts(), zap.NewNop(), prometheus.NewRegistry())
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "two three")
		})
	}
	cfg := httpapi.Default()
	for _, listen := range []string{"127.0.0.1:8080", "[::1]:8080", "localhost:8080", "127.1.2.3:0"} {
		cfg.Listen = listen
		require.NoError(t, cfg.Validate())
	}
	cfg.Listen, cfg.TokensFile = "0.0.0.0:8080", tokens
	require.NoError(t, cfg.Validate())
}

// TestRunManyTimes starts and stops servers, one of them with a request that
// does not end.
func TestRunManyTimes(t *testing.T) {
	t.Parallel()
	for range 20 {
		n := newNode()
		s, err := httpapi.New(func() httpapi.Config {
			cfg := httpapi.Default()
			cfg.Listen = "127.0.0.1:0"
			return cfg
		}(), n.parts(), zap.NewNop(), prometheus.NewRegistry())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		n.url = "http://" + s.Addr().String()
		n.get(t, "/livez").want(t, http.StatusOK, `{"status":"ok"}`)
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, s.Close())
	}
}

// TestRunEndsRequestsFirst stops a server that is about to answer.
func TestRunEndsRequestsFirst(t *testing.T) {
	t.Parallel()
	n := newNode()
	require.NoError(t, n.table.Apply([]byte("c"), []byte(`{"id":"c","client":"acme","starts_at":"2026-01-01T00:00:00Z"}`), 4))
	cfg := httpapi.Default()
	cfg.Listen = "127.0.0.1:0"
	s, err := httpapi.New(cfg, n.parts(), zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	n.url = "http://" + s.Addr().String()
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		<-n.judging
		cancel()
		for { // until no new connections are taken
			conn, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				break
			}
			_ = conn.Close()
		}
		n.set(func() { n.judges = 1 })
	}()
	require.Equal(t, http.StatusOK, n.get(t, "/v1/contracts/c").StatusCode)
	<-refused
	require.NoError(t, <-ended)
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	return r
}

func TestTokens(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	name := file(t, "# ours\nsecret-one\n\n  secret-two  \r\n")
	serve(t, n, func(c *httpapi.Config) { c.TokensFile = name })

	tests := map[string]struct {
		header string
		status int
	}{
		"the first":            {"Bearer secret-one", http.StatusOK},
		"the second":           {"Bearer secret-two", http.StatusOK},
		"another spelling":     {"bearer  secret-two", http.StatusOK},
		"none":                 {"", http.StatusUnauthorized},
		"no scheme":            {"secret-one", http.StatusUnauthorized},
		"another scheme":       {"Basic secret-one", http.StatusUnauthorized},
		"nothing after it":     {"Bearer ", http.StatusUnauthorized},
		"another token":        {"Bearer secret-three", http.StatusUnauthorized},
		"the beginning of one": {"Bearer secret-", http.StatusUnauthorized},
		"a comment":            {"Bearer # ours", http.StatusUnauthorized},
		"two of them":          {"Bearer secret-one secret-two", http.StatusUnauthorized},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.status, n.get(t, "/v1/clients/acme/usage", "Authorization", tt.header).StatusCode)
		})
	}

	// The file is read again.
	require.NoError(t, os.WriteFile(name, []byte("secret-new\n"), 0o600))
	n.get(t, "/v1/clients/acme/usage", "Authorization", "Bearer secret-one").want(t, http.StatusOK, acmeUsage)
	n.set(func() { n.now = n.now.Add(3 * time.Second) })
	n.get(t, "/v1/clients/acme/usage", "Authorization", "Bearer secret-one").refused(t, http.StatusUnauthorized, "unauthorized")
	n.get(t, "/v1/clients/acme/usage", "Authorization", "Bearer secret-new").want(t, http.StatusOK, acmeUsage)
	// A broken one changes nothing.
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	n.set(func() { n.now = n.now.Add(3 * time.Second) })
	n.get(t, "/v1/clients/acme/usage", "Authorization", "Bearer secret-new").want(t, http.StatusOK, acmeUsage)
}
