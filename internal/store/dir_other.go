//go:build !linux && !darwin && !freebsd

package store

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lockDir cannot keep other processes out here, so nobody gets in.
func lockDir(string) (*os.File, error) {
	return nil, fmt.Errorf("local state on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func freeBytes(string) (int64, error) {
	return 0, fmt.Errorf("free space on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
