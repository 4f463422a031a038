package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/failpoint"
	"github.com/meterd/meterd/internal/kafka"
)

// kept is what was folded since the last commit, for folding it again.
type kept struct {
	batches []kafka.Batch
	records int
	bytes   int
	since   time.Time // of the first thing in it
}

// run reads, folds and commits until the task ends.
func (t *task) run() error {
	subscription, err := t.ingest.parts.Fetcher.Subscribe(t.ingest.cfg.Topic, t.partition, t.position)
	if err != nil {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	defer subscription.Close()
	endWriteBehind := t.startWriteBehind()
	defer endWriteBehind()

	var (
		held kept
		rest kafka.Batch // read and not folded yet
		tick = time.NewTicker(tickEvery)

		asked time.Time // when the last batch was
	)
	defer tick.Stop()
	if t.end, err = t.lastStable(t.soft, t.ingest.cfg.Topic); err != nil {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	t.show()
	t.enter(Running)
	for {
		t.beat()
		t.show()
		var batches <-chan kafka.Batch
		if rest.Next == 0 {
			batches = subscription.Batches()
		}
		var due <-chan time.Time
		if at, ok := t.commitAt(&held); ok {
			due = time.After(time.Until(at))
		}
		if rest.Next == 0 {
			select {
			case <-t.soft.Done():
				return t.finish(&held)
			case batch, ok := <-batches:
				if !ok {
					return t.ended(subscription.Err())
				}
				rest = batch
				t.end = batch.LastStable
				asked = batch.Asked
				failpoint.Hit(failpoint.Fetched)
			case <-t.processor.Wake():
			case <-due:
			case <-tick.C:
			case err := <-t.flushed:
				if err := t.written(err); err != nil {
					return err
				}
			}
		} else if t.soft.Err() != nil {
			return t.finish(&held)
		}
		var readUpTo time.Time // the clock counts only as far as the broker has confirmed the end
		if rest.Next == 0 && t.folded >= t.end {
			if readUpTo = subscription.Confirmed(); readUpTo.Before(asked) {
				readUpTo = asked
			}
		}
		if err := t.between(&held, readUpTo); err != nil {
			return err
		}
		if rest.Next != 0 {
			if rest, err = t.fold(&held, rest); err != nil {
				return err
			}
		}
		if err := t.commitIfDue(&held); err != nil {
			return err
		}
		if err := t.flushIfDue(); err != nil {
			return err
		}
	}
}

// tickEvery is how often a partition looks at the clock when nothing happens.
const tickEvery = 100 * time.Millisecond

// ended tells why nothing more is read.
func (t *task) ended(err error) error {
	if errors.Is(err, kafka.ErrOffsetOutOfRange) {
		return fmt.Errorf("%w: read from %d: records were deleted before they were counted: %w", errStop, t.folded, err)
	}
	if err == nil || errors.Is(err, kafka.ErrClosed) {
		return context.Canceled
	}
	return fmt.Errorf("%w: %w", errAgain, err)
}

// between lets the processor take in what came from elsewhere.
func (t *task) between(held *kept, readUpTo time.Time) error {
	if err := t.processor.Between(readUpTo); err != nil {
		return fmt.Errorf("%w: %w", errStop, err)
	}
	if held.since.IsZero() && t.processor.Pending().Any {
		held.since = time.Now()
	}
	return nil
}

// fold takes in as much of batch as fits the open transaction and returns the
// rest.
func (t *task) fold(held *kept, batch kafka.Batch) (rest kafka.Batch, err error) {
	if low, err := t.ingest.parts.Store.DiskLow(); err != nil || low {
		return batch, t.pause("disk low", err)
	}
	part := batch
	if room := max(1, t.ingest.cfg.CommitRecords-held.records); len(batch.Records) > room {
		part.Records, rest = batch.Records[:room], batch
		rest.Records = batch.Records[room:]
		part.Next = rest.Records[0].Offset
		part.Bytes = int(int64(batch.Bytes) * int64(room) / int64(len(batch.Records)))
		rest.Bytes -= part.Bytes
	}
	switch err := t.processor.Prepare(t.soft, part.Records); {
	case errors.Is(err, ErrWait):
		return batch, t.pause(err.Error(), nil)
	case t.soft.Err() != nil:
		return batch, nil
	case err != nil:
		return batch, fmt.Errorf("%w: %w", errStop, err)
	}
	t.paused = ""
	if held.since.IsZero() {
		held.since = time.Now()
	}
	held.batches = append(held.batches, part)
	held.records += len(part.Records)
	held.bytes += part.Bytes
	if err := t.processor.Fold(part.Records, part.Next); err != nil {
		return rest, fmt.Errorf("%w: fold: %w", errStop, err)
	}
	t.folded = part.Next
	return rest, t.step(StepFolded)
}

// pauseFor is how long a partition waits before it looks again for what it
// needs.
const pauseFor = 500 * time.Millisecond

// pause keeps the partition from reading on for a moment, and says why if that
// is not soon over.
func (t *task) pause(why string, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", errStop, err)
	}
	switch {
	case t.paused != why:
		t.paused, t.pausedSince, t.pausedTold = why, time.Now(), false
	case !t.pausedTold && time.Since(t.pausedSince) >= pauseFor:
		t.log.Warn("paused", zap.String("reason", why))
		t.pausedTold = true
	}
	t.show()
	select {
	case <-t.soft.Done():
	case <-t.processor.Wake(): // the loop goes round, and Between is next
	case <-time.After(pauseFor):
	}
	return nil
}

// commitAt returns when the open transaction is to be committed: at once where
// it is full or holds what must not wait, but for a pause after the last one. What
// must not wait waits for as long as that took: where transactions are slow,
// because there are many or the broker is busy, more of them would make them
// slower.
func (t *task) commitAt(held *kept) (time.Time, bool) {
	pending := t.processor.Pending()
	switch {
	case !pending.Any:
		return time.Time{}, false
	case held.records >= t.ingest.cfg.CommitRecords, pending.Dirty >= maxDirty, held.bytes >= maxKeptBytes:
		return t.lastCommit.Add(minGap), true
	case pending.Urgent:
		return t.lastCommit.Add(max(minGap, min(t.took, t.ingest.cfg.CommitInterval))), true
	}
	return held.since.Add(t.ingest.cfg.CommitInterval), true
}

func (t *task) commitIfDue(held *kept) error {
	at, ok := t.commitAt(held)
	if !ok || time.Now().Before(at) {
		return nil
	}
	return t.commitAll(held)
}

// commitAll commits the open transaction, folding what it holds again for as
// long as it is known not to have been committed.
func (t *task) commitAll(held *kept) error {
	for {
		err := t.commit()
		if err == nil {
			clear(held.batches) // they are large, and the next may be few
			*held = kept{batches: held.batches[:0]}
			return nil
		}
		if !errors.Is(err, errAborted) {
			return err
		}
		if kafka.Permanent(err) {
			return fmt.Errorf("%w: %w", errStop, err)
		}
		t.log.Warn("transaction aborted: folding its records again", zap.Int("records", held.records), zap.Error(err))
		if t.hard.Err() != nil {
			return t.hard.Err()
		}
		if err := t.processor.Between(time.Time{}); err != nil {
			return fmt.Errorf("%w: %w", errStop, err)
		}
		for i := range held.batches {
			if err := t.processor.Fold(held.batches[i].Records, held.batches[i].Next); err != nil {
				return fmt.Errorf("%w: fold: %w", errStop, err)
			}
			t.folded = held.batches[i].Next
		}
		select {
		case <-t.hard.Done():
			return t.hard.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// errAborted is returned when a transaction is known not to stand. The
// processor is back where it was before.
var errAborted = errors.New("not committed")

// commit writes the open transaction.
//
// The transaction is the only commit point: if we die before it, nothing
// happened; if we die after it, the changelog brings the state back.
func (t *task) commit() error {
	member, err := t.member()
	if err != nil {
		return err
	}
	now := failpoint.Now()
	records, err := t.processor.Outputs(now)
	if err != nil {
		return fmt.Errorf("%w: %w", errStop, err)
	}
	if err := t.step(StepCommitting); err != nil {
		return err
	}
	t.commits++
	tx := kafka.Transaction{
		Records: records, Topic: t.ingest.cfg.Topic, Partition: t.partition, Next: t.folded,
		Member: member, Renew: t.ingest.parts.Renew, At: now,
		Note: fmt.Sprintf("%s-%d", t.name, t.commits),
	}
	began := time.Now()
	outcome, err := t.writer.Commit(t.hard, tx)
	t.took = time.Since(began)
	if outcome == kafka.Unknown {
		outcome, err = t.reconcile(tx.Note, err)
	}
	switch outcome {
	case kafka.Committed:
		if err := t.step(StepCommitted); err != nil {
			return err
		}
		t.committedAll(records, now)
		return nil
	case kafka.Fenced:
		t.processor.Rollback()
		return fmt.Errorf("commit up to %d: %w", tx.Next, errors.Join(kafka.ErrFenced, err))
	case kafka.Aborted:
		t.processor.Rollback()
		t.folded = t.position
		return fmt.Errorf("commit up to %d: %w: %w", tx.Next, errAborted, err)
	}
	return err
}

// memberWait is how long a partition that is to be handed over waits to be a
// member in good standing. What it has folded is then folded by its next owner.
const memberWait = 2 * time.Second

// member waits until this process is a member of the group: the partition may
// be ours in the next generation too.
func (t *task) member() (kafka.Member, error) {
	var leaving <-chan time.Time
	soft := t.soft.Done()
	for {
		t.beat()
		if member, ok := t.ingest.parts.Member(); ok {
			return member, nil
		}
		select {
		case <-t.hard.Done():
			return kafka.Member{}, t.hard.Err()
		case <-leaving:
			return kafka.Member{}, context.Canceled
		case <-soft:
			soft, leaving = nil, time.After(memberWait)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// reconcile finds out whether a transaction stands whose outcome is unknown:
// its position carries a note that no other commit has. Re-initialising the
// writer first ends the transaction one way or the other, and fails if
// somebody newer owns the partition.
func (t *task) reconcile(note string, cause error) (kafka.Outcome, error) {
	t.log.Warn("outcome of a transaction is unknown: asking the broker", zap.Error(cause))
	var position kafka.Position
	var found bool
	pause := 50 * time.Millisecond
	for {
		err := t.await(func() (err error) {
			if err = t.writer.Init(t.hard); err != nil {
				return err
			}
			failpoint.Hit(failpoint.Settled)
			position, found, err = t.ingest.parts.Cluster.CommittedPosition(t.hard, t.ingest.cfg.ApplicationID, t.ingest.cfg.Topic, t.partition)
			return err
		})
		switch {
		case errors.Is(err, kafka.ErrFenced):
			return kafka.Fenced, err
		case t.hard.Err() != nil:
			return kafka.Unknown, t.hard.Err()
		case err == nil && found && position.Note == note:
			return kafka.Committed, nil
		case err == nil:
			return kafka.Aborted, cause
		}
		t.log.Warn("waiting for the broker", zap.Error(err))
		select {
		case <-t.hard.Done():
			return kafka.Unknown, t.hard.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// committedAll makes a committed transaction what readers see, and keeps its
// changelog records for the disk.
func (t *task) committedAll(records []kafka.Output, now time.Time) {
	t.processor.Committed(now)
	t.position, t.lastCommit = t.folded, time.Now()
	if end, ok := t.writer.End(t.ingest.cfg.ChangelogTopic, t.partition); ok {
		t.changelogEnd = end
	}
	for i := range records {
		if r := &records[i]; r.Topic == t.ingest.cfg.ChangelogTopic {
			t.unflushed[unsafe.String(unsafe.SliceData(r.Key), len(r.Key))] = r.Value // nobody changes what was written
		}
	}
}

// finish ends a task that is to be handed over: what was folded is committed,
// what was committed goes to disk.
func (t *task) finish(held *kept) error {
	if t.hard.Err() == nil && t.processor.Pending().Any {
		if err := t.commitAll(held); err != nil && t.hard.Err() == nil {
			return err
		}
	}
	if err := t.step(StepRevoked); err != nil {
		return err
	}
	if t.flushing {
		if err := t.written(<-t.flushed); err != nil {
			return err
		}
	}
	if t.hard.Err() != nil || t.unwritten || len(t.unflushed) == 0 {
		return context.Canceled
	}
	if low, err := t.ingest.parts.Store.DiskLow(); err != nil || low {
		return context.Canceled // the changelog has it all
	}
	if err := t.ingest.parts.Store.Apply(t.partition, t.entries(), t.changelogEnd); err != nil && !errors.Is(err, ErrDiskLow) {
		return fmt.Errorf("%w: write local state: %w", errStop, err)
	}
	failpoint.Hit(failpoint.HandedOver)
	return context.Canceled
}

// lastStable asks for the last stable offset of the partition of a topic.
func (t *task) lastStable(ctx context.Context, topic string) (end int64, err error) {
	err = t.await(func() error {
		end, err = t.ingest.parts.Cluster.LastStable(ctx, topic, t.partition)
		return err
	})
	return end, err
}

// flush is committed state on its way to disk.
type flush struct {
	entries   []Entry
	changelog int64
}

// startWriteBehind starts writing to disk what the loop hands over, beside it.
// The returned function ends that and waits for it: nothing older may be
// written later.
func (t *task) startWriteBehind() (end func()) {
	flushes, flushed := make(chan flush, 1), make(chan error, 1)
	t.flushes, t.flushed, t.flushing, t.unwritten = flushes, flushed, false, false
	var writing sync.WaitGroup
	writing.Go(func() {
		for f := range flushes {
			began := time.Now()
			err := t.step(StepFlushing)
			if err == nil {
				err = t.applyWithRoom(f)
			}
			if err == nil {
				err = t.step(StepFlushed)
			}
			t.ingest.metrics.flushSeconds.Observe(time.Since(began).Seconds())
			flushed <- err
		}
	})
	return func() {
		close(flushes)
		writing.Wait()
	}
}

// written notes how a flush ended. After one that a partition which ends has left
// unwritten nothing may be written any more: its marker would stand for that too.
func (t *task) written(err error) error {
	t.flushing = false
	if errors.Is(err, ErrDiskLow) {
		t.unwritten = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: write local state: %w", errStop, err)
	}
	return nil
}

// applyWithRoom writes f to disk as soon as there is room for it. A partition
// that ends leaves it unwritten, with ErrDiskLow: the changelog has it.
func (t *task) applyWithRoom(f flush) error {
	for {
		err := t.ingest.parts.Store.Apply(t.partition, f.entries, f.changelog)
		if !errors.Is(err, ErrDiskLow) {
			return err
		}
		select {
		case <-t.soft.Done():
			return err
		case <-time.After(pauseFor):
		}
	}
}

// flushIfDue hands committed state over to be written to disk. The changelog
// offset that goes with it is behind our own last record, as the broker told it:
// all records below it are in what is written by then. The end of the changelog
// would not do, for a newer owner may have written there, whom we do not know of
// yet.
func (t *task) flushIfDue() error {
	if t.flushing || t.unwritten || len(t.unflushed) == 0 || time.Since(t.lastFlush) < t.ingest.cfg.FlushInterval {
		return nil
	}
	if low, err := t.ingest.parts.Store.DiskLow(); err != nil || low {
		return nil //nolint:nilerr // fold says so, and stops reading
	}
	t.lastFlush, t.flushing = time.Now(), true
	t.flushes <- flush{entries: t.entries(), changelog: t.changelogEnd}
	return nil
}
