package druid

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

const (
	backoffMin = 250 * time.Millisecond
	backoffMax = 30 * time.Second
	// slowRetry is the pace of what will not change by itself: refused
	// credentials, unsuitable columns, totals that are not exact.
	slowRetry = time.Minute
)

// Run answers the requests of all submitters until ctx ends, at most
// Config.MaxConcurrent questions at a time, and then returns nil. Requests
// that are outstanding then stay so.
//
// Whatever goes wrong is tried again for ever: after a wait that grows from a
// quarter of a second to half a minute, not before what Retry-After says, and,
// when Druid as a whole is away or busy, for all requests together. A question
// that needs too much memory is halved and asked again at once.
func (s *Seeder) Run(ctx context.Context) error {
	workers, ctx := errgroup.WithContext(ctx)
	for range s.cfg.MaxConcurrent {
		workers.Go(func() error {
			for {
				b, asking, ok := s.next(ctx)
				if !ok {
					return nil
				}
				a, err := s.ask(asking, b.question())
				b.cancel()
				s.finish(ctx, b, &a, err)
			}
		})
	}
	return workers.Wait()
}

// next waits for the next question and returns it with the context to ask it
// in, or false when ctx ended.
func (s *Seeder) next(ctx context.Context) (*batch, context.Context, bool) {
	for ctx.Err() == nil {
		s.mu.Lock()
		g, entries, wait := s.queue.next(s.now())
		changed := s.changed
		if len(entries) > 0 {
			asking, cancel := context.WithCancel(ctx)
			b := &batch{group: g, entries: entries, left: len(entries), cancel: cancel}
			for _, e := range entries {
				e.batch = b
			}
			s.mu.Unlock()
			return b, asking, true
		}
		s.mu.Unlock()
		await(ctx, changed, wait)
	}
	return nil, nil, false
}

// await returns when ctx ended, changed was closed or wait has passed; a
// negative wait never passes.
func await(ctx context.Context, changed <-chan struct{}, wait time.Duration) {
	var passed <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-passed:
	}
}

// wake makes waiting workers look at the queue again. s.mu is held.
func (s *Seeder) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// finish tells the owners of b what became of it and puts what is not answered
// back into the queue.
func (s *Seeder) finish(ctx context.Context, b *batch, a *answer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	b.group.asking--
	b.entries = slices.DeleteFunc(b.entries, func(e *entry) bool { return e.gone })
	switch {
	case err == nil:
		s.succeeded(b, a)
	case len(b.entries) > 0 && ctx.Err() == nil:
		s.failed(b, err)
	default: // withdrawn, or the end: nothing to learn
		s.requeue(b)
	}
	s.queue.fix(b.group)
}

// succeeded hands out the totals. s.mu is held.
func (s *Seeder) succeeded(b *batch, a *answer) {
	b.group.failures, s.queue.failures, s.queue.paused = 0, 0, time.Time{}
	totals := make(map[string][]Total, len(b.entries))
	for _, t := range a.totals {
		totals[t.Client] = append(totals[t.Client], t)
	}
	state := Exact
	if s.cfg.Bounded() {
		state = Bounded
	}
	again := s.again(b, a)
	for _, e := range b.entries {
		client := e.request.Client
		if a.again[client] != nil {
			s.fail(e, a.again[client])
			again.push(e)
			continue
		}
		if reason := a.bad[client]; reason != nil {
			s.suspect(e, reason)
			continue
		}
		if e.state == Failed {
			s.metrics.failed.Dec()
		}
		s.metrics.requests.Dec()
		e.attempts++
		e.state, e.totals, e.reason, e.batch = state, totals[client], nil, nil
		e.publish()
	}
	if again != nil {
		s.queue.fix(again)
	}
}

// again returns a group of its own for those of b that must be read a second
// time, at the time for it; nil if there are none. Others of their old group
// need not wait with them. s.mu is held.
func (s *Seeder) again(b *batch, a *answer) *group {
	if len(a.again) == 0 {
		return nil
	}
	s.queue.readings++
	key := b.group.key
	key.reading, key.suspect = s.queue.readings, false
	g := s.queue.group(key, b.group.limit)
	g.at = s.now().Add(proofGap)
	return g
}

// suspect sets apart a request whose totals are not exact. s.mu is held.
func (s *Seeder) suspect(e *entry, reason error) {
	key := e.batch.group.key
	if !key.suspect {
		s.log.Error("history of a client is not exact", zap.String("client", e.request.Client),
			zap.Int32("partition", e.request.Partition), zap.Error(reason))
	}
	e.attempts = max(e.attempts, failedAfter-1)
	s.fail(e, reason)
	key.suspect, key.reading = true, 0
	g := s.queue.group(key, s.cfg.BatchClients)
	if g.index < 0 { // or those that wait already would begin again
		g.at = s.now().Add(slowRetry)
	}
	g.push(e)
	s.queue.fix(g)
}

// failed puts the requests of b back into the queue, for a time that depends
// on err. s.mu is held.
func (s *Seeder) failed(b *batch, err error) {
	g, now := b.group, s.now()
	if tooMuch(err) && len(b.entries) > 1 {
		g.limit = max(1, len(b.entries)/2)
		g.at = now
		s.requeue(b)
		return
	}
	g.failures++
	wait := backoff(g.failures)
	status, refused := errors.AsType[*StatusError](err)
	switch {
	case errors.Is(err, ErrIncomplete): // Druid answers; only this is not there yet
	case refused && status.Denied():
		s.queue.paused = now.Add(slowRetry)
		s.log.Error("druid refused the credentials", zap.Error(err))
	case errors.Is(err, ErrColumns):
		wait = max(wait, slowRetry)
	case away(err):
		s.queue.failures++
		pause := backoff(s.queue.failures)
		if refused {
			pause = max(pause, status.RetryAfter)
		}
		s.queue.paused = later(s.queue.paused, now.Add(pause))
	}
	g.at = now.Add(wait)
	if g.failures&(g.failures-1) == 0 && g.failures >= failedAfter { // 4, 8, 16 …
		s.log.Warn("history does not answer", zap.Int32("partition", g.key.partition), zap.Int64("boundary", g.key.boundary),
			zap.Int("attempts", g.failures), zap.Int("clients", len(b.entries)), zap.Error(err))
	}
	for _, e := range b.entries {
		s.fail(e, err)
	}
	s.requeue(b)
}

// requeue puts the requests of b in front of their group: they are its oldest.
// s.mu is held.
func (s *Seeder) requeue(b *batch) {
	waiting := b.group.entries
	b.group.entries = nil
	b.group.push(b.entries...)
	b.group.entries = append(b.group.entries, waiting...)
}

// fail counts a failed attempt of e and tells its owner once there have been
// several. s.mu is held.
func (s *Seeder) fail(e *entry, reason error) {
	e.attempts++
	e.reason = reason
	if e.attempts < failedAfter {
		return
	}
	if e.state != Failed {
		e.state = Failed
		s.metrics.failed.Inc()
	}
	e.publish()
}

// away tells whether err is about Druid as a whole and not about a question:
// no connection, no time, no room.
func away(err error) bool {
	if status, ok := errors.AsType[*StatusError](err); ok {
		return status.Status == http.StatusTooManyRequests || status.Status >= http.StatusInternalServerError
	}
	return !errors.Is(err, errAnswer) && !errors.Is(err, errTooLong)
}

// backoff returns how long to wait after the n-th failure in a row: twice as
// long each time, less up to a half at random so that callers part.
func backoff(n int) time.Duration {
	d := backoffMin << min(n-1, 16)
	d = min(d, backoffMax)
	return d/2 + rand.N(d/2)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
