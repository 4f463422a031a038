package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/test/faults/harness"
)

// settings of a run.
type settings struct {
	seed     uint64
	faults   int
	events   int64
	duration time.Duration
	round    int
	worlds   int
	real     bool
	kinds    string
	gap      time.Duration
	binary   string
	dir      string
	testbed  string
	port     int
	mixed    bool // every fifth round is on real brokers
}

func (s *settings) flags(f *flag.FlagSet) {
	f.Uint64Var(&s.seed, "seed", 1, "where all that is random comes from")
	f.IntVar(&s.faults, "faults", 20, "at least so many faults")
	f.Int64Var(&s.events, "events", 200_000, "at least so many events")
	f.DurationVar(&s.duration, "duration", 0, "at least so long")
	f.IntVar(&s.round, "round", 25, "faults of a round, after which everything is checked")
	f.IntVar(&s.worlds, "worlds", 1, "rounds at the same time")
	f.BoolVar(&s.real, "real", false, "Apache Kafka with three brokers instead of the in-memory one")
	f.StringVar(&s.kinds, "only", "", "kinds of faults, with commas between them; by default all")
	f.DurationVar(&s.gap, "gap", 800*time.Millisecond, "between two faults, on the average")
	f.StringVar(&s.binary, "binary", "", "a meterd that was built with the tag failpoints; by default it is built")
	f.StringVar(&s.dir, "dir", "", "for logs and data; by default a new one, which goes when nothing was wrong")
	f.StringVar(&s.testbed, "testbed", "test/testbed", "the testbed's directory, for real Kafka")
	f.IntVar(&s.port, "port", 22500, "the first broker's, for real Kafka")
}

var errViolated = errors.New("a promise was broken")

func runPlans(ctx context.Context, args []string) error {
	var s settings
	f := flag.NewFlagSet("faults run", flag.ContinueOnError)
	s.flags(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	return s.perform(ctx)
}

// soak goes on for a long time, whatever it finds.
func soak(ctx context.Context, args []string) error {
	s := settings{mixed: true}
	f := flag.NewFlagSet("faults soak", flag.ContinueOnError)
	s.flags(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	if s.duration == 0 {
		s.duration = time.Hour
	}
	return s.perform(ctx)
}

func (s settings) perform(ctx context.Context) error {
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "faults-")
		if err != nil {
			return err
		}
		s.dir = dir
	}
	if s.binary == "" {
		s.binary = filepath.Join(s.dir, "meterd")
		if err := build(ctx, s.binary, ""); err != nil {
			return err
		}
	}
	r := runner{settings: s, only: split(s.kinds), began: time.Now()}
	err := r.all(ctx)
	fmt.Println(r.total.String())
	if err != nil {
		return err
	}
	if len(r.total.Violations) > 0 {
		return fmt.Errorf("%w: see %s", errViolated, s.dir)
	}
	return os.RemoveAll(s.dir)
}

// build builds meterd with failpoints, over which overlay, if any, is laid.
func build(ctx context.Context, to, overlay string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "failpoints", "-overlay", overlay, "-o", to, "./cmd/meterd")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build meterd: %w: %s", err, out)
	}
	return nil
}

// runner runs rounds until there is enough of everything.
type runner struct {
	settings
	only      []string // kinds of faults
	began     time.Time
	impatient bool // the first thing that is wrong ends a round

	brokers sync.Mutex // held during a round on real brokers

	mu      sync.Mutex
	rounds  uint64
	running int
	total   harness.Result
}

func (r *runner) all(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range r.worlds {
		g.Go(func() error {
			for {
				seed, more := r.next()
				if !more || ctx.Err() != nil {
					return ctx.Err()
				}
				result, err := r.one(ctx, seed)
				if err != nil && (!r.mixed || ctx.Err() != nil) {
					return fmt.Errorf("round with seed %d: %w", seed, err)
				}
				if err != nil { // one that goes on for hours goes on
					result.Violations = append(result.Violations, err.Error())
				}
				r.mu.Lock()
				r.running--
				r.total.Add(result)
				fmt.Printf("seed %d: %s answers=%d after %s; in all %s\n", seed, result, result.Answers, time.Since(r.began).Round(time.Second), r.total)
				r.mu.Unlock()
			}
		})
	}
	return g.Wait()
}

// planned is how many rounds it takes, if all faults meet something.
func (r *runner) planned() int { return (r.faults + r.round - 1) / r.round }

// perRound is how many events a round has. Where the time is what bounds the
// whole, it is what the events say.
func (r *runner) perRound() int64 {
	if r.duration > 0 {
		return r.events
	}
	return (r.events + int64(r.planned()) - 1) / int64(r.planned())
}

// next returns the seed of the next round, if there is one.
func (r *runner) next() (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	enough := int(r.rounds) >= r.planned() && r.total.Faults >= r.faults && r.total.Events >= r.events
	if r.duration > 0 {
		enough = time.Since(r.began) >= r.duration
	}
	// what is under way counts as if half of its faults met something
	if enough || r.duration == 0 && int(r.rounds) >= r.planned() && r.running > 0 && r.total.Faults+r.running*r.round/2 >= r.faults {
		return 0, false
	}
	r.running++
	r.rounds++
	return r.seed + r.rounds - 1, true
}

func (r *runner) one(ctx context.Context, seed uint64) (result harness.Result, err error) {
	onReal := r.real || r.mixed && seed%5 == 0
	if onReal { // one at a time: three brokers are heavy
		r.brokers.Lock()
		defer r.brokers.Unlock()
	}
	plan, err := harness.Draw(harness.PlanOptions{
		Seed: seed, Faults: r.round, Real: onReal, Gap: r.gap, Only: r.only,
	})
	if err != nil {
		return result, err
	}
	dir := filepath.Join(r.dir, fmt.Sprintf("seed-%d", seed))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return result, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return result, err
	}
	defer log.Close() //nolint:errcheck // it is for reading along
	cluster, err := r.cluster(ctx, onReal, dir)
	if err != nil {
		return result, err
	}
	defer func() {
		err = errors.Join(err, cluster.Close())
		if err == nil && len(result.Violations) == 0 {
			err = os.RemoveAll(dir) // nothing to look at
		}
	}()
	return harness.Run(ctx, harness.Options{
		Binary: r.binary, Dir: dir, Cluster: cluster, Seed: seed, Events: r.perRound(), Log: logger(log, seed, r.impatient), Impatient: r.impatient,
	}, plan)
}

// logger writes to the log of a round, and what is wrong to the standard output
// too.
func logger(log *os.File, seed uint64, quiet bool) func(string, ...any) { //revive:disable-line:flag-parameter // it is of the setting, not of the call
	began := time.Now()
	var mu sync.Mutex
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		line := fmt.Sprintf("%8.3f seed %d: ", time.Since(began).Seconds(), seed) + fmt.Sprintf(format, args...)
		fmt.Fprintln(log, line)
		if !quiet && strings.HasPrefix(format, "VIOLATION") || os.Getenv("FAULTS_VERBOSE") != "" {
			fmt.Printf("%.2000s\n", line)
		}
	}
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func (r *runner) cluster(ctx context.Context, onReal bool, dir string) (harness.Cluster, error) {
	if onReal {
		return harness.StartReal(ctx, r.testbed, filepath.Join(dir, "kafka"), r.port)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return harness.StartFake([]string{self, "broker"}, filepath.Join(dir, "broker"))
}
