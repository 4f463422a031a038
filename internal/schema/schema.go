// Package schema turns bytes into meterd's words and back: usage events from
// Avro in Confluent's wire format or from JSON, limit events in the same two,
// and the records of the changelog.
//
// All that comes from outside is bounded: every length and count is checked
// against the bytes that are there, nesting has a cap, and a record is walked
// to its last byte before anything in it is believed. What a record is worth
// is decided by its bytes, its schema and the mapping alone; a registry that
// does not answer is never a reason to give a record up.
//
// A Decoder is shared by all partitions, a Handle belongs to one goroutine.
// Only Prepare and the RegistryClient do I/O.
package schema

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Format is how events are written in a topic.
type Format string

// The formats of usage events and limit events.
const (
	Avro Format = "avro" // in Confluent's wire format: a zero, four bytes of schema id, the body
	JSON Format = "json" // one object
)

// Errors that callers tell apart.
var (
	// ErrRegistryDown is returned when the schema registry gave no answer that
	// settles the question: it is away, overloaded, refuses us or talks
	// nonsense. The same call may succeed later; no record may be given up.
	ErrRegistryDown = errors.New("schema registry gives no answer")
	// ErrUnknownSchema is returned when the registry has no such schema.
	ErrUnknownSchema = errors.New("no such schema in the registry")
	// ErrBadSchema is returned when a registered schema cannot be used: it is
	// not Avro, not a record, does not parse, or is too large.
	ErrBadSchema = errors.New("unusable schema")
	// ErrNotPrepared is returned by Decode for a record that Prepare has not
	// seen.
	ErrNotPrepared = errors.New("schema id was not prepared")
	// ErrForeign is returned when bytes are not what meterd writes: another
	// format, another version, or damaged.
	ErrForeign = errors.New("not written by meterd")
)

// Bounds of what is read.
const (
	// MaxSchemaBytes bounds the text of a schema together with all that it
	// refers to.
	MaxSchemaBytes = 1 << 20
	// maxDepth bounds how deeply values, and types within a schema, may nest.
	maxDepth = 512
	// maxPathParts bounds the parts of a mapped path.
	maxPathParts = 16
	// MaxFields bounds the paths of a Mapping's Fields.
	MaxFields = 64
)

// Mapping says where in a record the fields of an event are: names joined by
// dots that go into records, objects or maps. An empty path is not mapped.
type Mapping struct {
	ID       string
	Client   string
	Meter    string
	Quantity string
	Time     string
	Void     string

	// Fields are the paths of what goes to usage.Event.Fields, in their order, at
	// most MaxFields. A path may be mapped above too. A record, array or map at
	// the end of a path is unfit; nothing there, or null, is null.
	Fields []string
}

// Validate returns an error that names the key of a path that cannot be, or
// the path itself where it is one of Fields.
func (m Mapping) Validate() error {
	if m.Client == "" {
		return errors.New("client: is required")
	}
	if m.Void != "" && m.ID == "" {
		return errors.New("void: needs id to be mapped too")
	}
	for f, path := range m.paths() {
		if path == "" {
			continue
		}
		if err := checkPath(path); err != nil {
			return fmt.Errorf("%s: %w", field(f), err)
		}
	}
	if len(m.Fields) > MaxFields {
		return fmt.Errorf("what meters look at: %d paths, more than %d", len(m.Fields), MaxFields)
	}
	for _, path := range m.Fields {
		if err := checkPath(path); err != nil {
			return fmt.Errorf("what meters look at: %w", err)
		}
	}
	return nil
}

func checkPath(path string) error {
	parts := strings.Split(path, ".")
	if len(parts) > maxPathParts {
		return fmt.Errorf("%q has %d parts, more than %d", path, len(parts), maxPathParts)
	}
	if slices.Contains(parts, "") {
		return fmt.Errorf("%q has an empty part", path)
	}
	return nil
}

// paths returns the paths in the order of the fields.
func (m Mapping) paths() [fields]string {
	return [fields]string{
		clientField: m.Client, meterField: m.Meter, idField: m.ID,
		quantityField: m.Quantity, timeField: m.Time, voidField: m.Void,
	}
}

// field is one of the fields of an event that a path can be mapped to.
type field int

const (
	clientField field = iota
	meterField
	idField
	quantityField
	timeField
	voidField
	fields // how many there are
)

// String returns the configuration's key of f.
func (f field) String() string {
	return [fields]string{"client", "meter", "id", "quantity", "time", "void"}[f]
}

// want is what is wanted of a value and of what lies within it: the mapped
// paths as a tree. Equal paths share a slot.
type want struct {
	name  string
	slot  int8   // where the value goes, or noSlot
	below []int8 // the slots of all that lies within
	inner []*want
}

const noSlot = -1

// find returns what is wanted under name, or nil. A nil w wants nothing.
func (w *want) find(name []byte) *want {
	if w == nil {
		return nil
	}
	for _, inner := range w.inner {
		if inner.name == string(name) {
			return inner
		}
	}
	return nil
}

// layout is a mapping made ready for walks. It never changes.
type layout struct {
	root  *want
	slots [fields]int8 // of each field
	extra []int8       // of each of Mapping.Fields
	used  int8         // how many slots there are
}

// layout returns the mapped paths as a tree, with the slots of their values.
func (m Mapping) layout() *layout {
	l := &layout{root: &want{slot: noSlot}}
	for f, path := range m.paths() {
		if l.slots[f] = unmapped; path != "" {
			l.slots[f] = l.slot(path)
		}
	}
	for _, path := range m.Fields {
		l.extra = append(l.extra, l.slot(path))
	}
	return l
}

// slot returns the slot of path.
func (l *layout) slot(path string) int8 {
	at, above := l.root, []*want{l.root}
	for part := range strings.SplitSeq(path, ".") {
		inner := at.find([]byte(part))
		if inner == nil {
			inner = &want{name: part, slot: noSlot}
			at.inner = append(at.inner, inner)
		}
		at, above = inner, append(above, inner)
	}
	if at.slot == noSlot {
		at.slot = l.used
		l.used++
		for _, w := range above {
			w.below = append(w.below, at.slot)
		}
	}
	return at.slot
}
