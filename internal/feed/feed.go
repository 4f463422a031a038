// Package feed hands committed limit events to any number of readers, while the
// topic is read once for all of them.
//
// A Feed follows all partitions of the topic while somebody reads, and keeps the
// last events in a ring that is bounded in bytes. Readers take from the ring at
// their own pace; whoever falls behind its beginning is let go with ErrSlow. A
// reader that goes on from a cursor gets each event from there on exactly once:
// from the ring where that reaches back far enough, else from the topic.
//
// The order is that of each partition, and so of each client. Memory is that of
// the ring and of the few readers that read the topic at once; a reader costs no
// more than its cursor.
package feed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/alerts"
)

// Errors that readers end with, and Open is refused with.
var (
	// ErrSlow is returned when a reader did not keep up with the events.
	ErrSlow = errors.New("the reader is too slow")
	// ErrCursor is returned when a cursor is none, or not one of this topic.
	ErrCursor = errors.New("not a cursor of the topic")
	// ErrGone is returned when the topic no longer has what a cursor asks for.
	ErrGone = errors.New("the topic no longer has the events behind the cursor")
	// ErrBusy is returned when there are as many readers as are allowed.
	ErrBusy = errors.New("too many readers")
	// ErrAway is returned when the topic cannot be read at present.
	ErrAway = errors.New("the topic cannot be read")
)

// Config bounds what a Feed takes. Begin with Default.
type Config struct {
	Partitions int32
	MaxReaders int
	RingBytes  int           // of events, about
	CatchUps   int           // readers that read the topic for themselves at once
	CatchUp    time.Duration // how long one of them may take
	Heartbeat  time.Duration // the longest time without a Portion
	Wait       time.Duration // for the topic, and for a cursor that is ahead of what was read
	Linger     time.Duration // how long the topic is followed after the last reader
}

// Default is a Config that lacks only Partitions.
func Default() Config {
	return Config{
		MaxReaders: 4096, RingBytes: 16 << 20, CatchUps: 4, CatchUp: 2 * time.Minute,
		Heartbeat: 10 * time.Second, Wait: 5 * time.Second, Linger: time.Minute,
	}
}

// Source is the topic of limit events, read_committed.
type Source interface {
	// Start returns the oldest offset of a partition.
	Start(ctx context.Context, partition int32) (int64, error)
	// End returns where reading what is committed ends now.
	End(ctx context.Context, partition int32) (int64, error)
	// Read calls fn with what lies from an offset up to, and without, another one
	// that End has returned, or a Batch has had for Next.
	Read(ctx context.Context, partition int32, from, to int64, fn func(Batch) error) error
	// Follow calls fn with all that is committed from an offset on, until ctx ends.
	Follow(ctx context.Context, partition int32, from int64, fn func(Batch)) error
}

// Batch is what was read of a partition at once. Next is the position behind it.
type Batch struct {
	Events []Event
	Next   int64
}

// Event is a limit event where it stands. Data is its JSON, on one line.
type Event struct {
	Offset int64
	Event  *alerts.Event
	Data   []byte
}

// Feed is the one reader of the topic. Run runs it once.
type Feed struct {
	cfg    Config
	source Source
	log    *zap.Logger
	wake   chan struct{} // has a value when readers came or went
	slots  chan struct{} // has a value for each reader that reads the topic

	mu      sync.Mutex // guards all below
	readers int
	session *session
	begun   chan struct{} // closed when there is a session; made anew when it ends
}

// New returns a Feed of source, which is not asked before Run.
func New(cfg Config, source Source, log *zap.Logger) *Feed {
	return &Feed{
		cfg: cfg, source: source, log: log,
		wake: make(chan struct{}, 1), slots: make(chan struct{}, cfg.CatchUps), begun: make(chan struct{}),
	}
}

// Readers returns how many there are.
func (f *Feed) Readers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readers
}

// Run follows the topic while there are readers, until ctx ends. What goes
// wrong with the topic ends the readers, not Run.
func (f *Feed) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if f.Readers() == 0 {
			select {
			case <-f.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err := f.follow(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("limit events cannot be followed, readers are let go", zap.Error(err))
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// follow is one session: from the present end of all partitions until nobody
// reads any more.
func (f *Feed) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ends, err := f.positions(ctx, f.source.End)
	if err != nil {
		return err
	}
	s := newSession(ends, f.cfg.RingBytes)
	f.begin(s)
	group, inner := errgroup.WithContext(ctx)
	for p := range f.cfg.Partitions {
		group.Go(func() error {
			if err := f.source.Follow(inner, p, ends[p], func(b Batch) { s.add(p, b) }); err != nil {
				return fmt.Errorf("follow partition %d: %w", p, err)
			}
			return nil
		})
	}
	group.Go(func() error {
		f.untilDeserted(inner, s)
		cancel()
		return nil
	})
	err = group.Wait()
	f.over(s)
	return err
}

// positions asks for one position of each partition.
func (f *Feed) positions(ctx context.Context, of func(context.Context, int32) (int64, error)) ([]int64, error) {
	list := make([]int64, f.cfg.Partitions)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for p := range f.cfg.Partitions {
		group.Go(func() (err error) {
			list[p], err = of(ctx, p)
			return err
		})
	}
	return list, group.Wait()
}

func (f *Feed) begin(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.session = s
	close(f.begun)
}

func (f *Feed) over(s *session) {
	f.mu.Lock()
	f.forget(s)
	f.mu.Unlock()
	s.end()
}

// forget has readers wait for the session after s. It is called with mu held.
func (f *Feed) forget(s *session) {
	if f.session == s {
		f.session, f.begun = nil, make(chan struct{})
	}
}

// desert forgets s if nobody reads, so that who comes now gets the next one.
func (f *Feed) desert(s *session) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers > 0 {
		return false
	}
	f.forget(s)
	return true
}

// untilDeserted returns when nobody has read s for Linger, or ctx has ended.
func (f *Feed) untilDeserted(ctx context.Context, s *session) {
	linger := time.NewTimer(f.cfg.Linger)
	defer linger.Stop()
	for {
		select {
		case <-f.wake:
			linger.Reset(f.cfg.Linger)
		case <-linger.C:
			if f.desert(s) {
				return
			}
			linger.Reset(f.cfg.Linger)
		case <-ctx.Done():
			return
		}
	}
}

// enter takes a place for a reader.
func (f *Feed) enter() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers >= f.cfg.MaxReaders {
		return ErrBusy
	}
	f.readers++
	f.signal()
	return nil
}

func (f *Feed) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	f.signal()
}

func (f *Feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default: // it has one
	}
}

// await returns the session that runs.
func (f *Feed) await(ctx context.Context) (*session, error) {
	for {
		f.mu.Lock()
		s, begun := f.session, f.begun
		f.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-begun:
		case <-ctx.Done():
			return nil, ErrAway
		}
	}
}
