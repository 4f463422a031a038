package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/feed"
	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/internal/usage"
)

// What app passes has to fit.
var (
	_ httpapi.Contracts = (*contracts.Table)(nil)
	_ httpapi.Reader    = struct {
		*aggregate.State
		lag
	}{}
)

// lag is what a State does not know.
type lag interface{ Lag() int64 }

// at is the instant of an RFC 3339 text.
func at(t *testing.T, text string) usage.Time {
	t.Helper()
	std, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return usage.TimeOf(std)
}

// reader is a running partition with the given clients.
type reader struct {
	mu       sync.Mutex
	views    map[string]aggregate.View
	asOf     aggregate.Committed
	unknown  bool // history may have something of clients that are not in views
	selected []aggregate.Selection
	previews map[string]aggregate.Preview
	trials   []trial
	failure  error // of Preview
}

func (p *reader) View(client string, sel aggregate.Selection) aggregate.View {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.selected = append(p.selected, sel)
	if v, ok := p.views[client]; ok {
		return v
	}
	return aggregate.View{Client: client, AsOf: p.asOf, Complete: true, Known: !p.unknown}
}

func (p *reader) Clients(after string, limit int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name := range p.views {
		if name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names[:min(limit, len(names))]
}

func (p *reader) Lag() int64 { return 12 }

// trial is what Preview was asked.
type trial struct {
	client, id string
	next       *contracts.Contract
	revision   int64
}

func (p *reader) Preview(client, id string, next *contracts.Contract, revision int64, _ usage.Time) (aggregate.Preview, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trials = append(p.trials, trial{client, id, next, revision})
	preview := aggregate.Preview{Pending: p.previews[client].Pending}
	for _, e := range p.previews[client].Events {
		undated := *e
		undated.DecidedAt = 0
		preview.Events = append(preview.Events, &undated)
	}
	return preview, p.failure
}

// node is all that one instance's Server asks.
type node struct {
	url string

	mu         sync.Mutex
	id         string
	clients    map[string]int32 // else 0
	running    map[int32]*reader
	asked      map[int32]int // how often Running was called
	gone       map[int32]int // from this call on, Running says false
	here       []httpapi.PartitionStatus
	instances  []httpapi.Instance
	partitions int32
	catalog    *usage.Catalog
	table      *contracts.Table
	topic      *topic
	judges     int64  // the version of the table
	holds      string // the contract that waits for other partitions
	told       map[int32][]aggregate.Handover
	judging    chan struct{} // has a value after Judges was asked
	lookedUp   []string
	checks     []httpapi.Check
	feed       *feed.Feed // nil where nobody asks for limit events
	now        time.Time
}

func (n *node) Of(client string) int32 { return n.clients[client] }

func (n *node) Running(partition int32) (httpapi.Reader, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[partition]++
	if limit, ok := n.gone[partition]; ok && n.asked[partition] >= limit {
		return nil, false
	}
	p, ok := n.running[partition]
	return p, ok
}

func (n *node) Here() []httpapi.PartitionStatus { return n.here }

func (n *node) Self() string { return n.id }

func (n *node) Instances() []httpapi.Instance {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.instances
}

func (n *node) Partitions() int32 { return n.partitions }

func (n *node) Judges(version int64) bool {
	select {
	case n.judging <- struct{}{}:
	default:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.judges >= version
}

func (n *node) Holds(contract string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return contract == n.holds
}

func (n *node) HandOver(partition int32, asked []aggregate.Held) ([]aggregate.Handover, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	told, ok := n.told[partition]
	return slices.DeleteFunc(slices.Clone(told), func(h aggregate.Handover) bool { return !slices.Contains(asked, h.Held) }), ok
}

func (n *node) LookUp(partition int32, client string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookedUp = append(n.lookedUp, strconv.Itoa(int(partition))+" "+client)
}

func (n *node) Checks() []httpapi.Check {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.checks
}

func (n *node) Now() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

func (n *node) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

// newNode is an instance that runs the only partition there is, which has
// counted nothing.
func newNode() *node {
	catalog := &usage.Catalog{
		Meters: []usage.Meter{
			{Name: "api_calls", Aggregation: usage.Count},
			{Name: "bytes_out", Aggregation: usage.Sum},
			{Name: "gb_hours", Aggregation: usage.Sum, Decimals: 6},
			{Name: "searches", Aggregation: usage.Count, Dimensions: []usage.Dimension{{Name: "endpoint"}, {Name: "region"}}},
			{Name: "peak", Aggregation: usage.Max},
			{Name: "users", Aggregation: usage.Unique},
		},
		Schedule: usage.Schedule{Kind: usage.Month, Zone: time.UTC},
	}
	n := &node{
		id: "one", running: map[int32]*reader{0: {}}, asked: map[int32]int{}, gone: map[int32]int{}, partitions: 1,
		here:    []httpapi.PartitionStatus{{Topic: "usage", Partition: 0, State: httpapi.Running, Position: 7, End: 19}},
		catalog: catalog, table: contracts.NewTable(catalog), judging: make(chan struct{}, 1),
		now: time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC),
	}
	n.topic = &topic{node: n}
	return n
}

// parts is what n's Server asks.
func (n *node) parts() httpapi.Parts {
	return httpapi.Parts{
		Partitions: n, Cluster: n, Contracts: n.table, Catalog: n.catalog, Writer: n.topic,
		LimitEvents: n.feed,
		Judges:      n.Judges, Holds: n.Holds, HandOver: n.HandOver, LookUp: n.LookUp, Checks: n.Checks, Now: n.Now,
	}
}

// serve runs a Server for n until the test ends.
func serve(t *testing.T, n *node, change func(*httpapi.Config)) *httpapi.Server {
	t.Helper()
	s, stop := serveUntil(t, n, change)
	t.Cleanup(stop)
	return s
}

// serveUntil runs a Server for n until stop is called.
func serveUntil(t *testing.T, n *node, change func(*httpapi.Config)) (s *httpapi.Server, stop func()) {
	t.Helper()
	cfg := httpapi.Default()
	cfg.Listen, cfg.ApplicationID, cfg.Topic = "127.0.0.1:0", "meterd", "usage"
	if change != nil {
		change(&cfg)
	}
	s, err := httpapi.New(cfg, n.parts(), zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	n.url = "http://" + s.Addr().String()
	return s, func() {
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, s.Close())
	}
}

// response is an answer and its whole body.
type response struct {
	*http.Response
	body string
}

// send puts a request, with headers as name, value, name, value, and checks
// that the answer is as openapi.json has it.
func (n *node) send(t *testing.T, method, path string, headers ...string) response {
	t.Helper()
	return n.sendBody(t, method, path, "", headers...)
}

// sendBody is send with a body.
func (n *node) sendBody(t *testing.T, method, path, sent string, headers ...string) response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, n.url+path, strings.NewReader(sent))
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	r, err := transport.RoundTrip(request)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Body.Close()) }()
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	if r.Header.Get("Content-Encoding") == "" {
		described(t, r, body)
	}
	return response{Response: r, body: string(body)}
}

func (n *node) get(t *testing.T, path string, headers ...string) response {
	t.Helper()
	return n.send(t, http.MethodGet, path, headers...)
}

// want checks status and exact body, which may be written over many lines.
func (r response) want(t *testing.T, status int, body string) {
	t.Helper()
	var compact bytes.Buffer
	require.NoError(t, json.Compact(&compact, []byte(body)))
	require.Equal(t, compact.String(), strings.TrimSuffix(r.body, "\n"))
	require.Equal(t, status, r.StatusCode)
}

// refused checks that the answer is a problem of the given kind, and returns
// its detail.
func (r response) refused(t *testing.T, status int, kind string) string {
	t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	require.Equal(t, "application/problem+json", r.Header.Get("Content-Type"), r.body)
	require.NoError(t, json.Unmarshal([]byte(r.body), &p))
	require.Equal(t, "/problems/"+kind, p.Type, r.body)
	require.Equal(t, status, p.Status)
	require.Equal(t, status, r.StatusCode)
	require.NotEmpty(t, p.Title)
	return p.Detail
}

// document is openapi.json.
type document struct {
	OpenAPI string                          `json:"openapi"`
	Paths   map[string]map[string]operation `json:"paths"`
}

type operation struct {
	Parameters []map[string]any          `json:"parameters"`
	Responses  map[string]map[string]any `json:"responses"`
}

// readDocumentInto reads what a test looks at of openapi.json.
func readDocumentInto(t *testing.T, v any) {
	t.Helper()
	data, err := os.ReadFile("openapi.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, v))
}

func readDocument(t *testing.T) (document, *jsonschema.Compiler) {
	t.Helper()
	data, err := os.ReadFile("openapi.json")
	require.NoError(t, err)
	var doc document
	require.NoError(t, json.Unmarshal(data, &doc))
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	require.NoError(t, compiler.AddResource("file:///openapi.json", parsed))
	return doc, compiler
}

// pathFor returns the path of doc that fits, or "".
func (doc *document) pathFor(path string) string {
	for pattern := range doc.Paths {
		parts, given := strings.Split(pattern, "/"), strings.Split(path, "/")
		fits := len(parts) == len(given)
		for i := 0; fits && i < len(parts); i++ {
			fits = parts[i] == given[i] || strings.HasPrefix(parts[i], "{")
		}
		if fits {
			return pattern
		}
	}
	return ""
}

// described checks an answer against openapi.json: its status, the type of its
// content, and its shape.
func described(t *testing.T, r *http.Response, body []byte) {
	t.Helper()
	doc, compiler := readDocument(t)
	schema := "/components/schemas/Problem"
	contentType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	pattern := doc.pathFor(r.Request.URL.EscapedPath())
	if pattern != "" {
		code, method := strconv.Itoa(r.StatusCode), strings.ToLower(r.Request.Method)
		if _, ok := doc.Paths[pattern][method]; !ok { // HEAD, or one that is refused
			method = slices.Sorted(maps.Keys(doc.Paths[pattern]))[0]
		}
		described, ok := doc.Paths[pattern][method].Responses[code]
		require.True(t, ok, "%s of %s answers %s, which is not described", method, pattern, code)
		pointer := "/paths/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(pattern) + "/" + method + "/responses/" + code
		if ref, ok := described["$ref"].(string); ok {
			pointer = strings.TrimPrefix(ref, "#")
		}
		schema = pointer + "/content/" + strings.ReplaceAll(contentType, "/", "~1") + "/schema"
	}
	if r.Request.Method == http.MethodHead || contentType == "text/event-stream" || contentType == "text/plain" || r.StatusCode == http.StatusNoContent || r.StatusCode == http.StatusNotModified {
		return
	}
	compiled, err := compiler.Compile("file:///openapi.json#" + (&url.URL{Path: schema}).EscapedPath())
	require.NoError(t, err)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	require.NoError(t, err, "%s", body)
	require.NoError(t, compiled.Validate(value), "%s", body)
}

// file writes a file and returns its name.
func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	return name
}
