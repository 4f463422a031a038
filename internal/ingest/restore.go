package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/failpoint"
	"github.com/meterd/meterd/internal/kafka"
)

// loadChunk is after how many records from disk a restore looks whether it is
// still wanted.
const loadChunk = 20_000

// keepBytes is how much of the changelog a restore keeps for the disk. As long
// as it is less, nothing waits for the disk: it is written once counting goes
// on.
const keepBytes = 32 << 20

// restore rebuilds the state and proves that it stands for the position that
// the group has committed: from disk and the changelog's tail, or else from the
// whole changelog. If both disagree with the group, nothing can be trusted.
//
// Die at any point of it and nothing has changed but the disk, whose marker is
// written last.
func (t *task) restore() error {
	committed, found, err := t.committed()
	if err != nil {
		return err
	}
	if t.end, err = t.lastStable(t.soft, t.ingest.cfg.Topic); err != nil {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	t.position = committed
	t.show()
	for _, fromDisk := range []bool{true, false} {
		if !fromDisk {
			t.log.Warn("local state does not stand for the committed position: restoring from the whole changelog")
			if err := t.ingest.parts.Store.Wipe(t.partition); err != nil {
				return fmt.Errorf("wipe local state: %w", err)
			}
		}
		position, ok, err := t.rebuild(fromDisk)
		if err != nil {
			return err
		}
		switch {
		case ok && found && position == committed:
			t.position, t.folded = position, position
			return nil
		case !ok && !found:
			return t.begin()
		case !fromDisk:
			t.processor.Close()
			return t.mismatch(ok, position, found, committed)
		}
		t.processor.Close()
	}
	return nil
}

func (t *task) mismatch(ok bool, position int64, found bool, committed int64) error {
	changelog, group := "nothing", "nothing"
	if ok {
		changelog = fmt.Sprint(position)
	}
	if found {
		group = fmt.Sprint(committed)
	}
	return fmt.Errorf("%w: %s/%d: changelog %s, group %s; if offsets were reset or the changelog was lost on purpose, start anew with another application_id",
		ErrPositionMismatch, t.ingest.cfg.Topic, t.partition, changelog, group)
}

func (t *task) committed() (offset int64, found bool, err error) {
	err = t.retry(func() error {
		var position kafka.Position
		position, found, err = t.ingest.parts.Cluster.CommittedPosition(t.soft, t.ingest.cfg.ApplicationID, t.ingest.cfg.Topic, t.partition)
		offset = position.Offset
		return err
	})
	return offset, found, err
}

// rebuild loads a new processor from disk, if wanted, and the changelog, and
// returns the position that its state stands for.
func (t *task) rebuild(fromDisk bool) (position int64, ok bool, err error) {
	if t.processor, err = t.ingest.parts.Processor(t.partition); err != nil {
		return 0, false, err
	}
	t.unflushed, t.unkept = map[string][]byte{}, 0 // the changelog has it all
	p, cluster, topic := t.partition, t.ingest.parts.Cluster, t.ingest.cfg.ChangelogTopic
	var start, end, from int64
	if err := t.retry(func() (err error) {
		if start, err = cluster.LogStart(t.soft, topic, p); err != nil {
			return err
		}
		end, err = cluster.LastStable(t.soft, topic, p)
		return err
	}); err != nil {
		return 0, false, err
	}
	from = start
	if fromDisk {
		if from, err = t.load(start, end); err != nil {
			return 0, false, err
		}
	}
	err = t.retry(func() error {
		next, err := cluster.Read(t.soft, topic, p, from, end, t.replay)
		from = max(from, next)
		return err
	})
	if err != nil {
		return 0, false, err
	}
	t.changelogEnd = from
	position, ok = t.processor.Loaded()
	t.lastFlush = time.Time{} // what is yet to be written goes first
	return position, ok, nil
}

// load takes in what is on disk, and returns the changelog offset it stands
// for. What cannot be trusted, or is of another changelog, is wiped.
func (t *task) load(start, end int64) (from int64, err error) {
	n := 0
	from, ok, err := t.ingest.parts.Store.Load(t.partition, func(key string, value []byte) error {
		if n++; n%loadChunk == 0 {
			t.beat()
			if t.soft.Err() != nil {
				return t.soft.Err()
			}
		}
		return t.processor.Load([]byte(key), value)
	})
	t.ingest.metrics.restored.Add(float64(n))
	switch {
	case errors.Is(err, context.Canceled):
		return 0, err
	case err == nil && !ok:
		return start, nil
	case err == nil && start <= from && from <= end:
		return from, nil
	case err == nil && from < start && from >= 0 && start <= end:
		err = fmt.Errorf("it stands for changelog offset %d, and the changelog begins at %d", from, start)
	case err == nil:
		err = fmt.Errorf("it stands for changelog offset %d, and the changelog ends at %d", from, end)
	}
	t.log.Warn("local state is not to be trusted: restoring from the whole changelog", zap.Error(err))
	if err := t.ingest.parts.Store.Wipe(t.partition); err != nil {
		return 0, fmt.Errorf("wipe local state: %w", err)
	}
	t.processor.Close()
	t.processor, err = t.ingest.parts.Processor(t.partition)
	return start, err
}

// replay takes in a batch of the changelog.
func (t *task) replay(batch kafka.Batch) error {
	for i := range batch.Records {
		r := &batch.Records[i]
		if err := t.processor.Load(r.Key, r.Value); err != nil {
			return fmt.Errorf("%w: changelog offset %d: %w", errStop, r.Offset, err)
		}
		t.unflushed[string(r.Key)] = r.Value
		t.unkept += len(r.Key) + len(r.Value)
	}
	t.ingest.metrics.restored.Add(float64(len(batch.Records)))
	failpoint.Hit(failpoint.Replayed)
	if t.unkept < keepBytes {
		return nil
	}
	if err := t.keep(batch.Next); err != nil {
		return fmt.Errorf("%w: write local state: %w", errStop, err)
	}
	return nil
}

// keep writes what was restored to disk, with the changelog offset that it
// stands for. Where the disk is full it stays in memory until there is room.
func (t *task) keep(changelog int64) error {
	if low, err := t.ingest.parts.Store.DiskLow(); err != nil || low || len(t.unflushed) == 0 {
		return err
	}
	entries := t.entries()
	err := t.ingest.parts.Store.Apply(t.partition, entries, changelog)
	if !errors.Is(err, ErrDiskLow) {
		return err
	}
	for _, e := range entries {
		t.unflushed[e.Key] = e.Value
	}
	return nil
}

// entries returns what is to be written to disk, and forgets it.
func (t *task) entries() []Entry {
	list := make([]Entry, 0, len(t.unflushed))
	for key, value := range t.unflushed {
		list = append(list, Entry{Key: key, Value: value})
	}
	t.unflushed, t.unkept = map[string][]byte{}, 0
	return list
}

// begin decides where a partition without any state starts, and commits that
// at once, so that it is decided for good.
func (t *task) begin() error {
	var cut time.Time
	if err := t.retry(func() (err error) {
		t.position, cut, err = t.boundary(t.soft)
		return err
	}); err != nil {
		return err
	}
	for {
		t.folded = t.position
		t.processor.Fresh(t.position, cut)
		err := t.commit()
		if !errors.Is(err, errAborted) {
			t.log.Info("partition begins", zap.Int64("position", t.position), zap.Error(err))
			return err
		}
		select {
		case <-t.soft.Done():
			return t.soft.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
