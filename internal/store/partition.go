package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/badger/v4"

	"github.com/meterd/meterd/internal/failpoint"
)

// partition is what is known of one input partition without reading the disk.
type partition struct {
	number int32

	mu     sync.Mutex // one call at a time
	read   bool       // the fields below are as on disk
	kept   bool       // there is a marker
	marker Marker
	digest digest

	// known has the checksums of stored entries by the hash of their keys: an
	// entry that is overwritten must first be taken out of the digest, and a
	// read costs more than the write. It may lack some; if whole, it lacks none.
	// Two keys of one hash would make a wrong digest, hence a needless restore:
	// never a wrong value.
	known map[uint64]uint32
	whole bool
}

// forget makes the next call read the disk again.
func (p *partition) forget(s *Store) {
	s.known.Add(-int64(len(p.known)))
	p.read, p.kept, p.marker, p.digest, p.known, p.whole = false, false, Marker{}, digest{}, nil, false
}

func (p *partition) remember(s *Store, hash uint64, crc uint32) {
	if _, ok := p.known[hash]; ok {
		p.known[hash] = crc
		return
	}
	if s.known.Load() >= s.sizes.known {
		p.whole = false
		for other := range p.known { // any other: the order of a map is random
			delete(p.known, other)
			s.known.Add(-1)
			break
		}
		if s.known.Load() >= s.sizes.known {
			return // other partitions have it all
		}
	}
	p.known[hash] = crc
	s.known.Add(1)
}

func (p *partition) drop(s *Store, hash uint64) {
	if _, ok := p.known[hash]; ok {
		delete(p.known, hash)
		s.known.Add(-1)
	}
}

// locked returns the partition with its lock held.
func (s *Store) locked(number int32) *partition {
	s.mu.Lock()
	p := s.partitions[number]
	if p == nil {
		p = &partition{number: number}
		s.partitions[number] = p
	}
	s.mu.Unlock()
	p.mu.Lock()
	return p
}

// Apply writes entries, which replace or delete what was kept under their keys,
// and the marker they stand for. Of two entries with one key the later counts.
//
// What does not fit into one transaction is written in several. If we die after
// one of them, its entries are there under the marker from before: values are
// absolute, so reading the changelog on from that marker sets them again. A
// partition that had no marker then still has none, and what was written goes
// at the next call for it.
//
// It returns ErrDiskLow before it writes anything.
func (s *Store) Apply(number int32, entries []Entry, m Marker) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	began := time.Now()
	if err := s.enoughDisk(); err != nil {
		return err
	}
	p := s.locked(number)
	defer p.mu.Unlock()

	if err := s.apply(p, entries, m); err != nil {
		p.forget(s)
		return s.failed("apply", number, err)
	}
	s.metrics.flush.Observe(time.Since(began).Seconds())
	s.metrics.entries.Add(float64(len(entries)))
	return nil
}

func (s *Store) apply(p *partition, entries []Entry, m Marker) error {
	if err := s.ensureRead(p); err != nil {
		return err
	}
	for {
		n := s.fitting(entries)
		last := n == len(entries)
		if last {
			p.marker = m
		}
		failpoint.Hit(failpoint.DiskWriting)
		err := s.db.Update(func(txn *badger.Txn) error {
			if err := s.write(txn, p, entries[:n]); err != nil {
				return err
			}
			if !last && !p.kept {
				return nil // no marker rather than one that stands for nothing
			}
			key := appendPrefix(nil, markerTag, p.number)
			return txn.Set(key, s.encodeMarker(key, p.marker, p.digest))
		})
		if err != nil {
			return err
		}
		if last {
			failpoint.Hit(failpoint.DiskWritten)
			p.kept = true
			return nil
		}
		failpoint.Hit(failpoint.DiskChunk)
		entries = entries[n:]
	}
}

// fitting returns how many of entries go into one transaction: as many as
// Badger takes with a margin for what it adds, but one at least.
func (s *Store) fitting(entries []Entry) int {
	const overhead = 64 // an entry's prefix, checksum and Badger's own
	count, size := s.db.MaxBatchCount()*3/4, s.db.MaxBatchSize()*3/4
	for i, e := range entries {
		size -= int64(len(e.Key) + len(e.Value) + overhead)
		if i > 0 && (size < 0 || int64(i) >= count) {
			return i
		}
	}
	return len(entries)
}

// write puts entries into txn and changes the digest with them.
func (s *Store) write(txn *badger.Txn, p *partition, entries []Entry) error {
	for i := range entries {
		e := &entries[i]
		key := append(appendPrefix(make([]byte, 0, prefixLen+len(e.Key)), entryTag, p.number), e.Key...)
		hash := xxhash.Sum64String(e.Key)
		old, ok, err := s.stored(txn, p, key, hash)
		if err != nil {
			return err
		}
		if ok {
			p.digest.remove(old)
		}
		if e.Value == nil {
			p.drop(s, hash)
			if ok {
				if err := txn.Delete(key); err != nil {
					return err
				}
			}
			continue
		}
		crc := s.checksum(key, e.Value)
		p.digest.add(crc)
		p.remember(s, hash, crc)
		if err := txn.Set(key, sealed(crc, e.Value)); err != nil {
			return fmt.Errorf("entry %q of %d bytes: %w", e.Key, len(e.Value), err)
		}
	}
	return nil
}

// stored returns the checksum of what is kept under key, as txn sees it.
func (s *Store) stored(txn *badger.Txn, p *partition, key []byte, hash uint64) (uint32, bool, error) {
	crc, ok := p.known[hash]
	if ok || p.whole {
		return crc, ok, nil
	}
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	err = item.Value(func(stored []byte) error {
		if len(stored) < crcLen {
			return fmt.Errorf("%w: entry %q has %d bytes", ErrCorrupt, key[prefixLen:], len(stored))
		}
		crc = binary.BigEndian.Uint32(stored)
		return nil
	})
	return crc, true, err
}

// ensureRead reads the marker of p if that was not done before. Entries without
// a marker are the rest of a Wipe or of a first Apply: they go.
func (s *Store) ensureRead(p *partition) error {
	if p.read {
		return nil
	}
	err := s.db.View(func(txn *badger.Txn) error {
		var err error
		p.marker, p.digest, p.kept, err = s.readMarker(txn, p.number)
		return err
	})
	if err == nil && !p.kept {
		err = s.removeEntries(p.number)
	}
	if err != nil {
		return err
	}
	p.read, p.known, p.whole = true, map[uint64]uint32{}, p.digest.count == 0
	return nil
}

func (s *Store) readMarker(txn *badger.Txn, number int32) (m Marker, d digest, ok bool, err error) {
	key := appendPrefix(nil, markerTag, number)
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return Marker{}, digest{}, false, nil
	}
	if err != nil {
		return Marker{}, digest{}, false, err
	}
	err = item.Value(func(stored []byte) error {
		m, d, err = s.decodeMarker(key, stored)
		return err
	})
	return m, d, err == nil, err
}

// Load calls fn with every entry of a partition, in the order of the keys, and
// returns the marker they stand for, or false if nothing is kept. The value is
// fn's only until it returns; fn must not call the store. If fn fails, so does
// Load, with fn's error.
//
// Whether entries are missing is only known after the last: on ErrCorrupt all
// that fn was given is worth nothing.
func (s *Store) Load(number int32, fn func(key string, value []byte) error) (Marker, bool, error) {
	leave, err := s.enter()
	if err != nil {
		return Marker{}, false, err
	}
	defer leave()
	p := s.locked(number)
	defer p.mu.Unlock()

	if err := s.load(p, fn); err != nil {
		p.forget(s)
		return Marker{}, false, s.failed("load", number, err)
	}
	return p.marker, p.kept, nil
}

func (s *Store) load(p *partition, fn func(string, []byte) error) (err error) {
	var failed error // what fn said
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, r) // Badger trips over what it reads
		}
	}()
	p.forget(s)
	if err := s.ensureRead(p); err != nil || !p.kept {
		return err
	}
	var found digest
	p.known, p.whole = make(map[uint64]uint32, min(int64(p.digest.count), s.sizes.known)), true
	err = s.each(p.number, func(key []byte, item *badger.Item) error {
		return item.Value(func(stored []byte) error {
			value, crc, err := s.unsealed(key, stored)
			if err != nil {
				return err
			}
			found.add(crc)
			p.remember(s, xxhash.Sum64(key[prefixLen:]), crc)
			failed = fn(string(key[prefixLen:]), value)
			return failed
		})
	})
	switch {
	case failed != nil:
		return failed
	case err != nil && !environmental(err):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case err == nil && found != p.digest:
		return fmt.Errorf("%w: %d entries of the %d written, or others", ErrCorrupt, found.count, p.digest.count)
	}
	return err
}

// each calls fn with the entries of a partition on one snapshot. Key and item
// are valid until fn returns.
func (s *Store) each(number int32, fn func(key []byte, item *badger.Item) error) error {
	return s.db.View(func(txn *badger.Txn) error {
		prefix := appendPrefix(nil, entryTag, number)
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Seek(prefix); it.ValidForPrefix(prefix); it.Next() {
			if err := fn(it.Item().Key(), it.Item()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Wipe removes all of a partition. The marker goes first: if we die before the
// end, what is left is never trusted.
func (s *Store) Wipe(number int32) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	p := s.locked(number)
	defer p.mu.Unlock()

	p.forget(s)
	err = s.db.Update(func(txn *badger.Txn) error { return txn.Delete(appendPrefix(nil, markerTag, number)) })
	if err == nil {
		err = s.removeEntries(number)
	}
	return s.failed("wipe", number, err)
}

// removeEntries deletes the entries of a partition, some thousands at a time.
// Badger's own DropPrefix would hold up the writes of all partitions.
func (s *Store) removeEntries(number int32) error {
	atOnce, sizeAtOnce := int(s.db.MaxBatchCount()/2), int(s.db.MaxBatchSize()/2)
	for {
		var keys [][]byte
		size := 0
		err := s.each(number, func(key []byte, _ *badger.Item) error {
			keys = append(keys, append([]byte(nil), key...))
			if size += len(key); len(keys) >= atOnce || size >= sizeAtOnce {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		if len(keys) == 0 {
			return nil
		}
		err = s.db.Update(func(txn *badger.Txn) error {
			for _, key := range keys {
				if err := txn.Delete(key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

var errEnough = errors.New("enough")

// Partitions returns the partitions that have a marker, lowest first.
func (s *Store) Partitions() ([]int32, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	var numbers []int32
	err = s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{markerTag}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if key := it.Item().Key(); len(key) == prefixLen {
				numbers = append(numbers, int32(binary.BigEndian.Uint32(key[1:])))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list partitions of the store: %w", err)
	}
	return numbers, nil
}

// failed says what was being done, and counts damage.
func (s *Store) failed(doing string, number int32, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrCorrupt) {
		s.metrics.damaged.Inc()
	}
	return fmt.Errorf("%s partition %d of the store: %w", doing, number, err)
}
