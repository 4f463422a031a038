// Package contender knows the programs that the benchmark compares: how each is
// configured and started, and where and in which form it leaves what it has
// counted and told.
package contender

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/meterd/meterd/bench/load"
)

// Work is what a contender is given.
type Work struct {
	Brokers    string
	Registry   string
	SchemaID   uint32 // of the usage events
	Usage      string // topic
	Contracts  string // topic
	Partitions int32
	Meters     int
	Group      string // the consumer group, with which all of its own topics begin
	Dir        string // for its state
	HTTP       string // where to listen
	Core       int    // to run on; below 0: any
}

// Contender is a program that does the work.
type Contender interface {
	// Name is what the tables call it.
	Name() string
	// Once tells whether a repeated event is counted once.
	Once() bool
	// Prepare makes its topics.
	Prepare(ctx context.Context, w Work) error
	// Command is what starts it, and the environment it needs beside ours.
	Command(w Work) (args, env []string)
	// ReadyURL answers 200 once it works; "" where its group being at rest tells
	// that.
	ReadyURL(w Work) string
	// Topics are where its results are.
	Topics(w Work) Topics
	// Total passes a record of the changelog that is a counter on to seen.
	Total(seen *load.Seen, key, value []byte) error
	// Crossed calls fn for each threshold that a limit event says is crossed.
	Crossed(value []byte, fn func(client, meter, threshold string)) error
}

// Topics are a contender's own.
type Topics struct {
	Totals      string
	Changelogs  []string // all, Totals among them
	LimitEvents string
	DeadLetters string
	Others      []string
}

// All returns every topic.
func (t Topics) All() []string {
	return append(append([]string{t.LimitEvents, t.DeadLetters}, t.Changelogs...), t.Others...)
}

// Process is a contender that runs, in a process group of its own.
type Process struct {
	Group   int // its id, which is that of the first process too
	Started time.Time

	name  string
	log   string
	ended chan struct{}
	err   error // valid once ended is closed
}

// stopWithin bounds how long a contender takes to end.
const stopWithin = time.Minute

// Start starts a contender. What it prints goes to a file beside its state.
func Start(c Contender, w Work) (*Process, error) {
	args, env := c.Command(w)
	if w.Core >= 0 {
		args = append([]string{"taskset", "-c", fmt.Sprint(w.Core)}, args...)
	}
	if err := os.MkdirAll(w.Dir, 0o755); err != nil {
		return nil, err
	}
	p := &Process{name: c.Name(), log: filepath.Clean(w.Dir) + ".log", ended: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the process has its own
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.Started = time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	p.Group = cmd.Process.Pid
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Ended returns an error if the process is there no more, with the end of what
// it printed.
func (p *Process) Ended() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended early: %w: %s", p.name, errors.Join(p.err, errEnded), p.Tail())
	default:
		return nil
	}
}

// errEnded keeps the error of a process that has ended well, but too early.
var errEnded = errors.New("it was to run on")

// tailBytes is how much of what was printed is told.
const tailBytes = 2000

// Tail returns the end of what the process has printed.
func (p *Process) Tail() string {
	content, _ := os.ReadFile(p.log)
	return string(content[max(0, len(content)-tailBytes):])
}

// Stop asks the process to end, kills it if it does not, and returns when it is
// gone.
func (p *Process) Stop() error {
	_ = syscall.Kill(-p.Group, syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopWithin):
		_ = syscall.Kill(-p.Group, syscall.SIGKILL)
		<-p.ended
		return fmt.Errorf("%s did not end within %s and was killed", p.name, stopWithin)
	}
}

// Kill ends the process at once.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.Group, syscall.SIGKILL) // it may have ended
	<-p.ended
}
