package load

import (
	"fmt"
	"strconv"
	"strings"
)

// Seen is what a contender has counted and told, read back from its topics.
type Seen struct {
	DeadLetters int64

	ledger    *Ledger
	totals    []Total
	crossings map[Crossing]int
	strangers int // totals and crossings of keys that are not in the load
}

// NewSeen is empty.
func (l *Ledger) NewSeen() *Seen {
	return &Seen{ledger: l, totals: make([]Total, len(l.all)), crossings: map[Crossing]int{}}
}

// Total takes a counter's total. The last one of a key is what holds.
func (s *Seen) Total(client, meter string, sum, count int64) {
	if k, ok := s.ledger.find(client, meter); ok {
		s.totals[k] = Total{Sum: sum, Count: count}
	} else {
		s.strangers++
	}
}

// Crossed takes a threshold of a limit event, such as "80%".
func (s *Seen) Crossed(client, meter, threshold string) {
	if c, ok := s.ledger.Crossing(client, meter, threshold); ok {
		s.crossings[c]++
	} else {
		s.strangers++
	}
}

// Crossing returns the crossing that a limit event tells.
func (l *Ledger) Crossing(client, meter, threshold string) (c Crossing, ok bool) {
	if c.Key, ok = l.find(client, meter); !ok {
		return c, false
	}
	c.Threshold, ok = parsePercent(threshold)
	return c, ok
}

func parsePercent(text string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSuffix(text, "%"), 10, 64)
	return n, err == nil
}

// Crossings returns how many were told.
func (s *Seen) Crossings() int { return len(s.crossings) }

// Differences returns in words what is not as the ledger has it; nothing is
// left out of the account: each total, each crossing exactly once, and as many
// dead letters as there are undecodable events. With once, a repeated event
// must have been counted once.
func (s *Seen) Differences(once bool) []string {
	list := append(s.wrongTotals(once), s.wrongCrossings(once)...)
	if s.DeadLetters != s.ledger.Undecodable {
		list = append(list, fmt.Sprintf("%d dead letters, not %d", s.DeadLetters, s.ledger.Undecodable))
	}
	if s.strangers > 0 {
		list = append(list, fmt.Sprintf("%d totals and crossings of what nobody has used", s.strangers))
	}
	return list
}

// examples of wrong totals are told in full.
const examples = 3

func (s *Seen) wrongTotals(once bool) (list []string) {
	wrong := 0
	for k, want := range s.ledger.totals(once) {
		if got := s.totals[k]; got != want {
			if wrong++; wrong <= examples {
				client, meter := k/s.ledger.Shape.Meters, k%s.ledger.Shape.Meters
				list = append(list, fmt.Sprintf("%s of %s is %+v, not %+v", Names[meter], s.ledger.Client(client), got, want))
			}
		}
	}
	if wrong > 0 {
		list = append(list, fmt.Sprintf("%d of %d totals differ", wrong, s.ledger.Keys))
	}
	return list
}

func (s *Seen) wrongCrossings(once bool) []string {
	due := s.ledger.crossings(once)
	missing, early, repeated := 0, 0, 0
	for c := range due {
		if s.crossings[c] == 0 {
			missing++
		}
	}
	for c, times := range s.crossings {
		if !due[c] {
			early++
		}
		if times > 1 {
			repeated++
		}
	}
	if missing+early+repeated == 0 {
		return nil
	}
	return []string{fmt.Sprintf("of %d crossings %d are missing, %d were not due, %d were told more than once", len(due), missing, early, repeated)}
}
