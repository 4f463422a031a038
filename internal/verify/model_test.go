package verify_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
	"github.com/meterd/meterd/internal/verify"
)

// memory is a cluster of one partition whose topics are a world's.
type memory struct{ w *world }

func (c memory) topic(name string) []kafka.Message {
	return map[string][]kafka.Message{
		topics.Usage: c.w.usage, topics.Contracts: c.w.contracts, topics.Changelog: c.w.changelog,
		topics.LimitEvents: c.w.events, topics.LimitState: c.w.states, topics.DeadLetters: c.w.letters,
	}[name]
}

func (memory) Partitions(context.Context, string) (int32, error) { return 1, nil }

func (memory) LogStart(context.Context, string, int32) (int64, error) { return 0, nil }

func (c memory) LastStable(_ context.Context, topic string, _ int32) (int64, error) {
	return int64(len(c.topic(topic))), nil
}

func (c memory) HighWatermark(_ context.Context, topic string, _ int32) (int64, error) {
	return int64(len(c.topic(topic))), nil
}

func (c memory) CommittedOffset(context.Context, string, string, int32) (int64, bool, error) {
	return c.w.position, true, nil
}

func (c memory) Read(_ context.Context, topic string, _ int32, from, to int64, fn func(kafka.Batch) error) (int64, error) {
	var b kafka.Batch
	for i, m := range c.topic(topic) {
		if offset := int64(i); offset >= from && offset < to {
			b.Records = append(b.Records, kafka.Record{
				Offset: offset, Timestamp: m.Timestamp.UnixMilli(), Key: m.Key, Value: m.Value, Headers: m.Headers,
			})
		}
	}
	b.Next = to
	return to, fn(b)
}

// TestNothingIsFoundWhateverHappens lets the counting code live through
// anything, and demands that verify, which does not share its code, agrees.
func TestNothingIsFoundWhateverHappens(t *testing.T) {
	t.Parallel()

	events := 0
	rapid.Check(t, func(r *rapid.T) {
		history := rapid.SampledFrom([]string{"none", "none", "announce", "mark"}).Draw(r, "history")
		w := newWorld(t, func(c *verify.Config) {
			c.History, c.MarkSeeded = history != "none", history == "mark"
			c.DeadLetterUnknown = rapid.Bool().Draw(r, "unknown to dead letters")
			kind := rapid.SampledFrom([]usage.Kind{usage.Hour, usage.Day, usage.Month, usage.Lifetime}).Draw(r, "schedule")
			schedule, err := usage.NewSchedule(kind, "UTC")
			require.NoError(t, err)
			c.Catalog.Schedule = schedule
		})
		l := life{w: w, r: r, moving: rapid.Bool().Draw(r, "limits move between meters")}
		for range rapid.IntRange(0, 2).Draw(r, "early contracts") {
			l.contract()
		}
		w.now += 60_000
		boundary := 0
		if w.cfg.History {
			boundary = rapid.IntRange(0, 3).Draw(r, "boundary")
			for range boundary {
				w.use("c1", "bytes", "40")
			}
		}
		w.start(int64(boundary))
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			l.step()
		}
		l.answer()
		w.count()
		var found []string
		report, err := verify.Run(t.Context(), w.cfg, verify.Parts{
			Cluster: memory{w}, Decoder: decoder(t), Events: w.codec, Found: func(d verify.Difference) { found = append(found, d.String()) },
		})
		require.NoError(r, err)
		require.Empty(r, found, "%s", l.log)
		events += int(report.LimitEvents)
	})
	require.Positive(t, events)
}

// life is a random one.
type life struct {
	w   *world
	r   *rapid.T
	log []string

	// moving says that a limit may be of another meter in the next revision. Then
	// no contract ends: a limit that moves after its last period was cut keeps
	// values of its former meter.
	moving bool
}

func (l *life) say(format string, args ...any) {
	l.log = append(l.log, fmt.Sprintf("\n%s ", l.w.now)+fmt.Sprintf(format, args...))
}

func (l *life) step() {
	w, r := l.w, l.r
	switch rapid.SampledFrom([]string{"use", "use", "use", "use", "use", "again", "late", "early", "odd", "contract", "count", "count", "answer", "wait", "pass"}).Draw(r, "step") {
	case "use":
		l.use(w.now)
	case "again":
		if w.ids > 0 {
			id := fmt.Sprintf("e%d", rapid.IntRange(max(1, w.ids-4), w.ids).Draw(r, "id"))
			l.say("send %s again", id)
			w.send("c1", "bytes", "11", id, w.now)
		}
	case "late":
		l.use(w.now.Add(-time.Duration(rapid.IntRange(1, 30).Draw(r, "hours late")) * time.Hour))
	case "early":
		if w.cfg.MarkSeeded {
			return // what is marked in a period yet to begin has no time of decision
		}
		l.use(w.now.Add(time.Duration(rapid.IntRange(1, 8).Draw(r, "minutes early")) * time.Minute))
	case "odd":
		w.raw("c1", rapid.SampledFrom([]string{"{", `{"client_id":"","meter":"bytes"}`, `{"client_id":"c1","meter":"elephants"}`, `{"client_id":"c1","meter":"bytes","quantity":1e30}`}).Draw(r, "value"))
	case "contract":
		l.contract()
	case "count":
		l.say("count")
		w.count()
	case "answer":
		l.answer()
	case "wait":
		l.say("count and wait")
		w.count()
		w.wait(w.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(r, "hours")) * time.Hour))
	case "pass":
		w.now = w.now.Add(time.Duration(rapid.IntRange(1, 200).Draw(r, "minutes")) * time.Minute)
	}
}

func (l *life) use(when usage.Time) {
	w, r := l.w, l.r
	w.ids++
	client := rapid.SampledFrom([]string{"c1", "c1", "c2"}).Draw(r, "client")
	meter := rapid.SampledFrom([]string{"bytes", "bytes", "calls"}).Draw(r, "meter")
	quantity := rapid.SampledFrom([]string{"10", "25.5", "60", "-30", "0", "100"}).Draw(r, "quantity")
	l.say("%s uses %s of %s at %s", client, quantity, meter, when)
	w.send(client, meter, quantity, fmt.Sprintf("e%d", w.ids), when)
}

func (l *life) contract() {
	w, r := l.w, l.r
	id := rapid.SampledFrom([]string{"k1", "k2"}).Draw(r, "contract")
	value := ""
	if rapid.IntRange(0, 4).Draw(r, "keep it") > 0 {
		of := rapid.SampledFrom([]string{"bytes", "calls"}).Draw(r, "of")
		limit := map[string]string{"bytes": "a", "calls": "b"}[of]
		ends := "null"
		if l.moving {
			limit = rapid.SampledFrom([]string{"a", "b"}).Draw(r, "limit")
		} else {
			ends = rapid.SampledFrom([]string{"null", "null", `"2026-11-20T15:00:00Z"`, `"2026-11-21T13:30:00Z"`}).Draw(r, "ends")
		}
		limits := fmt.Sprintf(`{"id":%q,"meter":%q,"limit":%q,"thresholds":["50%%","100%%"]%s}`, limit, of,
			rapid.SampledFrom([]string{"3", "50", "120"}).Draw(r, "value"),
			rapid.SampledFrom([]string{"", "", `,"period":"hour"`, `,"period":"lifetime"`}).Draw(r, "period"))
		starts := rapid.SampledFrom([]string{"2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-11-20T09:30:00Z"}).Draw(r, "starts")
		value = fmt.Sprintf(`{"id":%q,"client":"c1","starts_at":%q,"ends_at":%s,"limits":[%s]}`, id, starts, ends, limits)
	}
	l.say("contract %s = %s", id, value)
	w.contract(id, value)
}

// answer answers what was asked of history: that c1 had used 40 bytes.
func (l *life) answer() {
	l.w.fold()
	l.w.commit()
	for _, ask := range l.w.state.Pending() {
		l.say("answer %v", ask)
		amount := ""
		if ask.Client == "c1" && ask.Boundary > 0 {
			amount = "40"
		}
		l.w.answer(l.r, ask, amount)
	}
}

// answer answers a question with an amount of bytes, or with nothing.
func (w *world) answer(t require.TestingT, ask aggregate.Ask, amount string) {
	var totals []aggregate.SeedTotal
	if amount != "" {
		quantity, err := usage.ParseDecimal(amount)
		require.NoError(t, err)
		when := max(ask.Period.Start, min(w.now, ask.Period.End-1))
		totals = []aggregate.SeedTotal{{Meter: "bytes", Events: 1, Quantity: quantity, First: when, Last: when}}
	}
	w.state.Begin(w.now)
	err := w.state.TakeSeed(ask, totals)
	w.state.End()
	require.NoError(t, err)
	w.commit()
}
