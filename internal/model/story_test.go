package model_test

import (
	"fmt"
	"strings"

	"github.com/meterd/meterd/internal/model"
	"github.com/meterd/meterd/internal/usage"
)

// story is a life for people to read.
type story struct {
	world *world
	list  []*transaction
}

// String is a line for each input.
func (s story) String() string {
	var b strings.Builder
	cfg := &s.world.cfg
	fmt.Fprintf(&b, "\nperiods: %s %s, kept: %d, unknown meters: %s, history: %v, mark: %v\n", cfg.Catalog.Schedule.Kind, cfg.Catalog.Schedule.Zone,
		cfg.KeepPeriods, cfg.UnknownMeter, cfg.History, cfg.MarkSeeded)
	for _, tx := range s.list {
		fmt.Fprintf(&b, "at %s", tx.clock)
		if tx.restart {
			b.WriteString(", restored")
		}
		if b.WriteString([]string{"", ", rolled back once", ", crashed once"}[tx.fails]); tx.fails != none {
			fmt.Fprintf(&b, ", after which %d inputs come again", tx.again)
		}
		b.WriteByte('\n')
		for _, v := range tx.offline {
			fmt.Fprintf(&b, "  contract %d %s: %s\n", v.offset, v.id, v.value)
		}
		for _, in := range tx.inputs {
			fmt.Fprintf(&b, "  %s\n", in)
		}
	}
	return b.String()
}

func (in *input) String() string {
	switch {
	case in.revision != nil:
		return fmt.Sprintf("contract %d %s: %s", in.revision.offset, in.revision.id, in.revision.value)
	case in.Advance != nil:
		return fmt.Sprintf("partition time to %s", in.Advance)
	case in.Record == nil:
		return answerText(in.Answer)
	case in.Record.Event == nil:
		return fmt.Sprintf("undecodable of %s", in.Record.Timestamp)
	}
	e := in.Record.Event
	text := fmt.Sprintf("%s %s %s of %s in a record of %s", e.Client, e.Meter, e.Quantity, e.Time, in.Record.Timestamp)
	if len(e.ID) > 0 {
		text += fmt.Sprintf(" id %s", e.ID)
	}
	if e.Void {
		text += " void"
	}
	return text + fieldsText(e.Fields)
}

func answerText(a *model.Answer) string {
	text := fmt.Sprintf("answer to question %d, failed: %v", a.Pick, a.Failed)
	for _, r := range a.Rows {
		text += fmt.Sprintf("; %s void: %v, %d events of %s (%s to %s, latest %s) from %s for %s,%s",
			r.Meter, r.Void, r.Events, r.Quantity, r.Min, r.Max, r.Latest, r.First, r.Last, fieldsText(r.Fields))
	}
	return text
}

func fieldsText(fields []usage.Value) (text string) {
	for _, f := range fields {
		switch f.Kind {
		case usage.NullValue:
			text += " null"
		case usage.TextValue:
			text += fmt.Sprintf(" %.20q", f.Text)
		case usage.NumberValue:
			text += " " + f.Number.String()
		case usage.BooleanValue:
			text += fmt.Sprintf(" %v", f.True)
		default:
			text += " unfit"
		}
	}
	return text
}
