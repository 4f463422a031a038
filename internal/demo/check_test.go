package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// noon is the time of all events here.
func noon() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// compared returns a stage whose ledger has three uses of acme, and whose
// meterd answers with counters and metrics.
func compared(t *testing.T, counters, metrics string) *stage {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/metrics":
			_, _ = io.WriteString(w, metrics)
		case asked.Add(1) == 1:
			w.WriteHeader(http.StatusServiceUnavailable) // ask again
		case asked.Load() == 2:
			_, _ = io.WriteString(w, `{"as_of":{"partition":1,"offset":2},"complete":true}`) // not to the end
		default:
			fmt.Fprintf(w, `{"as_of":{"partition":1,"offset":3},"complete":true,"counters":[%s]}`, counters)
		}
	}))
	t.Cleanup(server.Close)
	s := &stage{api: newAPI(server.URL), ledger: newLedger(), heard: &subscriber{kinds: map[string]int64{"crossed": 2}}}
	t.Cleanup(s.api.Close)
	s.ledger.remember(&usageEvent{Client: "acme", Meter: traffic, Quantity: 100, Time: noon()})
	s.ledger.produce(&usageEvent{Client: "acme", Meter: traffic, Quantity: -30, Time: noon()})
	s.ledger.produce(&usageEvent{Client: "acme", Meter: calls, Quantity: 5, Time: noon()})
	s.ledger.repeat()
	return s
}

const (
	rightMetrics = `# HELP meterd_records_total Usage records.
meterd_records_total{result="counted"} 2
meterd_records_total{result="duplicate"} 1
meterd_records_total{result="dead_lettered"} 0
meterd_limit_events_total{kind="crossed"} 2
meterd_limit_events_total{kind="cleared"} 0
meterd_lag_records{partition="0"} 1e+00
`
	rightCounters = `{"meter":"api_calls","usage":"1","period":{"id":"2026-11"}},` +
		`{"meter":"bytes_out","usage":"70","period":{"id":"2026-11"}},` +
		`{"meter":"bytes_out","usage":"70","period":{"id":"2026-11-22T12+00:00"}}`
)

func TestRightNumbersAreRight(t *testing.T) {
	wrong, totals, err := compared(t, rightCounters, rightMetrics).compare(t.Context(), map[int32]int64{1: 3})
	require.NoError(t, err)
	require.Empty(t, wrong)
	require.Equal(t, 4, totals, "the hour's counter is in both answers")
}

func TestWrongNumbersAreFound(t *testing.T) {
	tests := map[string]struct {
		counters, metrics string
		want              string
	}{
		"a total too high": {
			strings.Replace(rightCounters, `"usage":"70","period":{"id":"2026-11"}`, `"usage":"71","period":{"id":"2026-11"}`, 1), rightMetrics,
			"acme bytes_out 2026-11: meterd says 71, produced were 70",
		},
		"a limit's own counter too low": {
			strings.Replace(rightCounters, `"usage":"70","period":{"id":"2026-11-22T`, `"usage":"69","period":{"id":"2026-11-22T`, 1), rightMetrics,
			"acme bytes_out 2026-11-22T12+00:00: meterd says 69, produced were 70",
		},
		"a counter that is not there": {
			`{"meter":"bytes_out","usage":"70","period":{"id":"2026-11"}}`, rightMetrics,
			"acme api_calls 2026-11: meterd has no counter",
		},
		"a use of nobody": {
			rightCounters + `,{"meter":"bytes_out","usage":"1","period":{"id":"2026-12"}}`, rightMetrics,
			"acme bytes_out 2026-12: meterd says 1, produced were 0",
		},
		"a record counted twice": {
			rightCounters, strings.Replace(rightMetrics, `"counted"} 2`, `"counted"} 3`, 1),
			"records counted: meterd says 3, 2 is right",
		},
		"a duplicate not seen": {
			rightCounters, strings.Replace(rightMetrics, `"duplicate"} 1`, `"duplicate"} 0`, 1),
			"duplicates: meterd says 0, 1 is right",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			wrong, _, err := compared(t, tt.counters, tt.metrics).compare(t.Context(), map[int32]int64{1: 3})
			require.NoError(t, err)
			require.Contains(t, wrong, tt.want)
		})
	}
}

func TestLimitEventsAreInSequence(t *testing.T) {
	s := &subscriber{kinds: map[string]int64{}, last: map[[3]string]int64{}}
	event := func(sequence int64) *limitEvent {
		return &limitEvent{ID: fmt.Sprint("id-", sequence), Kind: "crossed", Contract: "c", LimitID: "l", Sequence: sequence}
	}
	s.note(event(1))
	s.note(event(2))
	require.Empty(t, s.wrong())
	s.note(event(2))
	require.Equal(t, []string{"limit event id-2 of c l has sequence 2 and not 3"}, s.wrong())
	s.note(event(4))
	require.Len(t, s.wrong(), 2)
	crossed, cleared, reset, all := s.counts()
	require.Equal(t, []int64{4, 0, 0, 4}, []int64{crossed, cleared, reset, all})
}

func TestOtherAnswersAreErrors(t *testing.T) {
	for name, answer := range map[string]string{"not found": "", "no JSON": "{"} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if answer == "" {
					http.NotFound(w, r)
				}
				_, _ = io.WriteString(w, answer)
			}))
			defer server.Close()
			a := newAPI(server.URL)
			defer a.Close()
			_, err := a.usage(t.Context(), "acme", "")
			require.ErrorContains(t, err, "GET /v1/clients/acme/usage: ")
			require.NotErrorIs(t, err, errLater)
			require.Error(t, a.awaitRunning(t.Context(), map[int32]int64{0: 1}))
		})
	}
}

func TestCountingMustBeginAtTheBoundary(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"instances":[{"partitions":[{"partition":0,"state":"running","position":%d}]}]}`, min(asked.Add(1), 7))
	}))
	defer server.Close()
	a := newAPI(server.URL)
	defer a.Close()
	require.NoError(t, a.awaitRunning(t.Context(), map[int32]int64{0: 7}))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.Error(t, a.awaitRunning(ctx, map[int32]int64{0: 8}))
}
