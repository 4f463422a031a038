package verify

import (
	"context"
	"fmt"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// audit is the check of one partition.
type audit struct {
	*check
	number    int32
	kept      *kept
	letters   letters
	events    events
	fixed     []Difference // found before the usage topic was read
	fixedGaps []gap        // likewise

	// All below begins anew with each reading of the usage topic.
	differences []Difference
	openGaps    []gap
	handle      *schema.Handle
	course      course
	window      *window // ids that were counted
	voided      *window // ids that were taken back, or were to be
	takes       []take
	into        []*counter
	clients     map[string]*client
	periods     []*usage.Period // of the default schedule, the last used first
	met         map[string]bool // keys of the changelog's counters
	tally       Report
	unreadable  int64                     // records that are no events
	unvoided    int64                     // voids that are dead letters
	lost        map[ledgerKey]ledgerTotal // dead-lettered for their time or size
	buffer      []byte

	// late has, by changelog key, which own counters were made late. It is found
	// out by a first reading.
	late map[string]lateScope
}

// lateScope is how much came before an own counter was made.
type lateScope struct {
	records int
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
	a.compareStanding()
	a.compareLimits()
	a.compareMarks()
	return nil
}

// read is one reading of the usage topic.
func (a *audit) read(ctx context.Context) error {
	a.openGaps = nil
	a.differences, a.tally, a.lost = nil, Report{}, map[ledgerKey]ledgerTotal{}
	a.unreadable, a.unvoided = 0, 0
	a.handle = a.parts.Decoder.Handle()
	a.window, a.voided = newWindow(a.cfg.DedupeWindow), newWindow(a.cfg.DedupeWindow)
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
	takes, reason := a.takers(&ev, r.Offset)
	switch {
	case reason != "":
		a.tally.DeadLettered++
		a.unreadable++
		a.refused(r.Offset, l, reason)
		return nil
	case len(takes) == 0:
		a.unknown(r.Offset, l)
		return nil
	case ev.Void && (len(ev.ID) == 0 || a.cfg.DedupeWindow == 0): // nothing to know the event by
		a.tally.DeadLettered++
		a.refused(r.Offset, l, usage.MissingField)
		return nil
	}
	a.event(r, &ev, takes, m, l)
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

// arrival is an event that meters take, and when it came.
type arrival struct {
	record  *kafka.Record
	event   *usage.Event
	takes   []take
	moment  moment
	period  *usage.Period // of the default schedule
	counted verdict       // whether its id was counted within the window
	voided  verdict       // whether it was taken back within the window
}

// event goes on with an event that a meter takes.
func (a *audit) event(r *kafka.Record, ev *usage.Event, takes []take, m moment, l *letter) {
	v := &arrival{record: r, event: ev, takes: takes, moment: m, period: a.periodOf(ev.Time)}
	id, named := xxh3.Uint128{}, len(ev.ID) > 0
	if named {
		id, a.buffer = idOf(a.buffer, ev.Client, ev.ID)
		v.counted, v.voided = a.window.judge(id, m), a.voided.judge(id, m)
	}
	switch {
	case v.voided == duplicate || v.counted == duplicate && !ev.Void:
		a.tally.Duplicates++
		if l != nil {
			a.mistaken(r.Offset, l, "the event is a duplicate")
		}
	case l != nil:
		a.buried(ev, takes)
		a.plausible(v, l)
	case r.Offset >= a.letters.from && a.impossible(v) != "":
		a.unburied(v)
	case ev.Void:
		a.takeBack(v)
		a.voided.claim(id, m, v.voided == fresh)
	default:
		sure := v.counted == fresh && v.voided == fresh
		if sure {
			a.tally.Counted++
		} else {
			a.tally.Doubtful++
		}
		a.count(v, sure)
		if named {
			a.window.claim(id, m, sure)
		}
	}
}

// unburied demands the dead letter of an event that could not be counted. If
// it may be a duplicate, it was one.
func (a *audit) unburied(v *arrival) {
	if v.voided == doubtful || v.counted == doubtful && !v.event.Void {
		a.tally.Duplicates++
		return
	}
	a.buried(v.event, v.takes)
	a.differ(DeadLetter, offsetKey(v.record.Offset), "is missing, the record is %s", a.impossible(v))
}

// takeBack counts a void: what it says is subtracted if its id was counted,
// and remembered if not.
func (a *audit) takeBack(v *arrival) {
	if v.voided == fresh {
		a.tally.Voided++
	} else {
		a.tally.Doubtful++
	}
	if v.counted == fresh {
		a.lose(v.event, v.takes)
		return
	}
	a.count(v, v.voided == fresh && v.counted == duplicate)
}

// plausible checks a dead letter whose reason depends on the clock or on
// totals.
func (a *audit) plausible(v *arrival, l *letter) {
	ev, m, stamp := v.event, v.moment, usage.Time(v.record.Timestamp)
	wrong := ""
	switch l.reason {
	case usage.Future:
		if ev.Time <= stamp.Add(a.cfg.MaxFuture) || ev.Time <= max(m.lo, m.since).Add(a.cfg.MaxFuture) {
			wrong = "the event's time is not ahead"
		}
	case usage.TooLate:
		if v.period.End == usage.MaxTime || m.hi < v.period.End.Add(a.cfg.AllowedLateness) {
			wrong = "the event's period had not ended for so long"
		}
	case usage.NotUndoable:
		if !ev.Void || a.undoable(v.takes) {
			wrong = "the event takes nothing back that cannot be undone"
		}
	case usage.Overflow:
		switch {
		case ev.Void && v.counted == fresh && quantified(v.takes):
			wrong = "the void takes nothing back"
		case a.fits(v):
			wrong = "the quantity and the totals fit"
		}
	default:
		wrong = "the event can be counted"
	}
	if wrong != "" {
		a.mistaken(v.record.Offset, l, wrong)
	}
}

// impossible returns the reason for which an event was to be a dead letter
// whatever the clock was, or "".
func (a *audit) impossible(v *arrival) usage.Reason {
	ev, m, ahead := v.event, v.moment, a.cfg.MaxFuture
	switch {
	case ev.Time > usage.Time(v.record.Timestamp).Add(ahead) && m.until != usage.MaxTime && ev.Time > (m.until+skew).Add(ahead):
		return usage.Future
	case v.period.End != usage.MaxTime && m.lo >= v.period.End.Add(a.cfg.AllowedLateness):
		return usage.TooLate
	case ev.Void && !a.undoable(v.takes):
		return usage.NotUndoable
	case !quantified(v.takes):
		return usage.Overflow
	}
	return ""
}

// buried notes an event that is a dead letter.
func (a *audit) buried(ev *usage.Event, takes []take) {
	a.tally.DeadLettered++
	if ev.Void {
		a.unvoided++
	}
	a.lose(ev, takes)
}

// lose notes an event that the ledger has and no counter. A void is off the
// ledger whatever became of what it takes back.
func (a *audit) lose(ev *usage.Event, takes []take) {
	if a.ledger == nil {
		return
	}
	q, _ := ev.Quantity.Quantity(0)
	lost := ledgerTotal{1, int64(q)}
	if ev.Void {
		lost = ledgerTotal{-1, -int64(q)}
	}
	for i := range takes {
		for _, k := range a.ledgerKeys(string(ev.Client), &takes[i], a.periodOf(ev.Time).ID) {
			t := a.lost[k]
			a.lost[k] = ledgerTotal{t.events + lost.events, t.quantity + lost.quantity}
		}
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
	return a.kept.position.Time >= a.expiry(scope, period)
}

// expiry returns when a counter need no longer be kept.
func (a *audit) expiry(scope aggregate.Scope, period *usage.Period) usage.Time {
	if period.End == usage.MaxTime {
		return usage.MaxTime
	}
	schedule := a.cfg.Catalog.Schedule
	if !scope.Default() {
		var err error
		if schedule, err = usage.NewSchedule(scope.Kind, scope.Timezone); err != nil {
			return usage.MaxTime
		}
		schedule.Anchor = scope.StartsAt
	}
	end := period.End
	for range a.cfg.KeepPeriods {
		if schedule.Kind != usage.Lifetime {
			end = schedule.At(end).End
		}
	}
	return max(end, period.End.Add(a.cfg.AllowedLateness))
}

// sumUp adds what was found to the report and to the ledger's account.
func (a *audit) sumUp() {
	a.report.Records += a.tally.Records
	a.report.Counted += a.tally.Counted
	a.report.Duplicates += a.tally.Duplicates
	a.report.Voided += a.tally.Voided
	a.report.Ignored += a.tally.Ignored
	a.report.DeadLettered += a.tally.DeadLettered
	a.report.Doubtful += a.tally.Doubtful
	a.report.Counters += int64(len(a.kept.counters))
	a.report.LimitEvents += int64(a.events.count)
	a.account()
}
