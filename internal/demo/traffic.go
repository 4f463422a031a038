package demo

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/internal/usage"
)

const (
	zipf       = 1.1  // how much more the first clients use than the last
	callShare  = 0.6  // of the events; the others are traffic
	meanBytes  = 4096 // of an event of traffic
	repeatOne  = 200  // one record of so many is sent twice
	historyFor = 30   // seconds of traffic that history has
	pace       = 10 * time.Millisecond
)

// firms are the first clients, those with contracts.
func firms() []string {
	return []string{
		"acme", "bluebird", "cobalt", "dune", "ember", "fjord",
		"granite", "harbor", "indigo", "juniper", "kestrel", "lumen",
	}
}

// crowd is the clients, by rank, and how they use what is metered.
type crowd struct {
	rate    int
	clients []string
	shares  []float64 // of the events, added up over the ranks
	random  *rand.Rand
	serial  int // of the next event
}

func newCrowd(clients, rate int) *crowd {
	c := &crowd{rate: rate, random: rand.New(rand.NewPCG(1, 2))} //nolint:gosec // the same traffic each time
	sum := 0.0
	for rank := range clients {
		name := fmt.Sprintf("client-%04d", rank+1)
		if rank < len(firms()) {
			name = firms()[rank]
		}
		c.clients = append(c.clients, name)
		sum += math.Pow(float64(rank+3), -zipf)
		c.shares = append(c.shares, sum)
	}
	for rank := range c.shares {
		c.shares[rank] /= sum
	}
	return c
}

// perSecond returns how much of a meter the client of this rank uses in a
// second, on average.
func (c *crowd) perSecond(rank int, meter string) float64 {
	share := c.shares[rank]
	if rank > 0 {
		share -= c.shares[rank-1]
	}
	events := float64(c.rate) * share
	if meter == calls {
		return events * callShare
	}
	return events * (1 - callShare) * meanBytes
}

// event returns the next use, at a given time. The first round goes once to
// every client.
func (c *crowd) event(at time.Time) *usageEvent {
	rank := c.serial
	if rank >= len(c.clients) {
		rank, _ = slices.BinarySearch(c.shares, c.random.Float64())
	}
	c.serial++
	e := &usageEvent{
		ID: fmt.Sprintf("use-%09d", c.serial), Client: c.clients[min(rank, len(c.clients)-1)],
		Meter: calls, Quantity: 1, Time: at.Truncate(time.Millisecond), Source: "demo",
	}
	if c.random.Float64() >= callShare {
		e.Meter, e.Quantity = traffic, 1+int64(c.random.ExpFloat64()*meanBytes)
	}
	return e
}

// Run sends events at the crowd's rate until ctx ends. What the gate refuses
// is not used.
func (c *crowd) Run(ctx context.Context, out *sender, gate *gate) error {
	c.serial = 0
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	begun, sent := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-out.failed:
			return err
		case now := <-ticker.C:
			due := int(now.Sub(begun).Seconds() * float64(c.rate))
			sent = max(sent, due-c.rate) // after a pause, no more than a second's worth
			for ; sent < due; sent++ {
				if err := c.use(ctx, out, gate, now); err != nil {
					return err
				}
			}
		}
	}
}

func (c *crowd) use(ctx context.Context, out *sender, gate *gate, now time.Time) error {
	e := c.event(now)
	if !gate.pass(e.Client, e.Meter) {
		return nil
	}
	if c.random.IntN(repeatOne) == 0 {
		if err := out.repeat(ctx, e); err != nil {
			return err
		}
	}
	return out.send(ctx, e)
}

// sender writes usage events, and notes them in the ledger and in history.
type sender struct {
	producer *kgo.Client
	codec    *usageCodec
	history  *history
	ledger   *ledger
	failed   chan error // has the first record's error that could not be written
}

func newSender(around *surroundings, l *ledger) *sender {
	return &sender{producer: around.producer, codec: around.codec, history: around.history, ledger: l, failed: make(chan error, 1)}
}

// send writes e some time soon. The end of ctx does not keep it from that.
func (s *sender) send(ctx context.Context, e *usageEvent) error {
	s.ledger.produce(e)
	return s.write(ctx, e)
}

// repeat writes e as send does, in addition to it.
func (s *sender) repeat(ctx context.Context, e *usageEvent) error {
	s.ledger.repeat()
	return s.write(ctx, e)
}

// remember writes e as send does, as something that was before.
func (s *sender) remember(ctx context.Context, e *usageEvent) error {
	s.ledger.remember(e)
	return s.write(ctx, e)
}

func (s *sender) write(ctx context.Context, e *usageEvent) error {
	record, err := s.codec.record(e)
	if err != nil {
		return err
	}
	s.producer.Produce(context.WithoutCancel(ctx), record, func(r *kgo.Record, err error) {
		if err == nil {
			s.history.add(row{
				client: e.Client, meter: e.Meter, quantity: e.Quantity, time: e.Time.UnixMilli(),
				partition: int64(r.Partition), offset: r.Offset,
			})
			return
		}
		select {
		case s.failed <- fmt.Errorf("produce usage event: %w", err):
		default: // the first says enough
		}
	})
	return nil
}

// flush returns when all events are written.
func (s *sender) flush(ctx context.Context) error {
	if err := s.producer.Flush(ctx); err != nil {
		return fmt.Errorf("write the last usage events: %w", err)
	}
	select {
	case err := <-s.failed:
		return err
	default:
		return nil
	}
}

// past sends what was used before meterd came, all of it in the hour of now.
func (c *crowd) past(ctx context.Context, out *sender, now time.Time) error {
	n := min(max(c.rate*historyFor, 500), 150_000)
	hour := usage.Schedule{Kind: usage.Hour, Zone: time.UTC}.At(usage.TimeOf(now)).Start.Std()
	from := maxTime(hour, now.Add(-10*time.Minute))
	step := now.Sub(from) / time.Duration(n)
	for i := range n {
		e := c.event(from.Add(step * time.Duration(i)))
		e.ID = "past-" + e.ID
		if err := out.remember(ctx, e); err != nil {
			return err
		}
	}
	return out.flush(ctx)
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// gate keeps out what hard limits do not allow any more. It knows of them by
// limit events alone, as a gateway does.
type gate struct {
	mu      sync.Mutex           // guards all below
	closed  map[[2]string]string // the limit by which, by client and meter
	refused int64
}

func newGate() *gate { return &gate{closed: map[[2]string]string{}} }

// hear closes or opens the gate by a limit event.
func (g *gate) hear(e *limitEvent) {
	if e.Enforcement != "hard" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key := [2]string{e.Client, e.Meter}
	switch {
	case slices.Contains(e.Standing, full):
		g.closed[key] = e.LimitID
	case g.closed[key] == e.LimitID:
		delete(g.closed, key)
	}
}

// pass tells whether the client may use the meter now.
func (g *gate) pass(client, meter string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, closed := g.closed[[2]string{client, meter}]
	if closed {
		g.refused++
	}
	return !closed
}

func (g *gate) count() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}
