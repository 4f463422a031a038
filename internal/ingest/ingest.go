// Package ingest runs the partitions that this instance was given: it fences
// earlier owners of each, restores its state, reads it, commits, and hands it
// over.
//
// What a partition's records mean is the business of a Processor, of which
// each partition has one; Counter is the one that counts usage. The package
// promises that a processor sees every record of its partition once, in order,
// in the sense of committed effects: outputs, state and position of a commit
// are one Kafka transaction, and a transaction whose outcome is not known is
// settled by asking the broker before anything else is done.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/kafka"
)

// Errors that end an instance: going on would risk a wrong number.
var (
	// ErrPositionMismatch is returned when the changelog and the group disagree
	// about how far a partition is counted, also after a full restore.
	ErrPositionMismatch = errors.New("changelog and committed position disagree")
	// ErrDiskLow is what a Store returns that has written nothing for want of
	// space. It ends nothing: the changelog has it all.
	ErrDiskLow = errors.New("too little space for local state")
	// ErrStuck is returned when a partition has made no progress for long.
	ErrStuck = errors.New("partition makes no progress")
)

// Config is how partitions are run.
type Config struct {
	ApplicationID  string
	Topic          string // of usage records
	ChangelogTopic string
	CutEvery       time.Duration // what times history can be cut at, where it knows no offsets; else 0
	StartLatest    bool          // where a partition begins that was never counted
	CommitInterval time.Duration // the longest that a record waits for its commit
	CommitRecords  int           // the most records in one commit
	FlushInterval  time.Duration // between writes of committed state to disk
	StuckAfter     time.Duration // without progress, the instance gives up
	Reclaim        time.Duration // after being fenced, if the group still gives the partition to this instance
}

// minGap is the least time between two commits of one partition that do not
// wait for the interval: a transaction costs the broker as much as a thousand
// records.
const minGap = 4 * time.Millisecond

// maxDirty bounds the changelog records of one commit, so that it ends well
// before the transaction's timeout.
const maxDirty = 100_000

// maxKeptBytes bounds the records of one commit, which are kept until its
// outcome is known.
const maxKeptBytes = 64 << 20

// Store keeps committed changelog records on disk, with the changelog offset
// below which they have everything. What Load returns with an error is not
// trusted: it is wiped, and all is restored from the changelog.
type Store interface {
	Load(partition int32, fn func(key string, value []byte) error) (changelog int64, ok bool, err error)
	Apply(partition int32, entries []Entry, changelog int64) error
	Wipe(partition int32) error
	DiskLow() (bool, error)
}

// Entry is a record of the changelog. A nil Value is a tombstone.
type Entry struct {
	Key   string
	Value []byte
}

// Processor is what is done with the records of one partition. One goroutine
// calls it. Everything between two ends of a transaction (Committed, Rollback)
// is one transaction.
type Processor interface {
	// Load takes in a record of the changelog, in restore; a nil value is a
	// tombstone. Loaded ends the restore, and returns the position that the
	// state stands for, or false where there was no state.
	Load(key, value []byte) error
	Loaded() (position int64, ok bool)
	// Fresh begins without state at position, which is the boundary to what was
	// before the time cut.
	Fresh(position int64, cut time.Time)

	// Prepare waits for what Fold of these records needs from elsewhere. An
	// error that is ErrWait means: the same again later.
	Prepare(ctx context.Context, records []kafka.Record) error
	// Fold takes in records, up to the position next.
	Fold(records []kafka.Record, next int64) error
	// Between takes in what came from elsewhere. Everything that was on the
	// partition at readUpTo has been folded; zero: there is more to read.
	Between(readUpTo time.Time) error
	// Wake has a value when Between has something to do.
	Wake() <-chan struct{}

	// Pending tells about the open transaction.
	Pending() Pending
	// Outputs returns all that the open transaction writes, decided at now.
	Outputs(now time.Time) ([]kafka.Output, error)
	Committed(now time.Time)
	Rollback()
	// Close lets go of what the processor holds outside of itself.
	Close()
}

// Pending is what the open transaction of a Processor holds.
type Pending struct {
	Any    bool // there is something to commit
	Urgent bool // and it must not wait
	Dirty  int  // about how many changelog records it has
}

// ErrWait is returned by Prepare when something that is needed is away and
// nothing is to be decided without it.
var ErrWait = errors.New("waiting")

// Cluster is what partitions need of Kafka.
type Cluster interface {
	CommittedPosition(ctx context.Context, group, topic string, partition int32) (position kafka.Position, found bool, err error)
	LogStart(ctx context.Context, topic string, partition int32) (int64, error)
	LastStable(ctx context.Context, topic string, partition int32) (int64, error)
	OffsetForTime(ctx context.Context, topic string, partition int32, t time.Time) (offset int64, found bool, err error)
	Read(ctx context.Context, topic string, partition int32, from, to int64, fn func(kafka.Batch) error) (int64, error)
	NewWriter(transactionalID string, cfg kafka.WriterConfig) *kafka.Writer
}

// Parts is what an Ingest works with.
type Parts struct {
	Cluster Cluster
	Fetcher *kafka.Fetcher
	Store   Store
	Writer  kafka.WriterConfig
	// Member returns the membership that commits are made under.
	Member func() (kafka.Member, bool)
	Renew  kafka.Renewal
	// Processor makes the processor of a partition.
	Processor func(partition int32) (Processor, error)
	// Ready is closed when counting may begin.
	Ready <-chan struct{}
	// Step, if set, is called as a partition takes a step after which it may
	// die; for tests. An error ends the partition there and then.
	Step func(Step) error
}

// Step is a point in a partition's life: what it is named after has just been
// done, and nothing after it.
type Step string

// The steps, in the order of a record's way.
const (
	StepFenced     Step = "fenced"
	StepRestored   Step = "restored"
	StepFolded     Step = "folded"
	StepCommitting Step = "committing" // outputs are made, nothing is sent
	StepCommitted  Step = "committed"  // the broker has said so, nobody here knows
	StepFlushing   Step = "flushing"
	StepFlushed    Step = "flushed"
	StepRevoked    Step = "revoked" // the last commit is made, the disk not written
)

// Ingest runs partitions. Assigned, Revoked and Lost are called by the group;
// what they return has happened.
type Ingest struct {
	cfg     Config
	parts   Parts
	log     *zap.Logger
	metrics *metrics
	fatal   chan error

	mu    sync.Mutex
	tasks map[int32]*task
}

// New returns an Ingest without partitions.
func New(cfg Config, parts Parts, log *zap.Logger, reg prometheus.Registerer) *Ingest {
	return &Ingest{
		cfg: cfg, parts: parts, log: log, metrics: newMetrics(reg),
		fatal: make(chan error, 1), tasks: map[int32]*task{},
	}
}

// Run watches over the partitions until ctx ends or one of them cannot go on.
// The group must have taken back all partitions before the process ends.
func (g *Ingest) Run(ctx context.Context) error {
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-g.fatal:
			return err
		case <-watch.C:
			for _, t := range g.all() {
				if last := t.alive.Load(); time.Now().UnixMilli()-g.cfg.StuckAfter.Milliseconds() > last {
					return fmt.Errorf("%w: partition %d, %s since %s", ErrStuck, t.partition, t.State(), time.UnixMilli(last).UTC().Format(time.RFC3339))
				}
			}
		}
	}
}

// Assigned starts partitions.
func (g *Ingest) Assigned(_ context.Context, partitions []int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range partitions {
		if _, ok := g.tasks[p]; ok {
			continue
		}
		t := newTask(g, p)
		g.tasks[p] = t
		g.metrics.assigned(p)
		t.group.Go(func() error {
			if err := t.live(); err != nil {
				g.fail(fmt.Errorf("partition %d: %w", p, err))
			}
			return nil
		})
	}
}

func (g *Ingest) fail(err error) {
	select {
	case g.fatal <- err:
	default: // the first is enough
	}
}

// handOver bounds how long partitions take to be handed over where the broker
// does not answer. What they had folded is then folded by their next owner.
const handOver = 10 * time.Second

// Revoked ends partitions: what was folded is committed, what was committed is
// written to disk.
func (g *Ingest) Revoked(ctx context.Context, partitions []int32) {
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	tasks := g.held(partitions)
	defer context.AfterFunc(ctx, func() {
		for _, t := range tasks {
			t.abandon()
		}
	})()
	g.release(partitions, (*task).stop)
}

// Lost ends partitions that somebody else may own by now: nothing is committed
// any more.
func (g *Ingest) Lost(partitions []int32) { g.release(partitions, (*task).abandon) }

func (g *Ingest) release(partitions []int32, end func(*task)) {
	leaving := g.held(partitions)
	for _, t := range leaving {
		end(t)
	}
	for _, t := range leaving {
		_ = t.group.Wait() // its error went to fail
		g.mu.Lock()
		if g.tasks[t.partition] == t {
			delete(g.tasks, t.partition)
			g.metrics.released(t.partition)
		}
		g.mu.Unlock()
	}
}

// held returns the tasks of those of the partitions that there are.
func (g *Ingest) held(partitions []int32) []*task {
	g.mu.Lock()
	defer g.mu.Unlock()
	var tasks []*task
	for _, p := range partitions {
		if t, ok := g.tasks[p]; ok {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

func (g *Ingest) all() []*task {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*task, 0, len(g.tasks))
	for _, t := range g.tasks {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *task) int { return int(a.partition - b.partition) })
	return list
}

// Status is how far a partition is.
type Status struct {
	Partition int32
	State     State
	Position  int64 // next offset to be counted, as committed
	End       int64 // the last stable offset, when last heard of
	Waiting   string
	Processor Processor // of a running partition, nil before
}

// Lag returns how many offsets are yet to be counted.
func (s *Status) Lag() int64 { return max(0, s.End-s.Position) }

// Partitions returns the partitions of this instance, in order.
func (g *Ingest) Partitions() []Status {
	tasks := g.all()
	list := make([]Status, 0, len(tasks))
	for _, t := range tasks {
		list = append(list, t.status())
	}
	return list
}

// Partition returns how far one partition is, and false where this instance
// does not have it.
func (g *Ingest) Partition(partition int32) (Status, bool) {
	g.mu.Lock()
	t, ok := g.tasks[partition]
	g.mu.Unlock()
	if !ok {
		return Status{}, false
	}
	return t.status(), true
}
