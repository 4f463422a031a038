// Package store keeps a local copy of the changelog on disk, in Badger, so that
// a restart does not have to read the whole topic again.
//
// It is a cache: all that is in it was first committed to Kafka, and deleting
// its directory costs only the time to restore. Keys and values are those of
// the changelog and mean nothing here. Each input partition has its own, with
// the changelog position they stand for; the two are written together, so after
// a crash they agree, and whatever is damaged or missing is told as ErrCorrupt,
// never as another value.
//
// A Store may be used by any number of goroutines. Calls for one partition wait
// for each other, those for different ones do not.
package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Errors that callers tell apart.
var (
	// ErrCorrupt is returned when what is on disk is not what was written. From
	// Open the cure is Destroy, from everything else Wipe; then restore.
	ErrCorrupt = errors.New("local state is damaged")
	// ErrForeign is returned when the directory belongs to another application
	// id, Kafka cluster or topic.
	ErrForeign = errors.New("local state belongs to another meterd")
	// ErrNewer is returned when a later version of meterd wrote the directory.
	ErrNewer = errors.New("local state was written by a newer meterd")
	// ErrInUse is returned when another process has the directory open.
	ErrInUse = errors.New("local state is in use by another process")
	// ErrDiskLow is returned when less space is free than Config.MinFreeDisk:
	// Badger does not survive a full disk, so nothing is tried.
	ErrDiskLow = errors.New("disk space is low")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("store is closed")
	// ErrNotOurs is returned by Destroy when it would delete what no Store wrote.
	ErrNotOurs = errors.New("directory is not a store of meterd")
)

// Config says where the state is and how much of the disk it must leave.
type Config struct {
	Dir         string // made if it is not there
	MinFreeDisk int64  // bytes that must be free for Open and Apply; 0 asks for none
}

// Identity is whose state it is. A directory belongs to the first Identity that
// opened it.
type Identity struct {
	ApplicationID string `json:"application_id"`
	ClusterID     string `json:"cluster_id"`
	Topic         string `json:"topic"` // the usage topic
}

// String returns the identity for people.
func (id Identity) String() string {
	return fmt.Sprintf("application id %q, cluster %q, topic %q", id.ApplicationID, id.ClusterID, id.Topic)
}

// sizes are what tests make smaller.
type sizes struct {
	memTable int64 // bytes; a transaction of Badger's may have up to 15 % of it
	valueLog int64 // bytes; it stays empty, for values up to 1 MiB are inline
	known    int64 // checksums of stored entries kept in memory, about 26 bytes each
}

func defaultSizes() sizes { return sizes{memTable: 32 << 20, valueLog: 64 << 20, known: 2 << 20} }

// Store is an open directory.
type Store struct {
	cfg     Config
	seed    uint32 // of every checksum: entries of another identity do not pass
	db      *badger.DB
	lock    *os.File
	log     *zap.Logger
	metrics *metrics

	sizes sizes
	known atomic.Int64 // checksums in all partitions

	life   sync.RWMutex // held for reading by every call, for writing by Close
	closed bool

	mu         sync.Mutex // guards partitions, not what they point to
	partitions map[int32]*partition
}

// Open opens or creates the state in cfg.Dir.
//
// It returns ErrInUse, ErrDiskLow, ErrNewer, ErrForeign or ErrCorrupt, each with
// the directory's name, and in none of these cases has it changed anything that
// counts. ErrCorrupt is also what two openings in a row lead to that never came
// to an end: whatever killed them is still in there.
func Open(cfg Config, id Identity, log *zap.Logger, reg prometheus.Registerer) (*Store, error) {
	s, err := open(cfg, id, log, reg, defaultSizes())
	if err != nil {
		return nil, fmt.Errorf("open store in %s: %w", cfg.Dir, err)
	}
	return s, nil
}

func open(cfg Config, id Identity, log *zap.Logger, reg prometheus.Registerer, sizes sizes) (*Store, error) {
	began := time.Now()
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, lock: lock, log: log, sizes: sizes, partitions: map[int32]*partition{}}
	if err := s.openLocked(id); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if s.metrics, err = newMetrics(reg, s); err != nil {
		return nil, errors.Join(err, s.db.Close(), lock.Close())
	}
	log.Info("store opened", zap.String("dir", cfg.Dir), zap.Duration("took", time.Since(began)))
	return s, nil
}

func (s *Store) openLocked(id Identity) error {
	if err := s.enoughDisk(); err != nil {
		return err
	}
	seed, err := claim(s.cfg.Dir, id)
	if err != nil {
		return err
	}
	s.seed = seed
	dir := filepath.Join(s.cfg.Dir, dataDir)
	opts := badgerOptions(dir, s.sizes, s.log)
	if err := checkTables(opts); err != nil {
		return err
	}
	ended, err := beginOpening(s.cfg.Dir)
	if err != nil {
		return err
	}
	// If we die in here, the next opening but one takes the state for damaged.
	s.db, err = openBadger(opts)
	if endErr := ended(); endErr != nil && err == nil {
		return errors.Join(endErr, s.db.Close())
	}
	return err
}

func badgerOptions(dir string, sizes sizes, log *zap.Logger) badger.Options {
	const inline = 1 << 20 // larger values would go to the value log
	return badger.DefaultOptions(dir).
		WithLogger(logger{log}).
		WithMetricsEnabled(false).
		WithDetectConflicts(false). // one writer per partition
		WithNumVersionsToKeep(1).
		WithMemTableSize(sizes.memTable).
		WithValueThreshold(min(inline, sizes.memTable/10)).
		WithValueLogFileSize(sizes.valueLog).
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(options.NoVerification). // checkTables did, and each value has its own
		WithCompression(options.None).WithBlockCacheSize(0).
		WithNumCompactors(2).
		WithSyncWrites(false) // the changelog is what lasts; a torn write shows in the digest
}

// openBadger opens Badger, with everything as an error that it takes badly.
func openBadger(opts badger.Options) (db *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}()
	db, err = badger.Open(opts)
	if err != nil && !environmental(err) {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return db, err
}

// environmental tells whether err comes from the machine and not from what is
// in the files. Badger often passes on only the text of a cause.
func environmental(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
	} {
		if errors.Is(err, errno) || containsError(err, errno) {
			return true
		}
	}
	return false
}

// Close writes out what is in memory and gives the directory free. It waits for
// calls under way; later ones return ErrClosed.
func (s *Store) Close() error {
	s.life.Lock()
	defer s.life.Unlock()

	if s.closed {
		return nil
	}
	s.closed = true
	s.metrics.unregister()
	if err := errors.Join(s.db.Close(), s.lock.Close()); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// enter holds off Close until the function it returns was called.
func (s *Store) enter() (func(), error) {
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return nil, ErrClosed
	}
	return s.life.RUnlock, nil
}

// Free returns how many bytes are free for us on the directory's disk.
func (s *Store) Free() (int64, error) {
	free, err := freeBytes(s.cfg.Dir)
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s.cfg.Dir, err)
	}
	return free, nil
}

// DiskLow tells whether less is free than Config.MinFreeDisk. Apply refuses
// then, so ask before reading on.
func (s *Store) DiskLow() (bool, error) {
	free, err := s.Free()
	return err == nil && free < s.cfg.MinFreeDisk, err
}

func (s *Store) enoughDisk() error {
	free, err := s.Free()
	if err == nil && free < s.cfg.MinFreeDisk {
		err = fmt.Errorf("%w: %d bytes are free, %d are needed", ErrDiskLow, free, s.cfg.MinFreeDisk)
	}
	return err
}
