package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// What a store has in its directory, and nothing else of it is touched:
//
//	meterd.store    format and identity: JSON, and on the next line its checksum
//	meterd.lock     locked while a process has it open
//	meterd.opening  there while Badger is being opened, a byte for each try
//	counters/       Badger's files
const (
	identityFile = "meterd.store"
	lockFile     = "meterd.lock"
	openingFile  = "meterd.opening"
	dataDir      = "counters"

	// format is the version of all this and of the records in Badger.
	format = 1
)

// header is the first line of the identity file. Later formats may add to it,
// but keep its line, its checksum and its Format.
type header struct {
	Format int `json:"format"`
	Identity
}

// claim makes dir the identity's, or checks that it is. It returns the seed of
// all checksums in it.
func claim(dir string, id Identity) (uint32, error) {
	body, err := json.Marshal(header{Format: format, Identity: id})
	if err != nil {
		return 0, err
	}
	seed := crc32.Checksum(body, castagnoli())
	found, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return seed, create(dir, fmt.Appendf(body, "\n%08x\n", seed))
	}
	if err != nil {
		return 0, err
	}
	return seed, checkIdentity(found, id)
}

// create writes the identity file of a new store. If we die before the rename,
// there is none; after it, an empty store.
func create(dir string, content []byte) error {
	switch files, err := os.ReadDir(filepath.Join(dir, dataDir)); {
	case err == nil && len(files) > 0:
		return fmt.Errorf("%w: %s is missing", ErrCorrupt, identityFile)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	temporary := filepath.Join(dir, identityFile+".new")
	if err := writeSynced(temporary, content); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, identityFile)); err != nil {
		return err
	}
	return syncDir(dir)
}

func checkIdentity(content []byte, id Identity) error {
	found, err := readHeader(content)
	if err == nil && found.Identity != id {
		err = fmt.Errorf("%w: it is of %s, not of %s", ErrForeign, found.Identity, id)
	}
	return err
}

func readHeader(content []byte) (header, error) {
	var found header
	line, rest, _ := bytes.Cut(content, []byte("\n"))
	if string(rest) != fmt.Sprintf("%08x\n", crc32.Checksum(line, castagnoli())) {
		return found, fmt.Errorf("%w: checksum of %s", ErrCorrupt, identityFile)
	}
	if err := json.Unmarshal(line, &found); err != nil {
		return found, fmt.Errorf("%w: %s: %w", ErrCorrupt, identityFile, err)
	}
	if found.Format > format {
		return found, fmt.Errorf("%w: format %d, this version reads %d", ErrNewer, found.Format, format)
	}
	return found, nil
}

func writeSynced(name string, content []byte) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// beginOpening notes that an opening has begun and returns what takes the note
// away. Two notes found mean that two openings in a row died on the way, as
// Badger does on some damage without returning.
func beginOpening(dir string) (ended func() error, err error) {
	name := filepath.Join(dir, openingFile)
	switch info, err := os.Stat(name); {
	case err == nil && info.Size() >= 2:
		return nil, fmt.Errorf("%w: the last %d openings did not come to an end", ErrCorrupt, info.Size())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	_, err = file.WriteString("+")
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return func() error { return os.Remove(name) }, nil
}

// Destroy deletes the store in dir, whatever state it is in, so that it can be
// made anew. The directory itself and what else is in it stay.
//
// It returns ErrNotOurs, having deleted nothing, when dir holds other things
// but no store or when its counters directory has files that Badger does not
// write; and ErrInUse when a process has it open. A dir that is not there is
// destroyed already.
func Destroy(dir string) error {
	if err := destroy(dir); err != nil {
		return fmt.Errorf("destroy store in %s: %w", dir, err)
	}
	return nil
}

func destroy(dir string) error {
	ours, err := recognise(dir)
	if err != nil || len(ours) == 0 {
		return err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	// The identity goes last: if we die before, the next opening sees damage.
	for _, name := range ours {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return errors.Join(err, lock.Close())
		}
	}
	return errors.Join(syncDir(dir), lock.Close())
}

// recognise returns the names in dir that belong to a store and are to go, the
// identity last.
func recognise(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var strange string
	found := map[string]bool{}
	for _, file := range files {
		found[file.Name()] = true
		if !strings.HasPrefix(file.Name(), "meterd.") && file.Name() != dataDir {
			strange = file.Name()
		}
	}
	if found[dataDir] {
		if err := onlyBadgers(filepath.Join(dir, dataDir)); err != nil {
			return nil, err
		}
	}
	var ours []string
	for _, name := range []string{dataDir, openingFile, identityFile + ".new", identityFile} {
		if found[name] {
			ours = append(ours, name)
		}
	}
	if len(ours) == 0 && strange != "" {
		return nil, fmt.Errorf("%w: it has %s", ErrNotOurs, strange)
	}
	return ours, nil
}

func onlyBadgers(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	badgers := regexp.MustCompile(`^([0-9]+\.(sst|mem|vlog)|(REWRITE-)?KEYREGISTRY|MANIFEST(-REWRITE)?|DISCARD|LOCK)$`)
	for _, file := range files {
		if file.IsDir() || !badgers.MatchString(file.Name()) {
			return fmt.Errorf("%w: it has %s", ErrNotOurs, filepath.Join(dataDir, file.Name()))
		}
	}
	return nil
}

// containsError tells whether err's text has that of cause.
func containsError(err, cause error) bool { return strings.Contains(err.Error(), cause.Error()) }
