package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// CommittedOffset returns the position that group has committed for a partition.
// It waits for a transaction that is open on that position (RequireStable), and
// asks again through broker trouble, both until ctx ends. found is false when
// nothing was ever committed.
func (c *Cluster) CommittedOffset(ctx context.Context, group, topic string, partition int32) (offset int64, found bool, err error) {
	position, found, err := c.CommittedPosition(ctx, group, topic, partition)
	return position.Offset, found, err
}

// Position is what a group has committed for a partition.
type Position struct {
	Offset int64
	Note   string // the Transaction's
}

// CommittedPosition is CommittedOffset with the note that was committed with
// the offset. Two transactions at the same offset are told apart by it.
func (c *Cluster) CommittedPosition(ctx context.Context, group, topic string, partition int32) (position Position, found bool, err error) {
	pause := backoff{first: 5 * time.Millisecond, most: 500 * time.Millisecond}
	for {
		position, err = c.committed(ctx, group, topic, partition)
		if err == nil {
			return Position{Offset: max(position.Offset, 0), Note: position.Note}, position.Offset >= 0, nil
		}
		err = fmt.Errorf("committed position of %s/%d: %w", topic, partition, err)
		if code, ok := codeOf(err); ok && !movedCoordinator(code) && !notYet(code) {
			return Position{}, false, err
		}
		if errors.Is(err, ErrClosed) || !pause.wait(ctx) {
			return Position{}, false, ended(ctx, err)
		}
	}
}

func (c *Cluster) committed(ctx context.Context, group, topic string, partition int32) (Position, error) {
	addr, err := c.coordinator(ctx, sarama.CoordinatorGroup, group)
	if err != nil {
		return Position{}, err
	}
	answer, err := ask(ctx, c.control, addr, func(b *sarama.Broker) (*sarama.OffsetFetchResponse, error) {
		// version 7, whatever the broker's: the first with RequireStable
		req := sarama.NewOffsetFetchRequest(sarama.V2_5_0_0, group, map[string][]int32{topic: {partition}})
		req.RequireStable = true
		return b.FetchOffset(req)
	})
	if err != nil {
		c.moved(sarama.CoordinatorGroup, group, addr)
		return Position{}, err
	}
	code := answer.Err
	block := answer.GetBlock(topic, partition)
	if code == sarama.ErrNoError && block != nil {
		code = block.Err
	}
	if movedCoordinator(code) {
		c.moved(sarama.CoordinatorGroup, group, addr)
	}
	if code == sarama.ErrGroupIDNotFound {
		return Position{Offset: -1}, nil
	}
	if err := refused("OffsetFetch", code); err != nil {
		return Position{}, err
	}
	if block == nil {
		return Position{}, errors.New("OffsetFetch: the partition is missing in the answer")
	}
	return Position{Offset: block.Offset, Note: block.Metadata}, nil
}

// LogStart is the oldest offset of a partition. Like the other positions it is
// asked for through broker trouble until ctx ends; ErrNoTopic comes at once.
func (c *Cluster) LogStart(ctx context.Context, topic string, partition int32) (int64, error) {
	offset, _, err := c.offset(ctx, topic, partition, Earliest, sarama.ReadUncommitted)
	return offset, err
}

// HighWatermark is the offset behind the last record that is replicated, open
// transactions included.
func (c *Cluster) HighWatermark(ctx context.Context, topic string, partition int32) (int64, error) {
	offset, _, err := c.offset(ctx, topic, partition, Latest, sarama.ReadUncommitted)
	return offset, err
}

// LastStable is where a read_committed reader ends now: behind it is nothing, or
// an open transaction.
func (c *Cluster) LastStable(ctx context.Context, topic string, partition int32) (int64, error) {
	offset, _, err := c.offset(ctx, topic, partition, Latest, sarama.ReadCommitted)
	return offset, err
}

// OffsetForTime is the first offset with a timestamp of t or later; found is
// false when there is none.
func (c *Cluster) OffsetForTime(ctx context.Context, topic string, partition int32, t time.Time) (offset int64, found bool, err error) {
	return c.offset(ctx, topic, partition, max(t.UnixMilli(), 0), sarama.ReadUncommitted)
}

// offset asks for the offset at a time in milliseconds, Earliest or Latest.
func (c *Cluster) offset(ctx context.Context, topic string, partition int32, at int64, level sarama.IsolationLevel) (int64, bool, error) {
	pause := backoff{first: 10 * time.Millisecond, most: time.Second}
	for {
		offset, err := c.listOffset(ctx, topic, partition, at, level)
		if err == nil {
			return max(offset, 0), offset >= 0, nil
		}
		err = fmt.Errorf("offsets of %s/%d: %w", topic, partition, err)
		if code, ok := codeOf(err); ok && !movedLeader(code) && !notYet(code) {
			return 0, false, err
		}
		if errors.Is(err, ErrNoTopic) || errors.Is(err, ErrClosed) || !pause.wait(ctx) {
			return 0, false, ended(ctx, err)
		}
	}
}

func (c *Cluster) listOffset(ctx context.Context, topic string, partition int32, at int64, level sarama.IsolationLevel) (int64, error) {
	addr, meta, err := c.leader(ctx, topic, partition)
	if err != nil {
		return 0, err
	}
	answer, err := ask(ctx, c.control, addr, func(b *sarama.Broker) (*sarama.OffsetResponse, error) {
		req := sarama.NewOffsetRequest(c.sarama.Version)
		req.IsolationLevel = level
		req.AddBlock(topic, partition, at, 1)
		return b.GetAvailableOffsets(req)
	})
	if err != nil {
		c.forget(topic, meta)
		return 0, err
	}
	block := answer.GetBlock(topic, partition)
	if block == nil {
		return 0, errors.New("ListOffsets: the partition is missing in the answer")
	}
	if movedLeader(block.Err) {
		c.forget(topic, meta)
	}
	return block.Offset, refused("ListOffsets", block.Err)
}
