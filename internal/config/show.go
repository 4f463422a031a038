package config

import (
	_ "embed" // the schema
	"fmt"
	"net/url"
	"slices"

	"github.com/goccy/go-yaml"
)

//go:embed meterd.schema.json
var schema []byte

// Schema returns the JSON Schema of the file.
func Schema() []byte { return slices.Clone(schema) }

// YAML returns c as a file that means the same, but without what is secret: no
// key is, so that is names and passwords that somebody wrote into an address.
func (c *Config) YAML() ([]byte, error) {
	shown := *c
	shown.Kafka.Brokers = slices.Clone(c.Kafka.Brokers)
	for i, broker := range shown.Kafka.Brokers {
		if _, _, ok := splitAddress(broker); !ok {
			shown.Kafka.Brokers[i] = redacted
		}
	}
	shown.SchemaRegistry.URL = withoutUser(c.SchemaRegistry.URL)
	if c.History.Druid != nil {
		druid := *c.History.Druid
		druid.URL, druid.CoordinatorURL = withoutUser(druid.URL), withoutUser(druid.CoordinatorURL)
		shown.History.Druid = &druid
	}
	text, err := yaml.MarshalWithOptions(&shown, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("render configuration: %w", err)
	}
	return text, nil
}

// JSON returns the same as YAML does, as JSON.
func (c *Config) JSON() ([]byte, error) {
	text, err := c.YAML()
	if err != nil {
		return nil, err
	}
	if text, err = yaml.YAMLToJSON(text); err != nil {
		return nil, fmt.Errorf("render configuration: %w", err)
	}
	return text, nil
}

const redacted = "REDACTED"

func withoutUser(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return redacted
	case u.User != nil:
		u.User = url.User(redacted)
	}
	return u.String()
}
