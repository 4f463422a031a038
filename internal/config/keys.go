package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// set gives the value text to key, one of keys.
func (c *Config) set(key, text string, keys []string) error {
	if !slices.Contains(keys, key) {
		return fmt.Errorf("unknown key %s%s", key, didYouMean(key, keys))
	}
	v := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(key, ".") {
		if v.Kind() == reflect.Pointer {
			v = made(v)
		}
		v, _ = fieldByName(v, name)
	}
	switch {
	case v.Type() == reflect.TypeFor[[]string]() && !strings.HasPrefix(text, "["):
		list := strings.Split(text, ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		v.Set(reflect.ValueOf(list))
	case v.Kind() == reflect.Slice, v.Kind() == reflect.Pointer, v.Kind() == reflect.Struct, v.Kind() == reflect.Map:
		d := decoder{}
		d.document([]byte(text), v, key)
		return errors.Join(d.problems...)
	default:
		if err := setScalar(v, text); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

// keysOf returns the paths of all keys below t, those in lists left out.
func keysOf(t reflect.Type, prefix string) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for field := range t.Fields() {
		key := join(prefix, nameOf(field))
		keys = append(append(keys, key), keysOf(field.Type, key)...)
	}
	return keys
}

func nameOf(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
	return name
}

func fieldByName(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if nameOf(v.Type().Field(i)) == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func named(key string) string {
	if key == "" {
		return "the configuration"
	}
	return key
}

// suggestKey is didYouMean for a key in a struct of type t at path: a sibling
// that is written nearly so, else the same name elsewhere.
func suggestKey(t reflect.Type, path, name string) string {
	var siblings []string
	for field := range t.Fields() {
		siblings = append(siblings, nameOf(field))
	}
	if near := nearest(name, siblings); near != "" {
		return fmt.Sprintf(", did you mean %s?", join(path, near))
	}
	for _, key := range keysOf(reflect.TypeFor[Config](), "") {
		if strings.HasSuffix(key, "."+name) || key == name {
			return fmt.Sprintf(", did you mean %s?", key)
		}
	}
	return ""
}

func didYouMean(name string, candidates []string) string {
	if near := nearest(name, candidates); near != "" {
		return fmt.Sprintf(", did you mean %s?", near)
	}
	return ""
}

// nearest returns the candidate that takes the fewest changes to make of name,
// or "" if all take too many.
func nearest(name string, candidates []string) string {
	best, least := "", 1+min(max(2, len(name)/4), len(name)-1)
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if changes := distance(name, c); changes < least {
			best, least = c, changes
		}
	}
	return best
}

// distance counts the bytes to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
