package aggregate

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// Unload takes in a tombstone of the changelog: what stands under key is gone.
// A key of a kind that is not known is ErrForeignRecord.
func (s *State) Unload(key []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(key, &parts); err != nil || len(parts) == 0 {
		return fmt.Errorf("%w: key %q", ErrForeignRecord, key)
	}
	text := make([]string, len(parts)) // "" for the parts that are no strings
	for i, p := range parts {
		_ = json.Unmarshal(p, &text[i]) //nolint:errchkjson // as said
	}
	switch {
	case text[0] == CounterKind && len(parts) == 6:
		s.unloadCounter(string(key), text[1], text[2], text[5])
	case text[0] == LimitKind && len(parts) == 5:
		if l, ok := s.limits[limitID{contract: text[1], limit: text[2], dimensions: string(parts[3]), period: text[4]}]; ok {
			s.forgetLimit(l)
		}
	case text[0] == DedupeKind && len(parts) == 4:
		at, err := time.Parse(time.RFC3339Nano, text[1])
		if err != nil {
			return fmt.Errorf("%w: key %q", ErrForeignRecord, key)
		}
		s.unloadDedupe(usage.TimeOf(at), string(key))
	case text[0] == PositionKind:
	default:
		return fmt.Errorf("%w: key %q", ErrForeignRecord, key)
	}
	return nil
}

func (s *State) unloadCounter(key, client, meter, period string) {
	c, ok := s.clients[client]
	if !ok {
		return
	}
	for k := range c.counters() {
		if k.period.ID != period || s.cfg.Catalog.Meters[k.meter].Name != meter {
			continue
		}
		if r := k.record(s.cfg.Catalog); string(r.AppendCounterKey(nil)) == key {
			s.forget(k)
			return
		}
	}
}

// unloadDedupe drops a bucket with the last of its records: they go together.
func (s *State) unloadDedupe(at usage.Time, key string) {
	b, ok := s.dedupe.buckets[at]
	if !ok {
		return
	}
	for i, k := range b.keys {
		if k == key {
			b.keys = append(b.keys[:i], b.keys[i+1:]...)
			break
		}
	}
	if len(b.keys) == 0 {
		s.dedupe.dropped = append(s.dedupe.dropped, at)
		s.dedupe.committed()
	}
}
