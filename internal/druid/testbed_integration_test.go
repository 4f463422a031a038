//go:build integration

package druid_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

// patience is how long these tests wait for Druid to ingest, hand over or
// recover on a busy machine.
const patience = 4 * time.Minute

// env returns a variable that the integration tests need: without the real
// thing they fail.
func env(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	require.NotEmpty(t, value, "%s must be set for integration tests", name)
	return value
}

// bed is a topic of real Kafka, the datasource in real Druid that is filled
// from it, and what the totals of it must be.
type bed struct {
	t           *testing.T
	name        string // of topic, datasource and supervisor
	coordinator string
	kafka       *kgo.Client
	next        map[int32]int64 // offset of the next record
	rand        *rand.Rand
	http        *http.Client
	start       usage.Time
	totals      map[int32]map[[2]string]druid.Total
}

const bedPartitions = 2

// newBed makes topic and supervisor. Transactional producers leave gaps in the
// offsets.
func newBed(t *testing.T, taskDuration string, options ...kgo.Opt) *bed {
	t.Helper()
	seed := rand.Uint64()
	b := &bed{
		t: t, name: fmt.Sprintf("seed-%d", time.Now().UnixNano()), coordinator: env(t, "METERD_TEST_DRUID_COORDINATOR"),
		next: make(map[int32]int64), totals: make(map[int32]map[[2]string]druid.Total), rand: rand.New(rand.NewPCG(seed, 0)),
		start: usage.TimeOf(time.Now().Add(-2 * time.Hour)),
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	b.http = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	t.Logf("%s: seed %d", b.name, seed)
	brokers := env(t, "METERD_TEST_KAFKA")
	options = append(options, kgo.SeedBrokers(brokers), kgo.DefaultProduceTopic(b.name), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	client, err := kgo.NewClient(options...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	b.kafka = client
	admin := kadm.NewClient(client)
	_, err = admin.CreateTopic(t.Context(), bedPartitions, 1, nil, b.name)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := admin.DeleteTopics(ctx, b.name)
		require.NoError(t, err)
	})
	b.post("/druid/indexer/v1/supervisor", b.spec(brokers, taskDuration))
	t.Cleanup(func() { b.post("/druid/indexer/v1/supervisor/"+b.name+"/terminate", nil) })
	return b
}

// spec has partition and offset in the value: so it works with every version
// of Druid, while the input format that adds them needs 36.
func (b *bed) spec(brokers, taskDuration string) any {
	column := func(kind, name string) map[string]string { return map[string]string{"type": kind, "name": name} }
	return map[string]any{"type": "kafka", "id": b.name, "spec": map[string]any{
		"dataSchema": map[string]any{
			"dataSource":    b.name,
			"timestampSpec": map[string]string{"column": "timestamp", "format": "millis"},
			"dimensionsSpec": map[string]any{"dimensions": []map[string]string{
				column("string", "client_id"), column("string", "meter"),
				column("long", "quantity"), column("long", "k_partition"), column("long", "k_offset"),
			}},
			"granularitySpec": map[string]any{"segmentGranularity": "HOUR", "queryGranularity": "NONE", "rollup": false},
		},
		"ioConfig": map[string]any{
			"type": "kafka", "topic": b.name, "consumerProperties": map[string]string{"bootstrap.servers": brokers},
			"inputFormat": map[string]string{"type": "json"}, "useEarliestOffset": true,
			"taskCount": 1, "replicas": 1, "taskDuration": taskDuration, "startDelay": "PT1S", "period": "PT5S",
		},
		"tuningConfig": map[string]any{"type": "kafka", "offsetFetchPeriod": "PT5S", "intermediatePersistPeriod": "PT1M"},
	}}
}

func (b *bed) post(path string, v any) {
	b.t.Helper()
	body, err := json.Marshal(v)
	require.NoError(b.t, err)
	resp, err := b.http.Post(b.coordinator+path, "application/json", bytes.NewReader(body))
	require.NoError(b.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	require.Equal(b.t, http.StatusOK, resp.StatusCode, "%s", text)
}

func bedClients() []string {
	names := make([]string, 300)
	for i := range names {
		names[i] = "client-" + strconv.Itoa(i)
	}
	return append(names, `quo"te\ü`, "whale", "nobody")
}

// produce writes n random records, checks that they got the offsets they say,
// and adds them to the totals.
func (b *bed) produce(n int) {
	b.t.Helper()
	names := bedClients()
	for range n {
		b.record(b.rand.Int32N(bedPartitions), names[b.rand.IntN(len(names)-2)], "meter-"+strconv.Itoa(b.rand.IntN(3)), b.rand.Int64N(2001)-500)
	}
	require.NoError(b.t, b.kafka.Flush(b.t.Context()))
}

func (b *bed) record(partition int32, client, meter string, quantity int64) {
	at := b.start + usage.Time(b.rand.Int64N(2*3600*1000))
	offset := b.next[partition]
	b.next[partition]++
	value := map[string]any{"client_id": client, "meter": meter, "timestamp": int64(at), "k_partition": partition, "k_offset": offset, "quantity": quantity}
	if quantity == 0 { // some are without
		delete(value, "quantity")
		quantity = 1
	}
	text, err := json.Marshal(value)
	require.NoError(b.t, err)
	b.kafka.Produce(b.t.Context(), &kgo.Record{Partition: partition, Value: text}, func(r *kgo.Record, err error) {
		if err != nil || r.Offset != offset {
			b.t.Errorf("record at offset %d instead of %d: %v", r.Offset, offset, err)
		}
	})
	b.add(partition, druid.Total{
		Client: client, Meter: meter, Events: 1, Quantity: usage.DecimalOf(quantity),
		Min: usage.DecimalOf(quantity), Max: usage.DecimalOf(quantity), First: at, Last: at,
	})
}

func (b *bed) add(partition int32, one druid.Total) {
	if b.totals[partition] == nil {
		b.totals[partition] = make(map[[2]string]druid.Total)
	}
	key := [2]string{one.Client, one.Meter}
	if sum, ok := b.totals[partition][key]; ok {
		one.Events += sum.Events
		one.Quantity.Units += sum.Quantity.Units
		one.Min.Units, one.Max.Units = min(one.Min.Units, sum.Min.Units), max(one.Max.Units, sum.Max.Units)
		one.First, one.Last = min(one.First, sum.First), max(one.Last, sum.Last)
	}
	b.totals[partition][key] = one
}

// edges returns the boundaries of now and the totals below them.
func (b *bed) edges() (map[int32]int64, map[int32]map[string][]druid.Total) {
	boundaries, totals := make(map[int32]int64), make(map[int32]map[string][]druid.Total)
	for p, next := range b.next {
		boundaries[p] = next
		totals[p] = make(map[string][]druid.Total)
		for m := range 3 {
			for _, c := range bedClients() {
				if t, ok := b.totals[p][[2]string{c, "meter-" + strconv.Itoa(m)}]; ok {
					totals[p][c] = append(totals[p][c], t)
				}
			}
		}
	}
	return boundaries, totals
}

func (b *bed) seeder(change func(*druid.Config)) *druid.Seeder {
	b.t.Helper()
	cfg := druid.Default()
	cfg.URL, cfg.CoordinatorURL = env(b.t, "METERD_TEST_DRUID"), b.coordinator
	cfg.Datasource, cfg.Supervisor, cfg.BatchClients = b.name, b.name, 100
	if change != nil {
		change(&cfg)
	}
	s, err := druid.New(cfg, b.http, zaptest.NewLogger(b.t), prometheus.NewRegistry(), time.Now)
	require.NoError(b.t, err)
	return s
}

// control runs the testbed's script for a fault, such as kill historical. It
// must run each service by itself (DRUID_SPLIT=1).
func control(t *testing.T, verb, service string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // also called when the test has ended
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(env(t, "METERD_TESTBED"), "druid.sh"), verb, service).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
