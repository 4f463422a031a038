package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// Read reads a partition once, read_committed, from an offset (or Earliest) up
// to to, or up to the last stable offset of this moment if to is Latest. It
// calls fn with each batch, in order, and returns the position behind the last
// that fn has accepted, which is to in the end: control records and holes count,
// so a log that ends with them is read to its end. Records from to on are left
// out.
//
// Broker trouble is waited for until ctx ends, and so is an open transaction
// below to. An error of fn ends it, as does ErrOffsetOutOfRange.
func (c *Cluster) Read(ctx context.Context, topic string, partition int32, from, to int64, fn func(Batch) error) (next int64, err error) {
	if from == Earliest {
		if from, err = c.LogStart(ctx, topic, partition); err != nil {
			return 0, err
		}
	}
	if to == Latest {
		if to, err = c.LastStable(ctx, topic, partition); err != nil {
			return from, err
		}
	}
	if from >= to {
		return from, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &once{c: c, topic: topic, partition: partition, next: from, to: to, bytes: 8 << 20, out: make(chan Batch, 1), done: make(chan error, 1)}
	go o.run(ctx)
	defer func() { // the one goroutine ends before Read does
		cancel()
		for range o.out {
		}
	}()
	for batch := range o.out {
		if err := fn(batch); err != nil {
			return from, err
		}
		from = batch.Next
	}
	return from, <-o.done
}

// once reads ahead for one Read, by one batch, on a connection of its own.
type once struct {
	c         *Cluster
	topic     string
	partition int32
	next, to  int64
	bytes     int32
	out       chan Batch
	done      chan error
	link      *link
}

func (o *once) run(ctx context.Context) {
	err := o.all(ctx)
	if o.link != nil {
		o.link.close()
	}
	o.done <- err
	close(o.out)
}

func (o *once) all(ctx context.Context) error {
	pause := backoff{first: 10 * time.Millisecond, most: time.Second}
	for o.next < o.to {
		batch, err := o.fetch(ctx)
		if err != nil {
			err = fmt.Errorf("read %s/%d at %d: %w", o.topic, o.partition, o.next, err)
			if o.fatal(err) || !pause.wait(ctx) {
				return ended(ctx, err)
			}
			continue
		}
		pause.reset()
		if batch.Next == o.next { // an open transaction
			continue
		}
		batch.trim(o.to)
		o.next = batch.Next
		select {
		case o.out <- batch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (o *once) fatal(err error) bool {
	code, answered := codeOf(err)
	if answered {
		return !movedLeader(code) && !notYet(code)
	}
	return !broken(err)
}

// fetch makes one request; a failed one drops the connection.
func (o *once) fetch(ctx context.Context) (batch Batch, err error) {
	addr, meta, err := o.c.leader(ctx, o.topic, o.partition)
	if err != nil {
		return batch, err
	}
	if o.link != nil && o.link.addr != addr {
		o.link.close()
		o.link = nil
	}
	if o.link == nil {
		if o.link, err = o.c.dial(ctx, addr, o.c.cfg.ReadTimeout); err != nil {
			o.c.forget(o.topic, meta)
			return batch, err
		}
	}
	req := fetchRequest(FetchConfig{MinBytes: 1, MaxBytes: o.bytes}, 500*time.Millisecond)
	req.AddBlock(o.topic, o.partition, o.next, o.bytes, -1)
	answer, err := roundTrip(ctx, o.link, func(b *sarama.Broker) (*sarama.FetchResponse, error) { return b.Fetch(req) })
	o.c.metrics.fetches.Inc()
	if err != nil {
		o.c.forget(o.topic, meta)
		o.link.close()
		o.link = nil
		return batch, err
	}
	block := answer.GetBlock(o.topic, o.partition)
	if block == nil {
		return batch, errors.New("the partition is missing in the answer")
	}
	if block.Err == sarama.ErrOffsetOutOfRange {
		return batch, fmt.Errorf("%w: the log begins at %d", ErrOffsetOutOfRange, block.LogStartOffset)
	}
	if movedLeader(block.Err) {
		o.c.forget(o.topic, meta)
	}
	if err := refused("Fetch", block.Err); err != nil {
		return batch, err
	}
	batch, err = decode(block, o.topic, o.partition, o.next)
	if errors.Is(err, errTooSmall) && o.bytes < maxFetchBytes {
		o.bytes = min(o.bytes*2, maxFetchBytes)
		batch.Next = o.next
		return batch, nil
	}
	o.c.metrics.fetchBytes.Add(float64(batch.Bytes))
	return batch, err
}
