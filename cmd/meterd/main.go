// Command meterd counts usage from Kafka exactly once and tells who has passed
// a limit. "meterd --help" lists its commands.
//
// Exit status: 0 done, 1 failed, 2 used wrongly, 3 checked and found wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // used wrongly: an unknown flag or command, a bad configuration
	exitWrong  = 3 // checked and found wrong
)

// exitError is an error with the exit status it leads to; all others lead to
// exitFailed. Without err nothing is printed.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is main with its surroundings passed in. It returns the exit status.
func run(args, environ []string, stdout, stderr io.Writer) int {
	return runContext(context.Background(), args, environ, stdout, stderr)
}

// runContext is run with a context whose end is as good as a signal.
func runContext(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	env := &environment{stdout: stdout, stderr: stderr, environ: environ}
	root := newRootCommand(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	exit := exitError{code: exitFailed, err: err}
	if !errors.As(err, &exit) && !env.started {
		exit.code = exitUsage // cobra found the command line wrong
	}
	if exit.err != nil {
		for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
			fmt.Fprintln(stderr, "meterd:", line)
		}
	}
	return exit.code
}

// newRootCommand returns meterd with all its commands.
func newRootCommand(env *environment) *cobra.Command {
	root := newGroupCommand("meterd", "Count usage from Kafka exactly once, and tell who has passed a limit")
	root.Version = readBuild().Version
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.PersistentFlags().StringVar(&env.configPath, "config", env.getenv("METERD_CONFIG"), "configuration `file` (METERD_CONFIG)")
	root.PersistentFlags().StringArrayVar(&env.sets, "set", nil, "`key=value` of the configuration, as kafka.brokers=a:9092,b:9092; repeatable")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := cmd.ValidateRequiredFlags(); err != nil {
			return err
		}
		env.started = true
		return nil
	}
	root.AddCommand(
		newRunCommand(env),
		newDemoCommand(env),
		newTopicsCommand(env),
		newContractsCommand(env),
		newExplainCommand(env),
		newTopologyCommand(env),
		newAssignmentsCommand(env),
		newLoadgenCommand(env),
		newInspectCommand(env),
		newVerifyCommand(env),
		newResetCommand(env),
		newConfigCommand(env),
		newVersionCommand(env),
	)
	return root
}

// newGroupCommand returns a command that only has others below it.
func newGroupCommand(use, short string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return exitError{exitUsage, fmt.Errorf("a command is needed; %s --help lists them", cmd.CommandPath())}
		},
	}
}
