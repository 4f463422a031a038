package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/config"
)

// environment is what every command needs of its surroundings.
type environment struct {
	stdout, stderr io.Writer
	environ        []string // as of os.Environ

	configPath string   // --config or METERD_CONFIG
	sets       []string // --set
	started    bool     // a command runs: the command line was right
}

// getenv is os.Getenv on the environment.
func (e *environment) getenv(name string) string {
	for _, variable := range slices.Backward(e.environ) {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// urlVariable has the default of --url, which is no key of the configuration.
const urlVariable = "METERD_URL"

// loadConfig returns the configuration of --config, the environment and --set,
// and exitUsage if there is anything wrong with it.
func (e *environment) loadConfig() (*config.Config, error) {
	cfg, err := e.readConfig()
	if err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, exitError{exitUsage, err}
	}
	return cfg, nil
}

// readConfig is loadConfig without a look at what the values are.
func (e *environment) readConfig() (*config.Config, error) {
	overrides := map[string]string{}
	for _, set := range e.sets {
		key, value, ok := strings.Cut(set, "=")
		if !ok {
			return nil, exitError{exitUsage, fmt.Errorf("--set %s: must be key=value", set)}
		}
		overrides[key] = value
	}
	variables := slices.DeleteFunc(slices.Clone(e.environ), func(v string) bool { return strings.HasPrefix(v, urlVariable+"=") })
	cfg, err := config.Load(e.configPath, variables, overrides)
	if err != nil {
		return nil, exitError{exitUsage, err}
	}
	return cfg, nil
}

// untilSignal returns a context that ends with the command's or at SIGTERM,
// Ctrl-C or, unless nohup is wanted, the end of the terminal; a second signal
// kills at once.
func untilSignal(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Formats of --output.
const (
	outputTable = "table"
	outputJSON  = "json"
	outputYAML  = "yaml"
)

// output is the value of --output: the first of allowed by default.
type output struct {
	value   string
	allowed []string
}

// outputFlag gives cmd the flag --output.
func outputFlag(cmd *cobra.Command, allowed ...string) *output {
	o := &output{value: allowed[0], allowed: allowed}
	cmd.Flags().Var(o, "output", "`format`: "+strings.Join(allowed, " or "))
	return o
}

func (o *output) String() string { return o.value }
func (o *output) Type() string   { return "format" }

// Set refuses what the command cannot print.
func (o *output) Set(value string) error {
	if !slices.Contains(o.allowed, value) {
		return fmt.Errorf("must be %s", strings.TrimPrefix(strings.Join(o.allowed, " or "), " or "))
	}
	o.value = value
	return nil
}

// writeJSON prints v, indented.
func (e *environment) writeJSON(v any) error {
	encoder := json.NewEncoder(e.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// writeTable prints rows, the first of which may be a heading, in columns.
func (e *environment) writeTable(rows ...[]string) error {
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}
