package verify_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
	"github.com/meterd/meterd/internal/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const app = "app"

var topics = verify.Topics{
	Usage: "usage", Contracts: "contracts", Changelog: "changelog",
	LimitEvents: "limit-events", LimitState: "limit-state", DeadLetters: "dead-letter",
}

// world is the topics of one partition as a meterd would have written them,
// in memory, where they can still be spoilt.
type world struct {
	t         *testing.T
	cfg       verify.Config
	state     *aggregate.State
	table     *contracts.Table
	handle    *schema.Handle
	codec     *schema.EventCodec
	now       usage.Time
	folded    int // of usage
	usage     []kafka.Message
	contracts []kafka.Message
	changelog []kafka.Message
	events    []kafka.Message
	states    []kafka.Message
	letters   []kafka.Message
	position  int64 // of the group
	ids       int
	sent      []string // values of usage, but for odd ones and voids
}

func at(t *testing.T, text string) usage.Time {
	t.Helper()
	std, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return usage.TimeOf(std)
}

func newWorld(t *testing.T, changes ...func(*verify.Config)) *world {
	t.Helper()
	schedule, err := usage.NewSchedule(usage.Day, "UTC")
	require.NoError(t, err)
	w := &world{t: t, now: at(t, "2026-11-20T10:00:00Z"), cfg: verify.Config{
		ApplicationID: app, Topics: topics, MeterMapped: true, VoidMapped: true, DedupeWindow: time.Hour, MaxFuture: 5 * time.Minute,
		AllowedLateness: 24 * time.Hour, KeepPeriods: 2,
		Catalog: &usage.Catalog{Schedule: schedule, Meters: []usage.Meter{
			{Name: "calls", Aggregation: usage.Count}, {Name: "bytes", Aggregation: usage.Sum, Decimals: 1},
		}},
	}}
	for _, change := range changes {
		change(&w.cfg)
	}
	w.table = contracts.NewTable(w.cfg.Catalog)
	policy := aggregate.IgnoreUnknown
	if w.cfg.DeadLetterUnknown {
		policy = aggregate.DeadLetterUnknown
	}
	w.state = aggregate.New(aggregate.Config{
		ApplicationID: app, Topic: topics.Usage, ContractsTopic: topics.Contracts, Catalog: w.cfg.Catalog,
		MeterMapped: true, DedupeWindow: w.cfg.DedupeWindow, MaxFuture: w.cfg.MaxFuture, AllowedLateness: w.cfg.AllowedLateness,
		UnknownMeter: policy, KeepPeriods: w.cfg.KeepPeriods, History: w.cfg.History, MarkSeeded: w.cfg.MarkSeeded,
	}, w.table)
	w.handle = w.decoder().Handle()
	w.codec, err = schema.NewEventCodec(schema.JSON, 0)
	require.NoError(t, err)
	return w
}

// rich gives a world meters of every kind. Its events have properties.
func rich(c *verify.Config) {
	c.Catalog.Paths = []string{"properties.endpoint", "properties.region", "properties.status", "properties.user"}
	by := func(names ...string) (list []usage.Dimension) {
		for i, path := range c.Catalog.Paths {
			if name := strings.TrimPrefix(path, "properties."); slices.Contains(names, name) {
				list = append(list, usage.Dimension{Name: name, Field: i})
			}
		}
		return list
	}
	c.Catalog.Meters = append(c.Catalog.Meters,
		usage.Meter{Name: "hits", Aggregation: usage.Count, Dimensions: by("endpoint", "region"), MaxCombinations: 4},
		usage.Meter{Name: "egress", Aggregation: usage.Sum, Decimals: 1, Dimensions: by("region"), MaxCombinations: 100},
		usage.Meter{Name: "errors", Aggregation: usage.Sum, Decimals: 1, When: atLeast{2, 500}, Dimensions: by("endpoint"), MaxCombinations: 100},
		usage.Meter{Name: "users", Aggregation: usage.Unique, Value: 3, Dimensions: by("region"), MaxCombinations: 100},
		usage.Meter{Name: "peak", Aggregation: usage.Max, Decimals: 1},
		usage.Meter{Name: "low", Aggregation: usage.Min, Decimals: 1},
		usage.Meter{Name: "gauge", Aggregation: usage.Latest, Decimals: 1},
	)
}

// atLeast holds of events that have a number of so much in a field.
type atLeast struct {
	field int
	least int64
}

func (c atLeast) String() string { return fmt.Sprintf("fields[%d] >= %d", c.field, c.least) }

var errNoNumber = errors.New("not a number")

func (c atLeast) Holds(fields []usage.Value) (bool, error) {
	switch v := fields[c.field]; v.Kind {
	case usage.NullValue:
		return false, nil
	case usage.NumberValue:
		return v.Number.Units >= c.least, nil
	default:
		return false, errNoNumber
	}
}

func (w *world) decoder() *schema.Decoder {
	w.t.Helper()
	cfg := schema.DefaultDecoderConfig()
	cfg.Format, cfg.Mapping.Void, cfg.Mapping.Fields = schema.JSON, "is_void", w.cfg.Catalog.Paths
	d, err := schema.NewDecoder(cfg, nil, zaptest.NewLogger(w.t), prometheus.NewRegistry())
	require.NoError(w.t, err)
	return d
}

// start begins to count.
func (w *world) start(boundary int64) {
	w.state.Start(boundary, w.now)
	w.folded = int(boundary)
	w.commit()
	w.now += 60_000 // long enough for what was written before to be in force
}

// use writes an event of its own at the present time.
func (w *world) use(client, meter, quantity string) {
	w.ids++
	w.send(client, meter, quantity, fmt.Sprintf("e%d", w.ids), w.now)
}

func (w *world) send(client, meter, quantity, id string, when usage.Time) {
	value := fmt.Sprintf(`{"event_id":%q,"client_id":%q,"meter":%q,"quantity":%q,"timestamp":%q}`, id, client, meter, quantity, when)
	w.sent = append(w.sent, value)
	w.raw(client, value)
}

// give writes an event with properties, given as the inside of an object of
// JSON, at the present time, and returns its id.
func (w *world) give(client, meter, quantity, properties string) string {
	w.ids++
	id := fmt.Sprintf("e%d", w.ids)
	w.full(client, meter, quantity, id, w.now, properties)
	return id
}

func (w *world) full(client, meter, quantity, id string, when usage.Time, properties string) {
	value := fmt.Sprintf(`{"event_id":%q,"client_id":%q,"meter":%q,"quantity":%q,"timestamp":%q,"properties":{%s}}`, id, client, meter, quantity, when, properties)
	w.sent = append(w.sent, value)
	w.raw(client, value)
}

// takeBack writes the void of a value that was sent.
func (w *world) takeBack(client, value string) {
	w.raw(client, strings.TrimSuffix(value, "}")+`,"is_void":true}`)
}

func (w *world) raw(key, value string) {
	w.usage = append(w.usage, kafka.Message{
		Topic: topics.Usage, Key: []byte(key), Value: []byte(value), Timestamp: w.now.Std(),
		Headers: []kafka.Header{{Key: []byte("trace"), Value: []byte("t")}},
	})
	w.now += 1000
}

// contract writes a contract; an empty value removes it.
func (w *world) contract(id, value string) {
	m := kafka.Message{Topic: topics.Contracts, Key: []byte(id), Timestamp: w.now.Std()}
	if value != "" {
		m.Value = []byte(value)
	}
	w.contracts = append(w.contracts, m)
	require.NoError(w.t, w.table.Apply(m.Key, m.Value, int64(len(w.contracts)-1)))
	w.now += 1000
}

// count folds what was written since the last time, and commits.
func (w *world) count() {
	w.fold()
	w.commit()
}

func (w *world) fold() {
	w.state.Begin(w.now)
	defer w.state.End()
	if w.state.ContractsBehind() {
		w.state.TakeContracts()
	}
	for ; w.folded < len(w.usage); w.folded++ {
		m := &w.usage[w.folded]
		in := aggregate.Input{Offset: int64(w.folded), Timestamp: usage.TimeOf(m.Timestamp)}
		var ev usage.Event
		reason, err := w.handle.Decode(m.Value, in.Timestamp, &ev)
		if reason == "" {
			require.NoError(w.t, err)
			reason = w.state.Fold(in, &ev).Reason
		} else {
			w.state.Reject(in)
		}
		if reason != "" {
			w.letter(m, int64(w.folded), reason)
		}
	}
}

func (w *world) letter(m *kafka.Message, offset int64, reason usage.Reason) {
	headers := append([]kafka.Header{}, m.Headers...)
	for _, h := range [][2]string{
		{"meterd_topic", topics.Usage},
		{"meterd_partition", "0"},
		{"meterd_offset", strconv.FormatInt(offset, 10)},
		{"meterd_reason", string(reason)},
		{"meterd_error", "because"},
	} {
		headers = append(headers, kafka.Header{Key: []byte(h[0]), Value: []byte(h[1])})
	}
	w.letters = append(w.letters, kafka.Message{Topic: topics.DeadLetters, Key: m.Key, Value: m.Value, Headers: headers, Timestamp: w.now.Std()})
}

// commit writes what has changed.
func (w *world) commit() {
	changes := w.state.Changes(w.now)
	put := func(key, value []byte) {
		w.changelog = append(w.changelog, kafka.Message{Topic: topics.Changelog, Key: key, Value: value, Timestamp: w.now.Std()})
	}
	for r := range changes.Counters {
		put(r.AppendCounterKey(nil), schema.AppendCounter(nil, r))
	}
	for i := range changes.Limits {
		value, err := schema.AppendLimit(nil, &changes.Limits[i])
		require.NoError(w.t, err)
		put([]byte(changes.Limits[i].Key()), value)
	}
	for i := range changes.Dedupe {
		put([]byte(changes.Dedupe[i].Key()), schema.AppendDedupe(nil, &changes.Dedupe[i]))
	}
	for _, key := range changes.Tombstones {
		put([]byte(key), nil)
	}
	put([]byte(aggregate.PositionKey(0)), schema.AppendPosition(nil, &changes.Position))
	for _, e := range changes.Events {
		w.events = append(w.events, w.message(topics.LimitEvents, e.Client, e))
	}
	for _, s := range changes.States {
		w.states = append(w.states, w.message(topics.LimitState, s.Key, s.Event))
	}
	w.position = changes.Position.Position
	w.state.Committed(w.now)
	w.now += 1000
}

func (w *world) message(topic, key string, e *alerts.Event) kafka.Message {
	m := kafka.Message{Topic: topic, Key: []byte(key), Timestamp: w.now.Std()}
	if e == nil {
		return m
	}
	var err error
	m.Value, err = w.codec.Append(nil, e)
	require.NoError(w.t, err)
	for _, h := range schema.Headers(e, app, schema.JSON) {
		m.Headers = append(m.Headers, kafka.Header(h))
	}
	return m
}

// wait lets partition time go on to an instant without any record.
func (w *world) wait(until usage.Time) {
	w.now = until
	w.state.Begin(w.now)
	w.state.Advance(until)
	w.state.End()
	if w.state.Touched() {
		w.commit()
	}
}

// event returns limit event number n, for a change by put.
func (w *world) event(n int) *alerts.Event {
	e, err := w.codec.Decode(w.events[n].Value)
	require.NoError(w.t, err)
	return e
}

// spoil changes limit event number n, wherever it stands.
func (w *world) spoil(n int, change func(*alerts.Event)) {
	e := w.event(n)
	id := e.ID
	change(e)
	replace := func(list []kafka.Message) {
		for i := range list {
			if list[i].Value == nil {
				continue
			}
			if old, err := w.codec.Decode(list[i].Value); err == nil && old.ID == id {
				stamp := list[i].Timestamp
				list[i] = w.message(list[i].Topic, string(list[i].Key), e)
				list[i].Timestamp = stamp
			}
		}
	}
	replace(w.events)
	replace(w.states)
	w.records(func(r any) {
		l, ok := r.(*aggregate.LimitRecord)
		if !ok || l.Last == nil {
			return
		}
		if l.Last.ID == id {
			l.Last = e
		}
		if l.Contract == e.Contract && l.Limit == e.LimitID && l.Period.ID == e.Period.ID && maps.Equal(l.Dimensions, e.Dimensions) {
			retell(l, e)
		}
	})
}

// retell has l tell of e as it is.
func retell(l *aggregate.LimitRecord, e *alerts.Event) {
	for i := range l.Told {
		if t := &l.Told[i]; t.Sequence == e.Sequence {
			t.Kind, t.Before, t.After, t.Revision, t.Cause, t.Late = e.Kind, e.UsageBefore, e.UsageAfter, e.ContractRevision, e.Cause, e.Late
			t.Labels = nil
			for _, p := range e.Thresholds {
				t.Labels = append(t.Labels, p.Threshold)
			}
		}
	}
}

// records changes records of the changelog.
func (w *world) records(change func(record any)) {
	var d schema.ChangelogDecoder
	for i := range w.changelog {
		m := &w.changelog[i]
		if m.Value == nil {
			continue
		}
		record, err := d.Decode(m.Key, m.Value)
		require.NoError(w.t, err)
		change(record)
		switch r := record.(type) {
		case *aggregate.CounterRecord:
			m.Value = schema.AppendCounter(nil, r)
		case *aggregate.LimitRecord:
			m.Value, err = schema.AppendLimit(nil, r)
			require.NoError(w.t, err)
		case *aggregate.PositionRecord:
			m.Value = schema.AppendPosition(nil, r)
		case *aggregate.DedupeRecord:
			m.Value = schema.AppendDedupe(nil, r)
		}
	}
}

// without drops the record of the changelog with a key.
func (w *world) without(key string) {
	w.changelog = append(w.changelog, kafka.Message{Topic: topics.Changelog, Key: []byte(key), Timestamp: w.now.Std()})
}

// check writes the topics to a broker and returns what verify finds.
func (w *world) check(ledgers ...verify.Ledger) ([]string, verify.Report) {
	w.t.Helper()
	return w.checkWith(func(p *verify.Parts) { p.Ledgers = ledgers })
}

func (w *world) checkWith(change func(*verify.Parts)) ([]string, verify.Report) {
	t := w.t
	t.Helper()
	cluster := w.write()
	var found []string
	parts := verify.Parts{
		Cluster: cluster, Decoder: w.decoder(), Events: w.codec, Found: func(d verify.Difference) { found = append(found, d.String()) },
	}
	change(&parts)
	report, err := verify.Run(t.Context(), w.cfg, parts)
	require.NoError(t, err)
	require.EqualValues(t, len(found), report.Differences)
	return found, report
}

// write puts the topics on a broker.
func (w *world) write() *kafka.Cluster {
	t := w.t
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1,
		topics.Usage, topics.Contracts, topics.Changelog, topics.LimitEvents, topics.LimitState, topics.DeadLetters))
	require.NoError(t, err)
	t.Cleanup(fake.Close)
	cfg := kafka.Default()
	cfg.Brokers = fake.ListenAddrs()
	cluster, err := kafka.Dial(t.Context(), cfg, zaptest.NewLogger(t), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	producer, err := cluster.NewProducer(t.Context())
	require.NoError(t, err)
	for _, list := range [][]kafka.Message{w.usage, w.contracts, w.changelog, w.events, w.states, w.letters} {
		_, err := producer.Append(t.Context(), list)
		require.NoError(t, err)
	}
	if w.position < 0 {
		return cluster
	}
	writer := cluster.NewWriter("test", kafka.DefaultWriter())
	require.NoError(t, writer.Init(t.Context()))
	outcome, err := writer.Commit(t.Context(), kafka.Transaction{Topic: topics.Usage, Next: w.position, Member: kafka.Member{Group: app}})
	require.NoError(t, err)
	require.Equal(t, kafka.Committed, outcome)
	return cluster
}

// changelogOf returns the record of a counter.
func (w *world) changelogOf(c *aggregate.CounterRecord) kafka.Message {
	return kafka.Message{Topic: topics.Changelog, Key: c.AppendCounterKey(nil), Value: schema.AppendCounter(nil, c), Timestamp: w.now.Std()}
}

var offsets = regexp.MustCompile(`changelog offset \d+`)
