package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Cluster is a Kafka cluster: who leads what, and the connections for short
// requests. Fetchers, reads and groups have connections of their own, so that
// nothing waits behind a long poll.
type Cluster struct {
	cfg     Config
	sarama  *sarama.Config
	log     *zap.Logger
	metrics *clusterMetrics
	control *pool // metadata, positions, topics
	writes  *pool // producers, transactional or not

	refreshing sync.Mutex // held while metadata is asked for, so that one asks for all

	mu           sync.Mutex
	id           string
	controller   int32
	brokers      map[int32]string
	topics       map[string]*topicMeta
	coordinators map[coordinatorKey]string
}

// topicMeta is what is known of a topic. It is replaced, never changed.
type topicMeta struct {
	leaders map[int32]int32 // partition to broker; -1 while there is none
}

type coordinatorKey struct {
	kind sarama.CoordinatorType
	name string
}

// The lowest versions with which exactly-once holds: TxnOffsetCommit with the
// group's generation, InitProducerId that fences nobody newer, OffsetFetch that
// waits for open transactions. All are in Kafka 2.5.
var required = []struct {
	key, version int16
	name         string
}{{28, 3, "TxnOffsetCommit"}, {22, 3, "InitProducerId"}, {9, 7, "OffsetFetch"}}

// Dial connects to the cluster and checks that its brokers are new enough. It
// returns ErrUnreachable, naming the brokers, when none answers within ctx and
// the dial timeout, and ErrUnsupported when they are too old.
func Dial(ctx context.Context, cfg Config, log *zap.Logger, reg prometheus.Registerer) (*Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	sc, err := cfg.sarama()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, sarama: sc, log: log, metrics: m,
		brokers: map[int32]string{}, topics: map[string]*topicMeta{}, coordinators: map[coordinatorKey]string{},
	}
	connect := func(ctx context.Context, addr string) (*link, error) { return c.dial(ctx, addr, 0) }
	c.control, c.writes = newPool(4, connect), newPool(cfg.Connections, connect)
	if err := c.meet(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// meet learns the brokers and checks what they can do.
func (c *Cluster) meet(ctx context.Context) error {
	if err := c.refresh(ctx, nil); err != nil {
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, strings.Join(c.cfg.Brokers, ", "), err)
	}
	versions, err := anyBroker(ctx, c, func(b *sarama.Broker) (*sarama.ApiVersionsResponse, error) {
		return b.ApiVersions(&sarama.ApiVersionsRequest{Version: 3, ClientSoftwareName: "meterd", ClientSoftwareVersion: "1"})
	})
	if err != nil {
		return fmt.Errorf("ask for versions: %w", err)
	}
	highest := map[int16]int16{}
	for _, k := range versions.ApiKeys {
		highest[k.ApiKey] = k.MaxVersion
	}
	for _, r := range required {
		if have, ok := highest[r.key]; !ok || have < r.version {
			return fmt.Errorf("%w: %s version %d is needed and %d offered; use Kafka 2.5 or later", ErrUnsupported, r.name, r.version, have)
		}
	}
	return nil
}

// Close ends the shared connections. What was made by the Cluster must have
// ended before.
func (c *Cluster) Close() error {
	c.control.close()
	c.writes.close()
	return nil
}

// ID is Kafka's cluster id.
func (c *Cluster) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// anyBroker asks the brokers in turn until one answers: those known first, then
// the configured ones.
func anyBroker[T any](ctx context.Context, c *Cluster, request func(*sarama.Broker) (T, error)) (T, error) {
	c.mu.Lock()
	addrs := slices.Sorted(maps.Values(c.brokers))
	c.mu.Unlock()
	for _, b := range c.cfg.Brokers {
		if !slices.Contains(addrs, b) {
			addrs = append(addrs, b)
		}
	}
	var none T
	var failed error
	for _, addr := range addrs {
		answer, err := ask(ctx, c.control, addr, request)
		if err == nil {
			return answer, nil
		}
		if failed == nil {
			failed = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return none, failed
}

// refresh asks for the brokers and the leaders of one topic, or of all when
// topics is empty.
func (c *Cluster) refresh(ctx context.Context, topics []string) error {
	answer, err := anyBroker(ctx, c, func(b *sarama.Broker) (*sarama.MetadataResponse, error) {
		return b.GetMetadata(sarama.NewMetadataRequest(c.sarama.Version, topics))
	})
	if err != nil {
		return fmt.Errorf("ask for metadata: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer.ClusterID != nil {
		c.id = *answer.ClusterID
	}
	c.controller = answer.ControllerID
	if len(answer.Brokers) > 0 {
		clear(c.brokers)
	}
	for _, b := range answer.Brokers {
		c.brokers[b.ID()] = b.Addr()
	}
	for _, t := range answer.Topics {
		switch t.Err {
		case sarama.ErrNoError, sarama.ErrLeaderNotAvailable:
			meta := &topicMeta{leaders: make(map[int32]int32, len(t.Partitions))}
			for _, p := range t.Partitions {
				meta.leaders[p.ID] = p.Leader
			}
			c.topics[t.Name] = meta
		default:
			delete(c.topics, t.Name)
			if len(topics) > 0 {
				if t.Err == sarama.ErrUnknownTopicOrPartition {
					return fmt.Errorf("%w: %s", ErrNoTopic, t.Name)
				}
				return refused("metadata of "+t.Name, t.Err)
			}
		}
	}
	return nil
}

// topic returns what is known of a topic, and asks if that is nothing.
func (c *Cluster) topic(ctx context.Context, name string) (*topicMeta, error) {
	known := func() *topicMeta {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.topics[name]
	}
	if m := known(); m != nil {
		return m, nil
	}
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	if m := known(); m != nil { // another has asked meanwhile
		return m, nil
	}
	if err := c.refresh(ctx, []string{name}); err != nil {
		return nil, err
	}
	if m := known(); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrNoTopic, name)
}

// leader is where a partition is led. The topicMeta is to be given to forget
// when that turns out wrong.
func (c *Cluster) leader(ctx context.Context, topic string, partition int32) (string, *topicMeta, error) {
	meta, err := c.topic(ctx, topic)
	if err != nil {
		return "", nil, err
	}
	id, ok := meta.leaders[partition]
	if !ok {
		c.forget(topic, meta)
		return "", meta, fmt.Errorf("%w: %s has no partition %d", ErrNoTopic, topic, partition)
	}
	c.mu.Lock()
	addr := c.brokers[id]
	c.mu.Unlock()
	if addr == "" {
		c.forget(topic, meta)
		return "", meta, refused(fmt.Sprintf("leader of %s/%d", topic, partition), sarama.ErrLeaderNotAvailable)
	}
	return addr, meta, nil
}

// forget drops what was known of a topic, unless it is newer than meta.
func (c *Cluster) forget(topic string, meta *topicMeta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.topics[topic] == meta {
		delete(c.topics, topic)
	}
}

// coordinator is the broker in charge of a group or transactional id. It waits
// until there is one: the first use of a cluster creates the internal topic.
func (c *Cluster) coordinator(ctx context.Context, kind sarama.CoordinatorType, name string) (string, error) {
	key := coordinatorKey{kind, name}
	c.mu.Lock()
	addr := c.coordinators[key]
	c.mu.Unlock()
	if addr != "" {
		return addr, nil
	}
	pause := backoff{first: 50 * time.Millisecond, most: time.Second}
	for {
		answer, err := anyBroker(ctx, c, func(b *sarama.Broker) (*sarama.FindCoordinatorResponse, error) {
			return b.FindCoordinator(&sarama.FindCoordinatorRequest{Version: 2, CoordinatorKey: name, CoordinatorType: kind})
		})
		if err == nil {
			err = refused("find coordinator of "+name, answer.Err)
		}
		if err == nil {
			c.mu.Lock()
			c.coordinators[key] = answer.Coordinator.Addr()
			c.mu.Unlock()
			return answer.Coordinator.Addr(), nil
		}
		if code, ok := codeOf(err); ok && !movedCoordinator(code) && !notYet(code) {
			return "", err
		}
		if !pause.wait(ctx) {
			return "", ended(ctx, err)
		}
	}
}

// moved drops a coordinator that turned out to be the wrong one.
func (c *Cluster) moved(kind sarama.CoordinatorType, name, addr string) {
	key := coordinatorKey{kind, name}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.coordinators[key] == addr {
		delete(c.coordinators, key)
	}
}
