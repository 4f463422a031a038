package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/bench/contender"
	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/bench/report"
)

// zipf is the main load: few clients use a lot, most a little.
func (b *bench) zipf() load.Shape {
	return load.Shape{Events: b.events, Clients: 100_000, Meters: len(load.Names), Zipf: 1.1, Partitions: 8, Contracts: b.contracts, Crossing: 2500}
}

// live is a load that comes at a rate, with some hundred crossings a second, or
// one for each 25 events if these are few.
func (b *bench) live(rate, seconds int) load.Shape {
	return load.Shape{
		Events: int64(rate * seconds), Clients: 100_000, Meters: len(load.Names), Zipf: 1.1, Partitions: 8, Contracts: b.contracts,
		Crossing: min(45, rate/50) * seconds, Clean: true,
	}
}

func (b *bench) meterd() *contender.Meterd { return &contender.Meterd{Binary: b.binary} }

// peer is Kafka Streams as it usually is, or with dedupe; none where only meterd
// is to be measured.
func (b *bench) peer(dedupe bool) []contender.Contender {
	if b.streams == "" {
		return nil
	}
	return []contender.Contender{&contender.KafkaStreams{Java: b.java, Dir: b.streams, HeapGB: b.heap, Dedupe: dedupe}}
}

// wants reports whether a part is to be run.
func (b *bench) wants(part string) bool {
	if b.only == "" {
		return !b.quick || part == "throughput" || part == "latency"
	}
	return slices.Contains(strings.Split(b.only, ","), part)
}

// plan runs all parts that are wanted.
func (b *bench) plan(ctx context.Context) error {
	main, err := b.fillMain(ctx)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(context.Context, *filled) error
	}{
		{"throughput", b.throughput},
		{"latency", b.latencies},
		{"throughput", b.throughputDedupe},
		{"reads", b.reads},
		{"loads", b.loads},
		{"restore", b.restores},
	} {
		if !b.wants(part.name) {
			continue
		}
		if err := part.run(ctx, main); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) fillMain(ctx context.Context) (*filled, error) {
	if !b.wants("throughput") && !b.wants("reads") && !b.wants("loads") {
		return nil, nil
	}
	return b.fill(ctx, report.Main, b.zipf())
}

// reserve is what the latencies of a quick benchmark take.
const reserve = 150 * time.Second

// affords reports whether something that takes so long ends within the budget,
// with so much left for what comes after it.
func (b *bench) affords(took, rest time.Duration) bool {
	return b.budget == 0 || time.Since(b.began)+took+rest < b.budget
}

// throughput drains the main load by all contenders in turns.
func (b *bench) throughput(ctx context.Context, f *filled) error {
	contenders := append([]contender.Contender{b.meterd()}, b.peer(false)...)
	if !b.quick {
		contenders = append(contenders, b.peer(true)...)
	}
	return b.turns(ctx, f, b.rounds, reserve, contenders...)
}

// throughputDedupe is the one round with the peer's dedupe that a quick
// benchmark has time for, if it has.
func (b *bench) throughputDedupe(ctx context.Context, f *filled) error {
	if !b.quick || len(b.peer(true)) == 0 || !b.affords(dedupeTakes, 0) {
		return nil
	}
	return b.turns(ctx, f, 1, 0, b.peer(true)...)
}

// dedupeTakes is about how long the peer with dedupe needs.
const dedupeTakes = 150 * time.Second

// turns runs the contenders in rounds, so that each has its share of a slow
// minute.
func (b *bench) turns(ctx context.Context, f *filled, rounds int, rest time.Duration, contenders ...contender.Contender) error {
	var longest time.Duration
	for round := 1; round <= rounds; round++ {
		if !b.affords(longest, rest) {
			b.say("no time for round %d of %d", round, rounds)
			return nil
		}
		began := time.Now()
		for _, c := range contenders {
			if err := b.drain(ctx, c, f, round); err != nil {
				return err
			}
		}
		longest = max(longest, time.Since(began))
	}
	return nil
}

// liveTakes is about how long one latency takes.
func (b *bench) liveTakes() time.Duration {
	return time.Duration(b.warm+b.seconds+20) * time.Second
}

// latencies measures meterd at three rates, and the peer at those it can keep
// up with.
func (b *bench) latencies(ctx context.Context, _ *filled) error {
	rounds := 1
	if !b.quick {
		rounds = min(b.rounds, 3)
	}
	for round := 1; round <= rounds; round++ {
		for _, rate := range []int{report.MainRate, 100_000, 1000} {
			if !b.affords(b.liveTakes(), 0) {
				b.say("no time for %d events/s", rate)
				continue
			}
			if err := b.latency(ctx, b.meterd(), rate, round); err != nil {
				return err
			}
			if rate > report.MainRate || b.quick && rate < report.MainRate {
				continue
			}
			for _, c := range b.peer(false) {
				if !b.affords(b.liveTakes(), 0) {
					b.say("no time for %s at %d events/s", c.Name(), rate)
					continue
				}
				if err := b.latency(ctx, c, rate, round); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// half is the exponent with which 1 % of the clients have half of the use.
const half = 0.918

// loads drains other loads than the main one, and that one without dedupe.
func (b *bench) loads(ctx context.Context, main *filled) error {
	rounds := min(b.rounds, 3)
	plain := b.meterd()
	plain.NoDedupe = true
	if err := b.turns(ctx, main, rounds, 0, plain); err != nil {
		return err
	}
	uniform, skewed, many := b.zipf(), b.zipf(), b.zipf()
	uniform.Clients, uniform.Zipf = 125_000, 0
	skewed.Zipf = half
	many.Partitions = 64
	for _, l := range []struct {
		name  string
		shape load.Shape
	}{
		{"1 M keys, evenly", uniform},
		{"half of the use by 1 % of the clients", skewed},
		{"64 partitions", many},
	} {
		f, err := b.fill(ctx, l.name, l.shape)
		if err != nil {
			return err
		}
		both := append([]contender.Contender{b.meterd()}, b.peer(false)...)
		if err := errors.Join(b.turns(ctx, f, rounds, 0, both...), b.drop(context.WithoutCancel(ctx), f)); err != nil {
			return err
		}
	}
	return nil
}
