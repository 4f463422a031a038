package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// ErrNotation is returned when a line is not in the notation.
var ErrNotation = errors.New("not in the notation")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotation, fmt.Sprintf(format, args...))
}

// firstTime is that of a step that says nothing of it.
const firstTime = "2025-11-10T10:00"

// contractsFrom is when contracts start that say nothing of it.
const contractsFrom = "2025-01-01T00:00:00Z"

// Parse reads the lines of a scenario, the first of which is line of the
// document. A first line that begins with # is its name.
func Parse(text string, line int) (*Scenario, error) {
	s := &Scenario{Line: line, Config: map[string]string{}}
	p := parser{scenario: s}
	if err := p.begin(text); err != nil {
		return nil, err
	}
	for i, raw := range strings.Split(text, "\n") {
		content := strings.TrimSpace(raw)
		if name, ok := strings.CutPrefix(content, "#"); ok {
			if s.Name == "" && len(s.Steps) == 0 {
				s.Name = strings.TrimSpace(name)
			}
			continue
		}
		if content == "" {
			continue
		}
		if err := p.line(content, line+i); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", line+i, content, err)
		}
	}
	return s, nil
}

// begin sets the time of steps before the first that has one: the usual time,
// or that one's where it is earlier.
func (p *parser) begin(text string) error {
	if _, err := p.clock(firstTime); err != nil {
		return err
	}
	usual := p.now
	for line := range strings.SplitSeq(text, "\n") {
		first, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if ok, err := p.clock(first); ok || err != nil { // an error is told of with its line
			break
		}
	}
	if p.now.After(usual) {
		p.now = usual
	}
	return nil
}

// parser reads lines one after the other.
type parser struct {
	scenario *Scenario
	now      time.Time
}

func (p *parser) line(text string, line int) error {
	s := p.scenario
	if more, ok := strings.CutPrefix(text, "->"); ok && len(s.Steps) > 0 {
		last := &s.Steps[len(s.Steps)-1]
		wants, err := parseWants(more)
		last.Want = append(last.Want, wants...)
		last.Text += " " + text
		return err
	}
	if reason, ok := strings.CutPrefix(text, "live:"); ok {
		s.Live = strings.TrimSpace(reason)
		return nil
	}
	if setting, ok := strings.CutPrefix(text, "config "); ok {
		key, value, ok := strings.Cut(setting, ":")
		if !ok {
			return bad("config is KEY: VALUE")
		}
		s.Config[strings.TrimSpace(key)] = strings.TrimSpace(value)
		return nil
	}
	does, told, _ := strings.Cut(text, "->")
	step, err := p.step(strings.TrimSpace(does))
	if err != nil {
		return err
	}
	step.Line, step.Text = line, text
	if step.Want, err = parseWants(told); err != nil {
		return err
	}
	s.Steps = append(s.Steps, step)
	return nil
}

// step reads what stands before the arrow.
func (p *parser) step(text string) (Step, error) {
	first, rest, _ := strings.Cut(text, " ")
	if ok, err := p.clock(first); err != nil {
		return Step{}, err
	} else if ok {
		text = strings.TrimSpace(rest)
	}
	step := Step{Time: usage.TimeOf(p.now)}
	words := words(text)
	if len(words) == 0 {
		return step, bad("a time alone is no step")
	}
	var err error
	switch words[0] {
	case "clock", "restart":
		step.kind = kind(words[0])
	case "remove":
		step.kind = contractStep
		if len(words) != 2 {
			return step, bad("remove CONTRACT")
		}
		step.contract = words[1]
	case "contract":
		step.kind = contractStep
		err = p.parseContract(&step, strings.TrimSpace(strings.TrimPrefix(text, "contract")))
	case "history":
		err = p.parseHistory(&step, words[1:])
	case "usage":
		step.kind = usageStep
		err = parseUsageQuery(&step, words[1:])
	case "check":
		step.kind = checkStep
		err = parseCheck(&step, words[1:])
	case "state":
		step.kind = stateStep
		if len(words) != 2 {
			return step, bad("state CONTRACT/LIMIT[VALUE]")
		}
		step.query.contract, step.query.limit, step.query.dimension = splitLimit(words[1])
	case "record":
		step.kind = useStep
		if len(words) < 3 {
			return step, bad("record CLIENT JSON")
		}
		step.client = words[1]
		_, step.record, _ = strings.Cut(text, words[1]+" ")
	default:
		step.kind = useStep
		err = p.parseUse(&step, words)
	}
	return step, err
}

var clockForm = regexp.MustCompile(`^(\d{4}-\d\d-\d\d)?(T?)(\d\d:\d\d(:\d\d(\.\d{1,3})?)?)?$`)

// clock takes text as the time of the step, if it is one.
func (p *parser) clock(text string) (bool, error) {
	found := clockForm.FindStringSubmatch(text)
	if found == nil || text == "" || text == "T" {
		return false, nil
	}
	at, err := p.instant(text)
	if err != nil {
		return false, err
	}
	p.now = at
	return true, nil
}

// instant reads a time in UTC, parts left out being those of the step's.
func (p *parser) instant(text string) (time.Time, error) {
	found := clockForm.FindStringSubmatch(strings.TrimSuffix(text, "Z"))
	if found == nil {
		return time.Time{}, bad("%q is not a time", text)
	}
	date, clock := found[1], found[3]
	if date == "" {
		date = p.now.Format(time.DateOnly)
	}
	if clock == "" {
		clock = "00:00"
	}
	if len(clock) == len("15:04") {
		clock += ":00"
	}
	at, err := time.Parse("2006-01-02T15:04:05", date+"T"+clock) // takes a fraction too
	if err != nil {
		return at, bad("%q is not a time", text)
	}
	return at, nil
}

// words splits at spaces that are not inside double quotes.
func words(text string) []string {
	var list []string
	quoted := false
	for _, w := range strings.FieldsFunc(text, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return c == ' ' && !quoted
	}) {
		list = append(list, strings.TrimSuffix(w, ","))
	}
	return list
}

// flags of a usage event.
const (
	voidFlag      = "void"
	abortedFlag   = "aborted"
	misplacedFlag = "misplaced"
)

func (p *parser) parseUse(step *Step, words []string) error {
	if len(words) < 2 {
		return bad("CLIENT METER [QUANTITY]")
	}
	step.client = words[0]
	step.fields = []field{{"meter", json.RawMessage(quote(words[1]))}}
	at := json.RawMessage(quote(step.Time.String()))
	for i, w := range words[2:] {
		name, value, pair := strings.Cut(w, "=")
		switch {
		case w == voidFlag:
			step.fields = append(step.fields, field{voidFlag, json.RawMessage("true")})
		case w == abortedFlag:
			step.aborted = true
		case w == misplacedFlag:
			step.misplaced = true
		case !pair && i == 0:
			step.fields = append(step.fields, field{"quantity", literal(w)})
		case !pair:
			return bad("%q", w)
		case name == "id":
			step.fields = append(step.fields, field{"event_id", json.RawMessage(quote(strings.Trim(value, `"`)))})
		case name == "at":
			t, err := p.instant(value)
			if err != nil {
				return err
			}
			at = json.RawMessage(quote(usage.TimeOf(t).String()))
		default:
			step.fields = append(step.fields, field{name, literal(value)})
		}
	}
	step.fields = append(step.fields, field{"timestamp", at})
	return nil
}

// literal is text as JSON, if it is any, and else as a JSON string.
func literal(text string) json.RawMessage {
	if json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	return json.RawMessage(quote(text))
}

func (p *parser) parseHistory(step *Step, words []string) error {
	switch {
	case len(words) == 1 && words[0] == string(answerStep):
		step.kind = answerStep
		return nil
	case len(words) == 1 && words[0] == string(failStep):
		step.kind = failStep
		return nil
	case len(words) < 3:
		return bad("history CLIENT METER QUANTITY")
	}
	step.kind = rowStep
	r := row{client: words[0], meter: words[1], events: 1, time: step.Time, values: map[string]string{}}
	var err error
	if r.quantity, err = usage.ParseDecimal(words[2]); err != nil {
		return bad("%q: %v", words[2], err)
	}
	for _, w := range words[3:] {
		name, value, pair := strings.Cut(w, "=")
		switch {
		case !pair:
			return bad("%q", w)
		case name == "events":
			if r.events, err = strconv.ParseInt(value, 10, 64); err != nil {
				return bad("%q: %v", w, err)
			}
		case name == "at":
			t, err := p.instant(value)
			if err != nil {
				return err
			}
			r.time = usage.TimeOf(t)
		default:
			r.values[name] = value
		}
	}
	step.row = r
	return nil
}

func parseUsageQuery(step *Step, words []string) error {
	if len(words) < 2 {
		return bad("usage CLIENT METER [in PERIOD] [of CONTRACT] [NAME=VALUE …]")
	}
	step.client = words[0]
	step.query = query{meter: words[1], values: map[string]string{}}
	for rest := words[2:]; len(rest) > 0; rest = rest[1:] {
		name, value, pair := strings.Cut(rest[0], "=")
		switch {
		case pair:
			step.query.values[name] = value
			continue
		case len(rest) < 2:
			return bad("%q", rest[0])
		case name == "in":
			step.query.period = rest[1]
		case name == "of":
			step.query.contract = rest[1]
		default:
			return bad("%q", rest[0])
		}
		rest = rest[1:]
	}
	return nil
}

func parseCheck(step *Step, words []string) error {
	if len(words) < 2 {
		return bad("check CLIENT METER [QUANTITY] [NAME=VALUE …]")
	}
	step.client = words[0]
	step.query = query{meter: words[1], values: map[string]string{}}
	for i, w := range words[2:] {
		name, value, pair := strings.Cut(w, "=")
		switch {
		case pair:
			step.query.values[name] = value
		case i == 0:
			step.query.quantity = w
		default:
			return bad("%q", w)
		}
	}
	return nil
}

// splitLimit reads [CONTRACT/]LIMIT[VALUE].
func splitLimit(text string) (contract, limit, dimension string) {
	if head, value, ok := strings.Cut(text, "["); ok {
		text, dimension = head, strings.TrimSuffix(value, "]")
	}
	if contract, limit, ok := strings.Cut(text, "/"); ok {
		return contract, limit, dimension
	}
	return "", text, dimension
}
