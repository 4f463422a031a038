package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"go.uber.org/zap"
)

// reader is the fetch loop of one broker.
type reader struct {
	f     *Fetcher
	addr  string
	wake  chan struct{}
	pause backoff
	link  *link
}

// signal says that there may be something to fetch.
func (r *reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run fetches until ctx ends.
func (r *reader) run(ctx context.Context) {
	defer r.drop()
	for {
		subs, left := r.ready()
		if len(subs) == 0 {
			select {
			case <-r.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		began := time.Now()
		bytes, err := r.fetch(ctx, subs, left)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.failed(subs, err)
			if !r.pause.wait(ctx) {
				return
			}
			r.f.place()
			continue
		}
		r.pause.reset()
		if rest := r.f.cfg.MinInterval - time.Since(began); bytes < littleBytes && rest > 0 && !pause(ctx, rest) {
			return
		}
	}
}

func (r *reader) drop() {
	if r.link != nil {
		r.link.close()
		r.link = nil
	}
}

// ready returns the subscriptions to ask for, and whether others are left out
// because their reader is busy.
func (r *reader) ready() (subs []*Subscription, left bool) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	for s := range r.f.subs {
		switch {
		case s.addr != r.addr:
		case s.busy:
			left = true
		case s.alone:
			return []*Subscription{s}, true
		default:
			subs = append(subs, s)
		}
	}
	return subs, left
}

// fetch makes one request and hands out what it brought. When a partition was
// left out the broker waits only shortly for data: the partition's reader may
// have room again at any moment, and a long poll cannot be called back.
func (r *reader) fetch(ctx context.Context, subs []*Subscription, left bool) (bytes int, err error) {
	if r.link == nil {
		l, err := r.f.c.dial(ctx, r.addr, r.f.cfg.MaxWait+r.f.c.cfg.ReadTimeout)
		if err != nil {
			return 0, err
		}
		r.link = l
	}
	wait := r.f.cfg.MaxWait
	if left {
		wait = min(wait, busyWait)
	}
	req := fetchRequest(r.f.cfg, wait)
	for _, s := range subs {
		req.AddBlock(s.topic, s.partition, s.next, s.bytes, -1)
		req.MaxBytes = max(req.MaxBytes, s.bytes)
	}
	asked := time.Now()
	answer, err := roundTrip(ctx, r.link, func(b *sarama.Broker) (*sarama.FetchResponse, error) { return b.Fetch(req) })
	r.f.c.metrics.fetches.Inc()
	if err != nil {
		return 0, err
	}
	if err := refused("Fetch", sarama.KError(answer.ErrorCode)); err != nil {
		return 0, err
	}
	moved := false
	for _, s := range subs {
		n, gone := r.take(s, answer.GetBlock(s.topic, s.partition), asked)
		bytes += n
		moved = moved || gone
	}
	if moved {
		r.pause.wait(ctx) // a new leader is not found at once
		r.f.place()
	}
	return bytes, nil
}

// take hands out a partition's part of an answer. gone is true when the
// partition is no longer this broker's.
func (r *reader) take(s *Subscription, block *sarama.FetchResponseBlock, asked time.Time) (bytes int, gone bool) {
	if block == nil { // not answered this time
		return 0, false
	}
	switch {
	case block.Err == sarama.ErrNoError:
	case block.Err == sarama.ErrOffsetOutOfRange:
		s.end(fmt.Errorf("%w: %s/%d at %d, the log begins at %d", ErrOffsetOutOfRange, s.topic, s.partition, s.next, block.LogStartOffset))
		return 0, false
	case movedLeader(block.Err), notYet(block.Err):
		r.f.takeBack(s)
		return 0, true
	default:
		s.end(fmt.Errorf("fetch %s/%d at %d: %w", s.topic, s.partition, s.next, refused("Fetch", block.Err)))
		return 0, false
	}
	batch, err := decode(block, s.topic, s.partition, s.next)
	if errors.Is(err, errTooSmall) && s.bytes < maxFetchBytes {
		s.bytes = min(max(s.bytes, 512)*2, maxFetchBytes)
		return 0, false
	}
	if err != nil {
		s.end(fmt.Errorf("fetch %s/%d at %d: %w", s.topic, s.partition, s.next, err))
		return 0, false
	}
	batch.Asked = asked
	r.deliver(s, batch)
	return batch.Bytes, false
}

// deliver hands out a batch that says anything: records, a moved position, or
// that the end is reached.
func (r *reader) deliver(s *Subscription, batch Batch) {
	end := batch.Next >= batch.LastStable
	news := len(batch.Records) > 0 || batch.Next > s.next || end && !s.caughtUp
	s.next, s.caughtUp, s.bytes = batch.Next, end, r.f.cfg.MaxBytesPerPartition
	r.f.mu.Lock()
	s.alone = false
	s.busy = news
	r.f.mu.Unlock()
	if end && !news {
		s.confirmed.Store(batch.Asked.UnixMilli())
	}
	if news {
		r.f.c.metrics.fetchBytes.Add(float64(batch.Bytes))
		s.in <- batch // has room: not busy means that forward has taken the last one
	}
}

// failed sorts out a request without an answer. A broken connection makes all
// its partitions look for their leaders again. An answer that cannot be read
// may be the fault of one partition, so they are asked for one by one.
func (r *reader) failed(subs []*Subscription, err error) {
	r.drop()
	code, answered := codeOf(err)
	if answered || broken(err) {
		r.f.c.log.Warn("fetch failed", zap.String("broker", r.addr), zap.Int16("code", int16(code)), zap.Error(err))
		for _, s := range subs {
			r.f.takeBack(s)
		}
		return
	}
	if len(subs) == 1 {
		s := subs[0]
		s.end(fmt.Errorf("fetch %s/%d at %d: the data cannot be read: %w", s.topic, s.partition, s.next, err))
		return
	}
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	for _, s := range subs {
		s.alone = true
	}
}

// broken is whether err is of the connection, not of what came over it.
func broken(err error) bool {
	if _, ok := errors.AsType[*connectError](err); ok {
		return true
	}
	if wrong, ok := errors.AsType[sarama.PacketDecodingError](err); ok {
		// The answer to an earlier request, which sarama had given up. It goes on
		// with a connection on which the first, for the broker's versions, took
		// too long.
		return strings.HasPrefix(wrong.Info, "correlation ID didn't match")
	}
	if errors.Is(err, sarama.ErrDecompressedBatchTooLarge) || errors.Is(err, sarama.ErrInsufficientData) {
		return false
	}
	_, isNet := errors.AsType[net.Error](err)
	return isNet || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, sarama.ErrNotConnected) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
