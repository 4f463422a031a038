package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/bench/contender"
	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/bench/report"
)

// arrivals is when each crossing could first be read, by an ordinary consumer
// that reads what is committed.
type arrivals struct {
	client *kgo.Client
	reads  sync.WaitGroup

	mu   sync.Mutex
	at   map[load.Crossing]time.Time
	errs error
}

// listen begins to read limit events, until the arrivals are closed.
func (a *attempt) listen(ctx context.Context) (*arrivals, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(a.brokers), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeTopics(a.c.Topics(a.work).LimitEvents), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	heard := &arrivals{client: client, at: map[load.Crossing]time.Time{}}
	heard.reads.Go(func() {
		for {
			fetches := client.PollFetches(ctx)
			if fetches.IsClientClosed() || ctx.Err() != nil {
				return
			}
			heard.take(fetches, time.Now(), a)
		}
	})
	return heard, nil
}

func (h *arrivals) take(fetches kgo.Fetches, now time.Time, a *attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.errs = errors.Join(h.errs, fetches.Err())
	for _, r := range fetches.Records() {
		h.errs = errors.Join(h.errs, a.c.Crossed(r.Value, func(client, meter, threshold string) {
			c, ok := a.load.ledger.Crossing(client, meter, threshold)
			if _, again := h.at[c]; ok && !again {
				h.at[c] = now
			}
		}))
	}
}

func (h *arrivals) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.at)
}

func (h *arrivals) close() error {
	h.client.Close()
	h.reads.Wait()
	return h.errs
}

// latency measures a contender that keeps up with a rate.
func (b *bench) latency(ctx context.Context, c contender.Contender, rate, round int) (err error) {
	f, err := b.topics(ctx, fmt.Sprintf("%d events/s", rate), b.live(rate, b.warm+b.seconds))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.drop(context.WithoutCancel(ctx), f)) }()
	a, err := b.attempt(ctx, c, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.remove(ctx)) }()
	back, err := b.aside(ctx)
	if err != nil {
		return err
	}
	defer back()
	l := report.Latency{Contender: c.Name(), Round: round, Rate: rate, Noise: b.calm(ctx)}
	sent, heard, err := a.follow(ctx, &l)
	if err != nil {
		return err
	}
	_, _, wrong, err := a.check(ctx)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		b.wrong(fmt.Sprintf("%s at %d events/s, round %d", c.Name(), rate, round), wrong)
		return nil
	}
	if err := fillLatency(&l, sent, heard, b.warm); err != nil {
		return err
	}
	b.results.Latency = append(b.results.Latency, l)
	b.say("%s at %d events/s: p50 %.1f ms, p99 %.1f, p99.9 %.1f, most %.1f, of %d crossings; program %.2f µs/event, broker %.2f, noise %.2f + %.2f cores",
		c.Name(), rate, l.P50, l.P99, l.P999, l.Max, l.Crossings, l.ProgramMicros, l.BrokerMicros, l.OtherCores, l.StolenCores)
	return nil
}

// follow runs the contender while events come at a rate, and returns when each
// crossing was sent and could be read.
func (a *attempt) follow(ctx context.Context, l *report.Latency) (sent, heard map[load.Crossing]time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, runPatience, errTooSlow)
	defer cancel()
	if err := a.start(); err != nil {
		return nil, nil, err
	}
	reader, err := a.listen(ctx)
	if err != nil {
		return nil, nil, err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, reader.close())
		}
	}()
	ends, err := a.cluster.ends(ctx, a.work.Usage)
	if err != nil {
		return nil, nil, err
	}
	if _, err := a.begun(ctx, ends); err != nil {
		return nil, nil, err
	}
	first := a.sample(0)
	if sent, err = a.writer.Pace(ctx, a.load.ledger, a.work.Usage, l.Rate); err != nil {
		return nil, nil, err
	}
	if err := a.settled(ctx, reader, len(sent)); err != nil {
		return nil, nil, err
	}
	last := a.sample(a.load.ledger.Shape.Events)
	l.ProgramMicros, l.BrokerMicros = micros(last.program.CPU-first.program.CPU, last.events), micros(last.broker-first.broker, last.events)
	n := noise(first, last)
	l.OtherCores, l.StolenCores = n.OtherCores, n.StolenCores
	closed = true
	return sent, reader.at, errors.Join(a.stop(), reader.close())
}

// settled waits until everything is committed and every crossing was heard of.
func (a *attempt) settled(ctx context.Context, reader *arrivals, crossings int) error {
	ends, err := a.cluster.ends(ctx, a.work.Usage)
	if err != nil {
		return err
	}
	for {
		n, all, err := a.cluster.committed(ctx, a.work.Group, a.work.Usage, ends)
		if err = errors.Join(err, a.process.Ended()); err != nil {
			return err
		}
		if all && reader.count() >= crossings {
			return nil
		}
		if !pause(ctx, look) {
			return fmt.Errorf("%s at %d events, %d of %d crossings: %w: %s", a.c.Name(), n, reader.count(), crossings, context.Cause(ctx), a.process.Tail())
		}
	}
}

// fillLatency computes the figures of all crossings but those sent in the first
// seconds, which warm up.
func fillLatency(l *report.Latency, sent, heard map[load.Crossing]time.Time, warm int) error {
	var from time.Time
	for _, at := range sent {
		if from.IsZero() || at.Before(from) {
			from = at
		}
	}
	from = from.Add(time.Duration(warm) * time.Second)
	var took []float64
	for c, at := range sent {
		if at.Before(from) {
			continue
		}
		arrived, ok := heard[c]
		if !ok {
			return fmt.Errorf("a crossing at %d events/s was never heard of", l.Rate)
		}
		took = append(took, float64(arrived.Sub(at).Microseconds())/1e3)
	}
	if len(took) == 0 {
		return fmt.Errorf("no crossings at %d events/s after %d seconds", l.Rate, warm)
	}
	slices.Sort(took)
	l.Crossings = len(took)
	l.P50, l.P99, l.P999, l.Max = report.Percentile(took, 0.5), report.Percentile(took, 0.99), report.Percentile(took, 0.999), took[len(took)-1]
	return nil
}
