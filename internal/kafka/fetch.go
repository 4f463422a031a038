package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"go.uber.org/zap"
)

// FetchConfig bounds what is fetched at once.
type FetchConfig struct {
	// MaxBytesPerPartition and MaxBytes bound one request, compressed; a batch
	// that is larger is fetched all the same.
	MaxBytesPerPartition int32
	MaxBytes             int32
	// MinBytes is what a broker waits for, for MaxWait at most.
	MinBytes int32
	MaxWait  time.Duration
	// MinInterval is the least time between two requests to a broker that bring
	// little: without it a trickle of records costs a request each.
	MinInterval time.Duration
}

// DefaultFetch is for live reading with little delay.
func DefaultFetch() FetchConfig {
	return FetchConfig{
		MaxBytesPerPartition: 2 << 20, MaxBytes: 32 << 20, MinBytes: 1,
		MaxWait: 250 * time.Millisecond, MinInterval: 5 * time.Millisecond,
	}
}

// Validate names the first value that is wrong.
func (c FetchConfig) Validate() error {
	switch {
	case c.MaxBytesPerPartition < 1, c.MaxBytes < c.MaxBytesPerPartition:
		return fmt.Errorf("fetch: %d bytes per partition of %d in all: the first must be at least 1 and not above the second", c.MaxBytesPerPartition, c.MaxBytes)
	case c.MinBytes < 0:
		return fmt.Errorf("fetch: min bytes %d is negative", c.MinBytes)
	case c.MaxWait < time.Millisecond || c.MaxWait > 10*time.Second:
		return fmt.Errorf("fetch: max wait %s is not between 1ms and 10s", c.MaxWait)
	case c.MinInterval < 0 || c.MinInterval > time.Second:
		return fmt.Errorf("fetch: min interval %s is not between 0 and 1s", c.MinInterval)
	}
	return nil
}

// Limits of a fetch that must grow to get a large batch, and of the wait for
// partitions whose reader is busy.
const (
	maxFetchBytes = 100 << 20
	busyWait      = 5 * time.Millisecond
	littleBytes   = 64 << 10
)

// Fetcher reads partitions without end, with one connection and one request at
// a time to each broker.
type Fetcher struct {
	c   *Cluster
	cfg FetchConfig

	mu       sync.Mutex
	subs     map[*Subscription]struct{}
	readers  map[string]*reader // by broker address
	started  bool
	ended    bool
	unplaced chan struct{} // signals a subscription without a broker
	running  sync.WaitGroup
}

// NewFetcher makes a Fetcher, which reads while Run runs.
func (c *Cluster) NewFetcher(cfg FetchConfig) *Fetcher {
	return &Fetcher{c: c, cfg: cfg, subs: map[*Subscription]struct{}{}, readers: map[string]*reader{}, unplaced: make(chan struct{}, 1)}
}

// Subscription is one partition being read.
type Subscription struct {
	f         *Fetcher
	topic     string
	partition int32
	out       chan Batch
	in        chan Batch    // from the reader to forward
	closing   chan struct{} // closed by Close, or when reading failed
	once      sync.Once
	confirmed atomic.Int64 // see Confirmed

	// Of the reader that has the subscription; handed over under Fetcher.mu.
	next     int64 // or Earliest, Latest until it is known
	bytes    int32 // to be fetched at most
	caughtUp bool  // the end was told

	// Guarded by Fetcher.mu.
	addr   string     // of the reader that has it, empty while there is none
	meta   *topicMeta // by which addr was found
	busy   bool       // a batch waits for the user
	alone  bool       // to be fetched by itself, to find out whose data is bad
	err    error
	closed bool
}

// Subscribe begins to read a partition at an offset, at Earliest or at Latest.
// Several subscriptions of one partition do not know of each other. It returns
// ErrClosed after Run has ended.
func (f *Fetcher) Subscribe(topic string, partition int32, offset int64) (*Subscription, error) {
	if offset < Earliest {
		return nil, fmt.Errorf("subscribe to %s/%d: offset %d", topic, partition, offset)
	}
	s := &Subscription{
		f: f, topic: topic, partition: partition, next: offset, bytes: f.cfg.MaxBytesPerPartition,
		out: make(chan Batch), in: make(chan Batch, 1), closing: make(chan struct{}),
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, fmt.Errorf("subscribe to %s/%d: %w", topic, partition, ErrClosed)
	}
	f.subs[s] = struct{}{}
	if f.started {
		f.running.Go(s.forward)
	}
	f.place()
	return s, nil
}

// Batches brings what was read, in order. One batch is read ahead; as long as
// it is not taken the partition is not asked for. The channel is closed after
// Close and when reading fails, and then Err says why. It brings nothing while
// the Fetcher does not run.
func (s *Subscription) Batches() <-chan Batch { return s.out }

// Confirmed returns when the last fetch was sent that found nothing behind what
// Batches has brought: up to then, the reader has seen everything. Zero where
// there was none.
func (s *Subscription) Confirmed() time.Time {
	at := s.confirmed.Load()
	if at == 0 {
		return time.Time{}
	}
	return time.UnixMilli(at)
}

// Err is why Batches was closed: nil after Close, ErrOffsetOutOfRange,
// ErrNoTopic, ErrClosed after the Fetcher's end, or what is wrong with the data.
func (s *Subscription) Err() error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	return s.err
}

// Close ends the subscription. It does not wait for the request that is under
// way, whose data is dropped.
func (s *Subscription) Close() { s.end(nil) }

// end closes the subscription; the first reason counts.
func (s *Subscription) end(err error) {
	s.f.mu.Lock()
	if !s.closed {
		s.closed, s.err = true, err
		delete(s.f.subs, s)
	}
	started := s.f.started
	s.f.mu.Unlock()
	s.once.Do(func() {
		close(s.closing)
		if !started { // nobody forwards
			close(s.out)
		}
	})
}

// forward hands batches to the user, and tells the reader that there is room.
func (s *Subscription) forward() {
	defer close(s.out)
	for {
		select {
		case b := <-s.in:
			select {
			case s.out <- b:
				s.free()
			case <-s.closing:
				return
			}
		case <-s.closing:
			return
		}
	}
}

func (s *Subscription) free() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.busy = false
	if r := s.f.readers[s.addr]; r != nil {
		r.signal()
	}
}

// place asks for unplaced subscriptions to be given to their brokers.
func (f *Fetcher) place() {
	select {
	case f.unplaced <- struct{}{}:
	default:
	}
}

// Run reads until ctx ends, and returns nil then. Leaders that move and brokers
// that are away are waited for. It may be called once.
func (f *Fetcher) Run(ctx context.Context) error {
	f.mu.Lock()
	if f.started || f.ended {
		f.mu.Unlock()
		return fmt.Errorf("run fetcher: %w", ErrClosed)
	}
	f.started = true
	for s := range f.subs {
		f.running.Go(s.forward)
	}
	f.mu.Unlock()
	defer f.finish()
	f.place()
	pause := backoff{first: 20 * time.Millisecond, most: 2 * time.Second}
	for {
		select {
		case <-f.unplaced:
		case <-ctx.Done():
			return nil
		}
		if f.placeAll(ctx) {
			pause.reset()
			continue
		}
		f.place()
		if !pause.wait(ctx) {
			return nil
		}
	}
}

// finish ends all subscriptions and waits for every goroutine.
func (f *Fetcher) finish() {
	f.mu.Lock()
	f.ended = true
	var left []*Subscription
	for s := range f.subs {
		left = append(left, s)
	}
	f.mu.Unlock()
	for _, s := range left {
		s.end(ErrClosed)
	}
	f.running.Wait()
}

// placeAll gives each subscription to the reader of its leader, and is false
// when some could not be placed.
func (f *Fetcher) placeAll(ctx context.Context) bool {
	f.mu.Lock()
	var todo []*Subscription
	for s := range f.subs {
		if s.addr == "" {
			todo = append(todo, s)
		}
	}
	f.mu.Unlock()
	left, why := 0, error(nil)
	for _, s := range todo {
		addr, meta, err := f.locate(ctx, s)
		if err == nil {
			f.give(ctx, s, addr, meta)
			continue
		}
		if code, ok := codeOf(err); errors.Is(err, ErrNoTopic) || ok && !movedLeader(code) && !notYet(code) {
			s.end(err)
			continue
		}
		left, why = left+1, err
	}
	if left > 0 && ctx.Err() == nil {
		f.c.log.Warn("no leader to fetch from", zap.Int("partitions", left), zap.Error(why))
	}
	return left == 0
}

// locate finds the leader, and the offset if the subscription began with a name
// for it. Nobody else has the subscription at that time.
func (f *Fetcher) locate(ctx context.Context, s *Subscription) (string, *topicMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var err error
	switch s.next {
	case Earliest:
		s.next, err = f.c.LogStart(ctx, s.topic, s.partition)
		if err != nil {
			s.next = Earliest
		}
	case Latest:
		s.next, err = f.c.HighWatermark(ctx, s.topic, s.partition)
		if err != nil {
			s.next = Latest
		}
	}
	if err != nil {
		return "", nil, err
	}
	return f.c.leader(ctx, s.topic, s.partition)
}

func (f *Fetcher) give(ctx context.Context, s *Subscription, addr string, meta *topicMeta) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.addr, s.meta = addr, meta
	r := f.readers[addr]
	if r == nil {
		r = &reader{f: f, addr: addr, wake: make(chan struct{}, 1), pause: backoff{first: 50 * time.Millisecond, most: 2 * time.Second}}
		f.readers[addr] = r
		f.running.Go(func() { r.run(ctx) })
	}
	r.signal()
}

// takeBack makes a subscription unplaced, because its leader was not there.
func (f *Fetcher) takeBack(s *Subscription) {
	f.mu.Lock()
	meta := s.meta
	s.addr, s.meta = "", nil
	f.mu.Unlock()
	f.c.forget(s.topic, meta)
}

// fetchRequest asks for nothing yet.
func fetchRequest(cfg FetchConfig, wait time.Duration) *sarama.FetchRequest {
	return &sarama.FetchRequest{
		Version: 11, Isolation: sarama.ReadCommitted, SessionEpoch: -1, // -1: no fetch session
		MinBytes: cfg.MinBytes, MaxBytes: cfg.MaxBytes, MaxWaitTime: int32(max(wait.Milliseconds(), 1)),
	}
}
