package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/client"
	"github.com/meterd/meterd/internal/alerts"
)

func newContractsCommand(env *environment) *cobra.Command {
	cmd := newGroupCommand("contracts", "Show, compare and change the contracts of a running meterd")
	flags := env.addAPIFlags(cmd)
	cmd.AddCommand(
		newContractsApplyCommand(env, flags), newContractsGetCommand(env, flags),
		newContractsDiffCommand(env, flags), newContractsDeleteCommand(env, flags),
	)
	return cmd
}

// What becomes of a contract.
const (
	created   = "created"
	changed   = "changed"
	unchanged = "unchanged"
	deleted   = "deleted"
	rejected  = "rejected" // it is wrong, and nothing was written
	failed    = "failed"   // somebody else came first, or meterd could not
)

// outcome is what became of a contract, or would become of it.
type outcome struct {
	ID          string       `json:"id"`
	Result      string       `json:"result"`
	Revision    *int64       `json:"revision,omitempty"`
	Reason      string       `json:"reason,omitempty"`
	Differences []difference `json:"differences,omitempty"`
	DryRun      bool         `json:"dry_run,omitempty"`
	Effects     *effects     `json:"effects,omitempty"`
}

// effects are what a change would cause.
type effects struct {
	Events  []json.RawMessage `json:"events"`
	Pending bool              `json:"pending"`
	Away    []string          `json:"away,omitempty"`
}

// entry is a contract as meterd answers with it.
type entry struct {
	ID       string          `json:"id"`
	State    string          `json:"state"`
	Revision int64           `json:"revision"`
	Reason   *string         `json:"reason"`
	Contract json.RawMessage `json:"contract"`
}

func newContractsApplyCommand(env *environment, flags *apiFlags) *cobra.Command {
	var paths []string
	dry := false
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Write the contracts in files that differ from those in force",
		Long: `Write the contracts in files that differ from those in force, and wait until
meterd judges by them. A line says of each what became of it; contracts that no
file has stay as they are. Exit status 1 if one was rejected or failed.

A file has a contract, or a list of them, as JSON or YAML; of a directory all
.json, .yaml and .yml files are read. A contract that somebody else changes
meanwhile is left alone.`,
		Args: cobra.NoArgs,
	}
	filesFlag(cmd, &paths)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "write nothing, and print the limit events that it would cause")
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		documents, err := readDocuments(paths)
		if err != nil {
			return err
		}
		return env.each(flags, format, len(documents), func(a *api, i int) (outcome, error) {
			if dry {
				return a.tryDocument(cmd.Context(), &documents[i])
			}
			return a.applyDocument(cmd.Context(), &documents[i])
		})
	}
	return cmd
}

func filesFlag(cmd *cobra.Command, paths *[]string) {
	cmd.Flags().StringArrayVarP(paths, "filename", "f", nil, "`file` or directory with contracts; repeatable")
	_ = cmd.MarkFlagRequired("filename") // it fails for a flag that is not there
}

// each prints the outcome of n changes, one after the other, and fails if one
// of them did.
func (e *environment) each(flags *apiFlags, format *output, n int, change func(*api, int) (outcome, error)) error {
	a, err := e.api(flags)
	if err != nil {
		return err
	}
	list, bad := []outcome{}, false
	for i := range n {
		o, err := change(a, i)
		if err != nil {
			return err
		}
		bad = bad || o.Result == rejected || o.Result == failed
		list = append(list, o)
		if format.value == outputTable {
			e.printOutcome(&o)
		}
	}
	if format.value == outputJSON {
		if err := e.writeJSON(list); err != nil {
			return err
		}
	}
	if bad {
		return exitError{code: exitFailed}
	}
	return nil
}

func (e *environment) printOutcome(o *outcome) {
	switch {
	case o.Reason != "":
		fmt.Fprintf(e.stdout, "%s: %s: %s\n", o.ID, o.Result, o.Reason)
	case o.DryRun && o.Result != unchanged:
		fmt.Fprintf(e.stdout, "%s: would be %s\n", o.ID, o.Result)
	case o.Revision != nil && o.Result != unchanged:
		fmt.Fprintf(e.stdout, "%s: %s, revision %d\n", o.ID, o.Result, *o.Revision)
	default:
		fmt.Fprintf(e.stdout, "%s: %s\n", o.ID, o.Result)
	}
	for _, d := range o.Differences {
		fmt.Fprintf(e.stdout, "  %s\n", d)
	}
	if o.Effects != nil {
		e.printEffects(o.Effects)
	}
}

func (e *environment) printEffects(f *effects) {
	for _, raw := range f.Events {
		var event alerts.Event
		if err := json.Unmarshal(raw, &event); err != nil {
			fmt.Fprintf(e.stdout, "  %s\n", raw) // of a meterd that is not of this version
			continue
		}
		fmt.Fprintf(e.stdout, "  %s %s of %s/%s for %s%s: %s is %s of %s in %s\n",
			event.Kind, labels(event.Thresholds), event.Contract, event.LimitID, event.Client, showValues(event.Dimensions),
			event.Meter, event.UsageAfter, event.Limit, event.Period.ID)
	}
	if f.Pending {
		fmt.Fprintln(e.stdout, "  history is yet to be asked: more may follow")
	}
	for _, client := range f.Away {
		fmt.Fprintf(e.stdout, "  not known for %s: the instance that has it does not answer\n", client)
	}
}

func pathOf(id string) string { return "/v1/contracts/" + url.PathEscape(id) }

// current returns the contract in force, nil for none.
func (a *api) current(ctx context.Context, id string) (*entry, error) {
	var e entry
	err := a.Do(ctx, client.Request{Method: http.MethodGet, Path: pathOf(id)}, &e)
	if refused := (*client.Refused)(nil); errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &e, nil
}

// compare returns what applying d would do, and the header that lets it do that
// and nothing else.
func (a *api) compare(ctx context.Context, d *document) (outcome, http.Header, error) {
	o := outcome{ID: d.id, Result: created}
	if d.problem != "" {
		o.Result, o.Reason = rejected, d.problem
		return o, nil, nil
	}
	e, err := a.current(ctx, d.id)
	switch {
	case err != nil:
		return o, nil, err
	case e == nil:
		return o, http.Header{"If-None-Match": {"*"}}, nil
	}
	o.Result, o.Revision = unchanged, &e.Revision
	if o.Differences, err = differences(e.Contract, d.json); err != nil {
		return o, nil, err
	}
	if len(o.Differences) > 0 {
		o.Result = changed
	}
	return o, http.Header{"If-Match": {`"` + strconv.FormatInt(e.Revision, 10) + `"`}}, nil
}

func (a *api) applyDocument(ctx context.Context, d *document) (outcome, error) {
	o, header, err := a.compare(ctx, d)
	o.Differences = nil
	if err != nil || o.Result == unchanged || o.Result == rejected {
		return o.orRefused(err)
	}
	var e entry
	if err := a.Do(ctx, client.Request{Method: http.MethodPut, Path: pathOf(d.id), Header: header, Body: d.json}, &e); err != nil {
		return o.orRefused(err)
	}
	o.Revision = &e.Revision
	return o, nil
}

func (a *api) tryDocument(ctx context.Context, d *document) (outcome, error) {
	o, header, err := a.compare(ctx, d)
	o.Differences, o.DryRun = nil, true
	if err != nil || o.Result == unchanged || o.Result == rejected {
		return o.orRefused(err)
	}
	return a.try(ctx, o, client.Request{Method: http.MethodPut, Path: pathOf(d.id), Header: header, Body: d.json})
}

// try puts r as a dry run.
func (a *api) try(ctx context.Context, o outcome, r client.Request) (outcome, error) {
	o.DryRun, o.Effects, r.Query = true, &effects{}, url.Values{"dry_run": {"true"}}
	if err := a.Do(ctx, r, o.Effects); err != nil {
		o.Effects = nil
		return o.orRefused(err)
	}
	return o, nil
}

// orRefused makes an outcome of what meterd refuses for one contract. Any other
// error, and one that each contract would meet, stays one.
func (o outcome) orRefused(err error) (outcome, error) {
	refused := (*client.Refused)(nil)
	if err == nil || !errors.As(err, &refused) || refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden {
		return o, err
	}
	o.Revision, o.Reason, o.Result = nil, refused.Error(), failed
	if refused.Status == http.StatusUnprocessableEntity || refused.Status == http.StatusBadRequest {
		o.Result = rejected
	}
	return o, nil
}

func newContractsDiffCommand(env *environment, flags *apiFlags) *cobra.Command {
	var paths []string
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Print what apply would change; exit status 3 if there is anything",
		Args:  cobra.NoArgs,
	}
	filesFlag(cmd, &paths)
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		documents, err := readDocuments(paths)
		if err != nil {
			return err
		}
		different := false
		err = env.each(flags, format, len(documents), func(a *api, i int) (outcome, error) {
			o, _, err := a.compare(cmd.Context(), &documents[i])
			o.DryRun, o.Revision = true, nil
			different = different || o.Result != unchanged
			return o.orRefused(err)
		})
		if err == nil && different {
			return exitError{code: exitWrong}
		}
		return err
	}
	return cmd
}

func newContractsDeleteCommand(env *environment, flags *apiFlags) *cobra.Command {
	dry := false
	cmd := &cobra.Command{
		Use:   "delete ID...",
		Short: "Remove contracts; exit status 1 if there is none of such an id",
		Args:  cobra.MinimumNArgs(1),
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "write nothing, and print the limit events that it would cause")
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		return env.each(flags, format, len(ids), func(a *api, i int) (outcome, error) {
			o, r := outcome{ID: ids[i], Result: deleted}, client.Request{Method: http.MethodDelete, Path: pathOf(ids[i])}
			if dry {
				return a.try(cmd.Context(), o, r)
			}
			return o.orRefused(a.Do(cmd.Context(), r, nil))
		})
	}
	return cmd
}

func newContractsGetCommand(env *environment, flags *apiFlags) *cobra.Command {
	var client string
	state := &output{allowed: []string{"", "active", "future", "ended", "rejected"}}
	cmd := &cobra.Command{
		Use:   "get [ID]",
		Short: "Print the contract in force of this id, or all there are, rejected ones too",
		Args:  cobra.MaximumNArgs(1),
	}
	cmd.Flags().Var(state, "state", "only those in this `state`: active, future, ended or rejected")
	cmd.Flags().StringVar(&client, "client", "", "only those of this `client`")
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		a, err := env.api(flags)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			list, err := a.contracts(cmd.Context(), url.Values{"state": {state.value}, "client": {client}})
			if err != nil {
				return err
			}
			return env.printContracts(list, format.value)
		}
		e, err := a.current(cmd.Context(), ids[0])
		switch {
		case err != nil:
			return err
		case e == nil:
			return fmt.Errorf("%s: there is no contract of this id in force", ids[0])
		case format.value == outputJSON:
			return env.writeJSON(e)
		}
		return env.printContracts([]entry{*e}, format.value)
	}
	return cmd
}

// contracts returns all pages of the list.
func (a *api) contracts(ctx context.Context, filter url.Values) ([]entry, error) {
	list := []entry{}
	filter.Set("limit", "1000")
	for {
		var page struct {
			Contracts []entry `json:"contracts"`
			Next      string  `json:"next"`
		}
		if err := a.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/contracts", Query: filter}, &page); err != nil {
			return nil, err
		}
		list = append(list, page.Contracts...)
		if page.Next == "" {
			return list, nil
		}
		filter.Set("after", page.Next)
	}
}

func (e *environment) printContracts(list []entry, format string) error {
	if format == outputJSON {
		return e.writeJSON(list)
	}
	rows := [][]string{{"ID", "CLIENT", "STATE", "REVISION", "LIMITS", "REASON"}}
	for i := range list {
		var c struct {
			Client string            `json:"client"`
			Limits []json.RawMessage `json:"limits"`
		}
		_ = json.Unmarshal(list[i].Contract, &c) // a rejected one may be anything
		reason := ""
		if list[i].Reason != nil {
			reason = *list[i].Reason
		}
		rows = append(rows, []string{
			list[i].ID, c.Client, list[i].State, strconv.FormatInt(list[i].Revision, 10), strconv.Itoa(len(c.Limits)), reason,
		})
	}
	return e.writeTable(rows...)
}
