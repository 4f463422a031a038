package contracts

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// object is a JSON object whose keys are all known.
type object []member

// member is a key of an object and the JSON of its value.
type member struct {
	key   string
	value []byte
}

// readObject reads an object in which each key is one of keys and there once.
// data must be valid JSON where it is an object at all.
func readObject(data []byte, what string, keys ...string) (object, error) {
	members, ok := membersOf(data)
	if !ok {
		return nil, invalid("%s is not a JSON object", what)
	}
	for i, m := range members {
		if !slices.Contains(keys, m.key) {
			return nil, invalid("unknown key %q", m.key)
		}
		if members[:i].has(m.key) {
			return nil, invalid("key %q is there twice", m.key)
		}
	}
	return members, nil
}

// document is readObject for the whole of a contract's JSON: it makes sure that
// it is JSON, once for all that is in it.
func document(data []byte, what string, keys ...string) (object, error) {
	switch first := bytes.TrimLeft(data, space); {
	case len(first) == 0 || first[0] != '{':
		return nil, invalid("%s is not a JSON object", what)
	case json.Valid(data):
		return readObject(data, what, keys...)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	var whole json.RawMessage
	if err := d.Decode(&whole); err != nil {
		return nil, invalid("%s is not JSON", what)
	}
	return nil, invalid("something follows the %s", what)
}

// space is what JSON has between values.
const space = " \t\r\n"

// membersOf cuts an object apart, and is false for any other value. The text
// is known to be JSON, so that brackets and quotes match.
func membersOf(data []byte) (object, bool) {
	data = bytes.Trim(data, space)
	if len(data) == 0 || data[0] != '{' {
		return nil, false
	}
	var members object
	for data = bytes.TrimLeft(data[1:], space); data[0] != '}'; data = bytes.TrimLeft(data, space) {
		if data[0] == ',' {
			data = bytes.TrimLeft(data[1:], space)
		}
		end := valueEnd(data)
		key := stringOf(data[:end])
		data = bytes.TrimLeft(data[end:], space)
		data = bytes.TrimLeft(data[1:], space) // the colon
		end = valueEnd(data)
		members = append(members, member{key, data[:end]})
		data = data[end:]
	}
	return members, true
}

// valueEnd returns where the value ends that data begins with.
func valueEnd(data []byte) int {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth == 0 { // of what the value is in
				return i
			}
			depth--
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
			continue
		case ':':
			continue
		default: // of a number or a word, which has no end of its own
			continue
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(data)
}

// stringOf returns what a JSON string says.
func stringOf(text []byte) string {
	if bytes.IndexByte(text, '\\') < 0 {
		return string(text[1 : len(text)-1])
	}
	var s string
	_ = json.Unmarshal(text, &s) //nolint:errchkjson // it is a string
	return s
}

func (o object) find(key string) ([]byte, bool) {
	for i := range o {
		if o[i].key == key {
			return o[i].value, true
		}
	}
	return nil, false
}

func (o object) has(key string) bool {
	_, ok := o.find(key)
	return ok
}

// elements reads an optional array; nil where the key is not there.
func (o object) elements(key string, dst *[][]byte) error {
	raw, ok := o.find(key)
	switch {
	case !ok:
		return nil
	case string(raw) == "null":
		return invalid("%s: null; leave the key out", key)
	case raw[0] != '[':
		return invalid("%s: wrong type", key)
	}
	list := [][]byte{}
	for raw = bytes.TrimLeft(raw[1:], space); raw[0] != ']'; raw = bytes.TrimLeft(raw, space) {
		if raw[0] == ',' {
			raw = bytes.TrimLeft(raw[1:], space)
		}
		end := valueEnd(raw)
		list, raw = append(list, raw[:end]), raw[end:]
	}
	*dst = list
	return nil
}

// texts reads an optional array of strings; nil where the key is not there.
func (o object) texts(key string, dst *[]string) error {
	var list [][]byte
	if err := o.elements(key, &list); err != nil || list == nil {
		return err
	}
	*dst = make([]string, len(list))
	for i, raw := range list {
		switch {
		case string(raw) == "null": // no name, which is for the caller to say
		case raw[0] != '"':
			return invalid("%s: wrong type", key)
		default:
			(*dst)[i] = stringOf(raw)
		}
	}
	return nil
}

// text reads an optional string into dst.
func text[T ~string](o object, key string, dst *T) error {
	raw, ok := o.find(key)
	if !ok {
		return nil
	}
	switch {
	case string(raw) == "null":
		return invalid("%s: null; leave the key out", key)
	case raw[0] != '"':
		return invalid("%s: wrong type", key)
	}
	*dst = T(stringOf(raw))
	return nil
}

func (o object) required(key string, dst *string) error {
	if raw, ok := o.find(key); !ok || string(raw) == "null" {
		return invalid("%s is missing", key)
	}
	return text(o, key, dst)
}

func (o object) id(key string, dst *string) error {
	if err := o.required(key, dst); err != nil {
		return err
	}
	if *dst == "" || len(*dst) > usage.MaxIDBytes {
		return invalid("%s: %d bytes, must be 1 to %d", key, len(*dst), usage.MaxIDBytes)
	}
	return nil
}

func (o object) time(key string, required bool, dst *usage.Time) error { //revive:disable-line:flag-parameter // one of two rows of a table
	raw, ok := o.find(key)
	if !required && (!ok || string(raw) == "null") { // open
		return nil
	}
	var text string
	if err := o.required(key, &text); err != nil {
		return err
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || !usage.TimeOf(t).Valid() {
		return invalid("%s: %q is not an RFC 3339 time", key, text)
	}
	if t.Nanosecond()%int(time.Millisecond) != 0 {
		return invalid("%s: %q is finer than a millisecond", key, text)
	}
	*dst = usage.TimeOf(t)
	return nil
}
