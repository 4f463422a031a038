// Package host tells what processes and the machine use, from Linux's /proc,
// and how fast the machine is at the moment.
package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc: a hundredth of a second on Linux.
const tick = 10 * time.Millisecond

// CPU returns the CPU time that a process has used, in steps of 10 ms; 0 for
// one that is not there.
func CPU(pid int) time.Duration {
	s, _ := status(pid)
	return s.cpu
}

type stat struct {
	group int
	cpu   time.Duration
}

func status(pid int) (stat, bool) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	return parseStat(content)
}

// parseStat reads /proc/PID/stat. Names in it may have any character; the last
// parenthesis ends them.
func parseStat(content []byte) (stat, bool) {
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	if len(fields) < 13 || fields[0] == "Z" {
		return stat{}, false
	}
	group, _ := strconv.Atoi(fields[2])
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return stat{group: group, cpu: time.Duration(user+system) * tick}, true
}

// Use is what a process group has used.
type Use struct {
	CPU  time.Duration
	Peak int64 // bytes of memory that its processes have had at most
}

// Group returns what the processes of a group have used.
func Group(group int) (use Use) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if s, ok := status(pid); ok && s.group == group {
			use.CPU += s.cpu
			use.Peak += peak(pid)
		}
	}
	return use
}

// peak returns the most memory that a process has had.
func peak(pid int) int64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	return kibibytes(content, "VmHWM:") << 10
}

// kibibytes returns the value of a line such as "VmHWM: 1234 kB".
func kibibytes(content []byte, name string) int64 {
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			if fields := strings.Fields(value); len(fields) > 0 {
				n, _ := strconv.ParseInt(fields[0], 10, 64)
				return n
			}
		}
	}
	return 0
}

// Machine is the CPU time of everything that runs, and what the hypervisor has
// taken away.
type Machine struct{ Busy, Stolen time.Duration }

// Now returns the machine's CPU time so far.
func Now() Machine {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}
	}
	return parseMachine(content)
}

// parseMachine reads the first line of /proc/stat: user, nice, system, idle,
// iowait, irq, softirq, steal.
func parseMachine(content []byte) (m Machine) {
	line, _, _ := bytes.Cut(content, []byte("\n"))
	for i, field := range strings.Fields(strings.TrimPrefix(string(line), "cpu")) {
		n, _ := strconv.ParseInt(field, 10, 64)
		switch i {
		case 0, 1, 2, 5, 6:
			m.Busy += time.Duration(n) * tick
		case 7:
			m.Stolen += time.Duration(n) * tick
		}
	}
	return m
}

// Model returns what the processor calls itself.
func Model() string {
	content, _ := os.ReadFile("/proc/cpuinfo")
	return model(content)
}

func model(content []byte) string {
	for line := range strings.Lines(string(content)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "an unnamed processor"
}

// Memory returns how much memory the machine has, in bytes.
func Memory() int64 {
	content, _ := os.ReadFile("/proc/meminfo")
	return kibibytes(content, "MemTotal:") << 10
}

// hashed is how much Speed hashes.
const hashed = 64 << 20

// Speed returns how long a fixed work takes, SHA-256 of 64 MiB: the best of
// three. On shared hosts the same code may cost twice as much when neighbours
// are busy, and no counter says so: only figures of one sitting can be compared.
func Speed() time.Duration {
	block := make([]byte, 1<<20)
	best := time.Hour
	for range 3 {
		began := time.Now()
		for range hashed / len(block) {
			sha256.Sum256(block)
		}
		best = min(best, time.Since(began))
	}
	return best
}

const (
	// window is how long the machine is watched, and restful how many cores
	// others may use meanwhile.
	window  = 2 * time.Second
	restful = 0.1
)

// AwaitQuiet waits until only the processes given and this one use the machine,
// at most for so long. It returns whether that came.
func AwaitQuiet(ctx context.Context, patience time.Duration, processes ...int) bool {
	until := time.Now().Add(patience)
	processes = append(processes, os.Getpid())
	for {
		before, ours := Now(), sum(processes)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(window):
		}
		after := Now()
		others := after.Busy - before.Busy + after.Stolen - before.Stolen - (sum(processes) - ours)
		if others.Seconds()/window.Seconds() < restful {
			return true
		}
		if time.Now().After(until) {
			return false
		}
	}
}

func sum(processes []int) (used time.Duration) {
	for _, pid := range processes {
		used += CPU(pid)
	}
	return used
}
