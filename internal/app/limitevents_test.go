package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// subscriber is a client of the stream of limit events.
type subscriber struct {
	lines *bufio.Scanner
	stop  func()
}

func (d *daemon) subscribe(t *testing.T, last string) *subscriber {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.address+"/v1/limit-events", nil)
	require.NoError(t, err)
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	r, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.StatusCode)
	s := &subscriber{lines: bufio.NewScanner(r.Body), stop: func() { cancel(); _ = r.Body.Close() }}
	t.Cleanup(s.stop)
	return s
}

// next returns the next limit event, and its id.
func (s *subscriber) next(t *testing.T) (id string, e limitEvent) {
	t.Helper()
	for s.lines.Scan() {
		switch name, value, _ := strings.Cut(s.lines.Text(), ": "); name {
		case "id":
			id = value
		case "data":
			require.NoError(t, json.Unmarshal([]byte(value), &e), value)
			return id, e
		}
	}
	require.NoError(t, s.lines.Err())
	require.Fail(t, "the stream ended")
	return "", e
}

// TestLimitEventsAreStreamed to clients of any instance, and from where they
// left on another one, which need not have run then.
func TestLimitEventsAreStreamed(t *testing.T) {
	for _, format := range []string{"json", "avro"} {
		t.Run(format, func(t *testing.T) {
			registry := httptest.NewServer(srfake.New().Handler())
			t.Cleanup(registry.Close)
			w := newWorld(t, 3)
			w.cfg.LimitEvents.Format, w.cfg.SchemaRegistry.URL = format, registry.URL
			const clients = 6
			cross := func(round int) {
				for i := range clients {
					client := fmt.Sprintf("client-%d", i)
					w.use(fmt.Sprintf("%d-%d", round, i), client, "bytes", 100, time.Now())
				}
			}
			for i := range clients {
				w.contract(fmt.Sprintf("c-%d", i), fmt.Sprintf(`{"id":"c-%d","client":"client-%d","starts_at":"2020-01-01T00:00:00Z","limits":[
					{"id":"traffic","meter":"bytes","limit":"1000","thresholds":["10%%","20%%","30%%","40%%"]}]}`, i, i))
			}
			w.use("0", "client-0", "calls", 1, time.Now())
			first := w.start(nil)
			first.usage(t, "client-0", "calls", "1")
			s := first.subscribe(t, "earliest")
			seen := map[string]int64{}
			last := ""
			take := func(s *subscriber, n int) {
				t.Helper()
				for range n {
					id, e := s.next(t)
					require.Equal(t, seen[e.Client]+1, e.Sequence, "one of %s was lost or told twice", e.Client)
					seen[e.Client], last = e.Sequence, id
				}
			}
			cross(1)
			take(s, clients)
			w.cfg.State.Dir = t.TempDir()
			second := w.start(nil)
			cross(2)
			take(second.subscribe(t, last), clients/2)
			take(first.subscribe(t, last), clients/2)
			require.NoError(t, first.end())
			cross(3)
			take(second.subscribe(t, last), clients)
			require.NoError(t, second.end())
			third := w.start(nil)
			cross(4)
			take(third.subscribe(t, last), clients)
			s = third.subscribe(t, last)
			cross(5) // nothing more is told
			third.usage(t, "client-0", "bytes", "500")
			status, body := third.get(t, "/v1/overview")
			require.Equal(t, http.StatusOK, status)
			require.Contains(t, body, `"client":"client-0"`)
			require.NoError(t, third.end())
			require.False(t, func() bool {
				for s.lines.Scan() {
					if strings.HasPrefix(s.lines.Text(), "event: crossed") {
						return true
					}
				}
				return false
			}())
		})
	}
}
