package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/feed"
	"github.com/meterd/meterd/internal/httpapi"
)

const patience = 20 * time.Second

// telling is a topic of limit events with two partitions, in memory.
type telling struct {
	mu      sync.Mutex
	logs    [2][]feed.Event
	start   int64
	changed chan struct{}
}

// tell appends an event to a partition.
func (s *telling) tell(partition int, e *alerts.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := fmt.Sprintf(`{"client":%q,"n":%d}`, e.Client, len(s.logs[partition]))
	s.logs[partition] = append(s.logs[partition], feed.Event{Offset: int64(len(s.logs[partition])), Event: e, Data: []byte(data)})
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *telling) Start(context.Context, int32) (int64, error) { return s.start, nil }

func (s *telling) End(_ context.Context, partition int32) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.logs[partition])), nil
}

func (s *telling) Read(_ context.Context, partition int32, from, to int64, fn func(feed.Batch) error) error {
	s.mu.Lock()
	events := s.logs[partition][from:to]
	s.mu.Unlock()
	return fn(feed.Batch{Events: events, Next: to})
}

func (s *telling) Follow(ctx context.Context, partition int32, from int64, fn func(feed.Batch)) error {
	for {
		s.mu.Lock()
		events, changed := s.logs[partition][from:], s.changed
		s.mu.Unlock()
		if from += int64(len(events)); len(events) > 0 {
			fn(feed.Batch{Events: events, Next: from})
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// tells gives n limit events to stream, until the test ends.
func tells(t *testing.T, n *node, change func(*feed.Config)) *telling {
	t.Helper()
	s := &telling{changed: make(chan struct{})}
	cfg := feed.Default()
	cfg.Partitions = 2
	if change != nil {
		change(&cfg)
	}
	n.feed = feed.New(cfg, s, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.feed.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return s
}

// sse is a server-sent event, or with neither name nor data what only moves the
// cursor.
type sse struct{ id, event, data string }

// subscription is a stream as a client reads it.
type subscription struct {
	*http.Response
	lines *bufio.Scanner
	stop  context.CancelFunc
}

// follow opens a stream, with headers as name, value, name, value.
func (n *node) follow(t *testing.T, path string, headers ...string) *subscription {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	r, err := transport.RoundTrip(request)
	require.NoError(t, err)
	t.Cleanup(func() {
		stop()
		_ = r.Body.Close()
	})
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, "text/event-stream", r.Header.Get("Content-Type"))
	s := &subscription{Response: r, lines: bufio.NewScanner(r.Body), stop: stop}
	s.lines.Buffer(nil, 1<<20)
	return s
}

// any returns the next that comes with an id or data, and false at the end.
func (s *subscription) any() (e sse, ok bool) {
	for s.lines.Scan() {
		name, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.event = value
		case "data":
			e.data = value
		case "":
			if value == "" && e != (sse{}) {
				return e, true
			}
		}
	}
	return e, false
}

// next returns the next event that has data.
func (s *subscription) next(t *testing.T) sse {
	t.Helper()
	for {
		e, ok := s.any()
		require.True(t, ok, "the stream ended: %v", s.lines.Err())
		if e.data != "" {
			return e
		}
	}
}

func TestLimitEvents(t *testing.T) {
	t.Parallel()
	n := newNode()
	topic := tells(t, n, nil)
	topic.tell(0, &alerts.Event{Kind: alerts.Crossed, Client: "before"})
	serve(t, n, nil)

	s := n.follow(t, "/v1/limit-events")
	begin, _ := s.any()
	require.Equal(t, sse{id: "0-1,1-0"}, begin)
	topic.tell(1, &alerts.Event{Kind: alerts.Crossed, Client: "acme"})
	require.Equal(t, sse{id: "0-1,1-1", event: "crossed", data: `{"client":"acme","n":0}`}, s.next(t))
	topic.tell(0, &alerts.Event{Kind: alerts.Reset, Client: "zoe"})
	last := s.next(t)
	require.Equal(t, sse{id: "0-2,1-1", event: "reset", data: `{"client":"zoe","n":1}`}, last)
	s.stop()

	topic.tell(0, &alerts.Event{Kind: alerts.Cleared, Client: "zoe"})
	require.Equal(t, "cleared", n.follow(t, "/v1/limit-events", "Last-Event-ID", last.id).next(t).event)
	require.Equal(t, "cleared", n.follow(t, "/v1/limit-events?last_event_id="+last.id).next(t).event)
	// A browser that comes again has both.
	require.Equal(t, "cleared", n.follow(t, "/v1/limit-events?last_event_id=earliest", "Last-Event-ID", last.id).next(t).event)
	require.Equal(t, `{"client":"before","n":0}`, n.follow(t, "/v1/limit-events?last_event_id=earliest").next(t).data)
	n.send(t, http.MethodHead, "/v1/limit-events")
}

func TestLimitEventsThatAreAskedFor(t *testing.T) {
	t.Parallel()
	n := newNode()
	topic := tells(t, n, nil)
	serve(t, n, nil)
	topic.tell(0, &alerts.Event{Kind: alerts.Crossed, Client: "acme", Meter: "api_calls"})
	topic.tell(0, &alerts.Event{Kind: alerts.Reset, Client: "acme", Meter: "bytes_out"})
	topic.tell(0, &alerts.Event{Kind: alerts.Crossed, Client: "zoe", Meter: "bytes_out"})

	for query, want := range map[string]string{
		"client=zoe": "0-3,1-0", "meter=bytes_out": "0-2,1-0", "kind=reset": "0-2,1-0", "client=acme&meter=api_calls&kind=crossed": "0-1,1-0",
	} {
		require.Equal(t, want, n.follow(t, "/v1/limit-events?last_event_id=earliest&"+query).next(t).id, query)
	}
}

func TestLimitEventsAreRefused(t *testing.T) {
	t.Parallel()
	n := newNode()
	topic := tells(t, n, func(c *feed.Config) { c.Wait = 50 * time.Millisecond })
	topic.tell(0, &alerts.Event{})
	topic.start = 1
	serve(t, n, func(c *httpapi.Config) { c.MaxStreams = 1 })

	bad := map[string]string{
		"client=" + strings.Repeat("x", 257): "256", "meter=none": "not configured", "kind=lost": "crossed, cleared, reset", "since=1": "last_event_id",
		"last_event_id=17": "PARTITION-OFFSET", "last_event_id=0-1,0-1": "twice", "last_event_id=7-1": "no partition 7", "last_event_id=0-9,1-1": "behind the end",
	}
	for query, says := range bad {
		require.Contains(t, n.get(t, "/v1/limit-events?"+query).refused(t, http.StatusBadRequest, "bad-request"), says, query)
	}
	require.Contains(t, n.get(t, "/v1/limit-events", "Last-Event-ID", "0-0,1-1").refused(t, http.StatusNotFound, "not-found"), "begins at 1")
	n.follow(t, "/v1/limit-events")
	r := n.get(t, "/v1/limit-events")
	r.refused(t, http.StatusServiceUnavailable, "not-ready")
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	require.Contains(t, n.get(t, "/metrics").body, "http_streams 1\n")
}

// TestSlowReadersAreDropped has a client that does not read while more limit
// events come than are kept and than connections take in.
func TestSlowReadersAreDropped(t *testing.T) {
	t.Parallel()
	n := newNode()
	topic := tells(t, n, func(c *feed.Config) { c.RingBytes = 4 << 10 })
	serve(t, n, nil)
	slow, quick := n.follow(t, "/v1/limit-events"), n.follow(t, "/v1/limit-events")
	slow.any()
	quick.any()
	long := strings.Repeat("x", 100<<10)
	for range 200 { // 20 MB
		topic.tell(0, &alerts.Event{Client: long})
		quick.next(t)
	}
	got := 0
	var last sse
	for {
		e, ok := slow.any()
		if !ok {
			break
		}
		if last = e; e.event == "" && e.data != "" {
			got++
		}
	}
	require.Less(t, got, 200)
	require.Equal(t, "dropped", last.event)
	var p struct{ Type, Detail string }
	require.NoError(t, json.Unmarshal([]byte(last.data), &p))
	require.Equal(t, "/problems/not-ready", p.Type)
	require.Contains(t, p.Detail, "go on from the last id")
}

func TestStreamsEndWithTheServer(t *testing.T) {
	t.Parallel()
	n := newNode()
	topic := tells(t, n, nil)
	_, stop := serveUntil(t, n, nil)
	events, overview := n.follow(t, "/v1/limit-events"), n.follow(t, "/v1/overview/stream")
	events.any()
	overview.next(t)
	topic.tell(0, &alerts.Event{Kind: alerts.Crossed, Client: "acme"})
	require.Equal(t, "crossed", events.next(t).event)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	require.Equal(t, "dropped", events.next(t).event)
	for e := overview.next(t); e.event != "dropped"; e = overview.next(t) {
		require.Equal(t, "overview", e.event)
	}
	<-stopped
}

// TestManyStreams has a thousand clients read the same limit events.
func TestManyStreams(t *testing.T) {
	t.Parallel()
	n := newNode()
	topic := tells(t, n, nil)
	serve(t, n, nil)
	var streams []*subscription
	for range 1000 {
		s := n.follow(t, "/v1/limit-events")
		s.any()
		streams = append(streams, s)
	}
	for i := range 5 {
		topic.tell(i%2, &alerts.Event{Kind: alerts.Crossed, Client: "acme"})
	}
	for _, s := range streams {
		for range 5 {
			require.Equal(t, "crossed", s.next(t).event)
		}
	}
}
