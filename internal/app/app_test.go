package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/ingest"
	"github.com/meterd/meterd/internal/kafka"
)

const patience = 30 * time.Second

// world is an in-process Kafka with the topics of one meterd, and what a test
// does to it as a producer and subscriber.
type world struct {
	t        *testing.T
	cfg      config.Config
	fake     *kfake.Cluster
	cluster  *kafka.Cluster
	producer *kafka.Producer
	owner    kafka.Partitioner
	parts    int32
}

func newWorld(t *testing.T, partitions int32, opts ...kfake.Opt) *world {
	t.Helper()
	opts = append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(partitions, "usage")}, opts...)
	fake, err := kfake.NewCluster(opts...)
	require.NoError(t, err)
	t.Cleanup(fake.Close)

	w := &world{t: t, fake: fake, parts: partitions, cfg: *config.Default()}
	w.cfg.Kafka.Brokers = fake.ListenAddrs()
	w.cfg.Usage.Format, w.cfg.LimitEvents.Format = "json", "json"
	w.cfg.Meters = []config.Meter{{Name: "calls", Aggregation: "count"}, {Name: "bytes", Aggregation: "sum"}}
	w.cfg.State.Dir, w.cfg.State.MinFreeDisk = t.TempDir(), 0
	w.cfg.State.FlushInterval = config.Duration(100 * time.Millisecond)
	w.cfg.Commit.Interval = config.Duration(20 * time.Millisecond)
	w.cfg.HTTP.Listen = "127.0.0.1:0"
	require.NoError(t, w.cfg.Validate())

	w.cluster, err = app.Dial(t.Context(), &w.cfg, zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.cluster.Close()) })
	// Compaction of the in-process broker is not to be relied on.
	for _, spec := range app.Topics(&w.cfg, partitions) {
		spec.Configs = map[string]string{"min.cleanable.dirty.ratio": "1", "min.compaction.lag.ms": "86400000"}
		require.NoError(t, w.cluster.CreateTopics(t.Context(), []kafka.TopicSpec{spec}))
	}
	w.producer, err = w.cluster.NewProducer(t.Context())
	require.NoError(t, err)
	w.owner, err = kafka.NewPartitioner("murmur2")
	require.NoError(t, err)
	return w
}

// use produces one usage event and returns where it went.
func (w *world) use(id, client, meter string, quantity int64, at time.Time) int32 {
	w.t.Helper()
	value := fmt.Sprintf(`{"event_id":%q,"client_id":%q,"meter":%q,"quantity":%d,"timestamp":%d}`, id, client, meter, quantity, at.UnixMilli())
	p := w.owner([]byte(client), w.parts)
	_, err := w.producer.Append(w.t.Context(), []kafka.Message{{Topic: "usage", Partition: p, Key: []byte(client), Value: []byte(value)}})
	require.NoError(w.t, err)
	return p
}

func (w *world) contract(id, value string) {
	w.t.Helper()
	_, err := w.producer.Append(w.t.Context(), []kafka.Message{{Topic: w.cfg.Contracts.Topic, Key: []byte(id), Value: []byte(value)}})
	require.NoError(w.t, err)
}

// daemon is a running meterd.
type daemon struct {
	address string
	stop    context.CancelFunc
	ended   chan error
	over    bool
}

func (w *world) start(step func(ingest.Step) error) *daemon {
	w.t.Helper()
	return w.startWith(app.Options{Step: step})
}

func (w *world) startWith(opts app.Options) *daemon {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{stop: cancel, ended: make(chan error, 1)}
	started := make(chan string, 1)
	cfg := w.cfg
	log := zaptest.NewLogger(w.t, zaptest.Level(zapcore.ErrorLevel))
	opts.Started = func(a string) { started <- a }
	go func() { d.ended <- app.Run(ctx, &cfg, opts, log, prometheus.NewRegistry()) }()
	w.t.Cleanup(func() { _ = d.end() })
	select {
	case d.address = <-started:
	case err := <-d.ended:
		require.NoError(w.t, err, "meterd ended")
	case <-time.After(patience):
		require.Fail(w.t, "meterd did not start")
	}
	return d
}

// end stops the daemon and returns what it ended with.
func (d *daemon) end() error {
	if d.over {
		return nil
	}
	d.stop()
	d.over = true
	return <-d.ended
}

// get asks a daemon and returns status and body.
func (d *daemon) get(t *testing.T, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + d.address + path) //nolint:noctx // a test of one's own server
	if err != nil {
		return 0, err.Error()
	}
	defer func() { require.NoError(t, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// usage waits until the client's total of a meter is want.
func (d *daemon) usage(t *testing.T, client, meter, want string) {
	t.Helper()
	var body string
	require.Eventually(t, func() bool {
		var answer struct {
			Counters []struct{ Meter, Usage string }
		}
		var status int
		status, body = d.get(t, "/v1/clients/"+client+"/usage?meter="+meter)
		if status != http.StatusOK || json.Unmarshal([]byte(body), &answer) != nil {
			return false
		}
		return len(answer.Counters) == 1 && answer.Counters[0].Usage == want
	}, patience, 10*time.Millisecond, "usage of %s is not %s: %s", client, want, lazy{&body})
}

// lazy prints a string as it is when it is printed.
type lazy struct{ s *string }

func (l lazy) String() string { return *l.s }

// all reads a topic whole, as a subscriber with read_committed does.
func (w *world) all(topic string) []kafka.Record {
	w.t.Helper()
	var records []kafka.Record
	for p := range w.parts {
		_, err := w.cluster.Read(w.t.Context(), topic, p, kafka.Earliest, kafka.Latest, func(b kafka.Batch) error {
			records = append(records, b.Records...)
			return nil
		})
		require.NoError(w.t, err)
	}
	return records
}

type limitEvent struct {
	ID, Kind, Client, Highest string
	Standing                  []string
	UsageBefore               string `json:"usage_before"`
	UsageAfter                string `json:"usage_after"`
	Sequence                  int64
	Thresholds                []struct{ Threshold string }
	Cause                     struct{ Offset int64 }
}

func (w *world) limitEvents() []limitEvent {
	w.t.Helper()
	var events []limitEvent
	for _, r := range w.all(w.cfg.LimitEvents.Topic) {
		var e limitEvent
		require.NoError(w.t, json.NewDecoder(bytes.NewReader(r.Value)).Decode(&e), "%s", r.Value)
		events = append(events, e)
	}
	return events
}

const acme = `{"id":"acme-1","client":"acme","starts_at":"2020-01-01T00:00:00Z","limits":[
	{"id":"traffic","meter":"bytes","limit":"1000","thresholds":["50%","80%","100%"]}]}`

func TestFromUsageToLimitEvent(t *testing.T) {
	w := newWorld(t, 3)
	w.contract("acme-1", acme)
	now := time.Now()
	w.use("1", "acme", "bytes", 400, now)
	w.use("2", "acme", "bytes", 450, now)
	d := w.start(nil)
	d.usage(t, "acme", "bytes", "850")
	w.use("2", "acme", "bytes", 450, now) // a duplicate
	w.use("3", "acme", "bytes", 150, now)
	w.use("4", "acme", "calls", 1, now)
	w.use("5", "zoo", "calls", 1, now)
	d.usage(t, "acme", "bytes", "1000")
	d.usage(t, "zoo", "calls", "1")

	events := w.limitEvents()
	require.Len(t, events, 2)
	require.Equal(t, []string{"50%", "80%"}, events[0].Standing)
	require.Equal(t, "80%", events[0].Highest)
	require.Equal(t, "400", events[0].UsageBefore)
	require.Equal(t, "850", events[0].UsageAfter)
	require.Equal(t, "100%", events[1].Highest)
	require.Equal(t, int64(2), events[1].Sequence)
	require.Len(t, w.all(w.cfg.LimitEvents.StateTopic), 2)

	status, body := d.get(t, "/v1/clients/acme/limits")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `"blocked":true`)
	status, body = d.get(t, "/metrics")
	require.Equal(t, http.StatusOK, status)
	for _, line := range []string{
		`meterd_records_total{result="counted"} 5`, `meterd_records_total{result="duplicate"} 1`,
		`meterd_limit_events_total{kind="crossed"} 2`,
	} {
		require.Contains(t, body, line+"\n")
	}
	require.NoError(t, d.end())

	// The same again on what is on disk, and on an empty directory.
	for _, dir := range []string{w.cfg.State.Dir, t.TempDir()} {
		w.cfg.State.Dir = dir
		d = w.start(nil)
		d.usage(t, "acme", "bytes", "1000")
		require.NoError(t, d.end())
	}
	require.Len(t, w.limitEvents(), 2)
}

func TestBadRecordsAreDeadLetters(t *testing.T) {
	w := newWorld(t, 1)
	d := w.start(nil)
	for _, value := range []string{`{`, `{"event_id":"1"}`, `{"client_id":"a","meter":"bytes","quantity":"0.5"}`, `{"client_id":"a","meter":"bytes","quantity":"x"}`} {
		_, err := w.producer.Append(t.Context(), []kafka.Message{{
			Topic: "usage", Key: []byte("k"), Value: []byte(value), Headers: []kafka.Header{{Key: []byte("trace"), Value: []byte("7")}},
		}})
		require.NoError(t, err)
	}
	w.use("2", "a", "bytes", 5, time.Now().Add(time.Hour))
	w.use("3", "a", "bytes", 5, time.Now().AddDate(-1, 0, 0))
	w.use("3", "a", "bytes", 7, time.Now())
	d.usage(t, "a", "bytes", "7")
	var reasons []string
	letters := w.all(w.cfg.DeadLetterTopic)
	for _, r := range letters {
		for _, h := range r.Headers {
			if string(h.Key) == "meterd_reason" {
				reasons = append(reasons, string(h.Value))
			}
		}
	}
	require.Equal(t, []string{"undecodable", "missing_field", "overflow", "bad_field", "future", "too_late"}, reasons)
	require.Equal(t, `{`, string(letters[0].Value))
	require.Equal(t, "trace", string(letters[0].Headers[0].Key))
	require.NoError(t, d.end())
}

func TestInstancesComeAndGoAndAnswerForAll(t *testing.T) {
	w := newWorld(t, 4)
	first := w.start(nil)
	var clients []string
	for i := range 12 {
		client := fmt.Sprintf("client-%02d", i)
		clients = append(clients, client)
		w.use("a"+client, client, "bytes", int64(i+1), time.Now())
	}
	for i, client := range clients {
		first.usage(t, client, "bytes", fmt.Sprint(i+1))
	}
	w.cfg.State.Dir = t.TempDir()
	second := w.start(nil)
	for _, d := range []*daemon{first, second} {
		for i, client := range clients {
			d.usage(t, client, "bytes", fmt.Sprint(i+1))
		}
	}
	require.Eventually(t, func() bool {
		status, body := second.get(t, "/v1/clients")
		return status == http.StatusOK && strings.Count(body, "client-") == len(clients)
	}, patience, 20*time.Millisecond)
	for i, client := range clients {
		w.use("b"+client, client, "bytes", 100, time.Now())
		first.usage(t, client, "bytes", fmt.Sprint(i+101))
	}
	w.cfg.State.Dir = t.TempDir()
	third := w.start(nil)
	for i, client := range clients {
		w.use("c"+client, client, "bytes", 1000, time.Now())
		third.usage(t, client, "bytes", fmt.Sprint(i+1101))
	}
	require.NoError(t, first.end())
	for i, client := range clients {
		w.use("d"+client, client, "bytes", 10_000, time.Now())
		second.usage(t, client, "bytes", fmt.Sprint(i+11101))
	}
	require.NoError(t, third.end())
	for i, client := range clients {
		second.usage(t, client, "bytes", fmt.Sprint(i+11101))
	}
	require.NoError(t, second.end())
}
