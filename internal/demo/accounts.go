package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/internal/usage"
)

// full is the threshold at which a limit is reached.
const full = "100%"

// accounts are the contracts and the people who look after them: a while after
// a limit was reached, they credit what was used, or sell more; when a period
// is over, the limit is again what it was at first. So limit events never end.
type accounts struct {
	crowd *crowd
	out   *sender
	topic string // of contracts

	mu        sync.Mutex // guards what the contracts hold
	contracts []*contract
	serial    int // of credits
}

// contract is as it stands in the topic.
type contract struct {
	ID       string    `json:"id"`
	Client   string    `json:"client"`
	StartsAt time.Time `json:"starts_at"`
	Limits   []*limit  `json:"limits"`

	rank int
}

type limit struct {
	ID          string     `json:"id"`
	Meter       string     `json:"meter"`
	Period      usage.Kind `json:"period"`
	Limit       string     `json:"limit"`
	Thresholds  []string   `json:"thresholds"`
	Enforcement string     `json:"enforcement"`

	value    int64 // Limit
	first    int64 // the value in a period's beginning
	care     care  // what is to be done, at due
	due      time.Time
	patience time.Duration // how long a limit stays reached
}

// care is what people do about a limit.
type care string

const (
	nothing care = ""
	relief  care = "relief"  // let the client go on
	renewal care = "renewal" // begin anew in a new period
)

// offer is a limit as it is written in contracts, by rank of the client.
type offer struct {
	rank        int
	meter       string
	period      usage.Kind
	enforcement string
}

func offers() []offer {
	const hard, soft = "hard", "soft"
	return []offer{
		{0, calls, usage.Hour, hard},
		{0, traffic, usage.Day, soft},
		{1, traffic, usage.Day, soft},
		{2, calls, usage.Hour, hard},
		{3, traffic, usage.Hour, hard},
		{4, calls, usage.Day, soft},
		{4, traffic, usage.Hour, soft},
		{5, traffic, usage.Day, soft},
		{6, calls, usage.Hour, hard},
		{7, traffic, usage.Hour, soft},
		{8, calls, usage.Day, hard},
		{8, traffic, usage.Day, soft},
		{9, traffic, usage.Day, hard},
		{10, calls, usage.Hour, soft},
		{11, traffic, usage.Hour, soft},
	}
}

func newAccounts(c *crowd, out *sender, topic string) *accounts {
	return &accounts{crowd: c, out: out, topic: topic}
}

// sign writes the first contracts. Each limit is so far above what was used by
// now that it will be reached in a few seconds, or some dozens of them.
func (a *accounts) sign(ctx context.Context, now time.Time) error {
	for i, o := range offers() {
		if o.rank >= len(a.crowd.clients) {
			continue
		}
		perSecond := a.crowd.perSecond(o.rank, o.meter)
		l := &limit{
			ID: o.meter + "-" + string(o.period), Meter: o.meter, Period: o.period, Enforcement: o.enforcement,
			Thresholds: []string{"50%", "80%", full}, patience: time.Duration(4+i%5) * time.Second,
		}
		ahead := 3 + 2.5*float64(i*7%15) // seconds, in no order of the ranks
		l.first = a.used(o.rank, l, now) + int64(perSecond*ahead) + 5
		l.set(l.first)
		c := a.contractOf(o.rank, now)
		c.Limits = append(c.Limits, l)
	}
	for _, c := range a.contracts {
		if err := a.write(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (l *limit) set(value int64) { l.value, l.Limit = value, strconv.FormatInt(value, 10) }

// contractOf returns the contract of the client of this rank, made if need be.
func (a *accounts) contractOf(rank int, now time.Time) *contract {
	for _, c := range a.contracts {
		if c.rank == rank {
			return c
		}
	}
	client := a.crowd.clients[rank]
	c := &contract{ID: client + "-contract", Client: client, StartsAt: time.Date(now.Year()-1, time.January, 1, 0, 0, 0, 0, time.UTC), rank: rank}
	a.contracts = append(a.contracts, c)
	return c
}

// used returns the limit's usage in the period of now.
func (a *accounts) used(rank int, l *limit, now time.Time) int64 {
	total, _ := a.out.ledger.total(tally{client: a.crowd.clients[rank], meter: l.Meter, period: periodAt(l.Period, now)})
	return total.of(l.Meter)
}

// write puts the contract into force.
func (a *accounts) write(ctx context.Context, c *contract) error {
	value, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write contract %s: %w", c.ID, err)
	}
	record := &kgo.Record{Topic: a.topic, Key: []byte(c.ID), Value: value}
	if err := a.out.producer.ProduceSync(ctx, record).FirstErr(); err != nil {
		return fmt.Errorf("write contract %s: %w", c.ID, err)
	}
	return nil
}

// clients returns those who have a contract, in the order of their ranks.
func (a *accounts) clients() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := make([]string, 0, len(a.contracts))
	for _, c := range a.contracts {
		names = append(names, c.Client)
	}
	return names
}

// hear decides by a limit event what is to be done, and when.
func (a *accounts) hear(e *limitEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.contracts {
		for _, l := range c.Limits {
			if c.ID != e.Contract || l.ID != e.LimitID {
				continue
			}
			switch {
			case e.Kind == "reset":
				l.care, l.due = renewal, time.Now()
			case slices.Contains(e.Standing, full):
				l.care, l.due = relief, time.Now().Add(l.patience)
			}
		}
	}
}

// Run does what is due until ctx ends.
func (a *accounts) Run(ctx context.Context) error {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if err := a.lookAfter(context.WithoutCancel(ctx), now); err != nil {
				return err
			}
		}
	}
}

func (a *accounts) lookAfter(ctx context.Context, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.contracts {
		changed := false
		for _, l := range c.Limits {
			if l.care == nothing || now.Before(l.due) {
				continue
			}
			used, again := a.used(c.rank, l, now), l.value
			switch {
			case l.care == renewal:
				again = l.first
			case l.Meter == traffic && l.Enforcement == "soft":
				if err := a.credit(ctx, c.Client, l.value*45/100-used, now); err != nil {
					return err
				}
			default:
				again = used + max(10, int64(25*a.crowd.perSecond(c.rank, l.Meter)))
			}
			l.care, changed = nothing, changed || again != l.value
			l.set(again)
		}
		if changed {
			if err := a.write(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// credit corrects what a client used of traffic by an event of a negative
// quantity.
func (a *accounts) credit(ctx context.Context, client string, quantity int64, now time.Time) error {
	if quantity >= 0 {
		return nil
	}
	a.serial++
	return a.out.send(ctx, &usageEvent{
		ID: fmt.Sprintf("credit-%06d", a.serial), Client: client, Meter: traffic, Quantity: quantity,
		Time: now.Truncate(time.Millisecond), Source: "demo",
	})
}
