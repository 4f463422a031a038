package demo

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// tone is how a line looks where there are colours.
type tone string

const (
	plain tone = ""
	bold  tone = "\x1b[1m"
	dim   tone = "\x1b[2m"
	good  tone = "\x1b[32m"
	warn  tone = "\x1b[33m"
	bad   tone = "\x1b[31m"
	alarm tone = "\x1b[1;31m"

	untoned = "\x1b[0m"
)

// line is one line of text, without its end.
type line struct {
	text string
	tone tone
}

// fit cuts a text to so many columns.
func fit(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	runes := []rune(text)
	if width < 1 {
		return ""
	}
	return string(runes[:width-1]) + "…"
}

// entry is a limit in the table.
type entry struct {
	client, meter, period string
	usage, limit          string
	utilization           float64
	state                 state
}

// state is what a client's limit means for the client.
type state string

const (
	fine    state = "ok"
	warned  state = "warned"  // most of the limit is used
	over    state = "over"    // the limit is reached, and soft
	blocked state = "blocked" // the limit is reached, and hard
	seeding state = "seeding" // history is yet to tell
)

// warnAt is the utilization from which a client should be warned.
const warnAt = 0.8

func (s state) tone() tone {
	switch s {
	case warned:
		return warn
	case over:
		return bad
	case blocked:
		return alarm
	case seeding:
		return dim
	}
	return plain
}

// entryOf returns the table's entry for a limit as meterd shows it.
func entryOf(client string, l *limitAnswer, known state) entry {
	e := entry{client: client, meter: l.Meter, period: periodName(l.Period.ID), usage: grouped(l.Usage), limit: grouped(l.Limit), state: known}
	e.utilization, _ = strconv.ParseFloat(l.Utilization, 64) // of what is no number, 0 is shown
	switch {
	case known != fine:
	case l.Blocked:
		e.state = blocked
	case e.utilization >= 1:
		e.state = over
	case e.utilization >= warnAt:
		e.state = warned
	}
	return e
}

// periodName tells a kind of period by an id of it.
func periodName(id string) string {
	switch {
	case strings.Contains(id, "T"):
		return "hour"
	case len(id) == len("2026-11-22"):
		return "day"
	}
	return "month"
}

// byUtilization sorts what is most used to the top.
func byUtilization(entries []entry) {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.utilization, a.utilization), cmp.Compare(a.client, b.client), cmp.Compare(a.meter, b.meter))
	})
}

// tableWidth is what a table has without its bar.
const (
	tableWidth = 71
	minBar     = 4
	maxBar     = 30
)

// table returns the heading and a line for each entry, at most width columns
// wide. Where there is little room the bar is the first to go, then the period.
func table(entries []entry, width int) []line {
	bar := min(width-tableWidth-1, maxBar)
	lines := []line{{text: fit(columns(width, "CLIENT", "METER", "PER", "USAGE", "LIMIT", "USED", strings.Repeat(" ", max(bar, 0)), "STATE"), width), tone: bold}}
	for i := range entries {
		e := &entries[i]
		text := columns(width, e.client, e.meter, e.period, e.usage, e.limit, fmt.Sprintf("%.1f%%", 100*e.utilization), gauge(e.utilization, bar), string(e.state))
		lines = append(lines, line{text: fit(text, width), tone: e.state.tone()})
	}
	return lines
}

func columns(width int, client, meter, period, usage, limit, used, bar, state string) string {
	text := fmt.Sprintf("%-11s %-9s ", fit(client, 11), fit(meter, 9))
	if width >= tableWidth {
		text += fmt.Sprintf("%-5s ", period)
	}
	text += fmt.Sprintf("%13s %13s %7s ", usage, limit, used)
	if width >= tableWidth+minBar+1 {
		text += bar + " "
	}
	return text + state
}

// gauge draws how much of 1 a utilization is.
func gauge(utilization float64, width int) string {
	if width < 1 {
		return ""
	}
	filled := int(min(max(utilization, 0), 1) * float64(width))
	return strings.Repeat("█", filled) + strings.Repeat("░", width-filled)
}

// grouped sets commas into a decimal.
func grouped(decimal string) string {
	whole, rest, _ := strings.Cut(decimal, ".")
	digits, sign := strings.TrimPrefix(whole, "-"), ""
	if digits != whole {
		sign = "-"
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if rest != "" {
		rest = "." + rest
	}
	return sign + digits + rest
}

func commas(n int64) string { return grouped(strconv.FormatInt(n, 10)) }

// status is what is told in one line about the whole.
type status struct {
	up           time.Duration
	counted      int64   // events
	perSecond    float64 // of them, lately
	lag          int64   // records
	transactions float64 // a second, lately
	limitEvents  int64
	duplicates   int64
	refused      int64 // at the gate
}

func (s *status) line() line {
	return line{tone: bold, text: fmt.Sprintf(
		"up %s · %s counted · %s/s · lag %s · %.0f transactions/s · %s limit events · %s duplicates · %s refused",
		s.up.Round(time.Second), commas(s.counted), commas(int64(s.perSecond+0.5)), commas(s.lag),
		s.transactions, commas(s.limitEvents), commas(s.duplicates), commas(s.refused),
	)}
}
