package loadgen_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/loadgen"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	usageTopic     = "usage"
	contractsTopic = "contracts"
	partitions     = 3
)

// registry keeps schemas in memory. Ids are places in texts, from 1 on.
type registry struct{ texts []string }

func (r *registry) Register(_ context.Context, _, text string) (uint32, error) {
	r.texts = append(r.texts, text)
	return uint32(len(r.texts)), nil
}

func (r *registry) SchemaByID(_ context.Context, id uint32) (schema.Schema, error) {
	if id == 0 || int(id) > len(r.texts) {
		return schema.Schema{}, schema.ErrUnknownSchema
	}
	return schema.Schema{Type: "AVRO", Text: r.texts[id-1]}, nil
}

// memory keeps what was appended. It fails at the append that is the last of
// its patience.
type memory struct {
	messages []kafka.Message
	patience int
}

var errTired = errors.New("tired")

func (m *memory) Append(_ context.Context, messages []kafka.Message) ([]int64, error) {
	if m.patience--; m.patience == 0 {
		return nil, errTired
	}
	for _, msg := range messages {
		msg.Key, msg.Value = bytes.Clone(msg.Key), bytes.Clone(msg.Value)
		m.messages = append(m.messages, msg)
	}
	return make([]int64, len(messages)), nil
}

func catalog(t *testing.T) *usage.Catalog {
	t.Helper()
	schedule, err := usage.NewSchedule(usage.Month, "UTC")
	require.NoError(t, err)
	return &usage.Catalog{Schedule: schedule, Paths: []string{"properties.endpoint"}, Meters: []usage.Meter{
		{Name: "api_calls", Aggregation: usage.Count},
		{Name: "errors", Aggregation: usage.Count, When: never{}},
		{Name: "bytes_out", Aggregation: usage.Sum, Dimensions: []usage.Dimension{{Name: "endpoint"}}},
		{Name: "gb \"hours\"", Aggregation: usage.Sum, Decimals: 6},
	}}
}

// never holds of no event.
type never struct{}

func (never) Holds([]usage.Value) (bool, error) { return false, nil }

func (never) String() string { return "false" }

func target(t *testing.T) loadgen.Target {
	t.Helper()
	partitioner, err := kafka.NewPartitioner("murmur2")
	require.NoError(t, err)
	return loadgen.Target{
		Topic: usageTopic, Partitions: partitions, Partitioner: partitioner, ContractsTopic: contractsTopic,
		Format: schema.Avro, Mapping: schema.DefaultDecoderConfig().Mapping, Catalog: catalog(t),
	}
}

func load() loadgen.Load {
	l := loadgen.Default()
	l.Events, l.Clients = 20_000, 500
	l.Duplicates, l.Undecodable, l.Late, l.SecondSchema, l.DuplicateWithin = 0.01, 0.01, 0.01, 0.3, 2000
	l.Start, l.Span = time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC), time.Hour
	return l
}

func handle(t *testing.T, target loadgen.Target, r schema.Registry) *schema.Handle {
	t.Helper()
	cfg := schema.DefaultDecoderConfig()
	cfg.Format, cfg.Mapping, cfg.UnknownPause = target.Format, target.Mapping, time.Millisecond
	cfg.Mapping.Fields = target.Catalog.Paths
	d, err := schema.NewDecoder(cfg, r, zaptest.NewLogger(t), prometheus.NewRegistry())
	require.NoError(t, err)
	return d.Handle()
}

// recount is what a naive reader makes of the records.
type recount struct {
	schedule   usage.Schedule
	totals     map[loadgen.Key]loadgen.Total
	endpoints  map[loadgen.EndpointKey]loadgen.Total // of bytes_out
	counted    map[string]string                     // what each event is counted as, by client and id
	voids      map[string]bool
	partitions map[int32]loadgen.Tally
	seen       map[string]bool
}

func newRecount(t *testing.T) *recount {
	t.Helper()
	return &recount{
		schedule: catalog(t).Schedule, endpoints: map[loadgen.EndpointKey]loadgen.Total{}, counted: map[string]string{}, voids: map[string]bool{},
		totals: map[loadgen.Key]loadgen.Total{}, partitions: map[int32]loadgen.Tally{}, seen: map[string]bool{},
	}
}

func (c *recount) add(t *testing.T, h *schema.Handle, partition int32, value []byte, at usage.Time) usage.Event {
	t.Helper()
	require.NoError(t, h.Prepare(t.Context(), func(yield func([]byte) bool) { yield(value) }))
	var ev usage.Event
	reason, err := h.Decode(value, at, &ev)
	tally := c.partitions[partition]
	defer func() { c.partitions[partition] = tally }()
	tally.Records++
	if reason != "" {
		require.Equal(t, usage.Undecodable, reason)
		tally.Undecodable++
		return usage.Event{}
	}
	require.NoError(t, err)
	id := string(ev.Client) + "/" + string(ev.ID)
	q, ok := ev.Quantity.Quantity(0)
	require.True(t, ok)
	content := fmt.Sprintf("%s %d at %s %v", ev.Meter, q, ev.Time, ev.Fields)
	one := loadgen.Total{Events: 1, Quantity: int64(q)}
	switch {
	case ev.Void:
		tally.Voids++
		require.Equal(t, c.counted[id], content, "a void is what it takes back")
		require.False(t, c.voids[id], "nothing is taken back twice")
		c.voids[id] = true
		one = loadgen.Total{Events: -1, Quantity: -int64(q)}
	case len(ev.ID) > 0 && c.seen[id]:
		tally.Duplicates++
		return ev
	case ev.Time < at:
		tally.Late++
	}
	c.seen[id], c.counted[id] = true, content
	k := loadgen.Key{Client: string(ev.Client), Meter: string(ev.Meter), Period: c.schedule.At(ev.Time).ID}
	addTo(c.totals, k, one)
	if k.Meter == "bytes_out" {
		addTo(c.endpoints, loadgen.EndpointKey{Key: k, Endpoint: string(ev.Fields[0].Text)}, one)
	}
	return ev
}

// addTo adds to a total; one of nothing is none.
func addTo[K comparable](totals map[K]loadgen.Total, k K, one loadgen.Total) {
	total := loadgen.Total{Events: totals[k].Events + one.Events, Quantity: totals[k].Quantity + one.Quantity}
	if totals[k] = total; total == (loadgen.Total{}) {
		delete(totals, k)
	}
}

func TestLedgerIsWhatIsWritten(t *testing.T) {
	t.Parallel()

	nested := schema.Mapping{ID: "head.id", Client: "who.account.name", Meter: "meter", Quantity: "what.amount", Time: "head.at"}
	usual := schema.DefaultDecoderConfig().Mapping
	voided := usual
	voided.Void = "is_void"
	tests := map[string]struct {
		format     schema.Format
		mapping    schema.Mapping
		dimensions int
	}{
		"avro with the usual fields":        {schema.Avro, usual, 0},
		"avro with nested fields":           {schema.Avro, nested, 0},
		"avro with voids and endpoints":     {schema.Avro, voided, 50},
		"JSON with the usual fields":        {schema.JSON, usual, 0},
		"JSON with nested fields":           {schema.JSON, nested, 0},
		"JSON with voids and few endpoints": {schema.JSON, voided, 0},
		"the names of the two extras":       {schema.Avro, schema.Mapping{ID: "source", Client: "properties.client", Meter: "trace", Quantity: "labels"}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			var file bytes.Buffer
			kept, schemas, to, l := &memory{}, &registry{}, target(t), load()
			to.Format, to.Mapping = tt.format, tt.mapping
			if tt.mapping.Time == "" {
				l.Late = 0
			}
			if l.Dimensions = tt.dimensions; tt.mapping.Void != "" {
				l.Voids, l.Negative = 0.02, 0.1
				l.Start = time.Date(2026, 6, 30, 23, 30, 0, 0, time.UTC) // a period ends halfway
			}
			summary, err := loadgen.Run(t.Context(), l, to, loadgen.Parts{Appender: kept, Registry: schemas, Ledger: &file})
			require.NoError(t, err)
			require.Equal(t, l.Events, summary.Events)
			require.Equal(t, l.Events, summary.Next)

			counted, h := newRecount(t), handle(t, to, schemas)
			for _, m := range kept.messages {
				require.Equal(t, to.Partitioner(m.Key, partitions), m.Partition)
				ev := counted.add(t, h, m.Partition, m.Value, usage.TimeOf(m.Timestamp))
				if ev.Client != nil {
					require.Equal(t, string(m.Key), string(ev.Client))
				}
			}
			ledger, err := loadgen.ReadLedger(&file)
			require.NoError(t, err)
			require.Equal(t, counted.totals, ledger.Totals)
			require.Equal(t, counted.partitions, ledger.Partitions)
			require.Equal(t, l.Events, ledger.Events)
			require.Equal(t, summary.Voids > 0, tt.mapping.Void != "")
			if tt.mapping.Client == usual.Client {
				require.Equal(t, counted.endpoints, ledger.Endpoints)
				require.NotEmpty(t, ledger.Endpoints)
			}
			require.Positive(t, summary.Duplicates)
			require.Positive(t, summary.Undecodable)
		})
	}
}

func TestRunOnKafka(t *testing.T) {
	t.Parallel()

	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, usageTopic), kfake.SeedTopics(1, contractsTopic))
	require.NoError(t, err)
	t.Cleanup(fake.Close)
	cfg := kafka.Default()
	cfg.Brokers = fake.ListenAddrs()
	cluster, err := kafka.Dial(t.Context(), cfg, zaptest.NewLogger(t), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	producer, err := cluster.NewProducer(t.Context())
	require.NoError(t, err)

	var file bytes.Buffer
	schemas, to, l := &registry{}, target(t), load()
	l.Contracts = 20
	l.Start, l.Span = time.Time{}, 0
	summary, err := loadgen.Run(t.Context(), l, to, loadgen.Parts{Appender: producer, Registry: schemas, Ledger: &file})
	require.NoError(t, err)
	require.Equal(t, 20, summary.Contracts)

	counted, h := newRecount(t), handle(t, to, schemas)
	for p := range int32(partitions) {
		_, err := cluster.Read(t.Context(), usageTopic, p, kafka.Earliest, kafka.Latest, func(b kafka.Batch) error {
			for _, r := range b.Records {
				counted.add(t, h, p, r.Value, usage.Time(r.Timestamp))
			}
			return nil
		})
		require.NoError(t, err)
	}
	ledger, err := loadgen.ReadLedger(&file)
	require.NoError(t, err)
	require.Equal(t, counted.totals, ledger.Totals)
	require.Equal(t, counted.partitions, ledger.Partitions)

	crossed, limits := 0, 0
	_, err = cluster.Read(t.Context(), contractsTopic, 0, kafka.Earliest, kafka.Latest, func(b kafka.Batch) error {
		for _, r := range b.Records {
			c, err := contracts.Parse(r.Key, r.Value, r.Offset, to.Catalog)
			require.NoError(t, err)
			for _, limit := range c.Limits {
				total := used(ledger, c.Client, &limit)
				amount := usage.DecimalOf(total.Quantity)
				if to.Catalog.Meters[limit.Meter].Aggregation == usage.Count {
					amount = usage.DecimalOf(total.Events)
				}
				q, ok := amount.Quantity(limit.Decimals)
				require.True(t, ok)
				require.GreaterOrEqual(t, q, limit.Thresholds[0].Value, "the lowest threshold is crossed")
				if limits++; q >= limit.Value {
					crossed++
				}
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.Positive(t, crossed)
	require.Less(t, crossed, limits)
}

// used returns what a limit is about: the endpoint used most, where it is about
// each of them.
func used(ledger *loadgen.Ledger, client string, limit *contracts.Limit) (total loadgen.Total) {
	if len(limit.Where)+len(limit.Per) == 0 {
		for k, t := range ledger.Totals {
			if k.Client == client && k.Meter == limit.MeterName {
				total.Events, total.Quantity = total.Events+t.Events, total.Quantity+t.Quantity
			}
		}
		return total
	}
	endpoints := map[string]loadgen.Total{}
	for k, t := range ledger.Endpoints {
		if k.Client == client && k.Meter == limit.MeterName && (len(limit.Per) > 0 || limit.Where["endpoint"] == k.Endpoint) {
			addTo(endpoints, k.Endpoint, t)
		}
	}
	for _, t := range endpoints {
		if t.Quantity > total.Quantity {
			total = t
		}
	}
	return total
}

func TestRunCanBeContinued(t *testing.T) {
	t.Parallel()

	whole, parts, schemas := &memory{}, &memory{}, &registry{}
	to, l := target(t), load()
	l.Events, l.Start, l.Span = 100_000, time.Time{}, 0
	_, err := loadgen.Run(t.Context(), l, to, loadgen.Parts{Appender: whole, Registry: schemas})
	require.NoError(t, err)

	// The first run is ended from outside after its first chunk.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var first, second bytes.Buffer
	summary, err := loadgen.Run(ctx, l, to, loadgen.Parts{
		Appender: parts, Registry: schemas, Ledger: &first, Progress: func(int64) { cancel() },
	})
	require.NoError(t, err)
	require.Positive(t, summary.Events)
	require.Less(t, summary.Events, l.Events)
	l.First, l.Events = summary.Next, l.Events-summary.Events
	_, err = loadgen.Run(t.Context(), l, to, loadgen.Parts{Appender: parts, Registry: schemas, Ledger: &second})
	require.NoError(t, err)

	require.Len(t, parts.messages, len(whole.messages))
	counted, h := newRecount(t), handle(t, to, schemas)
	for i, m := range parts.messages {
		require.Equal(t, whole.messages[i].Key, m.Key)
		require.Equal(t, whole.messages[i].Partition, m.Partition)
		counted.add(t, h, m.Partition, m.Value, usage.TimeOf(m.Timestamp))
	}
	a, err := loadgen.ReadLedger(&first)
	require.NoError(t, err)
	b, err := loadgen.ReadLedger(&second)
	require.NoError(t, err)
	for k, total := range b.Totals {
		addTo(a.Totals, k, total)
	}
	require.Equal(t, counted.totals, a.Totals)
}

func TestEventsAreAPureFunction(t *testing.T) {
	t.Parallel()

	l := load()
	one, other := loadgen.NewGenerator(l, 3), loadgen.NewGenerator(l, 3)
	kinds, meters, clients := map[loadgen.Kind]int64{}, map[int]int{}, map[int]int{}
	for i := l.Events - 1; i >= 0; i-- {
		require.Equal(t, one.At(i), other.At(i))
	}
	for i := range l.Events {
		e := one.At(i)
		kinds[e.Kind]++
		meters[e.Meter]++
		clients[e.Client]++
		switch e.Kind {
		case loadgen.Duplicate:
			require.Less(t, e.Origin, i)
			require.LessOrEqual(t, i-e.Origin, l.DuplicateWithin)
			original := one.At(e.Origin)
			require.Contains(t, []loadgen.Kind{loadgen.Normal, loadgen.Late}, original.Kind)
			require.Equal(t, original.Client, e.Client)
			require.Equal(t, original.Quantity, e.Quantity)
		case loadgen.Late:
			require.Equal(t, i, e.Origin)
			require.Positive(t, e.Behind)
			require.LessOrEqual(t, e.Behind, l.LateBy)
		default:
			require.Equal(t, i, e.Origin)
			require.Zero(t, e.Behind)
		}
	}
	for _, k := range []loadgen.Kind{loadgen.Late, loadgen.Duplicate, loadgen.Undecodable} {
		require.InDelta(t, 0.01, float64(kinds[k])/float64(l.Events), 0.003)
	}
	require.Len(t, meters, 3)
	require.Greater(t, meters[0], meters[1])
	require.Positive(t, meters[2])
	require.Greater(t, clients[0], 10*clients[99], "use is spread by Zipf's law")

	l.Seed++
	require.NotEqual(t, one.At(7), loadgen.NewGenerator(l, 3).At(7))
}

func TestClientNamesDiffer(t *testing.T) {
	t.Parallel()

	seen := map[string]bool{}
	for n := range 300_000 {
		seen[loadgen.ClientName(n)] = true
	}
	require.Len(t, seen, 300_000)
	require.Equal(t, "client-00000000", loadgen.ClientName(0))
}

func TestSecondSchemaIsCompatible(t *testing.T) {
	t.Parallel()

	for _, mapping := range []schema.Mapping{schema.DefaultDecoderConfig().Mapping, {Client: "a.b.c", ID: "a.b.id", Time: "a.at", Void: "a.void"}} {
		schemas, to, l := &registry{}, target(t), load()
		to.Mapping, l.Events = mapping, 1
		_, err := loadgen.Run(t.Context(), l, to, loadgen.Parts{Appender: &memory{}, Registry: schemas})
		require.NoError(t, err)
		require.Len(t, schemas.texts, 2)
		written, err := avro.ParseWithCache(schemas.texts[0], "", &avro.SchemaCache{})
		require.NoError(t, err)
		reading, err := avro.ParseWithCache(schemas.texts[1], "", &avro.SchemaCache{})
		require.NoError(t, err)
		require.NoError(t, avro.NewSchemaCompatibility().Compatible(reading, written))
	}
}

func TestFailedAppendLeavesAnIncompleteLedger(t *testing.T) {
	t.Parallel()

	var file bytes.Buffer
	summary, err := loadgen.Run(t.Context(), load(), target(t), loadgen.Parts{Appender: &memory{patience: 2}, Registry: &registry{}, Ledger: &file})
	require.ErrorIs(t, err, errTired)
	require.Positive(t, summary.Events)
	_, err = loadgen.ReadLedger(&file)
	require.ErrorIs(t, err, loadgen.ErrIncomplete)
}

func TestReadLedgerRefuses(t *testing.T) {
	t.Parallel()

	for name, text := range map[string]string{
		"nothing":             "",
		"another version":     `{"ledger":2,"complete":true}`,
		"no head":             `{"partition":0,"records":1}`,
		"two heads":           "{\"ledger\":1,\"complete\":true}\n{\"ledger\":1,\"complete\":true}",
		"what is no JSON":     "{\"ledger\":1,\"complete\":true}\nclient 5",
		"an unknown key":      "{\"ledger\":1,\"complete\":true}\n{\"client\":\"a\",\"colour\":1}",
		"a quantity in words": "{\"ledger\":1,\"complete\":true}\n{\"client\":\"a\",\"meter\":\"m\",\"events\":1,\"quantity\":\"one\"}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, err := loadgen.ReadLedger(bytes.NewBufferString(text))
			require.ErrorContains(t, err, "ledger: ")
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change func(*loadgen.Load)
		want   string
	}{
		"no events":             {func(l *loadgen.Load) { l.Events = 0 }, "events"},
		"a negative first":      {func(l *loadgen.Load) { l.First = -1 }, "first-event"},
		"a negative rate":       {func(l *loadgen.Load) { l.Rate = -1 }, "rate"},
		"no clients":            {func(l *loadgen.Load) { l.Clients = 0 }, "clients"},
		"a negative exponent":   {func(l *loadgen.Load) { l.Zipf = -1 }, "zipf"},
		"more than all":         {func(l *loadgen.Load) { l.Duplicates = 1.5 }, "duplicates"},
		"more than all at once": {func(l *loadgen.Load) { l.Duplicates, l.Late = 0.6, 0.6 }, "together"},
		"a span from nowhere":   {func(l *loadgen.Load) { l.Start = time.Time{} }, "span"},
		"a share below 0":       {func(l *loadgen.Load) { l.Voids = -0.1 }, "voids"},
		"more than all below 0": {func(l *loadgen.Load) { l.Negative = 1.1 }, "negative"},
		"too many endpoints":    {func(l *loadgen.Load) { l.Dimensions = 1_000_001 }, "dimensions"},
		"too many contracts":    {func(l *loadgen.Load) { l.Contracts = 501 }, "contracts"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			l := load()
			require.NoError(t, l.Validate())
			tt.change(&l)
			require.ErrorContains(t, l.Validate(), tt.want)
		})
	}
}

func TestTargetsThatCannotBeWritten(t *testing.T) {
	t.Parallel()

	for name, mapping := range map[string]schema.Mapping{
		"two fields at one path":      {Client: "a", ID: "a"},
		"a field inside another":      {Client: "a", ID: "a.b"},
		"a name that Avro lacks":      {Client: "a-b"},
		"no client":                   {ID: "a"},
		"another field inside a leaf": {ID: "a", Client: "a.b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			to := target(t)
			to.Mapping = mapping
			require.Error(t, to.Validate())
		})
	}
}

func TestVoidsNeedTheirField(t *testing.T) {
	t.Parallel()

	l := load()
	l.Voids = 0.1
	_, err := loadgen.Run(t.Context(), l, target(t), loadgen.Parts{Appender: &memory{}, Registry: &registry{}})
	require.ErrorContains(t, err, "usage.fields.void")
}

func TestRateIsKept(t *testing.T) {
	t.Parallel()

	l := load()
	l.Events, l.Rate = 500, 5000
	began := time.Now()
	summary, err := loadgen.Run(t.Context(), l, target(t), loadgen.Parts{Appender: &memory{}, Registry: &registry{}})
	require.NoError(t, err)
	require.Equal(t, l.Events, summary.Events)
	require.GreaterOrEqual(t, time.Since(began), 95*time.Millisecond)
}

func TestUnmappedMeterCountsOnAll(t *testing.T) {
	t.Parallel()

	var file bytes.Buffer
	to, l := target(t), load()
	to.Mapping.Meter, to.Mapping.Quantity = "", ""
	_, err := loadgen.Run(t.Context(), l, to, loadgen.Parts{Appender: &memory{}, Registry: &registry{}, Ledger: &file})
	require.NoError(t, err)
	ledger, err := loadgen.ReadLedger(&file)
	require.NoError(t, err)
	clients := maps.Clone(ledger.Totals)
	for k, total := range clients {
		require.Equal(t, ledger.Totals[loadgen.Key{Client: k.Client, Meter: "api_calls", Period: k.Period}], total)
		require.Equal(t, total.Events, total.Quantity)
	}
}

// void keeps nothing.
type void struct{}

func (void) Append(context.Context, []kafka.Message) ([]int64, error) { return nil, nil }

func BenchmarkRun(b *testing.B) {
	partitioner, err := kafka.NewPartitioner("murmur2")
	require.NoError(b, err)
	to := loadgen.Target{
		Topic: usageTopic, Partitions: 8, Partitioner: partitioner, Format: schema.Avro, Mapping: schema.DefaultDecoderConfig().Mapping,
		Catalog: &usage.Catalog{
			Meters:   []usage.Meter{{Name: "a", Aggregation: usage.Sum}, {Name: "b", Aggregation: usage.Count}},
			Schedule: usage.Schedule{Kind: usage.Lifetime, Zone: time.UTC},
		},
	}
	l := loadgen.Default()
	l.Events, l.Clients = int64(b.N), 10_000
	b.ReportAllocs()
	_, err = loadgen.Run(b.Context(), l, to, loadgen.Parts{Appender: void{}, Registry: &registry{}})
	require.NoError(b, err)
}
