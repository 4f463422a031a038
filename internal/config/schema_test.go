package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	generate "github.com/invopop/jsonschema"
	validate "github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/config"
)

// update makes the schema anew: go test ./internal/config -run Schema -update.
var update = flag.Bool("update", false, "write the JSON Schema")

const shippedSchema = "../../configs/meterd.schema.json"

// The schema is what the types and their comments say, in both its places.
func TestSchemaIsInStep(t *testing.T) {
	t.Parallel()
	want := generated(t)
	if *update {
		require.NoError(t, os.WriteFile("meterd.schema.json", want, 0o644))
		require.NoError(t, os.WriteFile(shippedSchema, want, 0o644))
		return
	}
	require.Equal(t, string(want), string(config.Schema()), "go test ./internal/config -run Schema -update")
	shipped, err := os.ReadFile(shippedSchema)
	require.NoError(t, err)
	require.Equal(t, string(want), string(shipped))
}

func generated(t *testing.T) []byte {
	t.Helper()
	reflector := generate.Reflector{
		Anonymous: true, DoNotReference: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true,
		Mapper: func(typ reflect.Type) *generate.Schema {
			number := &generate.Schema{Type: "integer", Minimum: "0"}
			switch typ {
			case reflect.TypeFor[config.Duration]():
				number.Maximum = "0"
				text := &generate.Schema{Type: "string", Pattern: `^(0|([0-9]+(\.[0-9]*)?(ns|us|ms|s|m|h))+)$`}
				return &generate.Schema{AnyOf: []*generate.Schema{text, number}}
			case reflect.TypeFor[config.Bytes]():
				text := &generate.Schema{Type: "string", Pattern: `^[0-9]+ *([KMGT]iB|[kKMGT]?B)?$`}
				return &generate.Schema{AnyOf: []*generate.Schema{text, number}}
			}
			return nil
		},
	}
	require.NoError(t, reflector.AddGoComments("github.com/meterd/meterd/internal/config", "."))
	schema := reflector.Reflect(&config.Config{})
	schema.Title = "meterd's configuration"
	text, err := json.MarshalIndent(schema, "", "  ")
	require.NoError(t, err)
	require.Contains(t, string(text), "What is counted.", "comments are descriptions")
	return append(text, '\n')
}

func TestSchemaTakesTheFilesThatAreShown(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../../configs/meterd.yaml", "testdata/example.yaml"} {
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, againstSchema(t, source), name)
	}
	shown, err := config.Default().YAML()
	require.NoError(t, err)
	require.NoError(t, againstSchema(t, shown))
}

func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	for _, source := range []string{
		"kafak: {}", "kafka: {brokers: a:9092}", "usage: {format: xml}", "usage: {dedupe_window: 5}", "usage: {dedupe_window: soon}",
		"state: {memory: lots}", "meters: [{name: a}]", "meters: [{name: a, aggregation: average}]", "meters: [{name: a, aggregation: count, max_combinations: 0}]", "history: {druid: {columns: {fields: {a: [b]}}}}", "commit: {max_records: 1.5}",
	} {
		require.Error(t, againstSchema(t, []byte(source)), source)
	}
}

func againstSchema(t *testing.T, source []byte) error {
	t.Helper()
	document, err := validate.UnmarshalJSON(bytes.NewReader(config.Schema()))
	require.NoError(t, err)
	compiler := validate.NewCompiler()
	require.NoError(t, compiler.AddResource("meterd.schema.json", document))
	schema, err := compiler.Compile("meterd.schema.json")
	require.NoError(t, err)
	text, err := yaml.YAMLToJSON(source)
	require.NoError(t, err)
	instance, err := validate.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	return schema.Validate(instance)
}

// The file that is shipped names every key there is, as itself or in a comment,
// and what it says is the default but where it must say more.
func TestShippedFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join("..", "..", "configs", "meterd.yaml")
	got, err := config.Load(name, nil, nil)
	require.NoError(t, err)
	require.NoError(t, got.Validate())

	want := config.Default()
	want.Kafka.Brokers, want.SchemaRegistry.URL, want.Meters = got.Kafka.Brokers, got.SchemaRegistry.URL, got.Meters
	require.Equal(t, want, got)

	source, err := os.ReadFile(name)
	require.NoError(t, err)
	commentsOff := strings.NewReplacer("\n  # druid", "\n  druid", "\n  #   ", "\n    ", "\n  # tls:", "\n  tls:", "\n  # sasl:", "\n  sasl:").Replace(string(source))
	all := filepath.Join(t.TempDir(), "all.yaml")
	require.NoError(t, os.WriteFile(all, []byte(commentsOff), 0o644))
	got, err = config.Load(all, nil, nil)
	require.NoError(t, err)
	require.NoError(t, got.Validate())
	for _, key := range config.Keys() {
		_, last, _ := strings.Cut("."+key, ".")
		last = last[strings.LastIndex(last, ".")+1:]
		require.Regexp(t, `(?m)(^|[ #{,-])`+last+`:`, string(source), key)
	}
	require.NotNil(t, got.Kafka.TLS)
	require.NotNil(t, got.Kafka.SASL)
	require.NotNil(t, got.SchemaRegistry.TLS)
	require.NotNil(t, got.HTTP.TLS)
	require.NotNil(t, got.History.Druid)
	require.Equal(t, "usage", got.History.Druid.Supervisor)
	require.Equal(t, config.Columns{
		Client: "client_id", Meter: "meter", Quantity: "quantity", Partition: "k_partition", Offset: "k_offset",
		Fields: map[string]string{"properties.endpoint": "endpoint"},
	}, got.History.Druid.Columns)
}
