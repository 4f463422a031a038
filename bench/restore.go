package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/meterd/meterd/bench/contender"
	"github.com/meterd/meterd/bench/host"
	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/bench/report"
)

// probes are the new events that a contender has to commit after its start, on
// all partitions with near certainty.
const probes = 64

// counters is a load that leaves about so many counters: of a quarter more keys
// four in five are met at least once.
func (b *bench) counters(n int) load.Shape {
	return load.Shape{
		Events: int64(2 * n), Clients: n * 5 / 4 / len(load.Names), Meters: len(load.Names), Partitions: 8, Contracts: b.contracts, Crossing: 100, Clean: true,
	}
}

// restore measures how long a contender with so many counters takes from its
// start to the commit of new events, with its state kept and wiped.
func (b *bench) restore(ctx context.Context, c contender.Contender, f *filled, rounds int) (err error) {
	a, err := b.attempt(ctx, c, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.remove(ctx)) }()
	if err := a.grown(ctx); err != nil {
		return err
	}
	var found []report.Restore
	for round := 1; round <= rounds; round++ {
		for _, kept := range []bool{true, false} {
			r, err := a.restored(ctx, kept)
			if err != nil {
				return err
			}
			r.Round = round
			found = append(found, r)
		}
	}
	_, _, wrong, err := a.check(ctx)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		b.wrong(fmt.Sprintf("%s, restore of %d counters", c.Name(), f.ledger.Keys), wrong)
		return nil
	}
	b.results.Restores = append(b.results.Restores, found...)
	for _, r := range found {
		b.say("%s, %d counters, state kept %t: %.2f s, %d MiB", c.Name(), r.Counters, r.Kept, r.Seconds, r.PeakMiB)
	}
	return nil
}

// grown has the contender count all of the load, and ends it.
func (a *attempt) grown(ctx context.Context) error {
	if err := a.start(); err != nil {
		return err
	}
	return errors.Join(a.caughtUp(ctx, &report.Drain{}), a.stop())
}

// restored starts the contender once more.
func (a *attempt) restored(ctx context.Context, kept bool) (r report.Restore, err error) {
	if !kept {
		if err := os.RemoveAll(a.work.Dir); err != nil {
			return r, err
		}
	}
	if err := a.writer.Continue(ctx, a.load.ledger, a.work.Usage, probes); err != nil {
		return r, err
	}
	if err := a.cluster.deserted(ctx, a.work.Group); err != nil {
		return r, err
	}
	back, err := a.aside(ctx)
	if err != nil {
		return r, err
	}
	defer back()
	r = report.Restore{Contender: a.c.Name(), Kept: kept, Counters: a.load.ledger.Keys, Noise: a.calm(ctx)}
	if err := a.start(); err != nil {
		return r, err
	}
	end, err := a.reached(ctx)
	if err != nil {
		return r, err
	}
	r.Seconds = end.Sub(a.process.Started).Seconds()
	r.PeakMiB = host.Group(a.process.Group).Peak >> 20
	return r, a.stop()
}

// reached waits until all of the topic is committed, and returns when that was.
func (a *attempt) reached(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, runPatience, errTooSlow)
	defer cancel()
	ends, err := a.cluster.ends(ctx, a.work.Usage)
	if err != nil {
		return time.Time{}, err
	}
	for {
		_, all, err := a.cluster.committed(ctx, a.work.Group, a.work.Usage, ends)
		if err = errors.Join(err, a.process.Ended()); err != nil {
			return time.Time{}, err
		}
		if all {
			return time.Now(), nil
		}
		if !pause(ctx, look) {
			return time.Time{}, fmt.Errorf("%s: %w: %s", a.c.Name(), context.Cause(ctx), a.process.Tail())
		}
	}
}

// restores measures both with a million counters, and meterd with ten.
func (b *bench) restores(ctx context.Context, _ *filled) error {
	rounds := min(b.rounds, 3)
	for _, of := range []struct {
		counters   int
		contenders []contender.Contender
	}{
		{report.MainCounters, slices.Concat([]contender.Contender{b.meterd()}, b.peer(false))},
		{10 * report.MainCounters, []contender.Contender{b.meterd()}},
	} {
		if of.counters > report.MainCounters && host.Memory() < enoughForMany {
			b.say("not enough memory for %d counters", of.counters)
			continue
		}
		for _, c := range of.contenders {
			// each has a topic of its own, for each adds to it
			f, err := b.fill(ctx, fmt.Sprintf("%d counters", of.counters), b.counters(of.counters))
			if err != nil {
				return err
			}
			if err := errors.Join(b.restore(ctx, c, f, rounds), b.drop(context.WithoutCancel(ctx), f)); err != nil {
				return err
			}
		}
	}
	return nil
}

// enoughForMany is what the machine must have for ten million counters.
const enoughForMany = 15 << 30
