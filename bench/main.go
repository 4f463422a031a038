// Command bench measures meterd and what users would pick instead, an
// application of Kafka Streams, on the same work: on a real Kafka, with the
// same filled topic, in turns, broker and program on a core each. bench/run.sh
// starts what it needs; bench/README.md says what is measured, and how.
//
// A run whose result is not what the ledger says has no figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meterd/meterd/bench/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills at once
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	brokers, registry, binary, java, streams, dir, out string
	commit, command                                    string
	broker                                             int
	pin, quick, keep                                   bool
	only                                               string
	events                                             int64
	contracts, rounds, seconds, warm, heap             int
	patience, budget                                   time.Duration
}

// parts are what can be asked for with -only.
var parts = []string{"throughput", "latency", "restore", "reads", "loads"}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.brokers, "kafka", "", "bootstrap address")
	f.StringVar(&o.registry, "registry", "", "URL of the schema registry")
	f.StringVar(&o.binary, "meterd", "bin/meterd", "binary to measure")
	f.StringVar(&o.java, "java", "java", "program that runs Kafka Streams")
	f.StringVar(&o.streams, "kstreams", "", "directory with kstreams.jar and lib; without it, meterd is measured alone")
	f.StringVar(&o.dir, "dir", os.TempDir(), "directory for state and configuration")
	f.StringVar(&o.out, "out", "bench", "directory for latest.json and latest.md")
	f.StringVar(&o.commit, "commit", "unknown", "what was built")
	f.StringVar(&o.command, "command", "", "how the benchmark was called")
	f.IntVar(&o.broker, "broker", 0, "process id of the broker, for its CPU")
	f.BoolVar(&o.pin, "pin", true, "broker on core 0, program on core 1, where there are two")
	f.BoolVar(&o.quick, "quick", false, "throughput and latency alone, with few rounds")
	f.BoolVar(&o.keep, "keep", false, "leave configurations and logs of the programs in the directory of -out")
	f.StringVar(&o.only, "only", "", "parts to run, of "+strings.Join(parts, ",")+"; by default all")
	f.Int64Var(&o.events, "events", 5_000_000, "events to catch up with")
	f.IntVar(&o.contracts, "contracts", 10_000, "clients that have a contract, those that use the most; each has a limit on every meter")
	f.IntVar(&o.rounds, "rounds", 5, "rounds")
	f.IntVar(&o.seconds, "seconds", 30, "how long each latency is measured")
	f.IntVar(&o.warm, "warm", 10, "seconds before that which do not count")
	f.IntVar(&o.heap, "heap", 0, "GiB of heap for Kafka Streams; 0: 3, or 1 on a machine with less than 8")
	f.DurationVar(&o.patience, "patience", time.Minute, "how long a run waits for the machine to be quiet")
	f.DurationVar(&o.budget, "budget", 0, "time for all; rounds that would not end within it are left out; 0: no bound")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is not a flag", f.Arg(0))
	case o.brokers == "" || o.registry == "":
		return o, errors.New("-kafka and -registry are required; bench/run.sh gives them")
	case o.events < 1000 || o.rounds < 1 || o.seconds < 1 || o.warm < 0:
		return o, errors.New("-events is less than 1000, or -rounds, -seconds or -warm too small")
	}
	for part := range strings.SplitSeq(o.only, ",") {
		if part != "" && !slices.Contains(parts, part) {
			return o, fmt.Errorf("-only: there is no part %q", part)
		}
	}
	return o, nil
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	b, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.plan(ctx); err != nil {
		// what there is until then is worth having
		return errors.Join(err, b.write())
	}
	if err := b.write(); err != nil {
		return err
	}
	if n := len(b.results.Wrong); n > 0 {
		return fmt.Errorf("%d runs were wrong", n)
	}
	return nil
}

// write prints the tables and leaves both files.
func (b *bench) write() error {
	if err := b.results.WriteMarkdown(os.Stdout); err != nil {
		return err
	}
	return errors.Join(
		create(filepath.Join(b.out, "latest.md"), &b.results, (*report.Results).WriteMarkdown),
		create(filepath.Join(b.out, "latest.json"), &b.results, (*report.Results).WriteJSON),
	)
}
