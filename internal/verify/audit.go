package verify

import (
	"context"
	"fmt"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// audit is the check of one partition.
type audit struct {
	*check
	number  int32
	kept    *kept
	letters letters
	events  events
	fixed   []Difference // found before the usage topic was read

	// All below begins anew with each reading of the usage topic.
	differences []Difference
	handle      *schema.Handle
	course      course
	window      *window
	clients     map[string]*client
	periods     []*usage.Period // of the default schedule, the last used first
	met         map[string]bool // keys of the changelog's counters
	tally       Report
	unreadable  int64                     // records that are no events
	lost        map[ledgerKey]ledgerTotal // dead-lettered for their time or size
	buffer      []byte

	// late has, by changelog key, which own counters were made late. It is found
	// out by a first reading.
	late map[string]lateScope
}

// lateScope is how much came before an own counter was made.
type lateScope struct {
	records int64
	loose   bool // that cannot be known
}

// fix notes a difference that no further reading changes.
func (a *audit) fix(s Subject, key, format string, args ...any) {
	a.fixed = append(a.fixed, Difference{s, a.number, key, fmt.Sprintf(format, args...)})
}

// differ notes a difference of this reading.
func (a *audit) differ(s Subject, key, format string, args ...any) {
	a.differences = append(a.differences, Difference{s, a.number, key, fmt.Sprintf(format, args...)})
}

// recount reads the usage topic from the boundary to the position. Where
// counters of limits turn out to be made later than their contract was
// written, it reads once more, now knowing from where they count.
func (a *audit) recount(ctx context.Context) error {
	for {
		if err := a.read(ctx); err != nil {
			return fmt.Errorf("read usage: %w", err)
		}
		if a.late != nil {
			break
		}
		if a.late = a.lateScopes(); len(a.late) == 0 {
			break
		}
	}
	a.lettersLeft()
	a.unmet()
	a.compareCounters()
	a.finishScripts()
	a.compareLimits()
	return nil
}

// read is one reading of the usage topic.
func (a *audit) read(ctx context.Context) error {
	a.differences, a.tally, a.unreadable, a.lost = nil, Report{}, 0, map[ledgerKey]ledgerTotal{}
	a.handle, a.window = a.parts.Decoder.Handle(), newWindow(a.cfg.DedupeWindow)
	a.course = course{points: a.kept.points}
	a.clients, a.met, a.periods = map[string]*client{}, map[string]bool{}, nil
	a.events.rewind()
	a.seeded()
	position := a.kept.position
	end, err := a.parts.Cluster.HighWatermark(ctx, a.cfg.Topics.Usage, a.number)
	if err != nil {
		return err
	}
	if position.Position > end {
		a.differ(Position, "", "it is at %d, the usage topic ends at %d", position.Position, end)
	}
	_, err = a.parts.Cluster.Read(ctx, a.cfg.Topics.Usage, a.number, position.Boundary, min(position.Position, end), func(b kafka.Batch) error {
		if err := a.handle.Prepare(ctx, valuesOf(b.Records)); err != nil {
			return err
		}
		for i := range b.Records {
			if err := a.record(&b.Records[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func valuesOf(records []kafka.Record) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for i := range records {
			if !yield(records[i].Value) {
				return
			}
		}
	}
}

// record decides what must have become of a record, and counts it if it was to
// be counted. Each has exactly one fate.
func (a *audit) record(r *kafka.Record) error {
	a.tally.Records++
	m := a.course.at(r.Offset, usage.Time(r.Timestamp))
	l := a.letterOf(r)
	var ev usage.Event
	reason, err := a.handle.Decode(r.Value, usage.Time(r.Timestamp), &ev)
	switch {
	case reason == "" && err != nil:
		return err
	case reason == "" && l != nil && l.reason == usage.UnknownSchema: // registered since
		a.tally.DeadLettered++
		return nil
	case reason != "":
		a.tally.DeadLettered++
		a.unreadable++
		a.refused(r.Offset, l, reason)
		return nil
	}
	takers := a.takers(&ev)
	if len(takers) == 0 {
		a.unknown(r.Offset, l)
		return nil
	}
	return a.event(r, &ev, takers, m, l)
}

// takers returns the meters that an event counts on.
func (a *audit) takers(ev *usage.Event) []int {
	if !a.cfg.MeterMapped {
		return a.meters
	}
	if i := a.cfg.Catalog.Find(string(ev.Meter)); i >= 0 {
		return a.meters[i : i+1]
	}
	return nil
}

func (a *audit) unknown(offset int64, l *letter) {
	if a.cfg.DeadLetterUnknown {
		a.tally.DeadLettered++
		a.refused(offset, l, usage.UnknownMeter)
		return
	}
	a.tally.Ignored++
	if l != nil {
		a.mistaken(offset, l, "no meter takes the event, and such are ignored")
	}
}

// event goes on with an event that a meter takes.
func (a *audit) event(r *kafka.Record, ev *usage.Event, takers []int, m moment, l *letter) error {
	sure := true
	if len(ev.ID) > 0 {
		id, buf := idOf(a.buffer, ev.Client, ev.ID)
		a.buffer = buf
		verdict := a.window.judge(id, m)
		if verdict == duplicate {
			a.tally.Duplicates++
			if l != nil {
				a.mistaken(r.Offset, l, "the event is a duplicate")
			}
			return nil
		}
		sure = verdict == fresh
		defer func() {
			if l == nil {
				a.window.claim(id, m, sure)
			}
		}()
	}
	period := a.periodOf(ev.Time)
	if l != nil {
		a.tally.DeadLettered++
		a.lose(ev, takers)
		a.plausible(r, ev, takers, m, l, period)
		return nil
	}
	if why := a.impossible(r, ev, m, period); why != "" && r.Offset >= a.letters.from {
		a.tally.DeadLettered++
		a.lose(ev, takers)
		a.differ(DeadLetter, offsetKey(r.Offset), "is missing, the record is %s", why)
		return nil
	}
	if !sure {
		a.tally.Doubtful++
	} else {
		a.tally.Counted++
	}
	a.count(r, ev, takers, m, period, sure)
	return nil
}

// plausible checks a dead letter whose reason depends on the clock or on
// totals.
func (a *audit) plausible(r *kafka.Record, ev *usage.Event, takers []int, m moment, l *letter, period *usage.Period) {
	switch l.reason {
	case usage.Future:
		if ev.Time <= usage.Time(r.Timestamp).Add(a.cfg.MaxFuture) || ev.Time <= max(m.lo, m.since).Add(a.cfg.MaxFuture) {
			a.mistaken(r.Offset, l, "the event's time is not ahead")
		}
	case usage.TooLate:
		if period.End == usage.MaxTime || m.hi < period.End.Add(a.cfg.AllowedLateness) {
			a.mistaken(r.Offset, l, "the event's period had not ended for so long")
		}
	case usage.Overflow:
		if a.fits(ev, takers) {
			a.mistaken(r.Offset, l, "the quantity and the totals fit")
		}
	default:
		a.mistaken(r.Offset, l, "the event can be counted")
	}
}

// impossible returns the reason for which an event was to be a dead letter
// whatever the clock was, or "".
func (a *audit) impossible(r *kafka.Record, ev *usage.Event, m moment, period *usage.Period) usage.Reason {
	ahead := a.cfg.MaxFuture
	switch {
	case ev.Time > usage.Time(r.Timestamp).Add(ahead) && m.until != usage.MaxTime && ev.Time > (m.until+skew).Add(ahead):
		return usage.Future
	case period.End != usage.MaxTime && m.lo >= period.End.Add(a.cfg.AllowedLateness):
		return usage.TooLate
	case !a.holds(ev):
		return usage.Overflow
	}
	return ""
}

// lose notes an event that the ledger has and no counter.
func (a *audit) lose(ev *usage.Event, takers []int) {
	if a.ledger == nil {
		return
	}
	q, _ := ev.Quantity.Quantity(0)
	for _, m := range takers {
		k := ledgerKey{string(ev.Client), m}
		t := a.lost[k]
		a.lost[k] = ledgerTotal{t.events + 1, t.quantity + int64(q)}
	}
}

// periodOf returns the default schedule's period of an instant.
func (a *audit) periodOf(at usage.Time) *usage.Period {
	const kept = 64
	if i := slices.IndexFunc(a.periods, func(p *usage.Period) bool { return p.Contains(at) }); i >= 0 {
		a.periods[0], a.periods[i] = a.periods[i], a.periods[0]
		return a.periods[0]
	}
	p := a.cfg.Catalog.Schedule.At(at)
	a.periods = append([]*usage.Period{&p}, a.periods[:min(len(a.periods), kept-1)]...)
	return &p
}

// expired tells whether a counter need no longer be kept: the configured number
// of periods and the allowed lateness have passed since its period's end.
func (a *audit) expired(scope aggregate.Scope, period *usage.Period) bool {
	if period.End == usage.MaxTime {
		return false
	}
	schedule := a.cfg.Catalog.Schedule
	if !scope.Default() {
		var err error
		if schedule, err = usage.NewSchedule(scope.Kind, scope.Timezone); err != nil {
			return false
		}
		schedule.Anchor = scope.StartsAt
	}
	end := period.End
	for range a.cfg.KeepPeriods {
		if schedule.Kind != usage.Lifetime {
			end = schedule.At(end).End
		}
	}
	return a.kept.position.Time >= max(end, period.End.Add(a.cfg.AllowedLateness))
}

// sumUp adds what was found to the report and to the ledger's account.
func (a *audit) sumUp() {
	a.report.Records += a.tally.Records
	a.report.Counted += a.tally.Counted
	a.report.Duplicates += a.tally.Duplicates
	a.report.Ignored += a.tally.Ignored
	a.report.DeadLettered += a.tally.DeadLettered
	a.report.Doubtful += a.tally.Doubtful
	a.report.Counters += int64(len(a.kept.counters))
	a.report.LimitEvents += int64(a.events.count)
	a.account()
}
