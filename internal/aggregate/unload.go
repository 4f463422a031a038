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
		s.unloadCounter(text[1], text[2], parts[3], parts[4], text[5])
	case text[0] == LimitKind && len(parts) == 5:
		if l, ok := s.limits[limitID{contract: text[1], limit: text[2], dimensions: string(parts[3]), period: text[4]}]; ok {
			s.forgetLimit(l)
		}
	case (text[0] == DedupeKind || text[0] == VoidKind) && len(parts) == 4:
		at, err := time.Parse(time.RFC3339Nano, text[1])
		if err != nil {
			return fmt.Errorf("%w: key %q", ErrForeignRecord, key)
		}
		s.idsOf(text[0] == VoidKind).unload(usage.TimeOf(at), string(key))
	case text[0] == PositionKind:
	default:
		return fmt.Errorf("%w: key %q", ErrForeignRecord, key)
	}
	return nil
}

func (s *State) unloadCounter(client, meter string, scopeText, dimsText []byte, period string) {
	c := s.clients.named(client)
	m, configured := s.meters[meter]
	scope, ok := scopeOfKey(scopeText)
	var dims map[string]string
	if err := json.Unmarshal(dimsText, &dims); err != nil || c == nil || !configured || !ok {
		return
	}
	if slot := s.slotOf(c, m, scope, dims); slot != nil {
		if k := slot.of(period); k != nil {
			s.forget(k)
		}
	}
}

// scopeOfKey reads a Scope as appendKey wrote it.
func scopeOfKey(text []byte) (Scope, bool) {
	var parts map[string]string
	if err := json.Unmarshal(text, &parts); err != nil {
		return Scope{}, false
	}
	if len(parts) == 0 {
		return Scope{}, true
	}
	at, err := time.Parse(time.RFC3339Nano, parts["starts_at"])
	return Scope{
		Contract: parts["contract"], Kind: usage.Kind(parts["period"]), Timezone: parts["timezone"],
		StartsAt: usage.TimeOf(at), Where: parts["where"], Per: parts["per"],
	}, err == nil
}
