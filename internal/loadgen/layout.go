package loadgen

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/schema"
)

// part is a field of an event.
type part uint8

const (
	idPart part = iota
	clientPart
	meterPart
	quantityPart
	timePart
	voidPart
	sourcePart
	propertiesPart
	tracePart  // of the second schema alone
	labelsPart // of the second schema alone
	recordPart // a record of parts
)

// node is a field of the record that events are written as.
type node struct {
	name  string
	part  part
	inner []*node // of a recordPart
}

// find returns the field called name, or nil.
func (n *node) find(name string) *node {
	for _, inner := range n.inner {
		if inner.name == name {
			return inner
		}
	}
	return nil
}

// nameForm is what Avro allows as a name. JSON gets no other names either.
var nameForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// layout returns the record that holds every mapped field at its path, and
// two fields beside them that nobody asked for.
func layout(m schema.Mapping) (*node, error) {
	if m.Client == "" {
		return nil, errors.New("usage.fields.client: is required")
	}
	root := &node{part: recordPart}
	for _, f := range []struct {
		part part
		path string
	}{
		{idPart, m.ID}, {clientPart, m.Client}, {meterPart, m.Meter}, {quantityPart, m.Quantity}, {timePart, m.Time}, {voidPart, m.Void},
	} {
		if f.path == "" {
			continue
		}
		if err := root.put(strings.Split(f.path, "."), f.part); err != nil {
			return nil, fmt.Errorf("usage.fields: %q: %w", f.path, err)
		}
	}
	root.extra("source", sourcePart)
	root.extra("properties", propertiesPart)
	return root, nil
}

func (n *node) put(path []string, p part) error {
	name := path[0]
	if !nameForm.MatchString(name) {
		return errors.New("no event can be written with such a name")
	}
	inner := n.find(name)
	if len(path) == 1 {
		if inner != nil {
			return errors.New("no event can be written with two fields at one path")
		}
		n.inner = append(n.inner, &node{name: name, part: p})
		return nil
	}
	if inner == nil {
		inner = &node{name: name, part: recordPart}
		n.inner = append(n.inner, inner)
	}
	if inner.part != recordPart {
		return errors.New("no event can be written with one field inside another")
	}
	return inner.put(path[1:], p)
}

// propertied tells whether events have properties, at the path of that name.
func (n *node) propertied() bool {
	p := n.find("properties")
	return p != nil && p.part == propertiesPart
}

// extra adds a field whose name no mapped path begins with.
func (n *node) extra(name string, p part) {
	if n.find(name) == nil {
		n.inner = append(n.inner, &node{name: name, part: p})
	}
}

// second returns n as the second schema has it: its fields in the opposite
// order, and more of them.
func (n *node) second() *node {
	turned := n.turned()
	turned.extra("trace", tracePart)
	turned.extra("labels", labelsPart)
	return turned
}

func (n *node) turned() *node {
	out := &node{name: n.name, part: n.part}
	for _, inner := range slices.Backward(n.inner) {
		out.inner = append(out.inner, inner.turned())
	}
	return out
}

// leaves returns the fields of all depths in the order in which Avro writes
// them: a record is nothing but its fields.
func (n *node) leaves() []part {
	if n.part != recordPart {
		return []part{n.part}
	}
	var parts []part
	for _, inner := range n.inner {
		parts = append(parts, inner.leaves()...)
	}
	return parts
}

// avroField and avroRecord are a schema's JSON.
type avroField struct {
	Name    string          `json:"name"`
	Type    json.RawMessage `json:"type"`
	Default json.RawMessage `json:"default,omitempty"`
}

type avroRecord struct {
	Type      string      `json:"type"`
	Name      string      `json:"name"`
	Namespace string      `json:"namespace,omitempty"`
	Fields    []avroField `json:"fields"`
}

// Types of the parts in the first schema and in the second. The second can
// read what the first has written, as registries demand by default.
var (
	firstTypes = map[part]string{
		idPart: `"string"`, clientPart: `"string"`, meterPart: `"string"`, quantityPart: `"long"`,
		timePart: `{"type":"long","logicalType":"timestamp-millis"}`, voidPart: `"boolean"`,
		sourcePart: `"string"`, propertiesPart: `{"type":"map","values":"string"}`,
	}
	secondTypes = map[part]string{
		idPart: `["null","string"]`, clientPart: `["string","null"]`, meterPart: `["null","string"]`,
		quantityPart: `["null","long","string"]`,
		timePart:     `["null",{"type":"long","logicalType":"timestamp-micros"}]`, voidPart: `["null","boolean"]`,
		sourcePart: `["null","string"]`, propertiesPart: `["null",{"type":"map","values":"string"}]`,
		tracePart: `["null","bytes"]`, labelsPart: `{"type":"array","items":"string"}`,
	}
	firstDefaults  = map[part]string{voidPart: `false`, sourcePart: `""`, propertiesPart: `{}`}
	secondDefaults = map[part]string{voidPart: `null`, sourcePart: `null`, propertiesPart: `null`, tracePart: `null`, labelsPart: `[]`}
)

// schemaText returns the Avro schema of n.
func (n *node) schemaText(types, defaults map[part]string) (string, error) {
	record := n.record("UsageEvent", types, defaults)
	record.Namespace = "meterd"
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(record); err != nil {
		return "", fmt.Errorf("schema of usage events: %w", err)
	}
	return strings.TrimSpace(out.String()), nil
}

func (n *node) record(name string, types, defaults map[part]string) avroRecord {
	r := avroRecord{Type: "record", Name: name}
	for _, inner := range n.inner {
		f := avroField{Name: inner.name, Type: json.RawMessage(types[inner.part])}
		if inner.part == recordPart {
			// Cannot fail: it is text throughout.
			f.Type, _ = json.Marshal(inner.record(name+"_"+inner.name, types, defaults))
		}
		if d, ok := defaults[inner.part]; ok {
			f.Default = json.RawMessage(d)
		}
		r.Fields = append(r.Fields, f)
	}
	return r
}
