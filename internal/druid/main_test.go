package druid_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// The recorded answers, all of partition 0 and these clients: of two
// boundaries, below which there are 40 and 428,054 rows.
const (
	smallBoundary = 40
	largeBoundary = 428_054
)

func recordedClients() []string { return []string{"client-00001", "client-00627", "client-00973"} }

func small() druid.Question {
	return druid.Question{Boundary: smallBoundary, Start: usage.MinTime, End: usage.MaxTime, Clients: recordedClients()}
}

// fake is a Druid that says what a test wants.
type fake struct {
	groupBy     http.HandlerFunc // of the native queries; those of segment metadata are answered
	columns     string           // recorded answer to those, columns.json by default
	supervisor  string           // its status; empty: 404
	unavailable string           // load status; empty: 404
	t           testing.TB

	mu       sync.Mutex
	queries  []map[string]any
	canceled []string
	paths    []string
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.paths = append(f.paths, r.Method+" "+r.URL.Path)
	f.mu.Unlock()
	switch {
	case r.Method == http.MethodDelete:
		f.mu.Lock()
		f.canceled = append(f.canceled, filepath.Base(r.URL.Path))
		f.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
	case strings.HasSuffix(r.URL.Path, "/status") && f.supervisor != "":
		_, _ = io.WriteString(w, f.supervisor)
	case strings.HasSuffix(r.URL.Path, "/loadstatus") && f.unavailable != "":
		_, _ = io.WriteString(w, f.unavailable)
	case r.URL.Path == "/druid/v2/":
		f.query(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) query(w http.ResponseWriter, r *http.Request) {
	var q map[string]any
	if json.NewDecoder(r.Body).Decode(&q) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if q["queryType"] == "segmentMetadata" {
		columns := f.columns
		if columns == "" {
			columns = recorded(f.t, "columns.json")
		}
		_, _ = io.WriteString(w, columns)
		return
	}
	f.mu.Lock()
	f.queries = append(f.queries, q)
	f.mu.Unlock()
	f.groupBy(w, r.WithContext(context.WithValue(r.Context(), queryKey{}, q)))
}

// queryKey is where the request's context has the query.
type queryKey struct{}

// asked returns the groupBy queries so far.
func (f *fake) asked() []map[string]any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]map[string]any(nil), f.queries...)
}

func (f *fake) ended() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.canceled...)
}

func recorded(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return string(data)
}

// says answers with a status and a body, as Druid does: chunked, and with the
// trailer that tells whether this was all.
func says(status int, body, complete string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Druid-Response-Complete")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		w.Header().Set("X-Druid-Response-Complete", complete)
	}
}

// serve starts f and returns a seeder that asks it.
func serve(t *testing.T, f *fake, change func(*druid.Config)) *druid.Seeder {
	t.Helper()
	f.t = t
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return newSeeder(t, server.URL, transport, time.Now, change)
}

func newSeeder(t *testing.T, url string, transport http.RoundTripper, now func() time.Time, change func(*druid.Config)) *druid.Seeder {
	t.Helper()
	cfg := druid.Default()
	cfg.URL = url
	if change != nil {
		change(&cfg)
	}
	s, err := druid.New(cfg, &http.Client{Transport: transport}, zap.NewNop(), prometheus.NewRegistry(), now)
	require.NoError(t, err)
	return s
}

// direct is a transport without a network, for tests in a bubble of time.
type direct func(r *http.Request) (*http.Response, error)

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) { return d(r) }

// through answers by h, and ends early when the request's context does.
func through(h http.Handler) direct {
	return func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if err := context.Cause(r.Context()); err != nil {
			return nil, err
		}
		return w.Result(), nil
	}
}
