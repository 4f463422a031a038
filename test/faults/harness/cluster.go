package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Cluster is a Kafka that can be broken.
type Cluster interface {
	// Brokers are the addresses of all brokers.
	Brokers() []string
	// Units is how many parts of it can be killed and paused by themselves.
	Units() int
	Kill(unit int) error
	Start(unit int) error
	Pause(unit int) error
	Resume(unit int) error
	// Move gives partitions other leaders, or groups and transactions other
	// coordinators; errors.ErrUnsupported where only the death of a broker does.
	Move(what string) error
	Close() error
}

// fake is the in-memory Kafka in a process of its own. All of its brokers die
// together.
type fake struct {
	program []string // the command that serves
	ports   []int
	dir     string

	mu  sync.Mutex // guards what is below, and one line at a time
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// StartFake starts an in-memory Kafka of three brokers with the command
// program, which gets the directory and the ports.
func StartFake(program []string, dir string) (Cluster, error) {
	f := &fake{program: program, dir: dir}
	for range 3 {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		f.ports = append(f.ports, port)
	}
	return f, f.Start(0)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is there for a moment
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

func (f *fake) Brokers() []string {
	var list []string
	for _, p := range f.ports {
		list = append(list, net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
	}
	return list
}

func (f *fake) Units() int { return 1 }

func (f *fake) Start(int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	args := append(append([]string{}, f.program[1:]...), f.dir)
	for _, p := range f.ports {
		args = append(args, strconv.Itoa(p))
	}
	log, err := os.OpenFile(f.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the process has it
	cmd := exec.Command(f.program[0], args...)
	cmd.Stderr = log
	if f.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	f.cmd, f.out = cmd, bufio.NewReader(out)
	if line, err := f.out.ReadString('\n'); err != nil || strings.TrimSpace(line) != "ready" {
		return fmt.Errorf("broker is not ready: %q, %w; see %s", line, err, log.Name())
	}
	return nil
}

func (f *fake) Kill(int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.cmd.Process.Kill()
	_ = f.cmd.Wait() // it was killed
	return err
}

func (f *fake) Pause(int) error  { return f.signal(syscall.SIGSTOP) }
func (f *fake) Resume(int) error { return f.signal(syscall.SIGCONT) }

func (f *fake) signal(s os.Signal) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cmd.Process.Signal(s)
}

func (f *fake) Move(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := fmt.Fprintln(f.in, what); err != nil {
		return err
	}
	line, err := f.out.ReadString('\n')
	if err == nil && strings.TrimSpace(line) != "ok" {
		err = errors.New(line)
	}
	return err
}

func (f *fake) Close() error { return f.Kill(0) }

// real is Apache Kafka with three brokers, from the testbed's script.
type real struct {
	script string
	env    []string
	port   int
}

// StartReal starts three brokers, the first at port, with data in dir.
func StartReal(ctx context.Context, testbed, dir string, port int) (Cluster, error) {
	r := &real{
		script: filepath.Join(testbed, "kafka.sh"), port: port,
		env: append(os.Environ(), fmt.Sprintf("KAFKA_PORT=%d", port), "KAFKA_DATA="+dir, "KAFKA_HEAP=256m"),
	}
	if err := r.run("up", "3"); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, ctx.Err()
}

func (r *real) run(args ...string) error {
	cmd := exec.Command(r.script, args...)
	cmd.Env = r.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kafka.sh %v: %w: %s", args, err, out)
	}
	return nil
}

func (r *real) Brokers() []string {
	var list []string
	for i := range 3 {
		list = append(list, fmt.Sprintf("127.0.0.1:%d", r.port+i))
	}
	return list
}

func (r *real) Units() int            { return 3 }
func (r *real) Kill(unit int) error   { return r.run("kill", strconv.Itoa(unit+1)) }
func (r *real) Start(unit int) error  { return r.run("start", strconv.Itoa(unit+1)) }
func (r *real) Pause(unit int) error  { return r.run("pause", strconv.Itoa(unit+1)) }
func (r *real) Resume(unit int) error { return r.run("resume", strconv.Itoa(unit+1)) }
func (r *real) Move(string) error     { return errors.ErrUnsupported }
func (r *real) Close() error          { return r.run("reset") }

// pause waits and is false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
