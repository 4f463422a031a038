package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/meterd/meterd/internal/demo"
)

func newDemoCommand(env *environment) *cobra.Command {
	cfg, plain := demo.Default(), false
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show meterd at work on this machine alone: Kafka, history and traffic are embedded",
		Long: `Show meterd at work on this machine alone.

Kafka, a schema registry, history and the traffic of some hundred clients are
embedded in this process; between them runs the real daemon, which can be asked
over HTTP meanwhile. At the end its numbers are compared with what was produced:
exit status 1 if they differ. Nothing is left behind.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().DurationVar(&cfg.Duration, "duration", cfg.Duration, "end after this `time`; 0: with Ctrl-C")
	cmd.Flags().IntVar(&cfg.Rate, "rate", cfg.Rate, "usage `events` a second")
	cmd.Flags().IntVar(&cfg.Clients, "clients", cfg.Clients, "`number` of clients, the first twelve with contracts")
	cmd.Flags().BoolVar(&plain, "plain", plain, "write lines, also on a terminal")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := cfg.Validate(); err != nil {
			return exitError{exitUsage, err}
		}
		if !plain {
			cfg.Size = terminalSize(env.stdout, env.getenv("TERM"))
			cfg.Color = env.getenv("NO_COLOR") == ""
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		return demo.Run(ctx, cfg, env.stdout)
	}
	return cmd
}

// terminalSize returns how to ask for the size of the terminal that out is, and
// nil where it is none that can be drawn on.
func terminalSize(out io.Writer, kind string) func() (width, height int) {
	file, ok := out.(*os.File)
	if !ok || kind == "dumb" || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return func() (width, height int) {
		width, height, err := term.GetSize(int(file.Fd()))
		if err != nil || width == 0 || height == 0 {
			return 80, 24
		}
		return width, height
	}
}
