package schema

import (
	"embed"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// Schemas has meterd's own Avro schemas, as schemas/*.avsc: of the usage event
// that the default mapping reads, of the limit event, and of each kind of
// record in the changelog.
//
//go:embed schemas/*.avsc
var Schemas embed.FS

// UsageEventSchema is the Avro schema of usage events that the default mapping
// reads.
//
//go:embed schemas/usage_event.avsc
var UsageEventSchema string

// LimitEventSchema is the Avro schema of limit events.
//
//go:embed schemas/limit_event.avsc
var LimitEventSchema string

// Records of the changelog are in Avro's single-object encoding: a mark, the
// CRC-64-AVRO of the schema, the body. A reader needs no registry, and the
// schema of a later version has another fingerprint, beside which the old one
// stays readable.
const (
	counterFingerprint  uint64 = 0x6237b13ee48190be
	limitFingerprint    uint64 = 0xfd08c8a6455b5360
	positionFingerprint uint64 = 0xab30aca7c8a249a6
	dedupeFingerprint   uint64 = 0x7ca60261b079d69b
)

// The head of a single-object encoding.
const (
	mark0, mark1 = 0xC3, 0x01
	objectHeader = 10
)

func appendObjectHeader(dst []byte, fingerprint uint64) []byte {
	return binary.LittleEndian.AppendUint64(append(dst, mark0, mark1), fingerprint)
}

// seedStates and enforcements are the symbols of the schemas, in their order.
var (
	seedStates = []aggregate.SeedState{
		aggregate.SeedNone, aggregate.SeedPending, aggregate.SeedExact, aggregate.SeedBounded, aggregate.SeedFailed,
	}
	enforcements = []contracts.Enforcement{contracts.Hard, contracts.Soft}
)

// AppendCounter appends the changelog's value of r. A seed without a state has
// the state none.
func AppendCounter(dst []byte, r *aggregate.CounterRecord) []byte {
	dst = appendObjectHeader(dst, counterFingerprint)
	dst = appendString(dst, r.Client)
	dst = appendString(dst, r.Meter)
	dst = appendScope(dst, &r.Scope)
	dst = appendDimensions(dst, r.Dimensions)
	dst = appendPeriod(dst, &r.Period)
	dst = binary.AppendVarint(dst, int64(r.Decimals))
	dst = binary.AppendVarint(dst, int64(r.Total))
	dst = binary.AppendVarint(dst, r.Events)
	dst = binary.AppendVarint(dst, int64(r.First))
	dst = binary.AppendVarint(dst, int64(r.Last))
	dst = binary.AppendVarint(dst, int64(max(0, slices.Index(seedStates, r.Seed.State))))
	dst = binary.AppendVarint(dst, int64(r.Seed.Usage))
	dst = binary.AppendVarint(dst, r.Seed.Events)
	dst = binary.AppendVarint(dst, r.Seed.Boundary)
	if r.Seed.Cut == 0 && len(r.Distinct) == 0 { // as nearly all are
		return append(dst, 0, 0)
	}
	dst = binary.AppendVarint(dst, int64(r.Seed.Cut))
	return append(binary.AppendVarint(dst, int64(len(r.Distinct))), r.Distinct...)
}

// AppendLimit appends the changelog's value of r. It fails only where a limit
// event has no JSON, or a kind or cause that does not exist.
func AppendLimit(dst []byte, r *aggregate.LimitRecord) ([]byte, error) {
	enforcement := slices.Index(enforcements, r.Enforcement)
	if enforcement < 0 {
		return dst, fmt.Errorf("limit %q: enforcement %q has no symbol", r.Limit, r.Enforcement)
	}
	dst = appendObjectHeader(dst, limitFingerprint)
	dst = appendString(dst, r.Contract)
	dst = appendString(dst, r.Limit)
	dst = appendDimensions(dst, r.Dimensions)
	dst = appendDimensions(dst, r.Where)
	dst = binary.AppendVarint(dst, int64(r.Place))
	dst = appendPeriod(dst, &r.Period)
	dst = appendString(dst, r.Client)
	dst = appendString(dst, r.Meter)
	dst = appendScope(dst, &r.Scope)
	dst = binary.AppendVarint(dst, r.Revision)
	dst = binary.AppendVarint(dst, int64(r.Value))
	dst = binary.AppendVarint(dst, int64(r.Decimals))
	dst = binary.AppendVarint(dst, int64(enforcement))
	dst = appendArray(dst, r.Standing, func(dst []byte, t contracts.Threshold) []byte {
		return appendNumber(appendString(dst, t.Label), t.Value)
	})
	dst = binary.AppendVarint(dst, r.Sequence)
	dst = appendBool(dst, r.Closed)
	if r.Last == nil {
		dst = binary.AppendVarint(dst, 0)
	} else {
		last, err := appendEventJSON(nil, r.Last)
		if err != nil {
			return dst, fmt.Errorf("limit %q: %w", r.Limit, err)
		}
		dst = binary.AppendVarint(dst, 1)
		dst = append(binary.AppendVarint(dst, int64(len(last))), last...)
	}
	for i := range r.Told {
		if t := &r.Told[i]; !slices.Contains(eventKinds, t.Kind) || !slices.Contains(causeKinds, t.Cause.Kind) {
			return dst, fmt.Errorf("limit %q: %w", r.Limit, errNoSymbol)
		}
	}
	return appendArray(dst, r.Told, appendTelling), nil
}

// appendTelling appends what is remembered of a limit event.
func appendTelling(dst []byte, t aggregate.Telling) []byte {
	dst = binary.AppendVarint(dst, t.Sequence)
	dst = binary.AppendVarint(dst, int64(slices.Index(eventKinds, t.Kind)))
	dst = appendArray(dst, t.Labels, appendString)
	dst = appendString(dst, t.Before)
	dst = appendString(dst, t.After)
	dst = binary.AppendVarint(dst, t.Revision)
	dst = appendCause(dst, &t.Cause)
	dst = appendBool(dst, t.Late)
	dst = appendNumber(dst, t.DecidedAt)
	return appendBool(dst, t.Silent)
}

// AppendPosition appends the changelog's value of r.
func AppendPosition(dst []byte, r *aggregate.PositionRecord) []byte {
	dst = appendObjectHeader(dst, positionFingerprint)
	dst = binary.AppendVarint(dst, r.Position)
	dst = binary.AppendVarint(dst, int64(r.Time))
	dst = binary.AppendVarint(dst, r.Boundary)
	dst = binary.AppendVarint(dst, int64(r.BoundaryTime))
	if len(r.Meters) > 0 {
		dst = binary.AppendVarint(dst, int64(len(r.Meters)))
		for i := range r.Meters {
			m := &r.Meters[i]
			dst = appendString(dst, m.Name)
			dst = binary.AppendVarint(dst, int64(m.Shape))
			dst = binary.AppendVarint(dst, m.Boundary)
			dst = binary.AppendVarint(dst, int64(m.Time))
		}
	}
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, r.Contracts)
	return binary.AppendVarint(dst, r.Settled)
}

// hashBytes is what a hash takes: both halves big-endian.
const hashBytes = 16

// AppendDedupe appends the changelog's value of r.
func AppendDedupe(dst []byte, r *aggregate.DedupeRecord) []byte {
	dst = slices.Grow(dst, objectHeader+4*binary.MaxVarintLen64+1+len(r.Hashes)*hashBytes)
	dst = appendObjectHeader(dst, dedupeFingerprint)
	dst = binary.AppendVarint(dst, int64(r.Bucket))
	dst = binary.AppendVarint(dst, r.Offset)
	dst = binary.AppendVarint(dst, int64(r.Piece))
	dst = appendBool(dst, r.Void)
	dst = binary.AppendVarint(dst, int64(len(r.Hashes)*hashBytes))
	for _, h := range r.Hashes {
		dst = binary.BigEndian.AppendUint64(dst, h.Hi)
		dst = binary.BigEndian.AppendUint64(dst, h.Lo)
	}
	return dst
}

// appendScope appends null for the default scope.
func appendScope(dst []byte, s *aggregate.Scope) []byte {
	if s.Default() {
		return binary.AppendVarint(dst, 0)
	}
	dst = binary.AppendVarint(dst, 1)
	dst = appendString(dst, s.Contract)
	dst = appendString(dst, string(s.Kind))
	dst = appendString(dst, s.Timezone)
	dst = binary.AppendVarint(dst, int64(s.StartsAt))
	dst = appendString(dst, s.Where)
	return appendString(dst, s.Per)
}

func appendPeriod(dst []byte, p *usage.Period) []byte {
	dst = appendString(dst, p.ID)
	dst = binary.AppendVarint(dst, int64(p.Start))
	dst = binary.AppendVarint(dst, int64(p.End))
	return appendString(dst, p.Timezone)
}

// appendDimensions appends a map in the order of its keys, so that equal
// records have equal bytes.
func appendDimensions(dst []byte, m map[string]string) []byte {
	if len(m) == 0 {
		return append(dst, 0)
	}
	var few [8]string // most meters have no more dimensions than that
	keys := few[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	dst = binary.AppendVarint(dst, int64(len(m)))
	for _, k := range keys {
		dst = appendString(dst, k)
		dst = appendString(dst, m[k])
	}
	return append(dst, 0)
}
