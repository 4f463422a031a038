package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/meterd/meterd/internal/alerts"
)

// document is a contract in a file.
type document struct {
	id      string
	json    []byte
	problem string // why it cannot be put to meterd
}

// readDocuments reads the contracts in files, and in those of directories. An
// id that is there twice is an error: nobody knows which one is meant.
func readDocuments(paths []string) ([]document, error) {
	var list []document
	from := map[string]string{}
	for _, path := range paths {
		names, err := documentFiles(path)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			documents, err := readDocumentFile(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			for _, d := range documents {
				if other, twice := from[d.id]; twice && d.problem == "" {
					return nil, fmt.Errorf("%s: contract %s is in %s already", name, d.id, other)
				}
				from[d.id] = name
				list = append(list, d)
			}
		}
	}
	return list, nil
}

// documentFiles returns path or, of a directory, the files in it that have
// contracts.
func documentFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name := filepath.Join(path, e.Name()); !e.IsDir() && (isYAML(name) || filepath.Ext(name) == ".json") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no .json, .yaml or .yml file", path)
	}
	return names, nil
}

func isYAML(name string) bool { return slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(name)) }

func readDocumentFile(name string) ([]document, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	values := []json.RawMessage{content}
	if isYAML(name) {
		if values, err = fromYAML(content); err != nil {
			return nil, err
		}
	}
	var list []document
	for _, value := range values {
		value = bytes.TrimSpace(value)
		one := []json.RawMessage{value}
		if bytes.HasPrefix(value, []byte("[")) {
			if err := json.Unmarshal(value, &one); err != nil {
				return nil, err
			}
		}
		for _, raw := range one {
			d, err := documentOf(raw)
			if err != nil {
				return nil, err
			}
			list = append(list, d)
		}
	}
	return list, nil
}

// fromYAML returns each document in source as JSON, its keys in their order.
func fromYAML(source []byte) ([]json.RawMessage, error) {
	var values []json.RawMessage
	decoder := yaml.NewDecoder(bytes.NewReader(source), yaml.UseOrderedMap())
	for {
		var v any
		if err := decoder.Decode(&v); errors.Is(err, io.EOF) {
			return values, nil
		} else if err != nil {
			return nil, err
		}
		value, err := yaml.MarshalWithOptions(v, yaml.JSON())
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
}

// documentOf returns the contract in raw. What meterd can say is wrong with it,
// meterd says.
func documentOf(raw []byte) (document, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return document{}, err
	}
	var named struct {
		ID *string `json:"id"`
	}
	d := document{json: compact.Bytes()}
	err := json.Unmarshal(d.json, &named)
	switch {
	case err != nil:
		d.problem = "not an object with an id that is a text"
	case named.ID == nil || *named.ID == "":
		d.problem = "id is missing"
	default:
		d.id = *named.ID
	}
	return d, nil
}

// difference is a key of which two contracts have different values, as JSON;
// "" for none.
type difference struct {
	Path string          `json:"path"`
	From json.RawMessage `json:"from,omitempty"`
	To   json.RawMessage `json:"to,omitempty"`
}

func (d difference) String() string {
	show := func(value json.RawMessage) string {
		if value == nil {
			return "(none)"
		}
		return string(value)
	}
	return d.Path + ": " + show(d.From) + " -> " + show(d.To)
}

// differences returns what differs between two contracts by what they mean: an
// end that is null is none, and spaces and the order of keys are nothing.
func differences(from, to []byte) ([]difference, error) {
	a, err := meaning(from)
	if err != nil {
		return nil, err
	}
	b, err := meaning(to)
	if err != nil {
		return nil, err
	}
	if reflect.DeepEqual(a, b) {
		return nil, nil
	}
	before, after := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := errors.Join(flatten("", a, before), flatten("", b, after)); err != nil {
		return nil, err
	}
	var list []difference
	for _, path := range slices.Sorted(maps.Keys(union(before, after))) {
		if !bytes.Equal(before[path], after[path]) {
			list = append(list, difference{Path: path, From: before[path], To: after[path]})
		}
	}
	if len(list) == 0 {
		list = []difference{{Path: "limits", From: json.RawMessage(`"in this order"`), To: json.RawMessage(`"in another"`)}}
	}
	return list, nil
}

func union(a, b map[string]json.RawMessage) map[string]json.RawMessage {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func meaning(contract []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(contract))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, fmt.Errorf("decode contract: %w", err)
	}
	if object, ok := v.(map[string]any); ok {
		if end, there := object["ends_at"]; there && end == nil {
			delete(object, "ends_at")
		}
	}
	return v, nil
}

// flatten puts the values in v by their paths into all. Elements of a list that
// have ids go by them.
func flatten(path string, v any, all map[string]json.RawMessage) error {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if err := flatten(strings.TrimPrefix(path+"."+key, "."), value, all); err != nil {
				return err
			}
		}
		return nil
	case []any:
		if !slices.ContainsFunc(v, func(e any) bool { return idOf(e) == "" }) {
			for _, e := range v {
				if err := flatten(path+"["+idOf(e)+"]", e, all); err != nil {
					return err
				}
			}
			return nil
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	all[path] = bytes.TrimSpace(text.Bytes())
	return nil
}

func idOf(v any) string {
	object, _ := v.(map[string]any)
	id, _ := object["id"].(string)
	return id
}

func labels(thresholds []alerts.PassedThreshold) string {
	list := make([]string, 0, len(thresholds))
	for _, t := range thresholds {
		list = append(list, t.Threshold)
	}
	return strings.Join(list, " ")
}

// showValues returns dimension values for people, "" for none.
func showValues(values map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, " %s=%q", name, values[name])
	}
	return b.String()
}
