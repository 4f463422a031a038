package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Keys in Badger, numbers big-endian:
//
//	'e' partition(4) key    an entry: crc(4) value
//	'm' partition(4)        the marker of a partition
//
// Every checksum is CRC-32C, begins with the identity's and covers the key as
// it is in Badger, so an entry that strayed from another place does not pass.
const (
	entryTag  = 'e'
	markerTag = 'm'

	prefixLen = 1 + 4
	crcLen    = 4
	markerLen = 1 + 8 + 8 + 8 + 8 + crcLen

	markerVersion = 1
)

// Marker is the place in the changelog that the entries of a partition stand
// for.
type Marker struct {
	Changelog int64 // next changelog offset to read: all before it is in here
	Position  int64 // input position it stands for
}

// Entry is one key of the changelog.
type Entry struct {
	Key   string
	Value []byte // nil deletes
}

// digest is what the entries of a partition add up to. It changes in the
// transaction that changes them, so an entry that is missing, too many or of
// another time is noticed though its own checksum is right.
type digest struct {
	count uint64
	sum   uint64 // of the entries' checksums
}

func (d *digest) add(crc uint32)    { d.count++; d.sum += uint64(crc) }
func (d *digest) remove(crc uint32) { d.count--; d.sum -= uint64(crc) }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once, by crc32

func appendPrefix(dst []byte, tag byte, partition int32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, tag), uint32(partition))
}

// checksum returns the checksum of a value under its key.
func (s *Store) checksum(key, value []byte) uint32 {
	table := castagnoli()
	return crc32.Update(crc32.Update(s.seed, table, key), table, value)
}

// sealed returns value with its checksum before it.
func sealed(crc uint32, value []byte) []byte {
	dst := binary.BigEndian.AppendUint32(make([]byte, 0, crcLen+len(value)), crc)
	return append(dst, value...)
}

// unsealed returns the value in stored, which it must not outlive, and its
// checksum.
func (s *Store) unsealed(key, stored []byte) ([]byte, uint32, error) {
	if len(stored) < crcLen {
		return nil, 0, fmt.Errorf("%w: entry %q has %d bytes", ErrCorrupt, key[prefixLen:], len(stored))
	}
	crc, value := binary.BigEndian.Uint32(stored), stored[crcLen:]
	if s.checksum(key, value) != crc {
		return nil, 0, fmt.Errorf("%w: checksum of entry %q", ErrCorrupt, key[prefixLen:])
	}
	return value, crc, nil
}

func (s *Store) encodeMarker(key []byte, m Marker, d digest) []byte {
	dst := append(make([]byte, 0, markerLen), markerVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Changelog))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Position))
	dst = binary.BigEndian.AppendUint64(dst, d.count)
	dst = binary.BigEndian.AppendUint64(dst, d.sum)
	return binary.BigEndian.AppendUint32(dst, s.checksum(key, dst))
}

func (s *Store) decodeMarker(key, stored []byte) (Marker, digest, error) {
	if len(stored) != markerLen || stored[0] != markerVersion {
		return Marker{}, digest{}, fmt.Errorf("%w: marker has %d bytes", ErrCorrupt, len(stored))
	}
	body := stored[:markerLen-crcLen]
	if s.checksum(key, body) != binary.BigEndian.Uint32(stored[markerLen-crcLen:]) {
		return Marker{}, digest{}, fmt.Errorf("%w: checksum of the marker", ErrCorrupt)
	}
	number := func(i int) uint64 { return binary.BigEndian.Uint64(body[1+8*i:]) }
	return Marker{Changelog: int64(number(0)), Position: int64(number(1))}, digest{count: number(2), sum: number(3)}, nil
}
