package scenario

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/meterd/meterd/internal/usage"
)

// Scenario is one example.
type Scenario struct {
	Name   string
	Rule   string            // "R7": the heading that it stands under
	Line   int               // in the document
	Config map[string]string // keys of the configuration that differ from the document's
	Steps  []Step

	// Live says why the clock must show the time of each step, as it does for a
	// daemon that keeps up and not for one that catches up; "" if it need not.
	Live string
}

// CatchesUp tells whether s comes out the same where its records are read long
// after they were produced. With history they are not: what is asked for
// depends on when counting began.
func (s *Scenario) CatchesUp() bool { return s.Live == "" && !s.hasHistory() }

// kind is what a step does.
type kind string

const (
	useStep      kind = "use"
	contractStep kind = "contract"
	clockStep    kind = "clock"
	restartStep  kind = "restart"
	rowStep      kind = "history"
	answerStep   kind = "answers"
	failStep     kind = "fails"
	usageStep    kind = "usage"
	stateStep    kind = "state"
	checkStep    kind = "check"
)

// Step is one line.
type Step struct {
	Line int
	Text string
	Time usage.Time // of the record
	Want []want

	kind   kind
	client string
	fields []field // of a usage event, in order
	record string  // instead of fields: the value as it is

	aborted   bool // the record is of a transaction that was aborted
	misplaced bool // the record is on a partition that is not its client's

	contract string          // id
	terms    json.RawMessage // of the contract; nil removes
	query    query
	row      row
}

// field is a key of a JSON object and its value.
type field struct {
	key   string
	value json.RawMessage
}

// query is what a step asks.
type query struct {
	meter, period, contract, limit string
	quantity                       string // "": 1
	values                         map[string]string
	dimension                      string
}

// row is usage that history has.
type row struct {
	client, meter string
	quantity      usage.Decimal
	events        int64
	time          usage.Time
	values        map[string]string
	offset        int64 // of its record, where that is one of the scenario's
}

// Names says what the clients and contracts of a scenario are called where
// several are played at once. The zero Names are the scenario's own.
type Names struct {
	Client   func(string) string
	Contract func(string) string
}

func (n Names) client(name string) string {
	if n.Client == nil {
		return name
	}
	return n.Client(name)
}

func (n Names) contract(id string) string {
	if n.Contract == nil {
		return id
	}
	return n.Contract(id)
}

// inTopic tells whether s stands in the usage topic. Steps that are no usage
// event stand there as records that mean nothing, to move partition time.
func (s *Step) inTopic() bool {
	switch s.kind {
	case usageStep, stateStep, checkStep, rowStep:
		return false
	default:
		return true
	}
}

// nothing is a record that is no event: a dead letter.
const nothing = `{}`

// usageRecord returns the value of the record of s.
func (s *Step) usageRecord(names Names) []byte {
	switch {
	case s.kind != useStep:
		return []byte(nothing)
	case s.fields == nil:
		return []byte(strings.ReplaceAll(s.record, quote(s.client), quote(names.client(s.client))))
	}
	var b bytes.Buffer
	b.WriteString(`{"client_id":` + quote(names.client(s.client)))
	for _, f := range s.fields {
		b.WriteString(`,` + quote(f.key) + `:`)
		b.Write(f.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// contractRecord returns the value of the record of s, nil to remove.
func (s *Step) contractRecord(names Names) []byte {
	if s.terms == nil {
		return nil
	}
	var o map[string]json.RawMessage
	if json.Unmarshal(s.terms, &o) != nil {
		return s.terms // it is to be rejected
	}
	for key, name := range map[string]func(string) string{"id": names.contract, "client": names.client} {
		var text string
		if json.Unmarshal(o[key], &text) == nil {
			o[key] = json.RawMessage(quote(name(text)))
		}
	}
	value, err := json.Marshal(o)
	if err != nil {
		return s.terms
	}
	return value
}

func quote(text string) string { return string(usage.AppendCanonicalString(nil, text)) }
