package feed_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/feed"
)

const patience = 20 * time.Second

// topic is a topic of limit events in memory. Each event is followed by an
// offset that has none, as after a commit.
type topic struct {
	mu      sync.Mutex
	logs    [][]feed.Event
	starts  []int64
	changed chan struct{}
	broken  error // of Follow
	reads   int
	follows int // under way
	block   chan struct{}
}

func newTopic(partitions int) *topic {
	return &topic{logs: make([][]feed.Event, partitions), starts: make([]int64, partitions), changed: make(chan struct{})}
}

// put appends an event of a client and returns its offset.
func (s *topic) put(partition int, client string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	offset := int64(2 * len(s.logs[partition]))
	s.logs[partition] = append(s.logs[partition], feed.Event{
		Offset: offset, Event: &alerts.Event{Client: client, ID: strconv.Itoa(partition) + "/" + strconv.FormatInt(offset, 10)}, Data: []byte(`{}`),
	})
	s.wake()
	return offset
}

func (s *topic) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.wake()
}

func (s *topic) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *topic) Start(_ context.Context, partition int32) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starts[partition], nil
}

func (s *topic) End(ctx context.Context, partition int32) (int64, error) {
	s.mu.Lock()
	block := s.block
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(2 * len(s.logs[partition])), nil
}

func (s *topic) between(partition int32, from, to int64) feed.Batch {
	b := feed.Batch{Next: to}
	for _, e := range s.logs[partition] {
		if from <= e.Offset && e.Offset < to {
			b.Events = append(b.Events, e)
		}
	}
	return b
}

func (s *topic) Read(ctx context.Context, partition int32, from, to int64, fn func(feed.Batch) error) error {
	for ; from < to; from += 2 {
		s.mu.Lock()
		s.reads++
		if from < s.starts[partition] {
			s.mu.Unlock()
			return feed.ErrGone
		}
		b := s.between(partition, from, min(from+2, to))
		s.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(b); err != nil {
			return err
		}
	}
	return nil
}

func (s *topic) Follow(ctx context.Context, partition int32, from int64, fn func(feed.Batch)) error {
	s.set(func() { s.follows++ })
	defer s.set(func() { s.follows-- })
	for {
		s.mu.Lock()
		changed, broken, end := s.changed, s.broken, int64(2*len(s.logs[partition]))
		b := s.between(partition, from, end)
		s.mu.Unlock()
		if broken != nil {
			return broken
		}
		if end > from {
			fn(b)
			from = end
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// run runs a Feed of s until the test ends.
func run(t *testing.T, s *topic, change func(*feed.Config)) *feed.Feed {
	t.Helper()
	cfg := feed.Default()
	cfg.Partitions = int32(len(s.logs))
	if change != nil {
		change(&cfg)
	}
	f := feed.New(cfg, s, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return f
}

func all(*alerts.Event) bool { return true }

// stream is a reader that runs, and what it was sent.
type stream struct {
	portions chan feed.Portion
	stop     context.CancelFunc
	ended    chan error
}

func open(t *testing.T, f *feed.Feed, cursor string, want func(*alerts.Event) bool) *stream {
	t.Helper()
	r, err := f.Open(t.Context(), cursor, want)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	s := &stream{portions: make(chan feed.Portion), stop: cancel, ended: make(chan error, 1)}
	go func() {
		defer r.Close()
		s.ended <- r.Run(ctx, func(p feed.Portion) error {
			select {
			case s.portions <- p:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	t.Cleanup(cancel)
	return s
}

// next returns the next n events.
func (s *stream) next(t *testing.T, n int) []feed.Item {
	t.Helper()
	var items []feed.Item
	timeout := time.After(patience)
	for len(items) < n {
		select {
		case p := <-s.portions:
			items = append(items, p.Items...)
		case err := <-s.ended:
			require.Fail(t, "the stream ended", "with %v, after %d of %d events", err, len(items), n)
		case <-timeout:
			require.Fail(t, "no more events", "%d of %d", len(items), n)
		}
	}
	return items
}

// portion returns the next portion.
func (s *stream) portion(t *testing.T) feed.Portion {
	t.Helper()
	select {
	case p := <-s.portions:
		return p
	case <-time.After(patience):
		require.Fail(t, "no portion")
	}
	return feed.Portion{}
}

// end returns what the stream ends with, after what it still has to send.
func (s *stream) end(t *testing.T) error {
	t.Helper()
	_, _, err := s.rest(t)
	return err
}

// rest returns all that the stream still has to send, the last cursor, and what
// it ends with.
func (s *stream) rest(t *testing.T) (items []feed.Item, cursor string, err error) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case p := <-s.portions:
			items, cursor = append(items, p.Items...), p.Cursor
		case err := <-s.ended:
			return items, cursor, err
		case <-timeout:
			require.Fail(t, "the stream does not end")
		}
	}
}

func ids(items []feed.Item) []string {
	var list []string
	for _, it := range items {
		list = append(list, it.Event.Event.ID)
	}
	return list
}
