// Package demo shows meterd at work on a machine that has nothing: Kafka, a
// schema registry, history and traffic are embedded in the process; what is
// between them is the real daemon, asked over HTTP and heard by a subscriber
// as anybody would.
//
// Run plays until its context or its time ends. Then it compares, and fails
// with ErrMismatch unless every total and every limit event is what the traffic
// makes it. Nothing is left behind: what is written lies in a temporary
// directory, and Kafka's records are in memory (some tens of megabytes a
// minute), so this is no way to run meterd for long.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
)

// Config is what a demonstration may be asked for.
type Config struct {
	Rate     int           // usage events a second
	Clients  int           // that use something
	Duration time.Duration // of the traffic; 0: until the context ends
	Listen   string        // address of HTTP; empty: 127.0.0.1:8080, or a free port where that is taken
	// Size returns the columns and lines of the terminal that is drawn on. Nil:
	// there is none, and plain lines are written.
	Size  func() (width, height int)
	Color bool // whether the terminal shows colours
}

// Default returns the configuration of a demonstration in plain lines.
func Default() Config { return Config{Rate: 2000, Clients: 300} }

// Validate returns what is wrong with c, each flag named with its range.
func (c *Config) Validate() error {
	var problems []error
	if c.Rate < 1 || c.Rate > 50_000 {
		problems = append(problems, fmt.Errorf("rate: %d is not between 1 and 50000", c.Rate))
	}
	if c.Clients < 1 || c.Clients > 5000 {
		problems = append(problems, fmt.Errorf("clients: %d is not between 1 and 5000", c.Clients))
	}
	if c.Duration < 0 {
		problems = append(problems, fmt.Errorf("duration: %s is negative", c.Duration))
	}
	return errors.Join(problems...)
}

// ErrMismatch is returned when meterd did not count what was produced, or did
// not announce each limit event once.
var ErrMismatch = errors.New("what meterd says is not what was produced")

const (
	partitions  = 4
	usageTopic  = "usage"
	calls       = "api_calls"
	traffic     = "bytes_out"
	startWithin = 30 * time.Second // from nothing to counting
	checkWithin = 60 * time.Second // from the last event to the verdict
)

// Run shows meterd on out until ctx ends or the traffic's time is up. It
// returns nil when all was right, ErrMismatch when the numbers are wrong, and
// another error when something broke.
func Run(ctx context.Context, cfg Config, out io.Writer) (err error) {
	if err := cfg.Validate(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "meterd-demo-")
	if err != nil {
		return fmt.Errorf("make temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	screen := newScreen(&cfg, out)
	defer screen.Close()
	screen.Say("starting Kafka, a schema registry and history, all in this process …")

	around, err := openSurroundings(ctx)
	if err != nil {
		return quiet(ctx, err)
	}
	defer func() { err = errors.Join(err, around.Close()) }()

	s := &stage{
		cfg: cfg, dir: dir, begun: time.Now(), around: around, screen: screen,
		ledger: newLedger(), gate: newGate(), crowd: newCrowd(cfg.Clients, cfg.Rate), registry: prometheus.NewRegistry(),
	}
	s.out = newSender(around, s.ledger)
	if err := s.prepare(ctx); err != nil {
		return quiet(ctx, err)
	}
	return quiet(ctx, s.run(ctx))
}

// quiet forgets an error that is only the context's end: whoever interrupts the
// demonstration while it starts has not found anything wrong.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// stage is a demonstration whose surroundings exist.
type stage struct {
	cfg      Config
	dir      string
	begun    time.Time
	around   *surroundings
	screen   screen
	ledger   *ledger
	gate     *gate
	crowd    *crowd
	out      *sender
	registry *prometheus.Registry

	accounts *accounts
	api      *api
	heard    *subscriber
}

// prepare makes what was there before meterd: the topics, what was used so far,
// and the contracts.
func (s *stage) prepare(ctx context.Context) error {
	meterd := s.configuration("")
	if err := s.around.createTopics(ctx, meterd); err != nil {
		return err
	}
	if err := s.crowd.past(ctx, s.out, s.begun); err != nil {
		return err
	}
	s.accounts = newAccounts(s.crowd, s.out, meterd.Contracts.Topic)
	return s.accounts.sign(ctx, s.begun)
}

// run starts meterd and its subscriber, plays, and stops both.
func (s *stage) run(ctx context.Context) error {
	listen, err := freeAddress(ctx, s.cfg.Listen)
	if err != nil {
		return err
	}
	meterd := s.configuration(listen)
	if err := meterd.Validate(); err != nil {
		return fmt.Errorf("configure meterd: %w", err)
	}
	if s.heard, err = newSubscriber(s.around, meterd.LimitEvents.Topic, s.listeners()...); err != nil {
		return err
	}
	defer s.heard.Close()

	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	parts, inner := errgroup.WithContext(inner)
	started := make(chan string, 1)
	parts.Go(func() error {
		opts := app.Options{Started: func(address string) { started <- address }}
		if err := app.Run(inner, meterd, opts, s.log(), s.registry); err != nil {
			return fmt.Errorf("meterd: %w", err)
		}
		return nil
	})
	parts.Go(func() error { return s.heard.Run(inner) })
	parts.Go(func() error {
		defer stop()
		return s.play(ctx, inner, started)
	})
	return parts.Wait()
}

// play waits for meterd, lets the traffic flow until ctx or the time ends, and
// compares. It gives up when inner ends, for then something else has failed.
func (s *stage) play(ctx, inner context.Context, started <-chan string) error {
	live, stop := context.WithCancel(inner)
	defer stop()
	defer context.AfterFunc(ctx, stop)()

	select {
	case <-live.Done():
		return live.Err()
	case address := <-started:
		s.api = newAPI("http://" + address)
		defer s.api.Close()
	}
	waiting, cancel := context.WithTimeout(live, startWithin)
	defer cancel()
	if err := s.api.awaitRunning(waiting, s.around.history.Boundaries(partitions)); err != nil {
		return fmt.Errorf("wait for meterd to count: %w", err)
	}
	if s.cfg.Duration > 0 {
		live, stop = context.WithTimeout(live, s.cfg.Duration)
		defer stop()
	}
	begun := time.Now()
	if err := s.flow(live); err != nil {
		return err
	}
	if inner.Err() != nil {
		return inner.Err()
	}
	return s.verdict(inner, time.Since(begun))
}

// flow runs traffic, accounts and display until ctx ends.
func (s *stage) flow(ctx context.Context) error {
	d := &display{
		api: s.api, screen: s.screen, accounts: s.accounts, crowd: s.crowd, heard: s.heard, gate: s.gate, since: time.Now(),
	}
	flows, ctx := errgroup.WithContext(ctx)
	flows.Go(func() error { return s.crowd.Run(ctx, s.out, s.gate) })
	flows.Go(func() error { return s.accounts.Run(ctx) })
	flows.Go(func() error { return d.Run(ctx) })
	return flows.Wait()
}

// listeners are told of every limit event, in this order.
func (s *stage) listeners() []func(*limitEvent) {
	return []func(*limitEvent){s.gate.hear, s.accounts.hear, func(e *limitEvent) { s.screen.Event(e.line()) }}
}

// log passes on what someone must know, as lines among the limit events.
func (s *stage) log() *zap.Logger { return newLog(s.screen) }

// configuration is that of the meterd between the embedded parts. It has the
// default names of topics.
func (s *stage) configuration(listen string) *config.Config {
	c := config.Default()
	c.Kafka.Brokers = s.around.kafka.ListenAddrs()
	c.SchemaRegistry.URL = s.around.registryURL
	c.Usage.Topic = usageTopic
	c.Usage.Start = "latest" // what is there already is history
	c.Meters = []config.Meter{
		{Name: calls, Aggregation: "count"},
		{Name: traffic, Aggregation: "sum", Unit: "bytes"},
	}
	c.History.Druid = &config.Druid{
		URL: s.around.historyURL, Datasource: datasource, Columns: historyColumns(),
		Timeout: config.Duration(10 * time.Second), MaxQueries: 2,
	}
	c.Commit.Interval = config.Duration(200 * time.Millisecond)
	c.State.Dir, c.State.MinFreeDisk = filepath.Join(s.dir, "state"), 0
	c.HTTP.Listen = listen
	return c
}

// freeAddress returns listen, or the usual address where that is free, or one
// with a port that the system chooses.
func freeAddress(ctx context.Context, listen string) (string, error) {
	if listen != "" {
		return listen, nil
	}
	const usual = "127.0.0.1:8080"
	var l net.ListenConfig
	probe, err := l.Listen(ctx, "tcp", usual)
	if err != nil {
		return "127.0.0.1:0", nil //nolint:nilerr // taken by someone else
	}
	if err := probe.Close(); err != nil {
		return "", fmt.Errorf("try %s: %w", usual, err)
	}
	return usual, nil
}
