package ingest

import (
	"context"
	"errors"
	"time"

	"github.com/meterd/meterd/internal/kafka"
)

// boundary returns where a partition without any state starts, and the time
// that history is cut at for it: what history has of before, and what the
// partition has from there on, is to be all there is.
//
// Where history knows offsets the two are one cut, and the time is only when
// that was decided. Else the cut is a multiple of CutEvery: the first at or
// after the time of the first record or, where that is yet to come, the last
// one; and the partition starts with the first record of that time or later.
func (t *task) boundary(ctx context.Context) (position int64, cut time.Time, err error) {
	cfg, cluster := &t.ingest.cfg, t.ingest.parts.Cluster
	now := time.Now()
	end, err := cluster.LastStable(ctx, cfg.Topic, t.partition)
	if err != nil {
		return 0, now, err
	}
	if position = end; !cfg.StartLatest {
		if position, err = cluster.LogStart(ctx, cfg.Topic, t.partition); err != nil {
			return 0, now, err
		}
	}
	if cfg.CutEvery <= 0 || position == 0 { // there is nothing below offset 0
		return position, now, nil
	}
	cut = now.Truncate(cfg.CutEvery)
	if first, found, err := t.firstTime(ctx, position, end); err != nil {
		return 0, now, err
	} else if found {
		next := first.Truncate(cfg.CutEvery)
		if next.Before(first) {
			next = next.Add(cfg.CutEvery)
		}
		if next.Before(cut) {
			cut = next
		}
	}
	at, found, err := cluster.OffsetForTime(ctx, cfg.Topic, t.partition, cut)
	switch {
	case err != nil:
		return 0, now, err
	case !found:
		return end, cut, nil
	}
	return max(position, at), cut, nil
}

// errEnough ends a read.
var errEnough = errors.New("enough was read")

// firstTime returns the timestamp of the first record from from on.
func (t *task) firstTime(ctx context.Context, from, to int64) (first time.Time, found bool, err error) {
	if from >= to {
		return first, false, nil
	}
	_, err = t.ingest.parts.Cluster.Read(ctx, t.ingest.cfg.Topic, t.partition, from, to, func(b kafka.Batch) error {
		if len(b.Records) == 0 {
			return nil
		}
		first, found = time.UnixMilli(b.Records[0].Timestamp), true
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return first, found, err
}
