package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/config"
)

func newConfigCommand(env *environment) *cobra.Command {
	cmd := newGroupCommand("config", "Check and show the configuration")
	cmd.AddCommand(newConfigCheckCommand(env), newConfigShowCommand(env), newConfigSchemaCommand(env))
	return cmd
}

func newConfigCheckCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with the configuration; exit status 3 if anything is",
		Long: `Say what is wrong with the configuration; exit status 3 if anything is.

The files that it names (passwords, tokens, certificates and keys) are read too.
Nothing is connected to.`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := env.runConfig()
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			return err // there is nothing to check
		}
		switch {
		case format.value == outputJSON:
			if writeErr := env.writeJSON(checked{Valid: err == nil, Problems: problemsOf(err)}); writeErr != nil {
				return writeErr
			}
		case err == nil:
			fmt.Fprintf(env.stdout, "the configuration is right: application id %s, %d meters\n", cfg.ApplicationID, len(cfg.Meters))
		default:
			return exitError{exitWrong, errors.New(err.Error())}
		}
		if err != nil {
			return exitError{code: exitWrong}
		}
		return nil
	}
	return cmd
}

// runConfig is loadConfig for a process that will run: the files that the
// configuration names are looked at too.
func (e *environment) runConfig() (*config.Config, error) {
	cfg, err := e.loadConfig()
	if err != nil {
		return nil, err
	}
	if err := cfg.CheckFiles(); err != nil {
		return nil, exitError{exitUsage, err}
	}
	return cfg, nil
}

// problemsOf returns the text of each of the errors that err joins; one may
// have several lines.
func problemsOf(err error) []string {
	problems := []string{}
	if err == nil {
		return problems
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		err = exit.err
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return append(problems, err.Error())
	}
	for _, problem := range joined.Unwrap() {
		problems = append(problems, problem.Error())
	}
	return problems
}

// checked is what config check prints as JSON.
type checked struct {
	Valid    bool     `json:"valid"`
	Problems []string `json:"problems"`
}

func newConfigShowCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration that holds, defaults included and secrets left out",
		Args:  cobra.NoArgs,
	}
	format := outputFlag(cmd, outputYAML, outputJSON)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := env.readConfig()
		if err != nil {
			return err
		}
		text, err := cfg.YAML()
		if format.value == outputJSON {
			text, err = cfg.JSON()
		}
		if err != nil {
			return err
		}
		_, err = env.stdout.Write(text)
		return err
	}
	return cmd
}

func newConfigSchemaCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := env.stdout.Write(config.Schema())
			return err
		},
	}
}
