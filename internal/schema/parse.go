package schema

import (
	"fmt"
	"unicode/utf8"

	"github.com/hamba/avro/v2"
)

// Schema is a schema as a registry has it.
type Schema struct {
	Type       string   // "AVRO", "JSON", "PROTOBUF"; empty means AVRO
	Text       string   // in the language of its type
	References []string // texts of the schemas it refers to, each after those it needs itself
}

// maxErrorText bounds what an error repeats of a schema's own text.
const maxErrorText = 200

// parse returns the record that s describes. Every error is an ErrBadSchema.
func (s Schema) parse() (record *avro.RecordSchema, err error) {
	// The parser is known to run into nil pointers on some schemas that are
	// none, such as a default for a record within itself.
	defer func() {
		if trouble := recover(); trouble != nil {
			record, err = nil, fmt.Errorf("%w: it cannot be parsed", ErrBadSchema)
		}
	}()
	if s.Type != "" && s.Type != "AVRO" {
		return nil, fmt.Errorf("%w: it is of type %.20q, not AVRO", ErrBadSchema, s.Type)
	}
	size := len(s.Text)
	for _, text := range s.References {
		size += len(text)
	}
	if size > MaxSchemaBytes {
		return nil, fmt.Errorf("%w: %d bytes of text, more than %d", ErrBadSchema, size, MaxSchemaBytes)
	}
	// A cache of its own: the parser's default one is global and only grows.
	cache := &avro.SchemaCache{}
	for _, text := range s.References {
		if _, err := avro.ParseWithCache(text, "", cache); err != nil {
			return nil, badSchema("a schema it refers to", err)
		}
	}
	parsed, err := avro.ParseWithCache(s.Text, "", cache)
	if err != nil {
		return nil, badSchema("it", err)
	}
	if ref, ok := parsed.(*avro.RefSchema); ok {
		parsed = ref.Schema()
	}
	record, ok := parsed.(*avro.RecordSchema)
	if !ok {
		return nil, fmt.Errorf("%w: it is of type %.20q, not a record", ErrBadSchema, parsed.Type())
	}
	return record, nil
}

// badSchema cuts the parser's error short, for it may repeat the whole schema.
func badSchema(what string, err error) error {
	text := err.Error()
	if len(text) > maxErrorText {
		cut := maxErrorText
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return fmt.Errorf("%w: %s does not parse: %s", ErrBadSchema, what, text)
}
