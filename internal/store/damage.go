package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// checkTables reads every table that Badger's manifest names and returns
// ErrCorrupt for the first that is not as it was written.
//
// Badger itself goes on without a table that is damaged in one place, and ends
// the process over one that is damaged in another; so it is asked only to open
// what is whole. At some GB/s this costs little of what Load takes. Tables that
// are not in the manifest were being written when we died: Badger removes them.
func checkTables(opts badger.Options) error {
	manifest, err := os.Open(filepath.Join(opts.Dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	named, _, err := badger.ReplayManifestFile(manifest, opts.ExternalMagicVersion, opts)
	if err := errors.Join(err, manifest.Close()); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	for id := range named.Tables {
		content, err := os.ReadFile(filepath.Join(opts.Dir, fmt.Sprintf("%06d.sst", id)))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: table %d is missing", ErrCorrupt, id)
		}
		if err != nil {
			return err
		}
		if err := checkTable(content); err != nil {
			return fmt.Errorf("%w: table %d: %w", ErrCorrupt, id, err)
		}
	}
	return nil
}

// errTable is what is wrong with a table.
var errTable = errors.New("table is not as it was written")

// checkTable checks one table: blocks, then the index, its length(4), its
// checksum and the checksum's length(4), numbers big-endian.
func checkTable(content []byte) error {
	indexed, err := cutChecked(content)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	index := fb.GetRootAsTableIndex(indexed, 0) // safe: it is as Badger wrote it
	var at fb.BlockOffset
	for i := range index.OffsetsLength() {
		if !index.Offsets(&at, i) || int(at.Offset())+int(at.Len()) > len(content) {
			return fmt.Errorf("block %d: %w", i, errTable)
		}
		if err := checkBlock(content[at.Offset() : at.Offset()+at.Len()]); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
	}
	return nil
}

// cutChecked returns the index at the end of a table.
func cutChecked(content []byte) ([]byte, error) {
	rest, sum, ok := cutSized(content)
	if !ok {
		return nil, errTable
	}
	_, index, ok := cutSized(rest)
	if !ok {
		return nil, errTable
	}
	return index, verify(index, sum)
}

// checkBlock checks a block: data, its checksum and the checksum's length(4).
func checkBlock(block []byte) error {
	data, sum, ok := cutSized(block)
	if !ok {
		return errTable
	}
	return verify(data, sum)
}

// cutSized cuts the part off the end of b that is followed by its length(4).
func cutSized(b []byte) (rest, part []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	end := len(b) - 4
	size := int64(binary.BigEndian.Uint32(b[end:]))
	if size > int64(end) {
		return nil, nil, false
	}
	return b[:end-int(size)], b[end-int(size) : end], true
}

func verify(data, sum []byte) error {
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return errTable
	}
	if want.GetAlgo() != pb.Checksum_CRC32C && want.GetAlgo() != pb.Checksum_XXHash64 {
		return errTable
	}
	if y.VerifyChecksum(data, &want) != nil {
		return errTable
	}
	return nil
}
