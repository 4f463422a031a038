package scenario

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/alerts"
)

// want is one item of what comes of a step: a limit event, or words about the
// record or the answer to a query.
type want struct {
	text  string
	event bool

	kind     alerts.EventKind
	contract string
	limit    string
	value    string // the per values, in the order of their names, joined by ","
	labels   []string

	// What is compared where it is there.
	before, after string
	period, cause string
	amount        string // the limit's own
	client        string
	standing      []string // nil: not said
	late, seeded  bool
	sequence, id  string
}

var (
	totals     = regexp.MustCompile(`\(([^)]*)\)`)
	eventKinds = []alerts.EventKind{alerts.Crossed, alerts.Cleared, alerts.Reset}
)

// parseWants reads what stands after the arrow.
func parseWants(text string) ([]want, error) {
	var list []want
	for item := range strings.SplitSeq(text, ", ") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		w, err := parseWant(item)
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, nil
}

func parseWant(text string) (want, error) {
	w := want{text: text}
	first, _, _ := strings.Cut(text, " ")
	if !slices.Contains(eventKinds, alerts.EventKind(first)) {
		return w, nil
	}
	w.event, w.kind = true, alerts.EventKind(first)
	rest := strings.TrimPrefix(text, first)
	if found := totals.FindStringSubmatch(rest); found != nil {
		rest = strings.Replace(rest, found[0], "", 1)
		if total, ok := strings.CutPrefix(found[1], "at "); ok {
			w.before, w.after = total, total
		} else if before, after, ok := strings.Cut(found[1], " -> "); ok {
			w.before, w.after = before, after
		} else {
			return w, bad("%q is neither BEFORE -> AFTER nor at TOTAL", found[1])
		}
	}
	under := ""
	for i, word := range strings.Fields(rest) {
		switch {
		case slices.Contains([]string{"in", "by", "of", "for", "standing", "id"}, word):
			if under = word; word == "standing" {
				w.standing = []string{}
			}
		case word == "late":
			w.late = true
		case word == "seeded":
			w.seeded = true
		case strings.HasPrefix(word, "#"):
			w.sequence = word[1:]
		case under == "in":
			w.period = word
		case under == "by":
			w.cause = word
		case under == "of":
			w.amount = word
		case under == "for":
			w.client = word
		case under == "id":
			w.id = word
		case under == "standing" && word == "nothing":
		case under == "standing":
			w.standing = append(w.standing, word)
		case word[0] >= '0' && word[0] <= '9':
			w.labels = append(w.labels, word)
		case i == 0:
			w.contract, w.limit, w.value = splitLimit(word)
		default:
			return w, bad("%q", word)
		}
	}
	if len(w.labels) == 0 {
		return w, bad("%q names no threshold", text)
	}
	return w, nil
}

// about says in what e is not what w wants, or "".
func (w *want) about(e *alerts.Event) string {
	var labels []string
	for _, t := range e.Thresholds {
		labels = append(labels, t.Threshold)
	}
	for _, c := range []struct{ what, want, got string }{
		{"kind", string(w.kind), string(e.Kind)},
		{"contract", w.contract, e.Contract},
		{"limit", w.limit, e.LimitID},
		{"dimensions", w.value, valuesOf(e)},
		{"thresholds", strings.Join(w.labels, " "), strings.Join(labels, " ")},
		{"usage_before", w.before, e.UsageBefore},
		{"usage_after", w.after, e.UsageAfter},
		{"period", w.period, e.Period.ID},
		{"cause", w.cause, string(e.Cause.Kind)},
		{"limit", w.amount, e.Limit},
		{"client", w.client, e.Client},
		{"sequence", w.sequence, fmt.Sprint(e.Sequence)},
		{"id", w.id, e.ID},
	} {
		if c.want != c.got && (c.want != "" || c.what == "dimensions") {
			return fmt.Sprintf("%s is %q, not %q", c.what, c.got, c.want)
		}
	}
	if w.standing != nil && !slices.Equal(w.standing, e.Standing) {
		return fmt.Sprintf("standing is %v, not %v", e.Standing, w.standing)
	}
	// These two are few: an example that keeps quiet about them has none.
	if w.late != e.Late {
		return fmt.Sprintf("late is %v", e.Late)
	}
	if w.seeded != e.Seeded {
		return fmt.Sprintf("seeded is %v", e.Seeded)
	}
	return ""
}

// valuesOf returns the per values of e in the order of their names.
func valuesOf(e *alerts.Event) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(e.Dimensions)) {
		list = append(list, e.Dimensions[name])
	}
	return strings.Join(list, ",")
}

// line tells e in the notation, with all that there is to tell.
func line(e *alerts.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s/%s", e.Kind, e.Contract, e.LimitID)
	if len(e.Dimensions) > 0 {
		fmt.Fprintf(&b, "[%s]", valuesOf(e))
	}
	for _, t := range e.Thresholds {
		b.WriteString(" " + t.Threshold)
	}
	fmt.Fprintf(&b, " (%s -> %s) in %s by %s of %s for %s #%d standing %s",
		e.UsageBefore, e.UsageAfter, e.Period.ID, e.Cause.Kind, e.Limit, e.Client, e.Sequence, strings.Join(e.Standing, " "))
	if e.Late {
		b.WriteString(" late")
	}
	if e.Seeded {
		b.WriteString(" seeded")
	}
	return b.String()
}
