package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	diskBytes = 512 << 20
	// small is the only instance with a disk that can be filled. Root is needed
	// for it.
	small = "meterd-1"
)

// mount gives an instance its disk.
func (i *Instance) mount() error {
	if err := os.MkdirAll(i.disk, 0o700); err != nil || i.name != small {
		return err
	}
	if err := syscall.Mount("tmpfs", i.disk, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes)); err != nil {
		return fmt.Errorf("a disk to be filled, which takes root: %w", err)
	}
	return nil
}

func (i *Instance) unmount() error {
	if i.name != small {
		return nil
	}
	return syscall.Unmount(i.disk, syscall.MNT_DETACH)
}

// diskFull fills the disk until less is free than meterd wants, or nothing. It
// has to say so, and to go on when there is room again.
func diskFull(r *rand.Rand) (string, act) {
	left, d := pick(r, []int64{12 << 20, 4 << 20}), between(r, 2*time.Second, 5*time.Second)
	return fmt.Sprintf("%s to %d MiB for %s", small, left>>20, d), func(ctx context.Context, w *World) (bool, error) {
		i := w.instances[1]
		i.busy.Lock()
		defer i.busy.Unlock()
		filler := filepath.Join(i.disk, "filler")
		defer os.Remove(filler) //nolint:errcheck // it may be gone with the directory
		began := time.Now()
		if err := i.fill(filler, left); err != nil {
			return false, err
		}
		err := i.says(ctx, `"name":"disk","ok":false`, d)
		pause(ctx, d-time.Since(began))
		return true, err
	}
}

// fill leaves so many bytes free.
func (i *Instance) fill(filler string, left int64) error {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(i.disk, &stat); err != nil {
		return err
	}
	file, err := os.Create(filler)
	if err != nil {
		return err
	}
	err = syscall.Fallocate(int(file.Fd()), 0, 0, max(1, int64(stat.Bavail)*stat.Bsize-left))
	return errors.Join(err, file.Close())
}

// says waits until /readyz says a text. One that was started anew meanwhile
// need not.
func (i *Instance) says(ctx context.Context, text string, within time.Duration) error {
	i.mu.Lock()
	starts := i.starts
	i.mu.Unlock()
	until := time.Now().Add(within)
	for {
		err := i.Get(ctx, "/readyz?verbose", nil)
		if err != nil && strings.Contains(err.Error(), text) {
			return nil
		}
		i.mu.Lock()
		again := i.starts != starts
		i.mu.Unlock()
		if again || ctx.Err() != nil {
			return nil
		}
		if _, answered := errors.AsType[*statusError](err); time.Now().After(until) && err != nil && !answered {
			return nil // it does not run
		}
		if time.Now().After(until) {
			return fmt.Errorf("/readyz of %s does not say %s within %s: %w", i.name, text, within, err)
		}
		pause(ctx, 50*time.Millisecond)
	}
}
