package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/internal/ingest"
	"github.com/meterd/meterd/internal/kafka"
)

func (d *daemon) newServer() (*httpapi.Server, error) {
	c := httpapi.Default()
	c.Listen, c.TokensFile = d.cfg.HTTP.Listen, d.cfg.HTTP.TokensFile
	c.ApplicationID, c.Topic = d.cfg.ApplicationID, d.cfg.Usage.Topic
	if t := d.cfg.HTTP.TLS; t != nil {
		c.TLS = httpapi.TLS{CertFile: t.CertFile, KeyFile: t.KeyFile}
	}
	catalog, err := d.cfg.Catalog()
	if err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	costly := prometheus.NewRegistry()
	if err := registerState(costly, d.ingest); err != nil {
		return nil, err
	}
	server, err := httpapi.New(c, httpapi.Parts{
		Partitions: partitions{d}, Cluster: cluster{d},
		Contracts: d.table, Catalog: &catalog, Writer: &contractWriter{cluster: d.cluster, topic: d.cfg.Contracts.Topic},
		LimitEvents: d.feed, Costly: costly,
		Judges: d.judges, Holds: d.holds, HandOver: d.handOverHere, LookUp: d.lookUp, Checks: d.checks, Now: time.Now,
	}, d.log.Named("http"), d.reg)
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	return server, nil
}

// contractWriter writes to the topic of contracts. It takes a producer id when
// it first has something to write: many a meterd never does, and may not be
// allowed to.
type contractWriter struct {
	cluster *kafka.Cluster
	topic   string

	mu       sync.Mutex // guards producer
	producer *kafka.Producer
}

func (w *contractWriter) Produce(ctx context.Context, key, value []byte) (int64, error) {
	producer, err := w.ready(ctx)
	if err != nil {
		return 0, err
	}
	offsets, err := producer.Append(ctx, []kafka.Message{{Topic: w.topic, Key: key, Value: value}})
	if err != nil {
		return 0, fmt.Errorf("write contract: %w", err)
	}
	return offsets[0], nil
}

func (w *contractWriter) ready(ctx context.Context) (*kafka.Producer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.producer == nil {
		producer, err := w.cluster.NewProducer(ctx)
		if err != nil {
			return nil, fmt.Errorf("write contracts: %w", err)
		}
		w.producer = producer
	}
	return w.producer, nil
}

// partitions are those of this instance, for HTTP.
type partitions struct{ d *daemon }

func (p partitions) Of(client string) int32 { return p.d.owner(client) }

func (p partitions) Running(partition int32) (httpapi.Reader, bool) {
	if _, member := p.d.group.Member(); !member {
		return nil, false
	}
	status, ok := p.d.ingest.Partition(partition)
	counter, counts := status.Processor.(*ingest.Counter)
	if !ok || !counts {
		return nil, false
	}
	// A partition that was restored a moment ago has not taken contracts in yet:
	// clients would have no limits, and all uses would be allowed.
	if counter.State().Judging() == 0 && p.d.table.Version() > 0 {
		return nil, false
	}
	return reader{State: counter.State(), lag: status.Lag()}, true
}

func (p partitions) Here() []httpapi.PartitionStatus {
	var list []httpapi.PartitionStatus
	for _, s := range p.d.ingest.Partitions() {
		list = append(list, httpapi.PartitionStatus{
			Topic: p.d.cfg.Usage.Topic, Partition: s.Partition,
			State: httpapi.PartitionState(s.State), Position: s.Position, End: s.End,
		})
	}
	return list
}

// reader is a running partition, with its lag at the time of the question.
type reader struct {
	*aggregate.State
	lag int64
}

func (r reader) Lag() int64 { return r.lag }

// cluster is the group, for HTTP.
type cluster struct{ d *daemon }

func (c cluster) Self() string {
	member, ok := c.d.group.Member()
	if !ok {
		return ""
	}
	return member.ID
}

func (c cluster) Instances() []httpapi.Instance {
	var list []httpapi.Instance
	for _, i := range c.d.group.Instances() {
		list = append(list, httpapi.Instance(i))
	}
	return list
}

func (c cluster) Partitions() int32 { return c.d.partitions }

// judges tells whether every partition of this instance judges by this version
// of the contracts.
func (d *daemon) judges(version int64) bool {
	for _, s := range d.ingest.Partitions() {
		counter, ok := s.Processor.(*ingest.Counter)
		if !ok || counter.State().Judging() < version {
			return false
		}
	}
	return true
}

// holds tells whether a partition of this instance holds the contract.
func (d *daemon) holds(contract string) bool {
	for _, s := range d.ingest.Partitions() {
		if counter, ok := s.Processor.(*ingest.Counter); ok && counter.State().IsHeld(contract) {
			return true
		}
	}
	return false
}

// handOverHere returns what a partition of this instance has told of contracts,
// and false where it does not run here.
func (d *daemon) handOverHere(partition int32, asked []aggregate.Held) ([]aggregate.Handover, bool) {
	status, ok := d.ingest.Partition(partition)
	counter, counts := status.Processor.(*ingest.Counter)
	if !ok || !counts {
		return nil, false
	}
	answers := counter.State().HandOver(asked)
	if len(answers) < len(asked) {
		counter.Nudge() // it may not have taken in what the asker has
	}
	_, member := d.group.Member() // only now: it was the owner all the time
	return answers, member
}

// handOverThere asks the instance that has the partition.
func (d *daemon) handOverThere(ctx context.Context, partition int32, asked []aggregate.Held) ([]aggregate.Handover, error) {
	if _, here := d.ingest.Partition(partition); here {
		return nil, nil
	}
	answers, err := d.server.AskHandover(ctx, partition, asked)
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", partition, err)
	}
	return answers, nil
}

func (d *daemon) lookUp(partition int32, client string) {
	status, _ := d.ingest.Partition(partition)
	if counter, ok := status.Processor.(*ingest.Counter); ok {
		counter.LookUp(client)
	}
}

// checks are what readiness depends on: membership, contracts, and that every
// partition of this instance counts.
func (d *daemon) checks() []httpapi.Check {
	_, member := d.group.Member()
	contractsRead := false
	select {
	case <-d.reader.Ready():
		contractsRead = true
	default:
	}
	list := []httpapi.Check{
		check("group", member, "member of "+d.cfg.ApplicationID, "not a member of "+d.cfg.ApplicationID),
		check("contracts", contractsRead, "read", "being read"),
	}
	for _, s := range d.ingest.Partitions() {
		name := fmt.Sprintf("partition-%d", s.Partition)
		detail := fmt.Sprintf("%s, position %d, lag %d", s.State, s.Position, s.Lag())
		if s.Waiting != "" {
			detail = "paused: " + s.Waiting
		}
		list = append(list, httpapi.Check{Name: name, OK: s.State == ingest.Running && s.Waiting == "", Detail: detail})
	}
	low, err := d.store.DiskLow()
	return append(list, check("disk", err == nil && !low, "enough space", "too little space in "+d.cfg.State.Dir))
}

func check(name string, ok bool, good, bad string) httpapi.Check { //revive:disable-line:flag-parameter // two texts for two states
	if ok {
		return httpapi.Check{Name: name, OK: true, Detail: good}
	}
	return httpapi.Check{Name: name, Detail: bad}
}

// stateMetrics tells, when asked, how many counters are in each state of seed,
// and how many contracts wait.
type stateMetrics struct {
	ingest *ingest.Ingest
	seeds  *prometheus.Desc
	held   *prometheus.Desc
}

func registerState(reg prometheus.Registerer, in *ingest.Ingest) error {
	s := stateMetrics{
		ingest: in,
		seeds:  prometheus.NewDesc("meterd_seeds", "Counters by how much they know of history.", []string{"state"}, nil),
		held:   prometheus.NewDesc("meterd_contracts_held", "Contracts whose limits judge nothing until other partitions have said what they told of them.", nil, nil),
	}
	if err := reg.Register(s); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

func (s stateMetrics) Describe(out chan<- *prometheus.Desc) { out <- s.seeds; out <- s.held }

func (s stateMetrics) Collect(out chan<- prometheus.Metric) {
	counts := map[aggregate.SeedState]int{
		aggregate.SeedNone: 0, aggregate.SeedPending: 0, aggregate.SeedExact: 0, aggregate.SeedBounded: 0, aggregate.SeedFailed: 0,
	}
	held := 0
	for _, status := range s.ingest.Partitions() {
		if counter, ok := status.Processor.(*ingest.Counter); ok {
			held += counter.State().HeldCount()
			for state, n := range counter.State().Seeds() {
				counts[state] += n
			}
		}
	}
	for state, n := range counts {
		out <- prometheus.MustNewConstMetric(s.seeds, prometheus.GaugeValue, float64(n), string(state))
	}
	out <- prometheus.MustNewConstMetric(s.held, prometheus.GaugeValue, float64(held))
}
