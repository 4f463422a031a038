package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/client"
	"github.com/meterd/meterd/internal/alerts"
)

func newExplainCommand(env *environment) *cobra.Command {
	meter := ""
	cmd := &cobra.Command{
		Use:   "explain CLIENT",
		Short: "Say how the numbers and limit events of a client came about",
		Args:  cobra.ExactArgs(1),
	}
	flags := env.addAPIFlags(cmd)
	cmd.Flags().StringVar(&meter, "meter", "", "only this `meter`")
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a, err := env.api(flags)
		if err != nil {
			return err
		}
		r := client.Request{Method: http.MethodGet, Path: "/v1/clients/" + url.PathEscape(args[0]) + "/explain"}
		if meter != "" {
			r.Query = url.Values{"meter": {meter}}
		}
		var raw json.RawMessage
		if err := a.Do(cmd.Context(), r, &raw); err != nil {
			return err
		}
		if format.value == outputJSON {
			return env.writeJSON(raw)
		}
		var x explanation
		if err := json.Unmarshal(raw, &x); err != nil {
			return fmt.Errorf("decode the answer of meterd: %w", err)
		}
		env.printExplanation(&x)
		return nil
	}
	return cmd
}

// explanation is what is printed of an answer.
type explanation struct {
	Client string `json:"client"`
	AsOf   struct {
		Topic      string `json:"topic"`
		Partition  int32  `json:"partition"`
		Offset     int64  `json:"offset"`
		Time       string `json:"time"`
		LagRecords int64  `json:"lag_records"`
	} `json:"as_of"`
	Complete  bool `json:"complete"`
	Contracts []struct {
		ID       string `json:"id"`
		State    string `json:"state"`
		Revision int64  `json:"revision"`
	} `json:"contracts"`
	Counters []explainedCounter `json:"counters"`
	Limits   []explainedLimit   `json:"limits"`
}

type explainedPeriod struct {
	ID       string `json:"id"`
	Timezone string `json:"timezone"`
}

type explainedCounter struct {
	Meter      string            `json:"meter"`
	Dimensions map[string]string `json:"dimensions"`
	Period     explainedPeriod   `json:"period"`
	Usage      string            `json:"usage"`
	Error      string            `json:"error"`
	Events     int64             `json:"events"`
	Seed       struct {
		State    string `json:"state"`
		Usage    string `json:"usage"`
		Boundary int64  `json:"boundary"`
		Cut      string `json:"cut"`
		Bound    string `json:"bound"`
	} `json:"seed"`
	Scope *struct {
		Contract string `json:"contract"`
	} `json:"scope"`
	Counted struct {
		From   int64   `json:"from"`
		To     int64   `json:"to"`
		Events int64   `json:"events"`
		Usage  *string `json:"usage"`
	} `json:"counted"`
}

type explainedLimit struct {
	Contract    string            `json:"contract"`
	LimitID     string            `json:"limit_id"`
	Meter       string            `json:"meter"`
	Dimensions  map[string]string `json:"dimensions"`
	Enforcement string            `json:"enforcement"`
	Limit       string            `json:"limit"`
	Usage       string            `json:"usage"`
	Blocked     bool              `json:"blocked"`
	Period      explainedPeriod   `json:"period"`
	Events      []explainedEvent  `json:"events"`
}

type explainedEvent struct {
	Sequence   int64        `json:"sequence"`
	Kind       string       `json:"kind"`
	Thresholds []string     `json:"thresholds"`
	Before     string       `json:"usage_before"`
	After      string       `json:"usage_after"`
	Revision   int64        `json:"contract_revision"`
	Cause      alerts.Cause `json:"cause"`
	Late       bool         `json:"late"`
	Marked     bool         `json:"marked"`
	DecidedAt  string       `json:"decided_at"`
}

func (e *environment) printExplanation(x *explanation) {
	state := "complete"
	if !x.Complete {
		state = "not complete: history is yet to tell of something"
	}
	fmt.Fprintf(e.stdout, "client %s: %s\n", x.Client, state)
	fmt.Fprintf(e.stdout, "as of %s: all below offset %d of %s, partition %d; %d records are yet to be counted\n",
		cmp.Or(x.AsOf.Time, "the beginning"), x.AsOf.Offset, x.AsOf.Topic, x.AsOf.Partition, x.AsOf.LagRecords)
	for _, c := range x.Contracts {
		fmt.Fprintf(e.stdout, "contract %s: %s, revision %d\n", c.ID, c.State, c.Revision)
	}
	for i := range x.Counters {
		e.printCounter(&x.Counters[i])
	}
	for i := range x.Limits {
		e.printLimit(&x.Limits[i])
	}
}

func (e *environment) printCounter(c *explainedCounter) {
	kept := ""
	if c.Scope != nil {
		kept = ", kept for " + c.Scope.Contract
	}
	about := ""
	if c.Error != "" {
		about = ", an estimate with a standard error of " + c.Error
	}
	fmt.Fprintf(e.stdout, "\n%s%s in %s (%s%s): %s of %d events%s\n",
		c.Meter, showValues(c.Dimensions), c.Period.ID, c.Period.Timezone, kept, c.Usage, c.Events, about)
	switch c.Seed.State {
	case "none":
	case "exact":
		fmt.Fprintf(e.stdout, "  history below offset %d: %s\n", c.Seed.Boundary, c.Seed.Usage)
	case "bounded":
		fmt.Fprintf(e.stdout, "  history before %s: %s, within a bound: %s\n", c.Seed.Cut, c.Seed.Usage, c.Seed.Bound)
	default:
		fmt.Fprintf(e.stdout, "  history below offset %d: %s\n", c.Seed.Boundary, c.Seed.State)
	}
	counted := fmt.Sprintf("%d events", c.Counted.Events)
	if c.Counted.Usage != nil {
		counted = *c.Counted.Usage + " of " + counted
	}
	fmt.Fprintf(e.stdout, "  stream from offset %d up to %d: %s\n", c.Counted.From, c.Counted.To, counted)
}

func (e *environment) printLimit(l *explainedLimit) {
	blocked := ""
	if l.Blocked {
		blocked = ", blocked"
	}
	fmt.Fprintf(e.stdout, "\n%s/%s%s, %s of %s in %s (%s): %s of %s%s\n",
		l.Contract, l.LimitID, showValues(l.Dimensions), l.Enforcement, l.Meter, l.Period.ID, l.Period.Timezone, l.Usage, l.Limit, blocked)
	for i := range l.Events {
		event := &l.Events[i]
		notes := ""
		if event.Late {
			notes += ", late"
		}
		if event.Marked {
			notes += ", in limit-state alone"
		}
		fmt.Fprintf(e.stdout, "  %d. %s %s at %s: %s -> %s by %s, contract revision %d%s\n",
			event.Sequence, event.Kind, strings.Join(event.Thresholds, " "), event.DecidedAt, event.Before, event.After,
			showCause(&event.Cause), event.Revision, notes)
	}
}

// showCause names the one thing that made a limit event.
func showCause(c *alerts.Cause) string {
	text := strings.ReplaceAll(string(c.Kind), "_", " ")
	if c.EventID != nil && *c.EventID != "" {
		text += fmt.Sprintf(" %q", *c.EventID)
	}
	if c.Topic != nil && c.Partition != nil && c.Offset != nil {
		text += fmt.Sprintf(" (%s, partition %d, offset %d)", *c.Topic, *c.Partition, *c.Offset)
	}
	return text
}
