package loadgen

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// Registrar is where schemas are registered.
type Registrar interface {
	Register(ctx context.Context, subject, text string) (uint32, error)
}

// encoder writes events in the format of the target. One goroutine may use it
// at a time.
type encoder struct {
	g       *Generator
	format  schema.Format
	record  *node
	meters  []string
	clients []string
	schemas [2]writer
	second  uint64 // hashes below have the second schema
	scratch []byte
}

// writer is a schema as the encoder needs it.
type writer struct {
	id     uint32
	parts  []part
	unions bool
}

// newEncoder returns an encoder, and registers the schemas it writes. For JSON
// registry may be nil.
func newEncoder(ctx context.Context, g *Generator, t Target, registry Registrar) (*encoder, error) {
	record, err := layout(t.Mapping)
	if err != nil {
		return nil, err
	}
	e := &encoder{g: g, format: t.Format, record: record, clients: make([]string, g.load.Clients)}
	for n := range e.clients {
		e.clients[n] = ClientName(n)
	}
	for _, i := range t.meters() {
		e.meters = append(e.meters, t.Catalog.Meters[i].Name)
	}
	if t.Format == schema.JSON {
		return e, nil
	}
	subject := t.Topic + "-value"
	text, err := record.schemaText(firstTypes, firstDefaults)
	if err != nil {
		return nil, err
	}
	e.schemas[0].parts = record.leaves()
	if e.schemas[0].id, err = registry.Register(ctx, subject, text); err != nil {
		return nil, err
	}
	if g.load.SecondSchema == 0 {
		return e, nil
	}
	e.second = fraction(g.load.SecondSchema)
	second := record.second()
	if text, err = second.schemaText(secondTypes, secondDefaults); err != nil {
		return nil, err
	}
	e.schemas[1].parts, e.schemas[1].unions = second.leaves(), true
	if e.schemas[1].id, err = registry.Register(ctx, subject, text); err != nil {
		return nil, fmt.Errorf("second schema: %w", err)
	}
	return e, nil
}

// append appends event number i, whose time is at, as the value of a record.
func (e *encoder) append(dst []byte, i int64, ev *Event, at time.Time) []byte {
	h := e.g.hash(i, forText)
	if ev.Kind == Undecodable {
		return e.appendDamaged(dst, h)
	}
	if e.format == schema.JSON {
		return e.appendJSON(dst, e.record, ev, at, h)
	}
	w := &e.schemas[0]
	if h < e.second {
		w = &e.schemas[1]
	}
	return e.appendAvro(dst, w, ev, at, h)
}

// appendDamaged appends what nobody can read as an event.
func (e *encoder) appendDamaged(dst []byte, h uint64) []byte {
	if e.format == schema.JSON {
		return append(dst, [...]string{`{"cut":`, `not json`, `["an array"]`, `{} {}`}[h%4]...)
	}
	switch h % 4 {
	case 0:
		return append(dst, "not avro"...)
	case 1: // cut inside of its header
		return append(dst, 0, 0, 0)
	case 2: // cut inside of a string
		return append(schema.AppendHeader(dst, e.schemas[0].id), 72, 'c', 'u', 't')
	}
	return schema.AppendHeader(dst, e.schemas[0].id) // no body
}

var (
	sources = [...]string{"gateway/eu-west-1", "gateway/us-east-1", "batch-importer", "sdk-go/2.14.1"}
	names   = [...]string{"region", "plan", "endpoint", "model"}
	values  = [...][4]string{
		{"eu-west-1", "us-east-1", "ap-south-1", "eu-central-1"},
		{"free", "team", "business", "enterprise"},
		{"/v1/search", "/v1/items", "/v2/completions", "/v1/export"},
		{"small-3", "large-2", "embed-1", "vision-1"},
	}
)

// endpointName is the place of the endpoint in names.
const endpointName = 2

// branches are the indices of what is written into the unions of the second
// schema; all others have it second.
const (
	secondBranch = 2 // zigzag of 1
	thirdBranch  = 4 // zigzag of 2
	firstBranch  = 0
)

func (e *encoder) appendAvro(dst []byte, w *writer, ev *Event, at time.Time, h uint64) []byte {
	dst = schema.AppendHeader(dst, w.id)
	for _, p := range w.parts {
		if w.unions {
			dst = appendBranch(dst, p, h)
		}
		switch p {
		case idPart:
			e.scratch = e.g.appendID(e.scratch[:0], ev.Origin)
			dst = append(binary.AppendVarint(dst, int64(len(e.scratch))), e.scratch...)
		case clientPart:
			dst = appendText(dst, e.clients[ev.Client])
		case meterPart:
			dst = appendText(dst, e.meters[ev.Meter])
		case quantityPart:
			if w.unions && quantityIsText(h) {
				dst = appendText(dst, strconv.FormatInt(ev.Quantity, 10))
			} else {
				dst = binary.AppendVarint(dst, ev.Quantity)
			}
		case timePart:
			if w.unions {
				dst = binary.AppendVarint(dst, at.UnixMicro())
			} else {
				dst = binary.AppendVarint(dst, at.UnixMilli())
			}
		case voidPart:
			dst = append(dst, boolOf(ev.Kind == Void))
		case sourcePart:
			dst = appendText(dst, e.g.source(ev))
		case propertiesPart:
			dst = e.appendProperties(dst, ev)
		case tracePart: // null: its branch is all
		case labelsPart:
			dst = append(appendText(append(dst, 2), "synthetic"), 0)
		}
	}
	return dst
}

// quantityIsText tells which events of the second schema have their quantity
// as a decimal string.
func quantityIsText(h uint64) bool { return h>>4&1 == 1 }

func appendBranch(dst []byte, p part, h uint64) []byte {
	switch {
	case p == clientPart, p == tracePart:
		return append(dst, firstBranch)
	case p == labelsPart:
		return dst
	case p == quantityPart && quantityIsText(h):
		return append(dst, thirdBranch)
	}
	return append(dst, secondBranch)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendVarint(dst, int64(len(s))), s...)
}

func boolOf(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// source returns where an event says that it comes from: where the original
// does.
func (g *Generator) source(ev *Event) string {
	return sources[g.hash(ev.Origin, forText)>>8%uint64(len(sources))]
}

// property is one of an event's properties.
type property struct{ name, value string }

// properties returns the properties of an event: up to three, and its endpoint
// where there are so many. They are those of the original, as all of its
// content is.
func (g *Generator) properties(list []property, ev *Event) []property {
	h := g.hash(ev.Origin, forText) >> 16
	for k := range int(h & 3) {
		f := (int(h>>2&3) + k) % len(names)
		if g.choose == nil || f != endpointName {
			list = append(list, property{names[f], values[f][h>>(4+2*k)&3]})
		}
	}
	if g.choose != nil {
		list = append(list, property{names[endpointName], EndpointName(ev.Endpoint)})
	}
	return list
}

// endpoint returns the value of an event's endpoint, "" for none.
func (g *Generator) endpoint(ev *Event) string {
	var buf [len(names)]property
	for _, p := range g.properties(buf[:0], ev) {
		if p.name == names[endpointName] {
			return p.value
		}
	}
	return ""
}

// EndpointName returns the name of endpoint number n.
func EndpointName(n int) string { return "/v1/" + strconv.Itoa(n) }

// appendProperties appends a map.
func (e *encoder) appendProperties(dst []byte, ev *Event) []byte {
	var buf [len(names)]property
	list := e.g.properties(buf[:0], ev)
	if len(list) > 0 {
		dst = binary.AppendVarint(dst, int64(len(list)))
	}
	for _, p := range list {
		dst = appendText(appendText(dst, p.name), p.value)
	}
	return append(dst, 0)
}

func (e *encoder) appendPropertiesJSON(dst []byte, ev *Event) []byte {
	var buf [len(names)]property
	dst = append(dst, '{')
	for i, p := range e.g.properties(buf[:0], ev) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(usage.AppendCanonicalString(dst, p.name), ':')
		dst = usage.AppendCanonicalString(dst, p.value)
	}
	return append(dst, '}')
}

func (e *encoder) appendJSON(dst []byte, n *node, ev *Event, at time.Time, h uint64) []byte {
	for i, inner := range n.inner {
		dst = append(dst, "{,"[min(i, 1)], '"')
		dst = append(append(dst, inner.name...), '"', ':')
		switch inner.part {
		case recordPart:
			dst = e.appendJSON(dst, inner, ev, at, h)
		case idPart:
			dst = append(e.g.appendID(append(dst, '"'), ev.Origin), '"')
		case clientPart:
			dst = usage.AppendCanonicalString(dst, e.clients[ev.Client])
		case meterPart:
			dst = usage.AppendCanonicalString(dst, e.meters[ev.Meter])
		case quantityPart:
			dst = strconv.AppendInt(dst, ev.Quantity, 10)
		case timePart:
			dst = strconv.AppendInt(dst, at.UnixMilli(), 10)
		case sourcePart:
			dst = usage.AppendCanonicalString(dst, e.g.source(ev))
		case voidPart:
			dst = strconv.AppendBool(dst, ev.Kind == Void)
		default:
			dst = e.appendPropertiesJSON(dst, ev)
		}
	}
	return append(dst, '}')
}
