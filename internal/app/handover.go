package app

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/ingest"
)

// handover asks the other partitions of the usage topic, here and on other
// instances, what they have told of contracts, until all of them have answered.
type handover struct {
	partitions int32
	here       func(partition int32, asked []aggregate.Held) ([]aggregate.Handover, bool)
	there      func(ctx context.Context, partition int32, asked []aggregate.Held) ([]aggregate.Handover, error)
	log        *zap.Logger
	wakeHere   chan struct{} // has a value when there is more to be asked
	wakeThere  chan struct{}

	mu    sync.Mutex // guards lists
	lists map[*handovers]struct{}
}

func newHandover(
	partitions int32,
	here func(partition int32, asked []aggregate.Held) ([]aggregate.Handover, bool),
	there func(ctx context.Context, partition int32, asked []aggregate.Held) ([]aggregate.Handover, error),
	log *zap.Logger,
) *handover {
	return &handover{
		partitions: partitions, here: here, there: there, log: log,
		wakeHere: make(chan struct{}, 1), wakeThere: make(chan struct{}, 1), lists: map[*handovers]struct{}{},
	}
}

// Open returns an empty list of contracts for one partition.
func (h *handover) Open(partition int32, wake func()) ingest.Handovers {
	list := &handovers{of: h, partition: partition, answered: wake, wanted: map[aggregate.Held]*wanted{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lists[list] = struct{}{}
	return list
}

// handovers are the contracts that one partition asks for.
type handovers struct {
	of        *handover
	partition int32
	answered  func()

	mu     sync.Mutex // guards all below
	wanted map[aggregate.Held]*wanted
	done   []aggregate.Handover
}

// wanted is a contract of which not all partitions have answered.
type wanted struct {
	since   time.Time
	missing map[int32]bool
	limits  []aggregate.LimitRecord
}

func (l *handovers) Want(held []aggregate.Held) {
	l.mu.Lock()
	next := make(map[aggregate.Held]*wanted, len(held))
	for _, h := range held {
		w := l.wanted[h]
		if w == nil {
			w = &wanted{since: time.Now(), missing: make(map[int32]bool, l.of.partitions)}
			for p := range l.of.partitions {
				if p != l.partition {
					w.missing[p] = true
				}
			}
		}
		next[h] = w
	}
	l.wanted = next
	l.mu.Unlock()
	if len(held) > 0 {
		l.of.wake()
	}
}

func (l *handovers) Take() []aggregate.Handover {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := l.done
	l.done = nil
	return done
}

func (l *handovers) Close() {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	delete(l.of.lists, l)
}

func (h *handover) wake() {
	for _, c := range []chan struct{}{h.wakeHere, h.wakeThere} {
		select {
		case c <- struct{}{}:
		default: // it has one
		}
	}
}

func (h *handover) all() []*handovers {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*handovers, 0, len(h.lists))
	for l := range h.lists {
		list = append(list, l)
	}
	return list
}

// maxWanted bounds the contracts of one question.
const maxWanted = 1000

// missing returns the contracts of which partition has not answered.
func (l *handovers) missing(partition int32) []aggregate.Held {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []aggregate.Held
	for held, w := range l.wanted {
		if w.missing[partition] {
			list = append(list, held)
		}
	}
	return list
}

// take notes what a partition answers.
func (l *handovers) take(partition int32, answers []aggregate.Handover) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range answers {
		w := l.wanted[answers[i].Held]
		if w == nil || !w.missing[partition] {
			continue
		}
		delete(w.missing, partition)
		w.limits = append(w.limits, answers[i].Limits...)
		if len(w.missing) == 0 {
			delete(l.wanted, answers[i].Held)
			l.done = append(l.done, aggregate.Handover{Held: answers[i].Held, Limits: w.limits})
		}
	}
	if len(l.done) > 0 {
		l.answered()
	}
}

// round asks for all that is missing, each partition once for each contract,
// and tells whether more is to be asked.
func (h *handover) round(ask func(partition int32, asked []aggregate.Held) []aggregate.Handover) (more bool) {
	for _, l := range h.all() {
		for p := range h.partitions {
			for asked := range slices.Chunk(l.missing(p), maxWanted) {
				answers := ask(p, asked)
				l.take(p, answers)
				more = more || len(answers) < len(asked)
			}
		}
	}
	return more
}

// Run asks until ctx ends. Partitions of this instance, which answer at once,
// do not wait for others.
func (h *handover) Run(ctx context.Context) error {
	var loops errgroup.Group
	loops.Go(func() error {
		h.loop(ctx, h.wakeHere, func(partition int32, asked []aggregate.Held) []aggregate.Handover {
			answers, ok := h.here(partition, asked)
			if !ok {
				return nil
			}
			return answers
		})
		return nil
	})
	loops.Go(func() error {
		h.loop(ctx, h.wakeThere, h.askThere(ctx))
		return nil
	})
	return loops.Wait()
}

// askThere asks other instances, and says now and then that they do not answer.
func (h *handover) askThere(ctx context.Context) func(partition int32, asked []aggregate.Held) []aggregate.Handover {
	told := time.Now()
	return func(partition int32, asked []aggregate.Held) []aggregate.Handover {
		answers, err := h.there(ctx, partition, asked)
		if since, n := h.oldest(); n > 0 && time.Since(since) > tellEvery && time.Since(told) > tellEvery {
			told = time.Now()
			h.log.Warn("limits of contracts judge nothing: other partitions do not say what they have told of them",
				zap.Int("contracts", n), zap.Duration("for", time.Since(since)), zap.Int32("partition", partition), zap.Error(err))
		}
		return answers
	}
}

// tellEvery is how often the log says that contracts wait.
const tellEvery = time.Minute

// oldest returns since when contracts wait, and how many.
func (h *handover) oldest() (since time.Time, n int) {
	since = time.Now()
	for _, l := range h.all() {
		l.mu.Lock()
		for _, w := range l.wanted {
			n++
			if w.since.Before(since) {
				since = w.since
			}
		}
		l.mu.Unlock()
	}
	return since, n
}

// The pause between two questions for the same, which grows.
const (
	firstPause = 2 * time.Millisecond
	mostPause  = 200 * time.Millisecond
)

func (h *handover) loop(ctx context.Context, wake <-chan struct{}, ask func(partition int32, asked []aggregate.Held) []aggregate.Handover) {
	pause := firstPause
	for {
		var again <-chan time.Time
		if h.round(ask) {
			again = time.After(pause)
			pause = min(2*pause, mostPause)
		} else {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
			pause = firstPause
		case <-again:
		}
	}
}
