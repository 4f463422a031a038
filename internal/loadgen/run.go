package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/meterd/meterd/internal/kafka"
)

// Appender writes records. kafka.Producer is one.
type Appender interface {
	Append(ctx context.Context, messages []kafka.Message) ([]int64, error)
}

// Parts is what a run works with.
type Parts struct {
	Appender Appender
	Registry Registrar // nil for JSON
	Ledger   io.Writer // nil: none is written
	// Progress, if set, is told how many events are written so far.
	Progress func(events int64)
}

// Summary tells what a run has written.
type Summary struct {
	Events      int64         `json:"events"`
	Bytes       int64         `json:"bytes"`
	Duplicates  int64         `json:"duplicates"`
	Undecodable int64         `json:"undecodable"`
	Late        int64         `json:"late"`
	Voids       int64         `json:"voids"`
	Contracts   int           `json:"contracts"`
	Took        time.Duration `json:"took_ns"`
	Next        int64         `json:"next_event"` // where a continuation begins
}

// Rate returns the events written in a second.
func (s Summary) Rate() float64 {
	if s.Took <= 0 {
		return 0
	}
	return float64(s.Events) / s.Took.Seconds()
}

const (
	// chunkEvents bounds what is appended at once.
	chunkEvents = 16_384
	// appendPatience bounds one append. It is not cut short by the end of a
	// run, or nobody would know what was written.
	appendPatience = 2 * time.Minute
	// paceTick is how often a rate is kept.
	paceTick = 5 * time.Millisecond
)

// Run writes the contracts and then the events of load, until all are written
// or ctx ends, and last the ledger of what the brokers have acknowledged. An
// early end is no error.
func Run(ctx context.Context, load Load, target Target, parts Parts) (Summary, error) {
	if err := errors.Join(load.Validate(), target.Validate()); err != nil {
		return Summary{}, fmt.Errorf("load: %w", err)
	}
	if load.Voids > 0 && target.Mapping.Void == "" {
		return Summary{}, errors.New("load: voids: usage.fields.void is not mapped")
	}
	g := NewGenerator(load, len(target.meters()))
	e, err := newEncoder(ctx, g, target, parts.Registry)
	if err != nil {
		return Summary{}, err
	}
	r := &run{load: load, target: target, parts: parts, g: g, e: e, book: newBook(g, target)}
	if err := r.contracts(ctx); err != nil {
		return r.summary, err
	}
	began := time.Now()
	r.place()
	err = r.events(ctx)
	r.summary.Took = time.Since(began)
	if parts.Ledger != nil {
		err = errors.Join(err, r.book.write(parts.Ledger, load, err == nil))
	}
	return r.sum(), err
}

// run is a load on its way.
type run struct {
	load    Load
	target  Target
	parts   Parts
	g       *Generator
	e       *encoder
	book    *book
	homes   []home                // by client
	times   [voidBehind]time.Time // of the last events, by their number
	summary Summary
}

func (r *run) sum() Summary {
	s := r.summary
	s.Events, s.Next = r.book.events, r.load.First+r.book.events
	for _, t := range r.book.tally {
		s.Duplicates += t.Duplicates
		s.Undecodable += t.Undecodable
		s.Late += t.Late
		s.Voids += t.Voids
	}
	return s
}

// contracts writes the contracts of the load.
func (r *run) contracts(ctx context.Context) error {
	if r.load.Contracts == 0 {
		return nil
	}
	messages, err := contractMessages(r.g, r.target)
	if err != nil {
		return err
	}
	if _, err := r.parts.Appender.Append(ctx, messages); err != nil {
		return fmt.Errorf("write contracts: %w", err)
	}
	r.summary.Contracts = len(messages)
	return nil
}

// home is the key of a client's records and where they go.
type home struct {
	key       []byte
	partition int32
}

func (r *run) place() {
	r.homes = make([]home, r.load.Clients)
	for n := range r.homes {
		key := []byte(r.e.clients[n])
		r.homes[n] = home{key: key, partition: r.target.Partitioner(key, r.target.Partitions)}
	}
}

// chunk is a part of the events, filled while the one before is on its way.
type chunk struct {
	messages []kafka.Message
	events   []Event
	times    []time.Time // of the events
	arena    []byte
}

// events writes all events. While one chunk is on its way the next is made.
func (r *run) events(ctx context.Context) error {
	var chunks [2]chunk
	sent := make(chan error, 1)
	var onWay *chunk
	settle := func() error {
		if onWay == nil {
			return nil
		}
		if err := <-sent; err != nil {
			return fmt.Errorf("write events: %w", err)
		}
		r.acknowledged(onWay)
		onWay = nil
		return nil
	}
	began := time.Now()
	next, last := r.load.First, r.load.First+r.load.Events
	for n := 0; next < last; n++ {
		count := r.due(ctx, began, next)
		if count == 0 { // the end
			break
		}
		c := &chunks[n%2]
		r.fill(c, next, min(count, last-next))
		next += int64(len(c.messages))
		if err := settle(); err != nil {
			return err
		}
		onWay = c
		go func() { sent <- r.append(ctx, c.messages) }()
	}
	return settle()
}

// append writes a chunk as a whole, though ctx may end meanwhile.
func (r *run) append(ctx context.Context, messages []kafka.Message) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendPatience)
	defer cancel()
	_, err := r.parts.Appender.Append(ctx, messages)
	return err
}

func (r *run) acknowledged(c *chunk) {
	for i := range c.events {
		r.book.add(&c.events[i], c.times[i], written(r.target, &c.events[i]), c.messages[i].Partition)
		r.summary.Bytes += int64(len(c.messages[i].Key) + len(c.messages[i].Value))
	}
	if r.parts.Progress != nil {
		r.parts.Progress(r.book.events)
	}
}

// due waits until events are to be written, and returns how many at most. It
// returns 0 when ctx has ended.
func (r *run) due(ctx context.Context, began time.Time, next int64) int64 {
	if r.load.Rate == 0 {
		if ctx.Err() != nil {
			return 0
		}
		return chunkEvents
	}
	done := next - r.load.First
	for {
		behind := int64(time.Since(began).Seconds()*float64(r.load.Rate)) - done
		if behind > 0 && ctx.Err() == nil {
			return min(behind, chunkEvents)
		}
		tick := time.NewTimer(paceTick)
		select {
		case <-ctx.Done():
			tick.Stop()
			return 0
		case <-tick.C:
		}
	}
}

// fill makes the events from number first on.
func (r *run) fill(c *chunk, first, count int64) {
	c.messages, c.events, c.times, c.arena = c.messages[:0], c.events[:0], c.times[:0], c.arena[:0]
	now := time.Now()
	live := r.load.Start.IsZero()
	for i := first; i < first+count; i++ {
		ev := r.g.At(i)
		at := now
		if !live {
			at = r.timeOf(i)
		}
		eventTime := at
		if ev.Origin != i && !live {
			eventTime = r.timeOf(ev.Origin) // as the original had it
		}
		eventTime = eventTime.Add(-ev.Behind)
		if ev.Kind == Void && ev.Origin >= r.load.First {
			eventTime = r.times[ev.Origin%voidBehind]
		}
		r.times[i%voidBehind] = eventTime
		if r.target.Mapping.Time == "" {
			eventTime = at
		}
		from := len(c.arena)
		c.arena = r.e.append(c.arena, i, &ev, eventTime)
		c.events, c.times = append(c.events, ev), append(c.times, eventTime)
		to := &r.homes[ev.Client]
		c.messages = append(c.messages, kafka.Message{
			Topic: r.target.Topic, Partition: to.partition, Key: to.key,
			Value: c.arena[from:len(c.arena):len(c.arena)], Timestamp: at,
		})
	}
}

// timeOf returns when event i is, in a load that is not live.
func (r *run) timeOf(i int64) time.Time {
	share := float64(i-r.load.First) / float64(r.load.Events)
	return r.load.Start.Add(time.Duration(share * float64(r.load.Span)))
}
