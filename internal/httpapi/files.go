package httpapi

import (
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// maxFileBytes bounds the files that a Server reads.
const maxFileBytes = 1 << 20

// reloaded is what a file says, read again on use when that is some seconds
// ago. A file that cannot be read leaves what it said before, and is told of
// once for each kind of trouble.
type reloaded[T any] struct {
	read   func() (T, error)
	now    func() time.Time
	failed func(error)

	mu      sync.Mutex // guards all below
	value   T
	at      time.Time
	trouble string
}

func newReloaded[T any](read func() (T, error), now func() time.Time, failed func(error)) (*reloaded[T], error) {
	value, err := read()
	if err != nil {
		return nil, err
	}
	return &reloaded[T]{read: read, now: now, failed: failed, value: value, at: now()}, nil
}

func (f *reloaded[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if now.Sub(f.at) < reloadEvery {
		return f.value
	}
	f.at = now
	value, err := f.read()
	if err != nil {
		if f.trouble != err.Error() {
			f.trouble = err.Error()
			f.failed(err)
		}
		return f.value
	}
	f.value, f.trouble = value, ""
	return value
}

// readFile is os.ReadFile with a bound.
func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxFileBytes)
	}
	return data, nil
}

func readRoots(name string) (*x509.CertPool, error) {
	data, err := readFile(name)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s has no certificate", name)
	}
	return pool, nil
}
