package ingest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/failpoint"
	"github.com/meterd/meterd/internal/kafka"
)

// State is what a partition is at.
type State string

// The states of an assigned partition, in the order of its life.
const (
	Fencing   State = "fencing"   // ending what an earlier owner had open
	Restoring State = "restoring" // rebuilding state
	Running   State = "running"   // counting
)

// task is one assigned partition, from its assignment to its end.
type task struct {
	ingest    *Ingest
	partition int32
	log       *zap.Logger
	group     errgroup.Group // its one goroutine
	alive     atomic.Int64   // when the loop last went round, in milliseconds

	// soft ends when the partition is to be handed over, hard when it must be
	// let go at once.
	soft, hard       context.Context //nolint:containedctx // the two ends of a task's life, which others call
	endSoft, endHard context.CancelFunc
	writer           *kafka.Writer
	processor        Processor
	commits          int    // tried, for notes
	name             string // of this life, for notes
	unflushed        map[string][]byte
	unkept           int // bytes of it that a restore read
	flushes          chan<- flush
	flushed          <-chan error
	flushing         bool
	unwritten        bool // a flush was given up: its entries are on no disk
	lastFlush        time.Time
	lastCommit       time.Time
	took             time.Duration // it did
	position, folded int64         // committed, and with the open transaction
	end              int64
	changelogEnd     int64 // all below it was restored or is ours

	mu          sync.Mutex // guards shown
	shown       Status
	paused      string
	pausedSince time.Time
	pausedTold  bool // in the log
}

func newTask(g *Ingest, partition int32) *task {
	t := &task{
		ingest: g, partition: partition, log: g.log.With(zap.Int32("partition", partition)),
		unflushed: map[string][]byte{},
	}
	t.hard, t.endHard = context.WithCancel(context.Background())
	t.soft, t.endSoft = context.WithCancel(t.hard)
	t.shown = Status{Partition: partition, State: Fencing}
	var id [6]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails
	t.name = hex.EncodeToString(id[:])
	t.beat()
	return t
}

func (t *task) stop()    { t.endSoft() }
func (t *task) abandon() { t.endHard() }

// beat notes that the loop goes round.
func (t *task) beat() { t.alive.Store(time.Now().UnixMilli()) }

// await calls f, which waits for a broker for as long as that is away: no
// standstill, however long it takes.
func (t *task) await(f func() error) error {
	t.alive.Store(math.MaxInt64)
	defer t.beat()
	return f()
}

// State returns what the partition is at.
func (t *task) State() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown.State
}

func (t *task) status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown
}

func (t *task) show() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shown.Position, t.shown.End, t.shown.Waiting = t.position, t.end, t.paused
	t.ingest.metrics.lag(t.partition, t.shown.Lag())
}

func (t *task) enter(state State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ingest.metrics.state(t.partition, t.shown.State, state)
	t.shown.State = state
	t.shown.Processor = nil
	if state == Running {
		t.shown.Processor = t.processor
	}
}

// errAgain ends one try of a partition that may succeed when tried anew.
var errAgain = errors.New("try again")

// live runs the partition until it is taken back. It returns an error only
// where nobody should go on. After trouble with the broker it begins anew,
// from fencing: whatever was not committed is read again.
func (t *task) live() error {
	defer t.endHard()
	for try := 0; ; try++ {
		err := t.once()
		switch {
		case t.soft.Err() != nil && !isFatal(err):
			return nil
		case errors.Is(err, kafka.ErrFenced):
			// Somebody newer has the partition, and the group will say so. Taking
			// it back at once would make two owners fence each other in turn. Where
			// the group still gives it to us after a whole session, nobody has it:
			// the broker had ended a transaction that took too long.
			t.log.Warn("fenced: the partition is given up", zap.Error(err))
			t.fenced()
			select {
			case <-t.soft.Done():
				return nil
			case <-time.After(t.ingest.cfg.Reclaim):
				continue
			}
		case isFatal(err):
			return err
		}
		t.log.Warn("partition begins anew", zap.Error(err))
		select {
		case <-t.soft.Done():
			return nil
		case <-time.After(min(time.Duration(try+1)*200*time.Millisecond, 5*time.Second)):
		}
	}
}

// fenced shows that the partition waits for what the group says.
func (t *task) fenced() {
	t.enter(Fencing)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shown.Waiting = "fenced"
}

func isFatal(err error) bool {
	return err != nil && !errors.Is(err, errAgain) && !errors.Is(err, context.Canceled) && !errors.Is(err, kafka.ErrFenced)
}

// once is one try: fence, restore, run.
func (t *task) once() error {
	t.enter(Fencing)
	t.writer = t.ingest.parts.Cluster.NewWriter(
		fmt.Sprintf("%s-%s-%d", t.ingest.cfg.ApplicationID, t.ingest.cfg.Topic, t.partition), t.ingest.parts.Writer)
	if err := t.retry(func() error { return t.writer.Init(t.soft) }); err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	if err := t.step(StepFenced); err != nil {
		return err
	}
	t.enter(Restoring)
	began := time.Now()
	if err := t.restore(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer t.processor.Close()
	if err := t.step(StepRestored); err != nil {
		return err
	}
	if err := t.await(func() error {
		select {
		case <-t.ingest.parts.Ready:
			return nil
		case <-t.soft.Done():
			return t.soft.Err()
		}
	}); err != nil {
		return err
	}
	t.ingest.metrics.restoreSeconds.Observe(time.Since(began).Seconds())
	t.log.Info("restore done", zap.Int64("position", t.position), zap.Duration("took", time.Since(began)))
	return t.run()
}

// step tells tests where the partition is.
func (t *task) step(at Step) error {
	failpoint.Hit(string(at))
	if t.ingest.parts.Step == nil {
		return nil
	}
	if err := t.ingest.parts.Step(at); err != nil {
		return fmt.Errorf("%w: after %s: %w", errStop, at, err)
	}
	return nil
}

// retry calls f until it succeeds, the task ends, or trying again cannot help.
func (t *task) retry(f func() error) error {
	pause := 50 * time.Millisecond
	for {
		err := t.await(f)
		switch {
		case err == nil, errors.Is(err, kafka.ErrFenced), errors.Is(err, kafka.ErrNoTopic), errors.Is(err, kafka.ErrOffsetOutOfRange), errors.Is(err, errStop):
			return err
		case t.soft.Err() != nil:
			return t.soft.Err()
		}
		t.log.Warn("waiting for the broker", zap.Error(err))
		select {
		case <-t.soft.Done():
			return t.soft.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// errStop marks an error that trying again cannot mend.
var errStop = errors.New("cannot go on")
