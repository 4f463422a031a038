package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/store"
)

func newResetCommand(env *environment) *cobra.Command {
	local, dryRun := false, false
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Delete the local state of a meterd that is stopped; it restores all of it from the changelog",
		Long: `Delete the local state (state.dir) of a meterd that is stopped.

Nothing is lost by it: at the next start all is restored from the changelog. A
directory that a running meterd has open, or in which there are files that are
not meterd's, is left as it is. Kafka's topics and positions are never touched;
to begin anew with those, use another application_id.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&local, "local-state", false, "delete what is in state.dir; must be given")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be deleted")
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(*cobra.Command, []string) error {
		if !local {
			return exitError{exitUsage, errors.New("--local-state: must be given, for nothing else can be reset")}
		}
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		names, err := store.Destroyable(cfg.State.Dir)
		if err == nil && !dryRun {
			err = store.Destroy(cfg.State.Dir)
		}
		if err != nil {
			return fmt.Errorf("state.dir: %w", err)
		}
		return env.printReset(resetReport{Dir: cfg.State.Dir, Deleted: names, DryRun: dryRun}, format.value)
	}
	return cmd
}

// resetReport is what reset prints as JSON. Deleted are names in Dir.
type resetReport struct {
	Dir     string   `json:"dir"`
	Deleted []string `json:"deleted"`
	DryRun  bool     `json:"dry_run"`
}

func (e *environment) printReset(r resetReport, format string) error {
	if r.Deleted == nil {
		r.Deleted = []string{}
	}
	if format == outputJSON {
		return e.writeJSON(r)
	}
	done := "deleted"
	if r.DryRun {
		done = "would be deleted"
	}
	if len(r.Deleted) == 0 {
		fmt.Fprintf(e.stdout, "%s: there is no local state\n", r.Dir)
		return nil
	}
	for _, name := range r.Deleted {
		fmt.Fprintf(e.stdout, "%s: %s %s\n", r.Dir, name, done)
	}
	return nil
}
