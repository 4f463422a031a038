package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/meterd/meterd/test/faults/proxy"
)

// Instance is a meterd and its surroundings: its network, its disk, and a
// supervisor that starts it anew whenever it ends.
type Instance struct {
	w       *World
	name    string
	proxy   *proxy.Proxy
	config  string
	disk    string // that its state is on
	dir     string // of its state
	address string // of its HTTP
	points  string // file of failpoints
	clock   string // file of its clock

	busy sync.Mutex // held during a fault of the process as a whole
	net  sync.Mutex // held during a fault of all of its network

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has ended
	status  error         // then, what it ended with
	wanted  bool          // it is to run
	killed  bool          // its end is our doing
	starts  int
	stopped context.CancelFunc // of the proxy
}

func (w *World) newInstance(ctx context.Context, name string) (*Instance, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	i := &Instance{
		w: w, name: name, address: fmt.Sprintf("127.0.0.1:%d", port), disk: filepath.Join(w.dir, name), dir: filepath.Join(w.dir, name, "state"),
		points: filepath.Join(w.dir, name+".failpoints"), clock: filepath.Join(w.dir, name+".clock"),
	}
	if i.proxy, err = proxy.Listen(ctx, w.cluster.Brokers()); err != nil {
		return nil, err
	}
	if i.w.cluster.Units() == 1 {
		i.proxy.HurryRebalances(sessionTimeout + time.Second) // longer than a member that hears nothing believes to be one
	}
	if err := i.mount(); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	i.stopped = stop
	w.parts.Go(func() error { return i.proxy.Run(running) })
	i.config, err = w.writeConfig(name, i.proxy.Addresses())
	return i, err
}

// Start starts the process and keeps it running.
func (i *Instance) Start() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.wanted = true
	return i.start()
}

// start is called with mu held.
func (i *Instance) start() error {
	log, err := os.OpenFile(i.logName(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the process has it
	cmd := exec.Command(i.w.opts.Binary, "run", "--config", i.config, "--set", "state.dir="+i.dir, "--set", "http.listen="+i.address)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "FAILPOINTS="+i.points, "FAILPOINTS_CLOCK="+i.clock, "GOMAXPROCS=2")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", i.name, err)
	}
	ended := make(chan struct{})
	i.cmd, i.ended, i.killed = cmd, ended, false
	i.starts++
	i.w.parts.Go(func() error {
		i.supervise(cmd, ended)
		return nil
	})
	return nil
}

func (i *Instance) logName() string { return filepath.Join(i.w.dir, i.name+".log") }

// supervise waits for the process and starts another, as any platform does.
func (i *Instance) supervise(cmd *exec.Cmd, ended chan struct{}) {
	err := cmd.Wait()
	i.mu.Lock()
	i.status = err
	again, ours := i.wanted, i.killed
	close(ended)
	i.mu.Unlock()
	if !again {
		return
	}
	if !ours {
		i.judgeExit(err)
		time.Sleep(200 * time.Millisecond)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.wanted && i.cmd == cmd {
		if err := i.start(); err != nil {
			i.w.violate("%v", err)
		}
	}
}

// judgeExit notes an end that nobody has brought about. A process may say that
// it cannot start without its broker or registry, and end; nothing else.
func (i *Instance) judgeExit(err error) {
	tail := i.tail(4 << 10)
	if strings.HasSuffix(strings.TrimSpace(tail), ": kill") {
		return // a failpoint
	}
	last := tail
	if n := strings.LastIndex(strings.TrimSpace(tail), "\n"); n >= 0 {
		last = strings.TrimSpace(tail[n:])
	}
	for _, reason := range excuses() {
		if strings.Contains(last, reason) {
			i.w.log("%s ended: %.300s", i.name, last)
			return
		}
	}
	i.w.violate("%s ended by itself: %v: %s", i.name, err, tail)
}

func (i *Instance) tail(most int) string {
	content, err := os.ReadFile(i.logName())
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-most):])
}

// Kill ends the process with SIGKILL; the supervisor starts it again.
func (i *Instance) Kill() {
	i.mu.Lock()
	i.killed = true
	cmd, ended := i.cmd, i.ended
	i.mu.Unlock()
	_ = cmd.Process.Kill() // it may have ended by itself
	<-ended
}

// Terminate sends SIGTERM; the supervisor starts another process when this one
// has ended.
func (i *Instance) Terminate() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.killed = true
	_ = i.cmd.Process.Signal(syscall.SIGTERM)
}

// Down ends the process with SIGKILL and leaves it so until Start.
func (i *Instance) Down() {
	i.mu.Lock()
	i.wanted = false
	cmd, ended := i.cmd, i.ended
	i.mu.Unlock()
	_ = cmd.Process.Kill()
	<-ended
}

// grace is how long a process may take to hand over.
const grace = time.Minute

// Stop ends the process with SIGTERM, and demands a clean end.
func (i *Instance) Stop() error {
	i.mu.Lock()
	i.wanted = false
	cmd, ended := i.cmd, i.ended
	i.mu.Unlock()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(grace):
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("%s did not stop within %s", i.name, grace)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.status != nil {
		return fmt.Errorf("%s stopped: %w: %s", i.name, i.status, i.tail(2<<10))
	}
	return nil
}

// Signal sends a signal to the process.
func (i *Instance) Signal(s syscall.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	_ = i.cmd.Process.Signal(s)
}

// Arm has the process do something to itself at a point.
func (i *Instance) Arm(point, action string, nth int) error {
	// in one piece, for the process may look at any time
	next := i.points + ".new"
	if err := os.WriteFile(next, fmt.Appendf(nil, "%s %s %d\n", point, action, nth), 0o600); err != nil {
		return err
	}
	return os.Rename(next, i.points)
}

// Fired waits until an armed point was reached, and disarms it when d is over.
func (i *Instance) Fired(ctx context.Context, d time.Duration) bool {
	until := time.Now().Add(d)
	for {
		if _, err := os.Stat(i.points); errors.Is(err, os.ErrNotExist) {
			return true
		}
		if time.Now().After(until) || !pause(ctx, 10*time.Millisecond) {
			return errors.Is(os.Remove(i.points), os.ErrNotExist)
		}
	}
}

// statusError is an answer that is not OK.
type statusError struct{ text string }

func (e *statusError) Error() string { return e.text }

var client = &http.Client{Timeout: 3 * time.Second}

// Get asks the process over HTTP, past the broken network.
func (i *Instance) Get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.address+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &statusError{fmt.Sprintf("GET %s of %s: status %d: %.1000s", path, i.name, resp.StatusCode, body)}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}
