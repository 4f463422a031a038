package schema

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/usage"
)

// DecoderConfig says how usage events are written.
type DecoderConfig struct {
	Format  Format
	Mapping Mapping

	// MaxRecordBytes bounds the value of a record; longer ones are too_large.
	MaxRecordBytes int

	// UnknownPause is waited before the registry is asked again for a schema
	// that it does not know, twice as long before the third and last time: it
	// may be a replica that lags behind the producer.
	UnknownPause time.Duration

	// UnknownFor is for how long such a schema is then taken to be unknown
	// without asking.
	UnknownFor time.Duration
}

// DefaultDecoderConfig reads events of UsageEventSchema.
func DefaultDecoderConfig() DecoderConfig {
	return DecoderConfig{
		Format:         Avro,
		Mapping:        Mapping{ID: "event_id", Client: "client_id", Meter: "meter", Quantity: "quantity", Time: "timestamp"},
		MaxRecordBytes: 1 << 20,
		UnknownPause:   200 * time.Millisecond,
		UnknownFor:     10 * time.Second,
	}
}

// Validate returns an error that names the key and what it may be.
func (c DecoderConfig) Validate() error {
	if c.Format != Avro && c.Format != JSON {
		return fmt.Errorf("format: %q is neither avro nor json", c.Format)
	}
	if c.MaxRecordBytes < 1 || c.MaxRecordBytes > math.MaxInt32 {
		return fmt.Errorf("max_record_bytes: %d is not from 1 to %d", c.MaxRecordBytes, math.MaxInt32)
	}
	if c.UnknownPause < 0 || c.UnknownFor < 0 {
		return errors.New("unknown schemas: negative duration")
	}
	if err := c.Mapping.Validate(); err != nil {
		return fmt.Errorf("fields.%w", err)
	}
	return nil
}

// Decoder makes usage events of records. It keeps what it has learnt of
// schemas, for all partitions. Any number of goroutines may use it, each
// through a Handle of its own.
type Decoder struct {
	config DecoderConfig
	layout *layout // of the mapping
	cache  *cache
}

// NewDecoder returns a decoder that asks registry for schemas. For JSON it may
// be nil.
func NewDecoder(config DecoderConfig, registry Registry, log *zap.Logger, prom prometheus.Registerer) (*Decoder, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	if config.Format == Avro && registry == nil {
		return nil, errors.New("usage: format avro needs a schema registry")
	}
	m, err := newMetrics(prom)
	if err != nil {
		return nil, fmt.Errorf("usage decoder: %w", err)
	}
	return &Decoder{config: config, layout: config.Mapping.layout(), cache: newCache(config, registry, log, m)}, nil
}

// Handle returns a new handle for the use of one goroutine at a time.
func (d *Decoder) Handle() *Handle {
	return &Handle{d: d, resolved: map[uint32]*resolution{}}
}

// Handle decodes the records of one partition.
type Handle struct {
	d *Decoder
	w walker

	// resolved has what Prepare learnt. The schema of the last record is at
	// hand, as the next one's is nearly always the same.
	resolved map[uint32]*resolution
	last     *resolution
	lastID   uint32
}

// Prepare makes sure that the schema of every one of values is known, or known
// not to exist. It must be called before Decode. With nothing new it does no
// I/O.
//
// Values that are no Avro are passed over, for Decode to judge. It returns an
// ErrRegistryDown when a schema could be neither found nor ruled out: the
// records have to wait, and Prepare be called again, for however long it
// takes. It ends early with ctx.
func (h *Handle) Prepare(ctx context.Context, values iter.Seq[[]byte]) error {
	if h.d.config.Format == JSON {
		return nil
	}
	// An unknown schema may be registered by now.
	for id, r := range h.resolved {
		if r.plan == nil {
			delete(h.resolved, id)
		}
	}
	h.last = nil
	var ids []uint32
	for value := range values {
		id, ok := WireID(value)
		if !ok || h.last != nil && id == h.lastID || len(value) > h.d.config.MaxRecordBytes {
			continue
		}
		r, seen := h.resolved[id]
		if !seen {
			ids = append(ids, id)
			h.resolved[id] = nil
		}
		h.last, h.lastID = r, id
	}
	h.last = nil
	if len(ids) == 0 {
		return nil
	}
	err := h.d.cache.resolve(ctx, ids, h.resolved)
	for _, id := range ids {
		if h.resolved[id] == nil {
			delete(h.resolved, id)
		}
	}
	if err != nil {
		return fmt.Errorf("resolve schemas: %w", err)
	}
	return nil
}

// Errors of values that are not looked into.
var (
	errNull     = errors.New("value is null or empty")
	errNoHeader = errors.New("value does not begin with a zero and a schema id")
)

// Decode makes an event of value, whose record has the timestamp recordTime.
// It does no I/O. What ev refers to, its Fields among it, is part of value or
// of the handle, and good until the next Decode.
//
// The Reason is empty for a good event. Else it says why the record is none,
// the error tells more, without repeating any of the record's content, and ev
// means nothing. An error without a Reason is ErrNotPrepared.
//
// A schema that cannot be used (it does not parse, is not Avro or not a
// record) makes its records undecodable; unknown_schema is for those that the
// registry does not have.
func (h *Handle) Decode(value []byte, recordTime usage.Time, ev *usage.Event) (usage.Reason, error) {
	h.w.scratch, h.w.spent = h.w.scratch[:0], 0
	return h.DecodeMore(value, recordTime, ev)
}

// DecodeMore is Decode, but leaves what earlier events refer to as it is: all
// events since the last Decode are good until the next.
func (h *Handle) DecodeMore(value []byte, recordTime usage.Time, ev *usage.Event) (usage.Reason, error) {
	if limit := h.d.config.MaxRecordBytes; len(value) > limit {
		return usage.TooLarge, fmt.Errorf("value has %d bytes, more than %d", len(value), limit)
	}
	if len(value) == 0 {
		return usage.Undecodable, errNull
	}
	if h.d.config.Format == JSON {
		if err := h.w.object(value, h.d.layout); err != nil {
			return usage.Undecodable, err
		}
		return h.w.event(recordTime, ev)
	}
	id, ok := WireID(value)
	if !ok {
		return usage.Undecodable, errNoHeader
	}
	if h.last == nil || id != h.lastID {
		r := h.resolved[id]
		if r == nil {
			return "", fmt.Errorf("schema %d: %w", id, ErrNotPrepared)
		}
		h.last, h.lastID = r, id
	}
	if h.last.plan == nil {
		return h.last.reason, h.last.err
	}
	if err := h.w.walk(h.last.plan, value[wireHeader:]); err != nil {
		return usage.Undecodable, err
	}
	return h.w.event(recordTime, ev)
}
