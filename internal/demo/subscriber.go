package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
)

// limitEvent is a limit event as a subscriber decodes it: the fields that it
// has a use for, by the schema in the registry.
type limitEvent struct {
	ID          string `avro:"id"`
	Kind        string `avro:"kind"`
	Client      string `avro:"client"`
	Meter       string `avro:"meter"`
	Contract    string `avro:"contract"`
	LimitID     string `avro:"limit_id"`
	Limit       string `avro:"limit"`
	Enforcement string `avro:"enforcement"`
	Thresholds  []struct {
		Threshold string `avro:"threshold"`
	} `avro:"thresholds"`
	Standing   []string `avro:"standing"`
	UsageAfter string   `avro:"usage_after"`
	Period     struct {
		ID string `avro:"id"`
	} `avro:"period"`
	Cause struct {
		Kind      string     `avro:"kind"`
		EventTime *time.Time `avro:"event_time"`
	} `avro:"cause"`
	Sequence  int64     `avro:"sequence"`
	DecidedAt time.Time `avro:"decided_at"`

	received time.Time
}

// line tells of the event in one line. Where a use was the cause, it ends with
// how long after the use the event was here.
func (e *limitEvent) line() line {
	var passed []string
	for _, t := range e.Thresholds {
		passed = append(passed, t.Threshold)
	}
	text := fmt.Sprintf("%s %-7s %-12s %-9s %-9s %s of %s by %s",
		e.DecidedAt.UTC().Format("15:04:05.000"), e.Kind, strings.Join(passed, " "), e.Client, e.Meter,
		grouped(e.UsageAfter), grouped(e.Limit), strings.ReplaceAll(e.Cause.Kind, "_", " "))
	if e.Cause.Kind == "usage" && e.Cause.EventTime != nil {
		text += fmt.Sprintf(" in %d ms", e.received.Sub(*e.Cause.EventTime).Milliseconds())
	}
	switch {
	case e.Kind != "crossed":
		return line{text: text, tone: good}
	case slices.Contains(passed, full):
		return line{text: text, tone: bad}
	}
	return line{text: text, tone: warn}
}

// subscriber reads the limit events that are committed, as any consumer does.
type subscriber struct {
	client    *kgo.Client
	registry  *sr.Client
	listeners []func(*limitEvent)
	schemas   map[int]avro.Schema

	mu       sync.Mutex // guards all below
	kinds    map[string]int64
	last     map[[3]string]int64 // sequence, by contract, limit and period
	problems []string
}

func newSubscriber(around *surroundings, topic string, listeners ...func(*limitEvent)) (*subscriber, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(around.kafka.ListenAddrs()...), kgo.ClientID("demo-subscriber"), kgo.ConsumeTopics(topic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return nil, fmt.Errorf("make subscriber: %w", err)
	}
	return &subscriber{
		client: client, registry: around.registry, listeners: listeners,
		schemas: map[int]avro.Schema{}, kinds: map[string]int64{}, last: map[[3]string]int64{},
	}, nil
}

// Close ends the subscription.
func (s *subscriber) Close() { s.client.Close() }

// Run reads until ctx ends.
func (s *subscriber) Run(ctx context.Context) error {
	for {
		fetches := s.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) { failed = errors.Join(failed, err) })
		if failed != nil {
			return fmt.Errorf("read limit events: %w", failed)
		}
		for r := range fetches.RecordsAll() {
			e, err := s.decode(ctx, r.Value)
			if err != nil {
				return fmt.Errorf("limit event at offset %d of partition %d: %w", r.Offset, r.Partition, err)
			}
			s.note(e)
			for _, listener := range s.listeners {
				listener(e)
			}
		}
	}
}

func (s *subscriber) decode(ctx context.Context, value []byte) (*limitEvent, error) {
	id, body, err := new(sr.ConfluentHeader).DecodeID(value)
	if err != nil {
		return nil, fmt.Errorf("read schema id: %w", err)
	}
	schema, ok := s.schemas[id]
	if !ok {
		found, err := s.registry.SchemaByID(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("ask for schema %d: %w", id, err)
		}
		if schema, err = avro.ParseWithCache(found.Schema, "", &avro.SchemaCache{}); err != nil {
			return nil, fmt.Errorf("parse schema %d: %w", id, err)
		}
		s.schemas[id] = schema
	}
	e := &limitEvent{received: time.Now()}
	if err := avro.Unmarshal(schema, body, e); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return e, nil
}

// note counts e, and checks that its sequence follows the one before: none is
// lost and none is there twice.
func (s *subscriber) note(e *limitEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds[e.Kind]++
	key := [3]string{e.Contract, e.LimitID, e.Period.ID}
	if want := s.last[key] + 1; e.Sequence != want {
		s.problems = append(s.problems, fmt.Sprintf("limit event %s of %s %s has sequence %d and not %d", e.ID, e.Contract, e.LimitID, e.Sequence, want))
	}
	s.last[key] = e.Sequence
}

// counts returns how many limit events were read, by kind, and in all.
func (s *subscriber) counts() (crossed, cleared, reset, all int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	crossed, cleared, reset = s.kinds["crossed"], s.kinds["cleared"], s.kinds["reset"]
	return crossed, cleared, reset, crossed + cleared + reset
}

// wrong returns what was wrong with the limit events.
func (s *subscriber) wrong() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.problems...)
}
