// Package planted has defects of the kind that the harness is there to find.
//
// Each is a few texts of meterd's source that are replaced in a build, and the
// faults that bring it to light. A harness that finds one of them missing finds
// nothing.
package planted

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Bug is a defect.
type Bug struct {
	Name  string
	What  string // somebody did, and what comes of it
	Edits []Edit
	Kinds []string // of faults that meet it
	Even  bool     // it takes static members
	Few   bool     // a round of few of them is enough: they take long
}

// Edit replaces a text that a file has exactly once.
type Edit struct{ File, Old, New string }

// ErrEdit is returned when the source has changed, so that a defect can no
// longer be planted as it is written here.
var ErrEdit = errors.New("the text to be replaced is not there exactly once")

// Overlay writes the changed files below dir, and what "go build -overlay"
// reads. root is the module's.
func (b *Bug) Overlay(root, dir string) (string, error) {
	changed, err := b.apply(root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, content := range changed {
		original, err := filepath.Abs(filepath.Join(root, file))
		if err != nil {
			return "", err
		}
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(content), 0o600); err != nil {
			return "", err
		}
		replace[original] = to
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o600)
}

// apply returns the changed files.
func (b *Bug) apply(root string) (map[string]string, error) {
	changed := map[string]string{}
	for _, e := range b.Edits {
		content, ok := changed[e.File]
		if !ok {
			read, err := os.ReadFile(filepath.Join(root, e.File))
			if err != nil {
				return nil, err
			}
			content = string(read)
		}
		if n := strings.Count(content, e.Old); n != 1 {
			return nil, fmt.Errorf("%s: %s has it %d times: %w: %s", b.Name, e.File, n, ErrEdit, e.Old)
		}
		changed[e.File] = strings.Replace(content, e.Old, e.New, 1)
	}
	return changed, nil
}
