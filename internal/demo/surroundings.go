package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
)

// usageSchema is the schema of the traffic: the one that meterd's default
// mapping reads.
//
//go:embed usage-event.avsc
var usageSchema string

// surroundings are what meterd stands between, all on 127.0.0.1.
type surroundings struct {
	kafka       *kfake.Cluster
	producer    *kgo.Client
	registry    *sr.Client
	registryURL string
	history     *history
	historyURL  string
	codec       *usageCodec

	http    *http.Client // of registry
	servers *errgroup.Group
	stop    context.CancelFunc
}

// openSurroundings starts Kafka, the schema registry and an empty history.
func openSurroundings(ctx context.Context) (_ *surroundings, err error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	servers, running := errgroup.WithContext(running)
	s := &surroundings{servers: servers, stop: stop, history: &history{}, http: &http.Client{Transport: &http.Transport{}}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.kafka, err = kfake.NewCluster(kfake.NumBrokers(1)); err != nil {
		return nil, fmt.Errorf("start embedded kafka: %w", err)
	}
	if s.registryURL, err = s.serve(running, srfake.NewRegistry().Handler()); err != nil {
		return nil, fmt.Errorf("start embedded schema registry: %w", err)
	}
	if s.historyURL, err = s.serve(running, s.history); err != nil {
		return nil, fmt.Errorf("start embedded history: %w", err)
	}
	if s.registry, err = sr.NewClient(sr.URLs(s.registryURL), sr.HTTPClient(s.http)); err != nil {
		return nil, fmt.Errorf("make client of schema registry: %w", err)
	}
	if s.codec, err = registerUsage(ctx, s.registry); err != nil {
		return nil, err
	}
	s.producer, err = kgo.NewClient(
		kgo.SeedBrokers(s.kafka.ListenAddrs()...), kgo.ClientID("demo-traffic"),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // murmur2, as Java's
		kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(200_000),
	)
	if err != nil {
		return nil, fmt.Errorf("make producer: %w", err)
	}
	return s, nil
}

// serve answers with h at the URL that it returns, until ctx ends.
func (s *surroundings) serve(ctx context.Context, h http.Handler) (string, error) {
	var l net.ListenConfig
	listener, err := l.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	s.servers.Go(func() error {
		defer context.AfterFunc(ctx, func() { _ = server.Close() })()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return "http://" + listener.Addr().String(), nil
}

// Close ends all of it.
func (s *surroundings) Close() error {
	if s.producer != nil {
		s.producer.Close()
	}
	s.stop()
	err := s.servers.Wait()
	s.http.CloseIdleConnections()
	if s.kafka != nil {
		s.kafka.Close()
	}
	return err
}

// createTopics makes the usage topic and those that meterd wants. The embedded
// Kafka is kept from compacting: that part of it is not like the real one.
func (s *surroundings) createTopics(ctx context.Context, cfg *config.Config) error {
	never := "315360000000" // milliseconds: ten years
	admin := kadm.NewClient(s.producer)
	if _, err := admin.CreateTopic(ctx, partitions, 1, nil, usageTopic); err != nil {
		return fmt.Errorf("create topic %s: %w", usageTopic, err)
	}
	for _, spec := range app.Topics(cfg, partitions) {
		policy := "delete"
		if spec.Compact {
			policy = "compact"
		}
		configs := map[string]*string{"cleanup.policy": &policy, "min.compaction.lag.ms": &never}
		if _, err := admin.CreateTopic(ctx, spec.Partitions, 1, configs, spec.Name); err != nil {
			return fmt.Errorf("create topic %s: %w", spec.Name, err)
		}
	}
	return nil
}

// ends returns the next offset of each partition of the usage topic.
func (s *surroundings) ends(ctx context.Context) (map[int32]int64, error) {
	listed, err := kadm.NewClient(s.producer).ListEndOffsets(ctx, usageTopic)
	if err = errors.Join(err, listed.Error()); err != nil {
		return nil, fmt.Errorf("ask for the end of %s: %w", usageTopic, err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, nil
}

// usageEvent is a record of the usage topic.
type usageEvent struct {
	ID         string            `avro:"event_id"`
	Client     string            `avro:"client_id"`
	Meter      string            `avro:"meter"`
	Quantity   int64             `avro:"quantity"`
	Time       time.Time         `avro:"timestamp"`
	Source     string            `avro:"source"`
	Properties map[string]string `avro:"properties"`
}

// usageCodec writes usage events in Confluent's wire format.
type usageCodec struct {
	schema avro.Schema
	id     int
}

func registerUsage(ctx context.Context, registry *sr.Client) (*usageCodec, error) {
	parsed, err := avro.ParseWithCache(usageSchema, "", &avro.SchemaCache{})
	if err != nil {
		return nil, fmt.Errorf("parse schema of usage events: %w", err)
	}
	registered, err := registry.CreateSchema(ctx, usageTopic+"-value", sr.Schema{Schema: usageSchema})
	if err != nil {
		return nil, fmt.Errorf("register schema of usage events: %w", err)
	}
	return &usageCodec{schema: parsed, id: registered.ID}, nil
}

// record returns e as a record, keyed by client.
func (c *usageCodec) record(e *usageEvent) (*kgo.Record, error) {
	value, err := sr.Encode(e, new(sr.ConfluentHeader), c.id, nil, func(v any) ([]byte, error) { return avro.Marshal(c.schema, v) })
	if err != nil {
		return nil, fmt.Errorf("encode usage event: %w", err)
	}
	return &kgo.Record{Topic: usageTopic, Key: []byte(e.Client), Value: value}, nil
}
