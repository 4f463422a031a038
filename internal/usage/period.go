package usage

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Kind is how a schedule cuts time.
type Kind string

// The kinds of period. Those from Hour to Year follow the calendar of the
// schedule's zone; Lifetime is one period without end; Anniversary is months
// counted from an anchor.
const (
	Hour        Kind = "hour"
	Day         Kind = "day"
	Week        Kind = "week"
	Month       Kind = "month"
	Quarter     Kind = "quarter"
	Year        Kind = "year"
	Lifetime    Kind = "lifetime"
	Anniversary Kind = "anniversary"
)

// Schedule is how time is cut for a counter: a kind of period, the IANA zone
// in which days begin and, for anniversaries, the instant they are counted
// from.
type Schedule struct {
	Kind   Kind
	Zone   *time.Location
	Anchor Time // of anniversaries only
}

// ErrBadSchedule is returned when a kind or a zone is not known.
var ErrBadSchedule = errors.New("unknown period or time zone")

// NewSchedule returns the schedule of kind in the IANA zone called zone
// ("UTC" for none). Its anchor is zero.
func NewSchedule(kind Kind, zone string) (Schedule, error) {
	switch kind {
	case Hour, Day, Week, Month, Quarter, Year, Lifetime, Anniversary:
	default:
		return Schedule{}, fmt.Errorf("%w: period %q", ErrBadSchedule, kind)
	}
	if zone == "Local" { // the machine's zone would make counts depend on where meterd runs
		return Schedule{}, fmt.Errorf("%w: timezone %q", ErrBadSchedule, zone)
	}
	loc, err := location(zone)
	if err != nil {
		return Schedule{}, fmt.Errorf("%w: timezone %q", ErrBadSchedule, zone)
	}
	return Schedule{Kind: kind, Zone: loc}, nil
}

// zones has each time zone that was asked for. One takes some kilobytes, and
// every limit of a hundred thousand contracts names one.
var zones sync.Map //nolint:gochecknoglobals // what it holds is a constant, which takes long to make

func location(zone string) (*time.Location, error) {
	if known, ok := zones.Load(zone); ok {
		return known.(*time.Location), nil //nolint:forcetypeassert // nothing else is in it
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return nil, err
	}
	first, _ := zones.LoadOrStore(zone, loc)
	return first.(*time.Location), nil //nolint:forcetypeassert // as above
}

// Equal tells whether two schedules cut time in the same way.
func (s Schedule) Equal(o Schedule) bool {
	return s.Kind == o.Kind && s.Zone.String() == o.Zone.String() && (s.Kind != Anniversary || s.Anchor == o.Anchor)
}

// Period is one cut of a schedule: Start <= t < End. MinTime and MaxTime mean
// that it has no start or no end.
type Period struct {
	ID       string
	Start    Time
	End      Time
	Timezone string
}

// Contains tells whether t lies in p.
func (p *Period) Contains(t Time) bool { return p.Start <= t && t < p.End }

// Cut returns p without what lies before from or from to on, under the same
// id. The result is empty (Start >= End) where the two have nothing in common.
func (p Period) Cut(from, to Time) Period {
	p.Start, p.End = max(p.Start, from), min(p.End, to)
	return p
}

// At returns the period that t lies in. Outside of the years 1 to 9999, for
// which RFC 3339 has no form, there are but two, "before" and "after".
func (s Schedule) At(t Time) Period {
	zone := s.Zone.String()
	if s.Kind == Lifetime {
		return Period{ID: string(Lifetime), Start: MinTime, End: MaxTime, Timezone: zone}
	}
	if !t.Valid() { // no calendar there: one period on each side of it
		if t < minRFC3339 {
			return Period{ID: "before", Start: MinTime, End: minRFC3339, Timezone: zone}
		}
		return Period{ID: "after", Start: maxRFC3339 + 1, End: MaxTime, Timezone: zone}
	}
	switch s.Kind {
	case Hour:
		return s.hourAt(t)
	case Anniversary:
		return s.anniversaryAt(t)
	default:
		return s.calendarAt(t)
	}
}

// calendarAt returns the day, week, month, quarter or year that t lies in.
func (s Schedule) calendarAt(t Time) Period {
	// The local date's period is nearly always the answer. Where clocks were
	// turned back over midnight, or over a whole date, it is a neighbour.
	zone := s.Zone.String()
	y, m, d := t.Std().In(s.Zone).Date()
	n := s.index(y, m, d)
	start, end := s.start(n), s.start(n+1)
	for t >= end {
		n, start, end = n+1, end, s.start(n+2)
	}
	for t < start {
		n, start, end = n-1, s.start(n-1), start
	}
	return Period{ID: s.id(n), Start: start, End: end, Timezone: zone}
}

// Next returns the period after p, which must be one of s and uncut.
func (s Schedule) Next(p Period) Period {
	if p.End == MaxTime {
		return p
	}
	return s.At(p.End)
}

// hourAt returns the longest run of instants around t with the same local
// date, hour and offset from UTC: half an hour where clocks move by half an
// hour.
func (s Schedule) hourAt(t Time) Period {
	local := t.Std().In(s.Zone)
	_, offset := local.Zone()
	shift := time.Duration(offset) * time.Second
	start := t.Std().Add(shift).Truncate(time.Hour).Add(-shift)
	end := start.Add(time.Hour)
	// A transition inside the hour ends the run only if it moves the clock.
	for at := local; ; {
		begin, _ := at.ZoneBounds()
		if begin.IsZero() || !begin.After(start) {
			break
		}
		if at = begin.Add(-time.Nanosecond).In(s.Zone); offsetOf(at) != offset {
			start = begin
			break
		}
	}
	for at := local; ; {
		_, finish := at.ZoneBounds()
		if finish.IsZero() || !finish.Before(end) {
			break
		}
		if at = finish.In(s.Zone); offsetOf(at) != offset {
			end = finish
			break
		}
	}
	id := local.Format("2006-01-02T15-07:00")
	return Period{ID: id, Start: TimeOf(start), End: TimeOf(end), Timezone: s.Zone.String()}
}

func offsetOf(t time.Time) int {
	_, offset := t.Zone()
	return offset
}

// index numbers the periods of a calendar schedule; neighbours differ by one.
func (s Schedule) index(y int, m time.Month, d int) int {
	switch s.Kind {
	case Year:
		return y
	case Quarter:
		return y*4 + int(m-1)/3
	case Month:
		return y*12 + int(m-1)
	case Week:
		return floorDiv(dayNumber(y, m, d)+3, 7) // day 0 was a Thursday
	default:
		return dayNumber(y, m, d)
	}
}

// date returns the local date on which period n begins.
func (s Schedule) date(n int) (int, time.Month, int) {
	switch s.Kind {
	case Year:
		return n, time.January, 1
	case Quarter:
		return floorDiv(n, 4), time.Month(n-floorDiv(n, 4)*4)*3 + 1, 1
	case Month:
		return floorDiv(n, 12), time.Month(n-floorDiv(n, 12)*12) + 1, 1
	case Week:
		return time.Unix(int64(n*7-3)*86400, 0).UTC().Date()
	default:
		return time.Unix(int64(n)*86400, 0).UTC().Date()
	}
}

func (s Schedule) start(n int) Time {
	y, m, d := s.date(n)
	return firstInstant(s.Zone, time.Date(y, m, d, 0, 0, 0, 0, time.UTC))
}

func (s Schedule) id(n int) string {
	y, m, d := s.date(n)
	switch s.Kind {
	case Year:
		return fmt.Sprintf("%04d", y)
	case Quarter:
		return fmt.Sprintf("%04d-Q%d", y, int(m-1)/3+1)
	case Month:
		return fmt.Sprintf("%04d-%02d", y, m)
	case Week:
		year, week := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).ISOWeek()
		return fmt.Sprintf("%04d-W%02d", year, week)
	default:
		return fmt.Sprintf("%04d-%02d-%02d", y, m, d)
	}
}

func dayNumber(y int, m time.Month, d int) int {
	return floorDiv(int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix()), 86400)
}

func floorDiv(a, b int) int {
	if q := a / b; a%b >= 0 {
		return q
	}
	return a/b - 1
}

// firstInstant returns the first instant at which clocks in zone show wall or
// later, wall being a wall-clock reading written as if it were UTC: the first
// of two where clocks are turned back over it, the first after the gap where
// they are turned forward over it.
func firstInstant(zone *time.Location, wall time.Time) Time {
	if zone == time.UTC {
		return TimeOf(wall)
	}
	// Two days before, the clock shows less wherever on Earth it hangs.
	at := wall.Add(-48 * time.Hour).In(zone)
	for {
		_, offset := at.Zone()
		_, finish := at.ZoneBounds()
		reached := wall.Add(-time.Duration(offset) * time.Second)
		switch {
		case !reached.After(at):
			return TimeOf(at)
		case finish.IsZero() || reached.Before(finish) || !finish.After(at): // the last: the library knows no more
			return TimeOf(reached)
		}
		at = finish.In(zone)
	}
}

// anniversaryAt returns the month since the anchor that t lies in, or an empty
// period that ends at the anchor where t is before it.
func (s Schedule) anniversaryAt(t Time) Period {
	zone := s.Zone.String()
	anchor := s.Anchor.Std().In(s.Zone)
	if t < s.Anchor {
		return Period{ID: anchor.Format(time.DateOnly), Start: s.Anchor, End: s.Anchor, Timezone: zone}
	}
	local := t.Std().In(s.Zone)
	n := (local.Year()-anchor.Year())*12 + int(local.Month()-anchor.Month())
	for n > 0 && t < s.anniversary(anchor, n) {
		n--
	}
	for t >= s.anniversary(anchor, n+1) {
		n++
	}
	start := s.anniversary(anchor, n)
	id := start.Std().In(s.Zone).Format(time.DateOnly)
	return Period{ID: id, Start: start, End: s.anniversary(anchor, n+1), Timezone: zone}
}

// anniversary returns the instant n months after anchor: the same day of the
// month and time of day, on the last day of a month that is too short.
func (s Schedule) anniversary(anchor time.Time, n int) Time {
	if n == 0 {
		return s.Anchor
	}
	y, m, d := anchor.Date()
	first := time.Date(y, m+time.Month(n), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	hour, minute, second := anchor.Clock()
	wall := time.Date(first.Year(), first.Month(), min(d, last), hour, minute, second, anchor.Nanosecond(), time.UTC)
	return firstInstant(s.Zone, wall)
}
