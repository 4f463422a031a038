package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// OpenSmall is Open with a memtable of 1 MiB, so that a few thousand entries
// make tables and several transactions, and with room for known checksums.
func OpenSmall(cfg Config, id Identity, known int64) (*Store, error) {
	return open(cfg, id, zap.NewNop(), prometheus.NewRegistry(), sizes{memTable: 1 << 20, valueLog: 4 << 20, known: known})
}

// Known returns how many checksums the store counts as kept in memory, and how
// many there are.
func (s *Store) Known() (counted, kept int64) {
	for _, p := range s.partitions {
		kept += int64(len(p.known))
	}
	return s.known.Load(), kept
}
