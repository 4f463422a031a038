package verify

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/alerts"
)

// Subject is what a difference is about.
type Subject string

// The subjects of differences.
const (
	Position    Subject = "position"
	Counter     Subject = "counter"
	LimitEvent  Subject = "limit-event"
	LimitRecord Subject = "limit-record" // of the changelog
	LimitState  Subject = "limit-state"
	DeadLetter  Subject = "dead-letter"
	Marks       Subject = "dedupe" // ids of the dedupe window
	LedgerTotal Subject = "ledger"
	Answer      Subject = "http"
)

// Difference is one thing that is not as it must be.
type Difference struct {
	Subject   Subject
	Partition int32  // -1: of none in particular
	Key       string // what it is about; may be empty
	Problem   string
}

// String returns d in one line.
func (d Difference) String() string {
	text := string(d.Subject)
	if d.Partition >= 0 {
		text += fmt.Sprintf(" partition %d", d.Partition)
	}
	if d.Key != "" {
		text += " " + d.Key
	}
	return text + ": " + strings.ReplaceAll(d.Problem, "\n", " ")
}

// unlike returns in which fields two limit events differ, as text, or "".
func unlike(have, want *alerts.Event) string {
	h, w := fieldsOf(have), fieldsOf(want)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(w)) {
		if string(h[name]) != string(w[name]) {
			list = append(list, fmt.Sprintf("%s is %s, must be %s", name, h[name], w[name]))
		}
	}
	return strings.Join(list, "; ")
}

func fieldsOf(e *alerts.Event) map[string]json.RawMessage {
	fields := map[string]json.RawMessage{}
	text, err := json.Marshal(e)
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil { // of a time that RFC 3339 has no form for
		fields["event"] = json.RawMessage(err.Error())
	}
	return fields
}
