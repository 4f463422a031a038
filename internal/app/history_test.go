package app

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/ingest"
	"github.com/meterd/meterd/internal/usage"
)

// answering is a Druid, without a network, that gives its answers to groupBys
// one after another, the last for ever.
type answering struct {
	answers []string

	mu      sync.Mutex
	queries []string // groupBys
}

func (d *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	body := ""
	if r.Body != nil {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = string(data)
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(d.answer(r.URL.Path, body)))}, nil
}

func (d *answering) answer(path, body string) string {
	switch {
	case strings.HasSuffix(path, "/status"):
		return `{"payload":{"dataSource":"usage","state":"RUNNING","activeTasks":[{"id":"t","startingOffsets":{"3":2}}]}}`
	case strings.HasSuffix(path, "/loadstatus"):
		return `{"usage":0}`
	case strings.Contains(body, `"segmentMetadata"`):
		return `[{"rollup":false,"columns":{"client_id":{"type":"STRING"},"meter":{"type":"STRING"},"quantity":{"type":"LONG"},
			"k_partition":{"type":"LONG"},"k_offset":{"type":"LONG"},"k_ts":{"type":"LONG"},"region":{"type":"STRING"},"void":{"type":"STRING"}}}]`
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queries = append(d.queries, body)
	return d.answers[min(len(d.queries), len(d.answers))-1]
}

// historyAsks are two questions that differ in what counters are for alone.
func historyAsks() []aggregate.Ask {
	ask := aggregate.Ask{Client: "a", Period: usage.Period{ID: "1970-01", Start: 1, End: 100}, Boundary: 2, Cut: 50}
	other := ask
	other.Scope.Contract = "c"
	return []aggregate.Ask{ask, other}
}

// answersOf asks d and returns the answers to historyAsks.
func answersOf(t *testing.T, d *answering, change func(*druid.Config)) []ingest.Answer {
	t.Helper()
	cfg := druid.Default()
	cfg.URL, cfg.Supervisor = "http://druid", "usage"
	change(&cfg)
	seeder, err := druid.New(cfg, &http.Client{Transport: d}, zap.NewNop(), prometheus.NewRegistry(), time.Now)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- seeder.Run(ctx) }()
	questions := history{seeder}.Open(3)
	defer func() {
		questions.Close()
		cancel()
		require.NoError(t, <-done)
	}()
	asks := historyAsks()
	require.Equal(t, len(asks), questions.Submit(asks))
	var answers []ingest.Answer
	for range 600 {
		if answers = questions.Take(); len(answers) > 0 {
			break
		}
		<-time.After(100 * time.Millisecond) // in a bubble: no time passes outside
	}
	require.Len(t, answers, len(asks))
	for i := range asks {
		require.Equal(t, asks[i], answers[i].Ask)
		require.NoError(t, answers[i].Failed)
		require.Equal(t, answers[0].Totals, answers[i].Totals)
	}
	require.Empty(t, questions.Take())
	return answers
}

func TestHistoryHandsOnAllThatDruidSays(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		d := &answering{answers: []string{
			`[["a",2,0,1,1]]`,
			`[["a","m","eu","false",1,0,0,0,1,5,5,0,7,7.0,7,7],["a","m",null,"true",1,1,1,1,1,6,6,0,2,2.0,2,2]]`,
			`[["a","m","eu","false","5",1,0,0,0,7],["a","m",null,"true","6",1,1,1,1,2]]`,
		}}
		answers := answersOf(t, d, func(c *druid.Config) {
			c.Columns.Fields, c.Columns.Void, c.Latest = []string{"region"}, "void", true
		})
		seven, two := usage.DecimalOf(7), usage.DecimalOf(2)
		require.ElementsMatch(t, []aggregate.SeedTotal{
			{
				Meter: "m", Fields: []usage.Value{{Kind: usage.TextValue, Text: []byte("eu")}}, Events: 1,
				Quantity: seven, Min: seven, Max: seven, Latest: seven, First: 5, Last: 5,
			},
			{
				Meter: "m", Fields: []usage.Value{{}}, Void: true, Events: 1,
				Quantity: two, Min: two, Max: two, Latest: two, First: 6, Last: 6,
			},
		}, answers[0].Totals)
		require.Len(t, d.queries, 3, "one question for both")
	})
}

func TestHistoryWithoutOffsetsIsAskedByTheCut(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		d := &answering{answers: []string{`[["a","m",1,40,40,40,1,5,5,0,7,7.0,7,7]]`}}
		answers := answersOf(t, d, func(c *druid.Config) {
			c.Columns.Partition, c.Columns.Offset, c.Columns.RecordTime = "", "", "k_ts"
		})
		seven := usage.DecimalOf(7)
		require.Equal(t, []aggregate.SeedTotal{{Meter: "m", Events: 1, Quantity: seven, Min: seven, Max: seven, First: 5, Last: 5}}, answers[0].Totals)
		require.Len(t, d.queries, 2)
		require.Contains(t, d.queries[0], `{"column":"k_ts","matchValueType":"LONG","type":"range","upper":50,"upperOpen":true}`)
	})
}
