// Package app builds meterd out of its parts and owns the order in which they
// start and stop.
//
// Run is the whole daemon: it returns when its context has ended and all of
// its partitions were handed over, or with the error that ended it.
package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/envoy"
	"github.com/meterd/meterd/internal/feed"
	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/internal/ingest"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/store"
	"github.com/meterd/meterd/internal/usage"
)

// Options are what does not come from the configuration.
type Options struct {
	CreateTopics bool                    // make the topics that are missing
	Started      func(address string)    // called when HTTP is listened on
	RateLimit    func(address string)    // called when Envoy's rate-limit service is, if set
	Step         func(ingest.Step) error // of ingest.Parts

	// Dial opens connections to brokers; nil is a net.Dialer's. For tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// ErrTopics is returned when topics are missing or not as they must be. The
// text says what to do.
var ErrTopics = errors.New("topics are not as they must be")

// Run runs meterd until ctx ends.
func Run(ctx context.Context, cfg *config.Config, opts Options, log *zap.Logger, reg *prometheus.Registry) (err error) {
	cluster, err := dial(ctx, cfg, opts.Dial, log, reg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()

	partitions, err := checkTopics(ctx, cluster, cfg, opts.CreateTopics)
	if err != nil {
		return err
	}
	local, err := openStore(cfg, cluster.ID(), log, reg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.Close()) }()

	d := &daemon{cfg: cfg, opts: opts, log: log, reg: reg, cluster: cluster, store: local, partitions: partitions}
	if err := d.build(ctx); err != nil {
		return err
	}
	return d.run(ctx)
}

// daemon is a meterd whose parts exist.
type daemon struct {
	cfg        *config.Config
	opts       Options
	log        *zap.Logger
	reg        *prometheus.Registry
	cluster    *kafka.Cluster
	store      *store.Store
	partitions int32

	table     *contracts.Table
	fetcher   *kafka.Fetcher
	reader    *ingest.ContractReader
	seeder    *druid.Seeder // nil: no history
	ingest    *ingest.Ingest
	server    *httpapi.Server
	handover  *handover      // nil: there is one partition
	told      *kafka.Fetcher // of limit events, for the feed
	feed      *feed.Feed
	rateLimit *envoy.Server // nil: off
	group     *kafka.Group
	owner     func(client string) int32
}

// build makes the parts in the order in which they need one another. Nothing
// runs yet, but HTTP is bound.
func (d *daemon) build(ctx context.Context) error {
	catalog, err := d.cfg.Catalog()
	if err != nil {
		return err
	}
	d.table = contracts.NewTable(&catalog)
	d.fetcher = d.cluster.NewFetcher(kafka.DefaultFetch())

	partitioner, err := kafka.NewPartitioner(d.cfg.Usage.Partitioner)
	if err != nil {
		return fmt.Errorf("usage.partitioner: %w", err)
	}
	d.owner = func(client string) int32 { return partitioner([]byte(client), d.partitions) }

	if d.partitions > 1 {
		d.handover = newHandover(d.partitions, d.handOverHere, d.handOverThere, d.log.Named("handover"))
	}
	counters, err := d.counters(ctx, &catalog)
	if err != nil {
		return err
	}
	d.reader = ingest.NewContractReader(d.cluster, d.fetcher, d.cfg.Contracts.Topic, d.table, d.nudge, d.log.Named("contracts"), d.reg)
	d.ingest = ingest.New(ingest.Config{
		ApplicationID: d.cfg.ApplicationID, Topic: d.cfg.Usage.Topic, ChangelogTopic: d.cfg.ChangelogTopic,
		StartLatest: d.cfg.Usage.Start == "latest", CutEvery: cutEvery(&d.cfg.History),
		CommitInterval: d.cfg.Commit.Interval.Duration(), CommitRecords: d.cfg.Commit.MaxRecords,
		FlushInterval: d.cfg.State.FlushInterval.Duration(), StuckAfter: stuckAfter,
		Reclaim: d.cfg.Kafka.SessionTimeout.Duration(),
	}, ingest.Parts{
		Cluster: d.cluster, Fetcher: d.fetcher, Store: localStore{d.store}, Writer: d.writerConfig(),
		Member:    func() (kafka.Member, bool) { return d.group.Member() },
		Renew:     func(ctx context.Context, stale kafka.Member) (kafka.Member, bool) { return d.group.Renew(ctx, stale) },
		Processor: counters, Ready: d.reader.Ready(), Step: d.opts.Step,
	}, d.log.Named("ingest"), d.reg)

	if d.server, err = d.newServer(); err != nil {
		return err
	}
	if err := d.newRateLimit(); err != nil {
		return err
	}
	d.group, err = d.cluster.NewGroup(d.groupConfig(), d.ingest)
	if err != nil {
		return fmt.Errorf("group: %w", err)
	}
	return nil
}

// stuckAfter is how long a partition may stand still before the process gives
// up and is started anew.
const stuckAfter = 2 * time.Minute

func (d *daemon) groupConfig() kafka.GroupConfig {
	g := kafka.DefaultGroup()
	g.Group, g.Topic, g.Address = d.cfg.ApplicationID, d.cfg.Usage.Topic, d.address()
	g.InstanceID, g.SessionTimeout = d.cfg.Kafka.InstanceID, d.cfg.Kafka.SessionTimeout.Duration()
	return g
}

func (d *daemon) writerConfig() kafka.WriterConfig {
	w := kafka.DefaultWriter()
	w.Timeout = d.cfg.Kafka.TransactionTimeout.Duration()
	return w
}

// address is where other instances reach this one.
func (d *daemon) address() string {
	if d.cfg.HTTP.Advertise != "" {
		return d.cfg.HTTP.Advertise
	}
	return d.server.Addr().String()
}

// counters returns the maker of what counts a partition.
func (d *daemon) counters(ctx context.Context, catalog *usage.Catalog) (func(int32) (ingest.Processor, error), error) {
	parts, err := d.counterParts(ctx, catalog)
	if err != nil {
		return nil, err
	}
	return func(partition int32) (ingest.Processor, error) {
		cfg := d.counterConfig(catalog)
		cfg.State.Owns = func(client string) bool { return d.owner(client) == partition }
		cfg.State.Handover = d.handover != nil
		return ingest.NewCounter(cfg, parts, partition), nil
	}, nil
}

func (d *daemon) counterConfig(catalog *usage.Catalog) ingest.CounterConfig {
	c := d.cfg
	return ingest.CounterConfig{
		ApplicationID: c.ApplicationID,
		Changelog:     c.ChangelogTopic, LimitEvents: c.LimitEvents.Topic, LimitState: c.LimitEvents.StateTopic, DeadLetters: c.DeadLetterTopic,
		State: aggregate.Config{
			ApplicationID: c.ApplicationID, Topic: c.Usage.Topic, ContractsTopic: c.Contracts.Topic,
			Catalog: catalog, MeterMapped: c.Usage.Fields.Meter != "",
			DedupeWindow: DedupeWindow(c), MaxFuture: c.Usage.MaxFuture.Duration(), AllowedLateness: c.Usage.AllowedLateness.Duration(),
			UnknownMeter: aggregate.UnknownMeterPolicy(c.Usage.UnknownMeter), KeepPeriods: c.State.KeepPeriods,
			History: c.History.Druid != nil, Bounded: c.History.Druid != nil && c.History.Druid.Columns.Bounded(), MarkSeeded: c.History.OnCrossed == "mark",
		},
	}
}

// cutEvery returns what times history can be cut at, and 0 where it knows
// offsets.
func cutEvery(h *config.History) time.Duration {
	switch {
	case h.Druid == nil || !h.Druid.Columns.Bounded():
		return 0
	case h.Druid.Columns.RecordTime != "":
		return time.Millisecond
	default:
		return h.Druid.Granularity.Duration()
	}
}

// DedupeWindow returns how long an event id is known, which is not at all where
// none is mapped.
func DedupeWindow(c *config.Config) time.Duration {
	if c.Usage.Fields.ID == "" {
		return 0
	}
	return c.Usage.DedupeWindow.Duration()
}

func (d *daemon) counterParts(ctx context.Context, catalog *usage.Catalog) (ingest.CounterParts, error) {
	parts := ingest.CounterParts{Table: d.table, Metrics: ingest.NewCounterMetrics(d.reg), Log: d.log.Named("counter")}
	codecs, err := NewCodecs(ctx, d.cfg, d.log, d.reg)
	if err != nil {
		return parts, err
	}
	parts.Decoder, parts.Events = codecs.Usage, codecs.LimitEvents
	if err := d.newFeed(codecs.LimitEvents); err != nil {
		return parts, err
	}
	if d.handover != nil {
		parts.Handover = d.handover
	}
	if d.cfg.History.Druid == nil {
		return parts, nil
	}
	asks, err := druidConfig(d.cfg, catalog)
	if err != nil {
		return parts, err
	}
	if d.seeder, err = druid.New(asks, &http.Client{}, d.log.Named("druid"), d.reg, time.Now); err != nil {
		return parts, fmt.Errorf("history.druid: %w", err)
	}
	parts.History = history{d.seeder}
	return parts, nil
}

// nudge tells the partitions that contracts have changed.
func (d *daemon) nudge() {
	for _, s := range d.ingest.Partitions() {
		if counter, ok := s.Processor.(*ingest.Counter); ok {
			counter.Nudge()
		}
	}
}

// run runs the parts. When ctx ends, the partitions are handed over first,
// while all that they need still runs.
func (d *daemon) run(ctx context.Context) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	parts, inner := errgroup.WithContext(inner)
	members, leave := context.WithCancel(inner)
	defer leave()
	defer context.AfterFunc(ctx, leave)()

	parts.Go(func() error { return d.fetcher.Run(inner) })
	parts.Go(func() error { return named("contracts", d.reader.Run(inner)) })
	if d.seeder != nil {
		parts.Go(func() error { return named("history", d.seeder.Run(inner)) })
	}
	if d.handover != nil {
		parts.Go(func() error { return d.handover.Run(inner) })
	}
	parts.Go(func() error { return d.told.Run(inner) })
	parts.Go(func() error { return d.feed.Run(inner) })
	parts.Go(func() error { return d.ingest.Run(inner) })
	parts.Go(func() error { return named("http", d.server.Run(inner)) })
	if d.rateLimit != nil {
		parts.Go(func() error { return named("ratelimit", d.rateLimit.Run(inner)) })
	}
	parts.Go(func() error {
		defer stop()
		return named("group", d.group.Run(members))
	})
	if d.opts.Started != nil {
		d.opts.Started(d.server.Addr().String())
	}
	if d.opts.RateLimit != nil && d.rateLimit != nil {
		d.opts.RateLimit(d.rateLimit.Addr().String())
	}
	d.log.Info("started", zap.String("application_id", d.cfg.ApplicationID), zap.Stringer("http", d.server.Addr()),
		zap.String("cluster", d.cluster.ID()), zap.Int32("partitions", d.partitions))
	if err := parts.Wait(); err != nil {
		return err
	}
	d.log.Info("stopped")
	return nil
}

func named(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// openStore opens the local state. What is damaged is deleted: the changelog
// has it all.
func openStore(cfg *config.Config, clusterID string, log *zap.Logger, reg prometheus.Registerer) (*store.Store, error) {
	where := store.Config{Dir: cfg.State.Dir, MinFreeDisk: int64(cfg.State.MinFreeDisk)}
	id := store.Identity{ApplicationID: cfg.ApplicationID, ClusterID: clusterID, Topic: cfg.Usage.Topic}
	local, err := store.Open(where, id, log.Named("store"), reg)
	if errors.Is(err, store.ErrCorrupt) {
		log.Warn("local state is damaged: deleting it, all is restored from the changelog", zap.Error(err))
		if err := store.Destroy(cfg.State.Dir); err != nil {
			return nil, fmt.Errorf("delete local state: %w", err)
		}
		local, err = store.Open(where, id, log.Named("store"), reg)
	}
	if err != nil {
		return nil, fmt.Errorf("state.dir: %w", err)
	}
	return local, nil
}

// localStore is the store as partitions see it.
type localStore struct{ *store.Store }

func (s localStore) Load(partition int32, fn func(key string, value []byte) error) (int64, bool, error) {
	marker, ok, err := s.Store.Load(partition, fn)
	return marker.Changelog, ok, err
}

func (s localStore) Apply(partition int32, entries []ingest.Entry, changelog int64) error {
	list := make([]store.Entry, len(entries))
	for i, e := range entries {
		list[i] = store.Entry(e)
	}
	err := s.Store.Apply(partition, list, store.Marker{Changelog: changelog})
	if errors.Is(err, store.ErrDiskLow) {
		return fmt.Errorf("%w: %w", ingest.ErrDiskLow, err)
	}
	return err
}

// Dial connects to the configured Kafka.
func Dial(ctx context.Context, cfg *config.Config, log *zap.Logger, reg prometheus.Registerer) (*kafka.Cluster, error) {
	return dial(ctx, cfg, nil, log, reg)
}

func dial(ctx context.Context, cfg *config.Config, open func(ctx context.Context, network, address string) (net.Conn, error), log *zap.Logger, reg prometheus.Registerer) (*kafka.Cluster, error) {
	k := kafka.Default()
	k.DialContext = open
	k.Brokers, k.ClientID, k.Connections = cfg.Kafka.Brokers, cfg.ApplicationID, cfg.Kafka.Connections
	k.DialTimeout, k.ReadTimeout = cfg.Kafka.DialTimeout.Duration(), cfg.Kafka.ReadTimeout.Duration()
	k.WriteTimeout = cfg.Kafka.WriteTimeout.Duration()
	if t := cfg.Kafka.TLS; t != nil {
		k.TLS = kafka.TLS{Enabled: true, CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName}
	}
	if s := cfg.Kafka.SASL; s != nil {
		password, err := config.ReadSecret(s.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("kafka.sasl.password_file: %w", err)
		}
		k.SASL = kafka.SASL{Mechanism: s.Mechanism, Username: s.Username, Password: password}
	}
	cluster, err := kafka.Dial(ctx, k, log.Named("kafka"), reg)
	if err != nil {
		return nil, fmt.Errorf("kafka.brokers: %w", err)
	}
	return cluster, nil
}
