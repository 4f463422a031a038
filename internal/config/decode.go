package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decode reads YAML into c and returns all that is wrong, each with the place.
//
// The library's own decoder stops at the first problem, gives no place for
// values of our types, and takes 1.5 for an int; so only its parser is used.
func decode(name string, source []byte, c *Config) []error {
	d := decoder{name: filepath.Base(name), anchors: map[string]ast.Node{}}
	d.document(source, reflect.ValueOf(c).Elem(), "")
	return d.problems
}

type decoder struct {
	name     string // of the file, for people; empty for a single value
	anchors  map[string]ast.Node
	depth    int // of aliases within aliases
	problems []error
}

func (d *decoder) document(source []byte, into reflect.Value, key string) {
	defer func() {
		if r := recover(); r != nil {
			d.problems = append(d.problems, fmt.Errorf("%s: not YAML: %v", d.name, r)) // the parser's trouble, not ours
		}
	}()
	file, err := parser.ParseBytes(source, 0)
	var syntax yaml.Error
	switch {
	case errors.As(err, &syntax):
		d.at(syntax.GetToken(), "%s", syntax.GetMessage())
		return
	case err != nil:
		d.at(nil, "%v", err)
		return
	}
	documents := 0
	for _, doc := range file.Docs {
		switch doc.Body.(type) {
		case nil, *ast.CommentGroupNode, *ast.CommentNode:
			continue
		}
		if documents++; documents > 1 {
			d.at(doc.Body.GetToken(), "a second document: there must be one")
			return
		}
		d.value(doc.Body, into, key)
	}
}

// at notes a problem at tok.
func (d *decoder) at(tok *token.Token, format string, args ...any) {
	text, place := fmt.Sprintf(format, args...), d.name
	if tok != nil && tok.Position != nil && d.name != "" {
		place = fmt.Sprintf("%s:%d:%d", d.name, tok.Position.Line, tok.Position.Column)
	}
	if place != "" {
		text = place + ": " + text
	}
	d.problems = append(d.problems, errors.New(text))
}

// value reads node into v; key is the path of it.
func (d *decoder) value(node ast.Node, v reflect.Value, key string) {
	node, ok := d.resolve(node)
	if !ok {
		return
	}
	if _, null := node.(*ast.NullNode); null {
		return // as if the key were not there
	}
	switch {
	case v.Kind() == reflect.Pointer:
		d.value(node, made(v), key)
	case reflect.PointerTo(v.Type()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		d.scalar(node, v, key)
	case v.Kind() == reflect.Struct, v.Kind() == reflect.Map:
		d.mapping(node, v, key)
	case v.Kind() == reflect.Slice:
		d.sequence(node, v, key)
	default:
		d.scalar(node, v, key)
	}
}

// resolve looks through anchors, aliases and tags.
func (d *decoder) resolve(node ast.Node) (ast.Node, bool) {
	for range 100 {
		switch n := node.(type) {
		case *ast.AnchorNode:
			d.anchors[n.Name.GetToken().Value] = n.Value
			node = n.Value
		case *ast.AliasNode:
			target, ok := d.anchors[n.Value.GetToken().Value]
			if !ok {
				d.at(n.GetToken(), "no anchor &%s comes before it", n.Value.GetToken().Value)
				return nil, false
			}
			node = target
		case *ast.TagNode:
			d.at(n.GetToken(), "tags such as %s are not used here", n.GetToken().Value)
			return nil, false
		case nil:
			return &ast.NullNode{}, true
		default:
			return node, true
		}
	}
	d.at(node.GetToken(), "an alias of itself")
	return nil, false
}

// made returns what the pointer v points to, made with its defaults if it
// points to nothing.
func made(v reflect.Value) reflect.Value {
	if v.IsNil() {
		v.Set(reflect.New(v.Type().Elem()))
		if druid, ok := reflect.TypeAssert[*Druid](v); ok {
			druid.setDefaults()
		}
	}
	return v.Elem()
}

func (d *decoder) mapping(node ast.Node, v reflect.Value, key string) {
	m, ok := node.(ast.MapNode)
	if !ok {
		d.at(node.GetToken(), "%s must have keys of its own, not a value", named(key))
		return
	}
	// An alias may hold an alias of its own; the keys there are bound the depth.
	if d.depth++; d.depth > 20 {
		d.at(node.GetToken(), "%s is too deep", named(key))
		return
	}
	defer func() { d.depth-- }()
	for entries := m.MapRange(); entries.Next(); {
		name := entries.Key()
		if name.IsMergeKey() {
			d.value(entries.Value(), v, key)
			continue
		}
		if v.Kind() == reflect.Map {
			d.entry(name.GetToken().Value, entries.Value(), v, key)
			continue
		}
		field, ok := fieldByName(v, name.GetToken().Value)
		if !ok {
			d.at(name.GetToken(), "unknown key %s%s", join(key, name.GetToken().Value), suggestKey(v.Type(), key, name.GetToken().Value))
			continue
		}
		d.value(entries.Value(), field, join(key, name.GetToken().Value))
	}
}

// entry reads the value of a key that users choose into the map v.
func (d *decoder) entry(name string, node ast.Node, v reflect.Value, key string) {
	value := reflect.New(v.Type().Elem()).Elem()
	d.value(node, value, fmt.Sprintf("%s[%q]", key, name))
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	v.SetMapIndex(reflect.ValueOf(name), value)
}

func (d *decoder) sequence(node ast.Node, v reflect.Value, key string) {
	s, ok := node.(*ast.SequenceNode)
	if !ok {
		d.at(node.GetToken(), "%s must be a list", named(key))
		return
	}
	if len(s.Values) == 0 {
		v.SetZero()
		return
	}
	list := reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values))
	for i, item := range s.Values {
		d.value(item, list.Index(i), fmt.Sprintf("%s[%d]", key, i))
	}
	v.Set(list)
}

func (d *decoder) scalar(node ast.Node, v reflect.Value, key string) {
	var text string
	switch n := node.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		text = n.GetToken().Value
	default:
		address, ok := unspaced(node)
		if !ok {
			d.at(node.GetToken(), "%s must be a single value", named(key))
			return
		}
		text = address
	}
	if err := setScalar(v, text); err != nil {
		d.at(node.GetToken(), "%s: %v", key, err)
	}
}

// unspaced returns the text of a node that the parser takes for a key and its
// value though no space follows the colon: in {brokers: [a:9092]}, a list within
// braces, it is wrong about a:9092.
func unspaced(node ast.Node) (string, bool) {
	m, ok := node.(ast.MapNode)
	if !ok {
		return "", false
	}
	entries := m.MapRange()
	if !entries.Next() {
		return "", false
	}
	entry := entries.KeyValue()
	key, colon, value := entry.Key.GetToken(), entry.Start, entry.Value.GetToken()
	if colon == nil || key.Next != colon || colon.Next != value || value.Position.Line != colon.Position.Line ||
		value.Position.Column != colon.Position.Column+1 || entries.Next() {
		return "", false
	}
	return key.Value + ":" + value.Value, true
}

// setScalar reads text into v, which is no struct and no list.
func setScalar(v reflect.Value, text string) error {
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return u.UnmarshalText([]byte(text))
	}
	if v.Kind() == reflect.String {
		v.SetString(text)
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > math.MaxInt32 || n < math.MinInt32 {
		return fmt.Errorf("%q is not a whole number", text)
	}
	v.SetInt(n)
	return nil
}
