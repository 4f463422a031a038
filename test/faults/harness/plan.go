package harness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Step is a fault of a plan: what happens, and how long after the one before.
type Step struct {
	After time.Duration
	Kind  string
	Text  string
	// do brings the fault about and ends it. It is false when the fault found
	// nothing to meet.
	do func(ctx context.Context, w *World) (bool, error)
}

func (s Step) String() string {
	return fmt.Sprintf("%5.2fs  %-16s %s", s.After.Seconds(), s.Kind, s.Text)
}

// kind is a kind of fault.
type kind struct {
	name   string
	weight int
	draw   func(r *rand.Rand) (text string, do func(ctx context.Context, w *World) (bool, error))
}

// PlanOptions say what a plan is drawn from.
type PlanOptions struct {
	Seed   uint64
	Faults int
	Real   bool          // for real brokers
	Only   []string      // kinds; nil: all
	Gap    time.Duration // between two faults, on the average
}

// Draw draws a plan. The same options give the same plan.
func Draw(opts PlanOptions) ([]Step, error) {
	var from []kind
	total := 0
	for _, k := range kinds(opts.Real) {
		if len(opts.Only) == 0 || slices.Contains(opts.Only, k.name) {
			from = append(from, k)
			total += k.weight
		}
	}
	if total == 0 {
		return nil, fmt.Errorf("no kind of fault is one of %s", strings.Join(opts.Only, ", "))
	}
	r := rand.New(rand.NewPCG(opts.Seed, 0xfa17))
	var plan []Step
	for range opts.Faults {
		k := from[0]
		for n, i := r.IntN(total), 0; ; i++ {
			if k = from[i]; n < k.weight {
				break
			}
			n -= k.weight
		}
		step := Step{Kind: k.name, After: time.Duration(r.Int64N(2*int64(opts.Gap)) + 1)}
		step.Text, step.do = k.draw(r)
		plan = append(plan, step)
	}
	return plan, nil
}

// together is how many faults may be under way at once.
const together = 4

// perform lets the steps of a plan happen, and returns how many there were of
// each kind.
func (w *World) perform(ctx context.Context, plan []Step) map[string]int {
	var (
		all   sync.WaitGroup
		slots = make(chan struct{}, together)
		mu    sync.Mutex
		done  = map[string]int{}
	)
	for n, step := range plan {
		if !pause(ctx, step.After) {
			break
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			hit, err := step.do(ctx, w)
			switch {
			case err != nil && ctx.Err() == nil:
				w.violate("fault %d, %s %s: %v", n, step.Kind, step.Text, err)
			case !hit:
				w.log("fault %d: %s %s: met nothing", n, step.Kind, step.Text)
				return
			}
			w.log("fault %d: %s %s (%s)", n, step.Kind, step.Text, time.Since(began).Round(time.Millisecond))
			mu.Lock()
			defer mu.Unlock()
			done[step.Kind]++
		})
	}
	all.Wait()
	return done
}
