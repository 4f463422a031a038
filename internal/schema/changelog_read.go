package schema

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// ChangelogDecoder reads records of the changelog. It shares the strings that
// few records differ in, so one is best kept for a whole restore. The zero
// value is ready; one goroutine may use it at a time.
type ChangelogDecoder struct {
	intern map[string]string
}

// Decode returns what value holds, as one of *aggregate.CounterRecord,
// *aggregate.LimitRecord, *aggregate.PositionRecord and
// *aggregate.DedupeRecord, with empty maps and slices as nil. Nothing in it
// refers to value.
//
// Every error is an ErrForeign: value has a schema that this version does not
// know, is damaged, or is of another kind than key says. A null value, which
// takes a record back, is one too; it has to be told by its key before.
func (d *ChangelogDecoder) Decode(key, value []byte) (any, error) {
	if len(value) < objectHeader || value[0] != mark0 || value[1] != mark1 {
		return nil, fmt.Errorf("%w: value is not in single-object encoding", ErrForeign)
	}
	if d.intern == nil {
		d.intern = map[string]string{}
	}
	r := &reader{b: value, pos: objectHeader, intern: d.intern}
	var (
		kind   string
		record any
	)
	switch fingerprint := binary.LittleEndian.Uint64(value[2:]); fingerprint {
	case counterFingerprint:
		kind, record = aggregate.CounterKind, r.counter()
	case limitFingerprint:
		kind, record = aggregate.LimitKind, r.limit()
	case positionFingerprint:
		kind, record = aggregate.PositionKind, r.position()
	case dedupeFingerprint:
		d := r.dedupe()
		if kind, record = aggregate.DedupeKind, d; d.Void {
			kind = aggregate.VoidKind
		}
	default:
		return nil, fmt.Errorf("%w: schema fingerprint %016x is not known", ErrForeign, fingerprint)
	}
	if err := r.done(); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	if KindOfKey(key) != kind {
		return nil, fmt.Errorf("%w: a %s stands under a key of another kind", ErrForeign, kind)
	}
	return record, nil
}

// KindOfKey returns the kind of record that stands under a key of the
// changelog, or "" for a key that is none.
func KindOfKey(key []byte) string {
	for _, kind := range [...]string{
		aggregate.CounterKind, aggregate.LimitKind, aggregate.PositionKind, aggregate.DedupeKind, aggregate.VoidKind,
	} {
		if n := len(kind); len(key) > n+4 && string(key[:2]) == `["` && string(key[2:n+2]) == kind && string(key[n+2:n+4]) == `",` {
			return kind
		}
	}
	return ""
}

func (r *reader) counter() *aggregate.CounterRecord {
	return &aggregate.CounterRecord{
		Client: r.string(), Meter: r.shared(), Scope: r.scope(), Dimensions: r.dimensions(), Period: r.period(),
		Decimals: r.decimals(), Total: r.quantity(), Events: r.long(), First: r.time(), Last: r.time(),
		Seed: aggregate.Seed{
			State: seedStates[r.index(len(seedStates))], Usage: r.quantity(), Events: r.long(), Boundary: r.long(), Cut: r.time(),
		},
		Distinct: r.copied(),
	}
}

func (r *reader) limit() *aggregate.LimitRecord {
	l := &aggregate.LimitRecord{
		Contract: r.string(), Limit: r.string(), Dimensions: r.dimensions(), Where: r.dimensions(), Place: r.int(), Period: r.period(),
		Client: r.string(), Meter: r.shared(), Scope: r.scope(), Revision: r.long(), Value: r.quantity(),
		Decimals: r.decimals(), Enforcement: enforcements[r.index(len(enforcements))],
	}
	r.blocks(func() {
		l.Standing = append(l.Standing, contracts.Threshold{Label: r.shared(), Value: r.quantity()})
	})
	l.Sequence, l.Closed = r.long(), r.bool()
	if r.index(2) == 1 {
		last, err := decodeEventJSON(r.bytes())
		if err != nil && r.err == nil {
			r.fail("last limit event: %s", strings.TrimPrefix(err.Error(), ErrForeign.Error()+": "))
		}
		l.Last = last
	}
	r.blocks(func() { l.Told = append(l.Told, r.telling()) })
	return l
}

func (r *reader) telling() aggregate.Telling {
	t := aggregate.Telling{Sequence: r.long(), Kind: eventKinds[r.index(len(eventKinds))]}
	r.blocks(func() { t.Labels = append(t.Labels, r.shared()) })
	t.Before, t.After, t.Revision = r.string(), r.string(), r.long()
	t.Cause, t.Late, t.DecidedAt, t.Silent = r.cause(), r.bool(), r.time(), r.bool()
	return t
}

func (r *reader) position() *aggregate.PositionRecord {
	p := &aggregate.PositionRecord{Position: r.long(), Time: r.time(), Boundary: r.long(), BoundaryTime: r.time()}
	r.blocks(func() {
		p.Meters = append(p.Meters, aggregate.MeterBirth{
			Name: r.string(), Shape: uint64(r.long()), Boundary: r.long(), Time: r.time(),
		})
	})
	p.Contracts, p.Settled = r.long(), r.long()
	return p
}

func (r *reader) dedupe() *aggregate.DedupeRecord {
	d := &aggregate.DedupeRecord{Bucket: r.time(), Offset: r.long(), Piece: r.int(), Void: r.bool()}
	b := r.bytes()
	if len(b)%hashBytes != 0 {
		r.fail("%d bytes of hashes", len(b))
		return d
	}
	if len(b) > 0 {
		d.Hashes = make([]aggregate.Hash, 0, len(b)/hashBytes)
	}
	for ; len(b) > 0; b = b[hashBytes:] {
		d.Hashes = append(d.Hashes, aggregate.Hash{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])})
	}
	return d
}

func (r *reader) scope() (s aggregate.Scope) {
	if r.index(2) == 1 {
		s = aggregate.Scope{
			Contract: r.string(), Kind: usage.Kind(r.shared()), Timezone: r.shared(), StartsAt: r.time(),
			Where: r.shared(), Per: r.shared(),
		}
	}
	return s
}

func (r *reader) period() usage.Period {
	return usage.Period{ID: r.shared(), Start: r.time(), End: r.time(), Timezone: r.shared()}
}

func (r *reader) dimensions() (m map[string]string) {
	r.blocks(func() {
		if m == nil {
			m = map[string]string{}
		}
		name := r.shared()
		m[name] = r.string()
	})
	return m
}

func (r *reader) time() usage.Time         { return usage.Time(r.long()) }
func (r *reader) quantity() usage.Quantity { return usage.Quantity(r.long()) }

// decimals must be what a meter can have: formats depend on it.
func (r *reader) decimals() int {
	n := r.int()
	if n < 0 || n > usage.MaxDecimals {
		r.fail("%d decimals", n)
		return 0
	}
	return n
}
