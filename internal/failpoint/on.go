//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled tells whether this is a build for tests of faults.
const Enabled = true

var (
	plan  = armed{path: os.Getenv("FAILPOINTS")}
	clock = shifted{path: os.Getenv("FAILPOINTS_CLOCK")}
)

// Hit is called at a point.
func Hit(point string) {
	action := plan.at(point)
	if action == "" {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: %s\n", point, action)
	signal := syscall.SIGKILL
	if action == "stop" {
		signal = syscall.SIGSTOP
	}
	_ = syscall.Kill(os.Getpid(), signal)
	if signal == syscall.SIGKILL {
		select {} // nothing more is done, however late the signal comes
	}
}

// Now is the time, ahead or behind by the duration in the file that
// FAILPOINTS_CLOCK names. It is not monotonic when that changes.
func Now() time.Time {
	by := clock.by()
	if by == 0 {
		return time.Now()
	}
	return time.Now().Add(by).Round(0)
}

// armed is the point at which something is to happen next.
type armed struct {
	path string

	mu     sync.Mutex
	seen   time.Time // of the file
	point  string
	action string
	left   int
}

func (a *armed) at(point string) (action string) {
	if a.path == "" {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.read() || a.point != point {
		return ""
	}
	if a.left--; a.left > 0 {
		return ""
	}
	a.left = -1
	if err := os.Remove(a.path); err != nil {
		return "" // it was taken back
	}
	return a.action
}

// read takes in the file, if it is new, and is false where nothing is armed.
func (a *armed) read() bool {
	info, err := os.Stat(a.path)
	if err != nil {
		a.seen = time.Time{}
		return false
	}
	if info.ModTime().Equal(a.seen) {
		return a.left > 0
	}
	content, err := os.ReadFile(a.path)
	if err != nil {
		return false
	}
	a.seen = info.ModTime()
	if n, _ := fmt.Sscan(string(content), &a.point, &a.action, &a.left); n != 3 {
		a.left = 0
	}
	return a.left > 0
}

// shifted is a clock that is ahead or behind.
type shifted struct {
	path string

	mu    sync.Mutex
	next  time.Time // when the file is looked at again
	ahead time.Duration
}

func (s *shifted) by() time.Duration {
	if s.path == "" {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.After(s.next) {
		s.next, s.ahead = now.Add(10*time.Millisecond), 0
		if content, err := os.ReadFile(s.path); err == nil {
			s.ahead, _ = time.ParseDuration(strings.TrimSpace(string(content)))
		}
	}
	return s.ahead
}
