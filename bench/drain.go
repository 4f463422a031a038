package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/bench/contender"
	"github.com/meterd/meterd/bench/host"
	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/bench/report"
)

const (
	// look is how often the committed positions are looked at.
	look = 20 * time.Millisecond
	// patience bounds every single run.
	runPatience = 20 * time.Minute
	// checkPatience bounds the reading back of results.
	checkPatience = 5 * time.Minute
	// warmFrom is the share of the events after which a run counts as warm.
	warmFrom = 0.3
)

// sample is what had been used at a moment.
type sample struct {
	at      time.Time
	events  int64
	program host.Use
	broker  time.Duration
	machine host.Machine
}

func (a *attempt) sample(events int64) sample {
	return sample{at: time.Now(), events: events, program: host.Group(a.process.Group), broker: host.CPU(a.broker), machine: host.Now()}
}

// micros is CPU time for each of so many events.
func micros(used time.Duration, events int64) float64 {
	return float64(used.Nanoseconds()) / 1e3 / float64(events)
}

// noise returns what others have used between two samples, a core of which is 1.
func noise(from, to sample) report.Noise {
	took := to.at.Sub(from.at).Seconds()
	ours := to.program.CPU - from.program.CPU + to.broker - from.broker
	return report.Noise{
		OtherCores:  max(0, (to.machine.Busy-from.machine.Busy-ours).Seconds()/took),
		StolenCores: (to.machine.Stolen - from.machine.Stolen).Seconds() / took,
	}
}

// calm waits for a quiet machine, and returns what the noise of a run begins
// with.
func (b *bench) calm(ctx context.Context) report.Noise {
	quiet := host.AwaitQuiet(ctx, b.patience, b.broker)
	return report.Noise{Restless: !quiet, SpeedMillis: float64(host.Speed().Microseconds()) / 1e3}
}

// drain measures a contender that catches up with a load.
func (b *bench) drain(ctx context.Context, c contender.Contender, f *filled, round int) (err error) {
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
	calm := b.calm(ctx)
	if err := a.start(); err != nil {
		return err
	}
	d := report.Drain{Load: f.name, Contender: c.Name(), Round: round, Noise: calm}
	if err := a.caughtUp(ctx, &d); err != nil {
		return err
	}
	if err := a.stop(); err != nil {
		return err
	}
	seen, changelog, wrong, err := a.check(ctx)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		b.wrong(fmt.Sprintf("%s, %s, round %d", c.Name(), f.name, round), wrong)
		return nil
	}
	d.ChangelogPerEvent, d.Counters, d.Crossings = float64(changelog)/float64(d.Events), f.ledger.Keys, seen.Crossings()
	b.results.Drains = append(b.results.Drains, d)
	b.say("%s, %s: %.0f events/s (warm %.0f), program %.2f µs/event (warm %.2f), broker %.2f, changelog %.3f, %d MiB, noise %.2f + %.2f cores",
		c.Name(), f.name, d.EventsPerSecond, d.WarmPerSecond, d.ProgramMicros, d.WarmMicros, d.BrokerMicros, d.ChangelogPerEvent, d.PeakMiB, d.OtherCores, d.StolenCores)
	return nil
}

func (b *bench) wrong(run string, reasons []string) {
	b.results.Wrong = append(b.results.Wrong, report.Wrong{Run: run, Reasons: reasons})
	b.say("WRONG: %s: %v", run, reasons)
}

// caughtUp waits until the contender has committed all of the topic, and fills
// in what that took.
func (a *attempt) caughtUp(ctx context.Context, d *report.Drain) error {
	ctx, cancel := context.WithTimeoutCause(ctx, runPatience, errTooSlow)
	defer cancel()
	ends, err := a.cluster.ends(ctx, a.work.Usage)
	if err != nil {
		return err
	}
	total := int64(0)
	for _, end := range ends {
		total += end
	}
	first, err := a.begun(ctx, ends)
	if err != nil {
		return err
	}
	var warm, last sample
	for {
		n, all, err := a.cluster.committed(ctx, a.work.Group, a.work.Usage, ends)
		if err = errors.Join(err, a.process.Ended()); err != nil {
			return err
		}
		if warm.at.IsZero() && float64(n) >= warmFrom*float64(total) {
			warm = a.sample(n)
		}
		if all {
			last = a.sample(n)
			break
		}
		if !pause(ctx, look) {
			return fmt.Errorf("%s at %d of %d events: %w: %s", a.c.Name(), n, total, context.Cause(ctx), a.process.Tail())
		}
	}
	fillDrain(d, a.process.Started, first, warm, last)
	return nil
}

// errTooSlow is returned when a run has not ended in time.
var errTooSlow = errors.New("too slow")

// begun waits until the contender works, that is until it says that it is ready
// or something is committed, whichever comes first.
func (a *attempt) begun(ctx context.Context, ends map[int32]int64) (sample, error) {
	before, _, err := a.cluster.committed(ctx, a.work.Group, a.work.Usage, ends)
	if err != nil {
		return sample{}, err
	}
	for {
		n, _, err := a.cluster.committed(ctx, a.work.Group, a.work.Usage, ends)
		if err = errors.Join(err, a.process.Ended()); err != nil {
			return sample{}, err
		}
		if n > before || a.ready(ctx) {
			return a.sample(n), nil
		}
		if !pause(ctx, look) {
			return sample{}, fmt.Errorf("%s did not begin: %w: %s", a.c.Name(), context.Cause(ctx), a.process.Tail())
		}
	}
}

// ready reports whether the contender says that it works.
func (a *attempt) ready(ctx context.Context) bool {
	url := a.c.ReadyURL(a.work)
	if url == "" {
		return a.cluster.stable(ctx, a.work.Group)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
}

// check reads back what the contender has left, and returns it with how many
// records the changelogs have and what is wrong.
func (a *attempt) check(ctx context.Context) (seen *load.Seen, changelog int64, wrong []string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, checkPatience, errTooSlow)
	defer cancel()
	seen = a.load.ledger.NewSeen()
	topics := a.c.Topics(a.work)
	for _, topic := range topics.Changelogs {
		n, err := a.cluster.read(ctx, topic, func(r *kgo.Record) error {
			if topic != topics.Totals {
				return nil
			}
			return a.c.Total(seen, r.Key, r.Value)
		})
		if err != nil {
			return nil, 0, nil, err
		}
		changelog += n
	}
	if _, err = a.cluster.read(ctx, topics.LimitEvents, func(r *kgo.Record) error { return a.c.Crossed(r.Value, seen.Crossed) }); err != nil {
		return nil, 0, nil, err
	}
	if seen.DeadLetters, err = a.cluster.read(ctx, topics.DeadLetters, func(*kgo.Record) error { return nil }); err != nil {
		return nil, 0, nil, err
	}
	return seen, changelog, seen.Differences(a.c.Once()), nil
}

// fillDrain computes the figures of a run from what was sampled at its
// beginning, when it was warm, and at its end.
func fillDrain(d *report.Drain, started time.Time, first, warm, last sample) {
	calm := d.Noise
	d.Events = last.events
	events, took := last.events-first.events, last.at.Sub(first.at).Seconds()
	d.Seconds, d.StartSeconds = took, first.at.Sub(started).Seconds()
	d.EventsPerSecond = float64(events) / took
	d.ProgramMicros = micros(last.program.CPU-first.program.CPU, events)
	d.BrokerMicros = micros(last.broker-first.broker, events)
	if rest := last.events - warm.events; rest > 0 {
		d.WarmPerSecond = float64(rest) / last.at.Sub(warm.at).Seconds()
		d.WarmMicros = micros(last.program.CPU-warm.program.CPU, rest)
	}
	d.PeakMiB = last.program.Peak >> 20
	d.Noise = noise(first, last)
	d.SpeedMillis, d.Restless = calm.SpeedMillis, calm.Restless
}
