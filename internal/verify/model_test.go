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
	live := func(r *rapid.T) {
		history := rapid.SampledFrom([]string{"none", "none", "announce", "mark"}).Draw(r, "history")
		full := rapid.Bool().Draw(r, "all kinds of meters")
		w := newWorld(t, func(c *verify.Config) {
			c.History, c.MarkSeeded = history != "none", history == "mark"
			if full {
				rich(c)
			}
			c.DeadLetterUnknown = rapid.Bool().Draw(r, "unknown to dead letters")
			kind := rapid.SampledFrom([]usage.Kind{usage.Hour, usage.Day, usage.Month, usage.Lifetime}).Draw(r, "schedule")
			schedule, err := usage.NewSchedule(kind, "UTC")
			require.NoError(t, err)
			c.Catalog.Schedule = schedule
		})
		l := life{w: w, r: r, rich: full, moving: rapid.Bool().Draw(r, "limits move between meters")}
		for range rapid.IntRange(0, 2).Draw(r, "early contracts") {
			l.contract()
		}
		// Two in three lives reach a limit at once, so that the least number of
		// lives that is ever run has limit events to agree about.
		reached := rapid.SampledFrom([]bool{true, true, false}).Draw(r, "reached at once")
		if reached {
			w.contract("k0", `{"id":"k0","client":"c1","starts_at":"2026-01-01T00:00:00Z","limits":[{"id":"z","meter":"bytes","limit":"15","thresholds":["50%","100%"]}]}`)
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
		if reached {
			w.use("c1", "bytes", "20")
		}
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			l.step()
		}
		l.answer()
		w.count()
		var found []string
		report, err := verify.Run(t.Context(), w.cfg, verify.Parts{
			Cluster: memory{w}, Decoder: w.decoder(), Events: w.codec, Found: func(d verify.Difference) { found = append(found, d.String()) },
		})
		require.NoError(r, err)
		require.Empty(r, found, "%s", l.log)
		events += int(report.LimitEvents)
	}
	rapid.Check(t, live)
	for range 50 { // a short run has few lives: more of them, until nothing is left to chance
		if events > 0 {
			break
		}
		rapid.Check(t, live)
	}
	require.Positive(t, events)
}

// life is a random one.
type life struct {
	w   *world
	r   *rapid.T
	log []string

	// rich says that there are meters of every kind.
	rich bool

	// moving says that a limit may be of another meter in the next revision.
	moving bool
}

func (l *life) say(format string, args ...any) {
	l.log = append(l.log, fmt.Sprintf("\n%s ", l.w.now)+fmt.Sprintf(format, args...))
}

func (l *life) step() {
	w, r := l.w, l.r
	switch rapid.SampledFrom([]string{"use", "void", "use", "use", "use", "use", "again", "late", "early", "odd", "contract", "count", "count", "answer", "wait", "pass"}).Draw(r, "step") {
	case "use":
		l.use(w.now)
	case "again":
		if w.ids > 0 {
			id := fmt.Sprintf("e%d", rapid.IntRange(max(1, w.ids-4), w.ids).Draw(r, "id"))
			l.say("send %s again", id)
			w.send("c1", "bytes", "11", id, w.now)
		}
	case "void":
		if len(w.sent) > 0 {
			value := rapid.SampledFrom(w.sent[max(0, len(w.sent)-5):]).Draw(r, "what")
			l.say("void %s", value)
			w.takeBack("c1", value)
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
	if l.rich {
		l.useAny(client, quantity, when)
		return
	}
	l.say("%s uses %s of %s at %s", client, quantity, meter, when)
	w.send(client, meter, quantity, fmt.Sprintf("e%d", w.ids), when)
}

// useAny uses any meter, with properties of all kinds.
func (l *life) useAny(client, quantity string, when usage.Time) {
	w, r := l.w, l.r
	meter := rapid.SampledFrom([]string{"bytes", "calls", "hits", "hits", "hits", "egress", "errors", "users", "users", "peak", "low", "gauge"}).Draw(r, "any meter")
	properties := fmt.Sprintf(`"region":%s,"status":%s,"endpoint":%s,"user":%s`,
		rapid.SampledFrom([]string{`"eu"`, `"us"`, `"eu"`, `null`, `"__overflow__"`, `[]`}).Draw(r, "region"),
		rapid.SampledFrom([]string{`200`, `200`, `500`, `503`, `null`, `"odd"`}).Draw(r, "status"),
		rapid.SampledFrom([]string{`"/a"`, `"/a"`, `"/b"`, `7`, `true`, `"__overflow__"`}).Draw(r, "endpoint"),
		rapid.SampledFrom([]string{`"u1"`, `"u2"`, `"u3"`, `null`, `1`}).Draw(r, "user"))
	l.say("%s uses %s of %s at %s with %s", client, quantity, meter, when, properties)
	w.full(client, meter, quantity, fmt.Sprintf("e%d", w.ids), when, properties)
}

// anyLimit is a limit on any meter.
func (l *life) anyLimit() string {
	r := l.r
	of := rapid.SampledFrom([]string{"hits", "hits", "egress", "errors", "users", "peak", "low", "gauge", "bytes"}).Draw(r, "of any")
	dimensions := map[string][]string{
		"hits": {
			"", `,"per":["region"]`, `,"per":["endpoint","region"]`, `,"where":{"region":"eu"}`, `,"where":{"region":"eu"},"per":["endpoint"]`,
			`,"where":{"region":"us","endpoint":"/a"}`, `,"where":{"region":"__overflow__","endpoint":"__overflow__"}`,
		},
		"egress": {"", `,"per":["region"]`, `,"where":{"region":""}`},
		"errors": {"", `,"per":["endpoint"]`, `,"where":{"endpoint":"7"}`},
		"users":  {"", `,"per":["region"]`, `,"where":{"region":"us"}`},
	}[of]
	if dimensions == nil {
		dimensions = []string{""}
	}
	value := map[string][]string{
		"hits": {"1", "2", "3"}, "users": {"1", "2", "3"}, "egress": {"50", "120"}, "errors": {"25", "90"},
	}[of]
	if value == nil {
		value = []string{"20", "50", "90"}
	}
	return fmt.Sprintf(`{"id":"a-%s","meter":%q,"limit":%q,"thresholds":["50%%","100%%"]%s%s}`, of, of,
		rapid.SampledFrom(value).Draw(r, "value"), rapid.SampledFrom(dimensions).Draw(r, "dimensions"),
		rapid.SampledFrom([]string{"", "", "", `,"timezone":"Asia/Kolkata"`, `,"period":"week"`, `,"period":"anniversary"`}).Draw(r, "period"))
}

func (l *life) contract() {
	w, r := l.w, l.r
	id := rapid.SampledFrom([]string{"k1", "k2"}).Draw(r, "contract")
	value := ""
	if rapid.IntRange(0, 4).Draw(r, "keep it") > 0 {
		of := rapid.SampledFrom([]string{"bytes", "calls"}).Draw(r, "of")
		limit := map[string]string{"bytes": "a", "calls": "b"}[of]
		if l.moving {
			limit = rapid.SampledFrom([]string{"a", "b"}).Draw(r, "limit")
		}
		ends := rapid.SampledFrom([]string{"null", "null", `"2026-11-20T15:00:00Z"`, `"2026-11-21T13:30:00Z"`}).Draw(r, "ends")
		limits := fmt.Sprintf(`{"id":%q,"meter":%q,"limit":%q,"thresholds":["50%%","100%%"]%s}`, limit, of,
			rapid.SampledFrom([]string{"3", "50", "120"}).Draw(r, "value"),
			rapid.SampledFrom([]string{"", "", `,"period":"hour"`, `,"period":"lifetime"`}).Draw(r, "period"))
		if l.rich {
			limits = l.anyLimit()
		}
		starts := rapid.SampledFrom([]string{"2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-11-20T09:30:00Z"}).Draw(r, "starts")
		value = fmt.Sprintf(`{"id":%q,"client":"c1","starts_at":%q,"ends_at":%s,"limits":[%s]}`, id, starts, ends, limits)
	}
	l.say("contract %s = %s", id, value)
	w.contract(id, value)
}

// answer answers what was asked of history: that c1 had used 40 bytes, and
// something of each meter where there are meters of all kinds.
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
		of := func(meter string, fields ...usage.Value) {
			totals = append(totals, aggregate.SeedTotal{
				Meter: meter, Fields: fields, Events: 1, Quantity: quantity, Min: quantity, Max: quantity, Latest: quantity, First: when, Last: when,
			})
		}
		of("bytes", make([]usage.Value, len(w.cfg.Catalog.Paths))...)
		if len(w.cfg.Catalog.Paths) > 0 {
			text := func(s string) usage.Value { return usage.Value{Kind: usage.TextValue, Text: []byte(s)} }
			none := usage.Value{}
			of("hits", text("/a"), text("eu"), none, none)
			of("hits", text("/h"), text("eu"), none, none)
			of("hits", text("/v"), text("eu"), none, none) // and taken back
			of("hits", text("/v"), text("eu"), none, none)
			totals[len(totals)-1].Void = true
			of("users", none, text("us"), none, text("u1"))
			of("gauge", none, none, none, none)
			of("peak", none, none, usage.Value{Kind: usage.NumberValue, Number: usage.DecimalOf(500)}, none)
		}
	}
	w.state.Begin(w.now)
	err := w.state.TakeSeed(ask, totals)
	w.state.End()
	require.NoError(t, err)
	w.commit()
}
