// Command faults proves that meterd counts exactly once whatever breaks.
//
//	faults run      lets a plan of faults happen and says what is wrong afterwards
//	faults soak     does that for as long as it is told, every fifth time on real brokers
//	faults planted  does the same to a meterd with a known bug, for each of them
//	faults broker   is the in-memory Kafka that run starts
//
// docs/reliability.md tells the method and the results.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/meterd/meterd/test/faults/broker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: faults run [FLAG] | soak [FLAG] | planted [FLAG] | broker DIR PORT")

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "run":
		return runPlans(ctx, args[1:])
	case "soak":
		return soak(ctx, args[1:])
	case "planted":
		return plant(ctx, args[1:])
	case "broker":
		return serve(ctx, args[1:])
	}
	return errUsage
}

func serve(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	var ports []int
	for _, a := range args[1:] {
		port, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		ports = append(ports, port)
	}
	return broker.Serve(ctx, ports, args[0], os.Stdin, os.Stdout)
}
