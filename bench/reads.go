package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/meterd/meterd/bench/report"
)

// readRate is how many reads a second are begun while the contender catches up.
const readRate = 200

// reads measures meterd's HTTP answers while it catches up with the main load.
func (b *bench) reads(ctx context.Context, f *filled) error {
	for round := 1; round <= min(b.rounds, 3); round++ {
		if err := b.readRound(ctx, f, round); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) readRound(ctx context.Context, f *filled, round int) (err error) {
	c := b.meterd()
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
	d := report.Drain{Noise: b.calm(ctx)}
	if err := a.start(); err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	r := &reader{a: a}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.run(reading)
	}()
	caught := a.caughtUp(ctx, &d)
	stop()
	<-ended
	if err := errors.Join(caught, a.stop()); err != nil {
		return err
	}
	_, _, wrong, err := a.check(ctx)
	if err != nil {
		return err
	}
	if r.failed > 0 {
		wrong = append(wrong, fmt.Sprintf("%d reads were not answered, the first: %v", r.failed, r.first))
	}
	if len(wrong) > 0 || len(r.took) == 0 {
		b.wrong(fmt.Sprintf("%s, reads, round %d", c.Name(), round), append(wrong, fmt.Sprintf("%d answers", len(r.took))))
		return nil
	}
	b.results.Reads = append(b.results.Reads, r.report(c.Name(), round, &d))
	last := b.results.Reads[len(b.results.Reads)-1]
	b.say("%s, %d reads at %.0f events/s: p50 %.2f ms, p99 %.2f, most %.2f", c.Name(), last.Answers, last.EventsPerSecond, last.P50, last.P99, last.Max)
	return nil
}

// reader reads clients' usage over HTTP at a fixed rate.
type reader struct {
	a      *attempt
	client http.Client

	mu     sync.Mutex
	took   []float64 // milliseconds
	failed int
	first  error
}

// run reads until ctx ends, from when meterd is ready on. A read that is late
// because the one before was slow counts from when it was due.
func (r *reader) run(ctx context.Context) {
	for !r.a.ready(ctx) {
		if !pause(ctx, look) {
			return
		}
	}
	var reads sync.WaitGroup
	defer reads.Wait()
	began := time.Now()
	for n := int64(0); ; n++ {
		due := began.Add(time.Duration(n) * time.Second / readRate)
		if !pause(ctx, time.Until(due)) {
			return
		}
		reads.Go(func() { r.read(ctx, r.a.load.ledger.User(n), due) })
	}
}

func (r *reader) read(ctx context.Context, client string, due time.Time) {
	err := r.get(ctx, "http://"+r.a.work.HTTP+"/v1/clients/"+url.PathEscape(client)+"/usage")
	took := time.Since(due)
	if ctx.Err() != nil {
		return // cut short by the end
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if r.failed++; r.first == nil {
			r.first = err
		}
		return
	}
	r.took = append(r.took, float64(took.Microseconds())/1e3)
}

func (r *reader) get(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	// a client that has used nothing yet is not known
	if err == nil && answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusNotFound {
		err = fmt.Errorf("status %d: %.200s", answer.StatusCode, body)
	}
	return err
}

func (r *reader) report(name string, round int, d *report.Drain) report.Reads {
	slices.Sort(r.took)
	return report.Reads{
		Contender: name, Round: round, Answers: len(r.took), PerSecond: float64(len(r.took)) / d.Seconds, EventsPerSecond: d.EventsPerSecond,
		P50: report.Percentile(r.took, 0.5), P99: report.Percentile(r.took, 0.99), Max: r.took[len(r.took)-1],
	}
}
