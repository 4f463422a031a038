package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"github.com/meterd/meterd/internal/failpoint"
)

// WriterConfig bounds transactions.
type WriterConfig struct {
	// Timeout is when the broker aborts a transaction that has not ended, which
	// is also what Commit takes at most. Below the group's session timeout, so
	// that an heir never waits for it.
	Timeout time.Duration
	// MaxBatchBytes bounds one batch, uncompressed; the topics' max.message.bytes
	// must allow it.
	MaxBatchBytes int
}

// DefaultWriter suits brokers with the usual message size of 1 MiB.
func DefaultWriter() WriterConfig {
	return WriterConfig{Timeout: 10 * time.Second, MaxBatchBytes: 900 << 10}
}

// Validate names the first value that is wrong.
func (c WriterConfig) Validate() error {
	if c.Timeout < time.Second || c.Timeout > 15*time.Minute {
		return fmt.Errorf("writer: transaction timeout %s is not between 1s and 15m", c.Timeout)
	}
	if c.MaxBatchBytes < 1<<10 || c.MaxBatchBytes > 64<<20 {
		return fmt.Errorf("writer: batches of %d bytes are not between 1 KiB and 64 MiB", c.MaxBatchBytes)
	}
	return nil
}

// Writer commits whole transactions under one transactional id. It has no
// connection of its own, so there may be one for each partition. One goroutine
// at a time may use it.
//
// In a crash one of the following is true: before EndTxn has reached the
// coordinator nothing of the transaction stands, and the next owner's Init
// aborts it; after that all of it stands.
type Writer struct {
	c   *Cluster
	id  string
	cfg WriterConfig

	state state
	who   identity
	open  bool // the coordinator has acknowledged a part of a transaction that was not ended
	asked bool // InitProducerId was sent since the last EndTxn; its answer may be lost
	ends  map[topicPartition]int64
}

// state is what a Writer may do next.
type state int

const (
	fresh   state = iota // has no producer id: the first Init fences whoever had it
	ready                // may commit
	stale                // nothing is open, but the epoch must be raised before the next transaction
	doubt                // the last transaction may stand or not
	outcast              // a newer owner has the id
)

// NewWriter makes a Writer. Init comes before the first Commit.
func (c *Cluster) NewWriter(transactionalID string, cfg WriterConfig) *Writer {
	return &Writer{c: c, id: transactionalID, cfg: cfg, who: identity{id: -1, epoch: -1}, ends: map[topicPartition]int64{}}
}

// End returns the offset behind the last record that the broker has told this
// writer to have written to a partition, and false before there was one. No
// newer owner of the transactional id can have committed anything below it.
func (w *Writer) End(topic string, partition int32) (int64, bool) {
	end, ok := w.ends[topicPartition{topic, partition}]
	return end, ok
}

// Init makes the writer ready. The first Init of a Writer takes the
// transactional id from any other owner and aborts what that had open. A later
// one, after Unknown, resolves the last transaction: afterwards it stands or
// does not, for ever, and CommittedOffset tells which. That one takes nothing
// from a newer owner, but returns ErrFenced when there is one.
//
// It waits through broker trouble until ctx ends; another Init may follow.
func (w *Writer) Init(ctx context.Context) error {
	if w.state == outcast {
		return fmt.Errorf("init %s: %w", w.id, ErrFenced)
	}
	w.c.metrics.inits.Inc()
	if w.state != fresh && !w.asked {
		if err := w.settle(ctx); err != nil {
			return w.cast(fmt.Errorf("init %s: %w", w.id, err))
		}
	}
	if err := w.renew(ctx); err != nil {
		return w.cast(fmt.Errorf("init %s: %w", w.id, err))
	}
	w.state, w.open, w.asked = ready, false, false
	return nil
}

// cast notes that the writer is fenced, if err says so.
func (w *Writer) cast(err error) error {
	if errors.Is(err, ErrFenced) {
		w.state = outcast
	}
	return err
}

// settle ends what this writer may have left open, under its own epoch. It is
// done before InitProducerId for the sake of a newer owner: the coordinator
// would let InitProducerId abort an open transaction of the same producer id
// whatever its epoch, while EndTxn of an old epoch is refused.
//
// A lost EndTxn(commit) may still be under way here. If it arrives before this
// abort it has won, and the abort is refused; after it, it is refused, and
// after InitProducerId it belongs to an old epoch.
func (w *Writer) settle(ctx context.Context) error {
	err := w.endTxn(ctx, false, true)
	switch code, _ := codeOf(err); {
	case err == nil, code == sarama.ErrInvalidTxnState, code == sarama.ErrInvalidProducerIDMapping:
		// aborted; or nothing is open, because it was committed or never begun;
		// or the coordinator has forgotten an id that was idle for days
		return nil
	case fencedEpoch(code):
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	return err
}

// renew takes a producer id and epoch. When this writer had one before, the
// coordinator compares and refuses if a newer owner came since.
func (w *Writer) renew(ctx context.Context) error {
	req := sarama.InitProducerIDRequest{
		Version: 4, TransactionalID: &w.id, TransactionTimeout: w.cfg.Timeout, ProducerID: w.who.id, ProducerEpoch: w.who.epoch,
	}
	w.asked = w.state != fresh
	var answer *sarama.InitProducerIDResponse
	err := w.coordinate(ctx, "InitProducerId", true, func(b *sarama.Broker) (sarama.KError, error) {
		again := req // sarama lowers the version in place
		r, err := b.InitProducerID(&again)
		if err != nil {
			return 0, err
		}
		answer = r
		return r.Err, nil
	})
	if code, _ := codeOf(err); fencedEpoch(code) {
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	if err != nil {
		return err
	}
	w.who = identity{id: answer.ProducerID, epoch: answer.ProducerEpoch, next: map[topicPartition]int32{}}
	return nil
}

// Commit writes tx as one transaction. The error, if any, says why it was not
// Committed. After Aborted the writer goes on by itself. After Unknown, which is
// also the outcome when ctx ended or a connection broke in between, Init must
// come first; without it Commit returns Aborted and ErrNotInitialised. A
// transaction with neither records nor position is Committed at once.
func (w *Writer) Commit(ctx context.Context, tx Transaction) (Outcome, error) {
	began := time.Now()
	outcome, err := w.commit(ctx, tx)
	w.c.metrics.transactions.WithLabelValues(outcome.String()).Inc()
	w.c.metrics.duration.Observe(time.Since(began).Seconds())
	switch outcome {
	case Committed:
		return Committed, nil
	case Unknown:
		w.state = doubt
	case Fenced:
		w.state = outcast
	}
	return outcome, fmt.Errorf("commit under %s: %w", w.id, err)
}

func (w *Writer) commit(ctx context.Context, tx Transaction) (Outcome, error) {
	if len(tx.Records) == 0 && tx.Topic == "" {
		return Committed, nil
	}
	switch w.state {
	case fresh, doubt:
		return Aborted, ErrNotInitialised
	case outcast:
		return Fenced, ErrFenced
	case stale:
		if err := w.Init(ctx); err != nil {
			if errors.Is(err, ErrFenced) {
				return Fenced, err
			}
			return Aborted, err // nothing was begun; the next Commit tries again
		}
	}
	limited, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	err := w.fill(limited, tx)
	if err == nil {
		return w.end(limited)
	}
	return w.giveUp(ctx, err)
}

// errMembership: the group does not know this member, or not in this generation.
var errMembership = errors.New("membership has ended")

// giveUp finds the outcome of a transaction that failed before it was ended.
func (w *Writer) giveUp(ctx context.Context, cause error) (Outcome, error) {
	code, answered := codeOf(cause)
	switch {
	case fencedEpoch(code):
		return Fenced, fmt.Errorf("%w: %w", ErrFenced, cause)
	case !answered && !errors.Is(cause, ErrNoTopic):
		return Unknown, cause
	}
	// The broker said no, so nothing is under way and an abort is certain. It is
	// made even if ctx has just ended: an open transaction holds up readers.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(w.cfg.Timeout, 3*time.Second))
	defer cancel()
	outcome := Aborted
	if errors.Is(cause, errMembership) {
		outcome = Fenced
	}
	w.state = stale
	if !w.open {
		return outcome, cause
	}
	w.open = false
	err := w.endTxn(ctx, false, false)
	switch code, _ := codeOf(err); {
	case err == nil, outcome == Fenced: // in the latter case the next owner's Init aborts it
		return outcome, cause
	case fencedEpoch(code):
		return Fenced, fmt.Errorf("%w: %w; then abort: %w", ErrFenced, cause, err)
	}
	return Unknown, fmt.Errorf("%w; then abort: %w", cause, err)
}

// end commits what was filled in. EndTxn is sent again only after an answer, so
// that none is ever under way that we do not wait for.
func (w *Writer) end(ctx context.Context) (Outcome, error) {
	w.open, w.asked = false, false
	err := w.endTxn(ctx, true, false)
	failpoint.Hit(failpoint.Ended)
	if code, _ := codeOf(err); fencedEpoch(code) {
		return Fenced, fmt.Errorf("%w: %w", ErrFenced, err)
	}
	if err != nil {
		return Unknown, err
	}
	return Committed, nil
}

// endTxn ends the transaction. redial asks again after a broken connection too.
func (w *Writer) endTxn(ctx context.Context, commit, redial bool) error {
	return w.coordinate(ctx, "EndTxn", redial, func(b *sarama.Broker) (sarama.KError, error) {
		r, err := b.EndTxn(&sarama.EndTxnRequest{
			Version: 3, TransactionalID: w.id, ProducerID: w.who.id, ProducerEpoch: w.who.epoch, TransactionResult: commit,
		})
		if err != nil {
			return 0, err
		}
		return r.Err, nil
	})
}

// coordinate asks the transaction coordinator until it says yes or no, or ctx
// ends. It asks again while the answer is "not yet" or "not here". After a
// broken connection it asks again only if redial, or if it never got through.
func (w *Writer) coordinate(ctx context.Context, what string, redial bool, request func(*sarama.Broker) (sarama.KError, error)) error {
	return w.c.coordinate(ctx, w.c.writes, sarama.CoordinatorTransaction, w.id, what, redial, request)
}

// coordinate is the loop behind Writer.coordinate, for any coordinator.
func (c *Cluster) coordinate(ctx context.Context, p *pool, kind sarama.CoordinatorType, name, what string, redial bool, request func(*sarama.Broker) (sarama.KError, error)) error {
	pause := newPatience()
	for {
		addr, err := c.coordinator(ctx, kind, name)
		if err != nil {
			return err
		}
		code, err := ask(ctx, p, addr, request)
		if err == nil {
			if err = refused(what, code); err == nil {
				return nil
			}
			if movedCoordinator(code) {
				c.moved(kind, name, addr)
			} else if !notYet(code) && code != sarama.ErrUnknownTopicOrPartition { // which a new topic may still be
				return err
			}
		} else {
			c.moved(kind, name, addr)
			err = fmt.Errorf("%s: %w", what, err)
			if _, unsent := errors.AsType[*connectError](err); errors.Is(err, ErrClosed) || !redial && !unsent {
				return err
			}
		}
		if !pause.wait(ctx, err) {
			return ended(ctx, err)
		}
	}
}
