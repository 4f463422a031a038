package harness

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Result is what a run came to.
type Result struct {
	Faults     int
	Kinds      map[string]int
	Events     int64
	Answers    int
	Violations []string
}

// Add adds another run.
func (r *Result) Add(other Result) {
	if r.Kinds == nil {
		r.Kinds = map[string]int{}
	}
	r.Faults += other.Faults
	r.Events += other.Events
	r.Answers += other.Answers
	for k, n := range other.Kinds {
		r.Kinds[k] += n
	}
	r.Violations = append(r.Violations, other.Violations...)
}

func (r Result) String() string {
	return fmt.Sprintf("faults=%d events=%d violations=%d", r.Faults, r.Events, len(r.Violations))
}

// Run lets a plan happen in a new world. The error is for what has nothing to
// do with meterd.
func Run(ctx context.Context, opts Options, plan []Step) (result Result, err error) {
	for n, step := range plan {
		opts.Log("plan %3d  %s", n, step)
	}
	outer := ctx
	ctx, stop := context.WithCancel(outer)
	defer stop()
	w, err := NewWorld(ctx, opts, stop)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	backlog, first := opts.Events/2, int64(0)
	if w.withHistory() {
		first = opts.Events / 8
		if err := w.startHistory(ctx, first); err != nil {
			return result, err
		}
	}
	signed := contracts
	if first > 0 {
		signed = 0 // they are already
	}
	if err := w.load(ctx, "backlog", first, backlog-first, "--contracts", fmt.Sprint(signed)); err != nil {
		return result, err
	}
	if err := w.each(func(i *Instance) error { return i.Start() }); err != nil {
		return result, err
	}

	// The rest comes while things break, and a client polls.
	var took time.Duration
	for _, step := range plan {
		took += step.After
	}
	rate := max(1, int64(float64(opts.Events-backlog)/max(1, took.Seconds())))
	loaded := make(chan error, 1)
	go func() { loaded <- w.load(ctx, "live", backlog, opts.Events-backlog, "--rate", fmt.Sprint(rate)) }()
	polling, enough := context.WithCancel(ctx)
	polled := make(chan int, 1)
	go func() { polled <- w.poll(polling, opts.Seed) }()

	result.Kinds = w.perform(ctx, plan)
	for _, i := range w.instances {
		i.proxy.Heal()
		i.proxy.CeaseFire()
	}
	if err = <-loaded; err == nil && ctx.Err() == nil {
		w.check(ctx)
	}
	if w.violated() && !opts.Impatient {
		dumping, end := context.WithTimeout(context.WithoutCancel(ctx), recovery)
		err = errors.Join(err, w.dump(dumping))
		end()
	}
	enough()
	result.Answers = <-polled
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range result.Kinds {
		result.Faults += n
	}
	result.Events, result.Violations = w.events, w.violations
	if len(w.violations) > 0 && opts.Impatient {
		err = nil // it was cut short
	}
	return result, errors.Join(err, outer.Err())
}
