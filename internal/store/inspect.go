package store

import (
	"fmt"
	"os"
	"path/filepath"
)

// Destroyable returns the names in dir that Destroy would delete, and changes
// nothing. Its errors are Destroy's.
func Destroyable(dir string) ([]string, error) {
	names, err := destroyable(dir)
	if err != nil {
		return nil, fmt.Errorf("look at store in %s: %w", dir, err)
	}
	return names, nil
}

func destroyable(dir string) ([]string, error) {
	ours, err := recognise(dir)
	if err != nil || len(ours) == 0 {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	return ours, lock.Close()
}

// Identify returns whose state dir has. Where there is none, that is an
// fs.ErrNotExist; what cannot be read is ErrCorrupt or ErrNewer.
func Identify(dir string) (Identity, error) {
	content, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		return Identity{}, fmt.Errorf("identify store in %s: %w", dir, err)
	}
	found, err := readHeader(content)
	if err != nil {
		return Identity{}, fmt.Errorf("identify store in %s: %w", dir, err)
	}
	return found.Identity, nil
}
