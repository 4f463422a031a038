package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/loadgen"
)

const (
	// batchBytes bounds a batch before its compression.
	batchBytes = 64 << 10
	// buffered bounds the records on their way.
	buffered = 250_000
	// linger is how long a batch waits for more when nobody waits for it.
	linger = 5 * time.Millisecond
)

// Writer writes loads.
type Writer struct {
	SchemaID uint32 // of the events

	brokers string
}

// NewWriter returns a writer, and registers the schema of the events.
func NewWriter(ctx context.Context, brokers string, registry loadgen.Registrar) (*Writer, error) {
	one := Shape{Events: 1, Clients: 1, Meters: 1, Partitions: 1, Clean: true}
	target, err := one.target("usage")
	if err != nil {
		return nil, err
	}
	learn := &learner{registry: registry}
	if _, err := loadgen.Run(ctx, one.events(), target, loadgen.Parts{Appender: nowhere{}, Registry: learn}); err != nil {
		return nil, err
	}
	return &Writer{SchemaID: learn.id, brokers: brokers}, nil
}

// learner is a registry that tells which id it has given.
type learner struct {
	registry loadgen.Registrar
	id       uint32
}

func (l *learner) Register(ctx context.Context, subject, text string) (id uint32, err error) {
	l.id, err = l.registry.Register(ctx, subject, text)
	return l.id, err
}

// Register makes a Writer the registry of what it writes: all loads have one
// schema.
func (w *Writer) Register(context.Context, string, string) (uint32, error) { return w.SchemaID, nil }

// nowhere keeps nothing.
type nowhere struct{}

func (nowhere) Append(context.Context, []kafka.Message) ([]int64, error) { return nil, nil }

// Contracts writes the contracts of a load to a topic of one partition.
func (w *Writer) Contracts(ctx context.Context, l *Ledger, topic string) error {
	out, err := w.open(linger)
	if err != nil {
		return err
	}
	defer out.client.Close()
	for n := range min(l.Shape.Contracts, l.Shape.Clients) {
		out.produce(ctx, &kgo.Record{Topic: topic, Key: []byte(l.Client(n)), Value: l.contract(n)})
	}
	return out.flush(ctx)
}

// contract returns a client's contract, whose id is the client's.
func (l *Ledger) contract(n int) []byte {
	name := l.Client(n)
	dst := fmt.Appendf(nil, `{"id":%q,"client":%q,"starts_at":"2026-01-01T00:00:00Z","limits":[`, name, name)
	for m, meter := range Names[:l.Shape.Meters] {
		if m > 0 {
			dst = append(dst, ',')
		}
		dst = fmt.Appendf(dst, `{"id":%q,"meter":%q,"period":"year","limit":"%d","thresholds":["50%%","80%%","100%%"]}`, meter, meter, l.limits[l.key(n, m)])
	}
	return append(dst, "]}"...)
}

// Fill writes all events as fast as the broker takes them, and returns how
// many bytes their keys and values have.
func (w *Writer) Fill(ctx context.Context, l *Ledger, topic string) (bytes int64, err error) {
	out, err := w.open(linger)
	if err != nil {
		return 0, err
	}
	defer out.client.Close()
	return w.run(ctx, l.Shape.events(), l, topic, out)
}

// Continue adds events to the end of a load, in its ledger and on its topic.
func (w *Writer) Continue(ctx context.Context, l *Ledger, topic string, events int64) error {
	out, err := w.open(linger)
	if err != nil {
		return err
	}
	defer out.client.Close()
	more := l.Shape.events()
	more.First, more.Events = l.Shape.Events, events
	l.Grow(events)
	_, err = w.run(ctx, more, l, topic, out)
	return err
}

// Pace writes the events live, so many a second, and returns for each that
// passes a threshold when it was handed to the producer.
func (w *Writer) Pace(ctx context.Context, l *Ledger, topic string, rate int) (map[Crossing]time.Time, error) {
	out, err := w.open(0)
	if err != nil {
		return nil, err
	}
	defer out.client.Close()
	out.crossers, out.sent = l.Crossers(), map[Crossing]time.Time{}
	live := l.Shape.events()
	live.Rate, live.Start, live.Span = rate, time.Time{}, 0
	_, err = w.run(ctx, live, l, topic, out)
	return out.sent, err
}

func (w *Writer) run(ctx context.Context, events loadgen.Load, l *Ledger, topic string, out *appender) (int64, error) {
	target, err := l.Shape.target(topic)
	if err != nil {
		return 0, err
	}
	summary, err := loadgen.Run(ctx, events, target, loadgen.Parts{Appender: out, Registry: w})
	if err = errors.Join(err, out.flush(ctx)); err != nil {
		return 0, fmt.Errorf("write %s: %w", topic, err)
	}
	if summary.Events != events.Events {
		return 0, fmt.Errorf("write %s: %d events of %d: %w", topic, summary.Events, events.Events, context.Cause(ctx))
	}
	return summary.Bytes, nil
}

func (w *Writer) open(linger time.Duration) (*appender, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(w.brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.ProducerBatchMaxBytes(batchBytes), kgo.MaxBufferedRecords(buffered), kgo.ProducerLinger(linger),
	)
	if err != nil {
		return nil, err
	}
	return &appender{client: client}, nil
}

// appender is where meterd's generator writes to. It does not wait for the
// broker, so a broker that is slow for a while delays no later event; flush
// tells what went wrong.
type appender struct {
	client   *kgo.Client
	crossers map[int64][]Crossing
	sent     map[Crossing]time.Time
	next     int64 // number of the next event

	mu  sync.Mutex
	err error // the first
}

// Append takes over the messages, whose memory stays the caller's.
func (a *appender) Append(ctx context.Context, messages []kafka.Message) ([]int64, error) {
	bytes := 0
	for i := range messages {
		bytes += len(messages[i].Value)
	}
	arena, records := make([]byte, 0, bytes), make([]kgo.Record, len(messages))
	at := time.Now()
	for i := range messages {
		m, from := &messages[i], len(arena)
		arena = append(arena, m.Value...)
		records[i] = kgo.Record{Topic: m.Topic, Partition: m.Partition, Key: m.Key, Value: arena[from:len(arena):len(arena)], Timestamp: m.Timestamp}
		a.produce(context.WithoutCancel(ctx), &records[i])
		for _, c := range a.crossers[a.next] {
			a.sent[c] = at
		}
		a.next++
	}
	return nil, a.failed()
}

func (a *appender) produce(ctx context.Context, r *kgo.Record) {
	a.client.Produce(ctx, r, func(_ *kgo.Record, err error) {
		if err != nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.err == nil {
				a.err = err
			}
		}
	})
}

func (a *appender) failed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (a *appender) flush(ctx context.Context) error {
	return errors.Join(a.client.Flush(ctx), a.failed())
}
