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
	"slices"
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
	records     []produced
}

// produced is a record as the topic has it.
type produced struct {
	partition int32
	total     druid.Total
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
				column("long", "quantity"), column("long", "k_partition"), column("long", "k_offset"), column("long", "k_ts"),
				column("string", "region"), column("long", "code"), column("double", "ratio"), column("float", "share"),
				column("string", "cached"), column("string", "takes_back"),
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
	const slot = 5 * 60 * 1000 // many records have the same time
	at := b.start + usage.Time(b.rand.Int64N(24)*slot)
	offset := b.next[partition]
	b.next[partition]++
	one := produced{partition: partition}
	value := map[string]any{
		"client_id": client, "meter": meter, "timestamp": int64(at), "k_partition": partition, "k_offset": offset, "k_ts": int64(b.clock()), "quantity": quantity,
	}
	if quantity == 0 { // some are without
		delete(value, "quantity")
		quantity = 1
	}
	d := usage.DecimalOf(quantity)
	one.total = druid.Total{
		Client: client, Meter: meter, Fields: b.fields(value), Void: value["takes_back"] == true,
		Events: 1, Quantity: d, Min: d, Max: d, Latest: d, First: at, Last: at,
	}
	b.records = append(b.records, one)
	text, err := json.Marshal(value)
	require.NoError(b.t, err)
	b.kafka.Produce(b.t.Context(), &kgo.Record{Partition: partition, Value: text}, func(r *kgo.Record, err error) {
		if err != nil || r.Offset != offset {
			b.t.Errorf("record at offset %d instead of %d: %v", r.Offset, offset, err)
		}
	})
	one.total.Fields, one.total.Void, one.total.Latest = nil, false, usage.Decimal{}
	b.add(partition, one.total)
}

// clock is when the next record is appended, as history is told: later than
// any before it.
func (b *bed) clock() usage.Time { return b.start + usage.Time(len(b.records)) }

// fields adds to a record values that meters may look at, or none, and returns
// what they are in the columns of bedFields.
func (b *bed) fields(record map[string]any) []usage.Value {
	number := func(units int64, scale uint8, float float64) usage.Value {
		return usage.Value{Kind: usage.NumberValue, Number: usage.Decimal{Units: units, Scale: scale}, Float: float}
	}
	boolean := func(b bool) usage.Value { return usage.Value{Kind: usage.BooleanValue, True: b} }
	choices := [][]struct {
		in  any
		out usage.Value
	}{
		{{nil, usage.Value{}}, {"", text("")}, {"eu", text("eu")}, {"ü\"", text("ü\"")}, {"true", text("true")}},
		{{nil, usage.Value{}}, {0, number(0, 0, 0)}, {-404, number(-404, 0, -404)}},
		{{nil, usage.Value{}}, {0.1, number(1, 1, 0.1)}},
		{{0.1, number(1, 1, float64(float32(0.1)))}},
		{{nil, usage.Value{}}, {true, boolean(true)}, {false, boolean(false)}},
	}
	var values []usage.Value
	for i, column := range bedFields() {
		one := choices[i][b.rand.IntN(len(choices[i]))]
		if one.in != nil {
			record[column] = one.in
		}
		values = append(values, one.out)
	}
	record["takes_back"] = b.rand.IntN(10) == 0
	return values
}

func bedFields() []string { return []string{"region", "code", "ratio", "share", "cached"} }

// withFields makes a configuration ask for all that records have.
func withFields(c *druid.Config) {
	c.Columns.Fields, c.Columns.Booleans = bedFields(), []bool{false, false, false, false, true}
	c.Columns.Void, c.Latest, c.Extremes = "takes_back", true, true
}

// details are the totals by client and fields of all records so far that are
// on one of the partitions.
func (b *bed) details(partitions ...int32) map[string][]druid.Total {
	sums := map[string]*druid.Total{}
	for _, r := range b.records { // in the order of their offsets
		if !slices.Contains(partitions, r.partition) {
			continue
		}
		one := r.total
		key := fmt.Sprintf("%q %q %v %q", one.Client, one.Meter, one.Void, fmt.Sprint(one.Fields))
		t, ok := sums[key]
		if !ok {
			sums[key] = &one
			continue
		}
		t.Events++
		t.Quantity.Units += one.Quantity.Units
		t.Min.Units, t.Max.Units = min(t.Min.Units, one.Min.Units), max(t.Max.Units, one.Max.Units)
		if one.Last >= t.Last {
			t.Latest = one.Latest
		}
		t.First, t.Last = min(t.First, one.First), max(t.Last, one.Last)
	}
	all := map[string][]druid.Total{}
	for _, t := range sums {
		all[t.Client] = append(all[t.Client], *t)
	}
	return all
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
