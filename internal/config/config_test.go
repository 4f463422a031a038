package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/config"
)

// file writes source to a file called meterd.yaml.
func file(t *testing.T, source string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "meterd.yaml")
	require.NoError(t, os.WriteFile(name, []byte(source), 0o600))
	return name
}

const least = "kafka: {brokers: [a:9092]}\nschema_registry: {url: 'http://r:8081'}\n"

// lines are those of err, one for each problem.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func TestLoadTakesTheLeast(t *testing.T) {
	t.Parallel()
	got, err := config.Load(file(t, least), nil, nil)
	require.NoError(t, err)
	require.NoError(t, got.Validate())
	want := config.Default()
	want.Kafka.Brokers, want.SchemaRegistry.URL = []string{"a:9092"}, "http://r:8081"
	require.Equal(t, want, got)
	require.Equal(t, "meterd.changelog", got.ChangelogTopic)

	got, err = config.Load("", []string{"METERD_KAFKA_BROKERS=a:9092", "METERD_SCHEMA_REGISTRY_URL=http://r:8081"}, nil)
	require.NoError(t, err)
	require.Equal(t, want, got, "a file is not needed")
}

func TestLoadReads(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		source string
		check  func(*testing.T, *config.Config)
	}{
		"an empty file":        {"", func(t *testing.T, c *config.Config) { require.Equal(t, config.Default(), c) }},
		"comments alone":       {"# nothing\n", func(t *testing.T, c *config.Config) { require.Equal(t, config.Default(), c) }},
		"keys without a value": {"kafka:\nmeters:\nstate: {memory: null}\n", func(t *testing.T, c *config.Config) { require.Equal(t, config.Default(), c) }},
		"a part leaves the rest": {"usage: {fields: {client: who}}", func(t *testing.T, c *config.Config) {
			require.Equal(t, config.Fields{ID: "event_id", Client: "who", Meter: "meter", Quantity: "quantity", Time: "timestamp"}, c.Usage.Fields)
		}},
		"names follow the application id": {"application_id: shop\nlimit_events: {topic: told}", func(t *testing.T, c *config.Config) {
			require.Equal(t, []string{"shop.contracts", "told", "shop.limit-state", "shop.dead-letter", "shop.changelog"},
				[]string{c.Contracts.Topic, c.LimitEvents.Topic, c.LimitEvents.StateTopic, c.DeadLetterTopic, c.ChangelogTopic})
		}},
		"durations and sizes": {"usage: {dedupe_window: 0, max_future: 1m30s, max_record_bytes: 65536}\nstate: {memory: 2GiB, min_free_disk: '500 MB'}", func(t *testing.T, c *config.Config) {
			require.Zero(t, c.Usage.DedupeWindow)
			require.Equal(t, 90*time.Second, c.Usage.MaxFuture.Duration())
			require.Equal(t, 64*config.KiB, c.Usage.MaxRecordBytes)
			require.Equal(t, 2*config.GiB, c.State.Memory)
			require.Equal(t, config.Bytes(500e6), c.State.MinFreeDisk)
		}},
		"text that looks like a number": {"application_id: 007\nkafka: {instance_id: 1.50}", func(t *testing.T, c *config.Config) {
			require.Equal(t, "007", c.ApplicationID)
			require.Equal(t, "1.50", c.Kafka.InstanceID)
		}},
		"addresses in whatever brackets": {"kafka: {brokers: [kafka:9092, '[::1]:1', 10.0.0.1:2,c-1.svc:3 , \"d:4\"], instance_id: a:1}", func(t *testing.T, c *config.Config) {
			require.Equal(t, []string{"kafka:9092", "[::1]:1", "10.0.0.1:2", "c-1.svc:3", "d:4"}, c.Kafka.Brokers)
			require.Equal(t, "a:1", c.Kafka.InstanceID)
		}},
		"columns by path": {"history: {druid: {columns: {fields: {a.b: c, d: null, 'e.f': '1'}}}}", func(t *testing.T, c *config.Config) {
			require.Equal(t, map[string]string{"a.b": "c", "d": "", "e.f": "1"}, c.History.Druid.Columns.Fields)
		}},
		"a number that may be left out": {"meters: [{max_combinations: 5}, {name: a}]", func(t *testing.T, c *config.Config) {
			require.Equal(t, 5, *c.Meters[0].MaxCombinations)
			require.Nil(t, c.Meters[1].MaxCombinations)
		}},
		"encryption with nothing more": {"kafka: {tls: {}}", func(t *testing.T, c *config.Config) { require.Equal(t, &config.TLS{}, c.Kafka.TLS) }},
		"history with its defaults": {"history: {druid: {url: 'http://d:8888', columns: {meter: m}}}", func(t *testing.T, c *config.Config) {
			require.Equal(t, "usage", c.History.Druid.Datasource)
			require.Equal(t, config.Columns{Client: "client_id", Meter: "m", Quantity: "quantity", Partition: "k_partition", Offset: "k_offset"}, c.History.Druid.Columns)
			require.Equal(t, 30*time.Second, c.History.Druid.Timeout.Duration())
		}},
		"anchors and merges": {"schema_registry: {tls: &t {ca_file: ca.pem, cert_file: c, key_file: k}}\nkafka: {tls: {<<: *t, server_name: s}, brokers: &b [x:1]}", func(t *testing.T, c *config.Config) {
			require.Equal(t, &config.TLS{CAFile: "ca.pem", CertFile: "c", KeyFile: "k", ServerName: "s"}, c.Kafka.TLS)
		}},
		"meters": {"meters:\n  - name: a\n    aggregation: sum\n    decimals: 6\n  - name: b\n    aggregation: count\n    group_by: [x.y]\n    when: >-\n      meter\n      == \"a\"\n", func(t *testing.T, c *config.Config) {
			require.Equal(t, []config.Meter{{Name: "a", Aggregation: "sum", Decimals: 6}, {Name: "b", Aggregation: "count", GroupBy: []string{"x.y"}, When: `meter == "a"`}}, c.Meters)
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c, err := config.Load(file(t, tt.source), nil, nil)
			require.NoError(t, err)
			tt.check(t, c)
		})
	}
}

func TestLoadSaysWhere(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		source string
		want   []string
	}{
		"a misspelt key":           {"http:\n  lissten: a", []string{"meterd.yaml:2:3: unknown key http.lissten, did you mean http.listen?"}},
		"a key in the wrong place": {"brokers: [a:1]", []string{"meterd.yaml:1:1: unknown key brokers, did you mean kafka.brokers?"}},
		"a key like no other":      {"colour: red", []string{"meterd.yaml:1:1: unknown key colour"}},
		"a key in a list":          {"meters:\n  - name: a\n    agregation: sum", []string{"meterd.yaml:3:5: unknown key meters[0].agregation, did you mean meters[0].aggregation?"}},
		"a bad duration":           {"usage:\n  dedupe_window: soon", []string{`meterd.yaml:2:18: usage.dedupe_window: "soon" is not a duration such as 500ms, 30s, 5m or 72h`}},
		"a duration without unit":  {"commit: {interval: 500}", []string{`meterd.yaml:1:20: commit.interval: "500" is not a duration such as 500ms, 30s, 5m or 72h`}},
		"a bad size":               {"state: {memory: 1 GB ram}", []string{`meterd.yaml:1:17: state.memory: "1 GB ram" is not a size such as 65536, 512KiB, 1MiB, 2GiB or 500MB`}},
		"a size below nothing":     {"state: {memory: -1}", []string{`meterd.yaml:1:17: state.memory: "-1" is not a size such as 65536, 512KiB, 1MiB, 2GiB or 500MB`}},
		"a size beyond all":        {"state: {memory: 9000000000GiB}", []string{`meterd.yaml:1:17: state.memory: "9000000000GiB" is not a size such as 65536, 512KiB, 1MiB, 2GiB or 500MB`}},
		"a fraction":               {"commit: {max_records: 1.5}", []string{`meterd.yaml:1:23: commit.max_records: "1.5" is not a whole number`}},
		"a value for keys":         {"kafka: a:9092", []string{"meterd.yaml:1:8: kafka must have keys of its own, not a value"}},
		"a value for a list":       {"kafka: {brokers: 'a:9092'}", []string{"meterd.yaml:1:18: kafka.brokers must be a list"}},
		"a list for a value":       {"log: {level: [info]}", []string{"meterd.yaml:1:14: log.level must be a single value"}},
		"keys for a value":         {"kafka: {brokers: [a: 1]}", []string{"meterd.yaml:1:20: kafka.brokers[0] must be a single value"}},
		"a list in a map":          {"history:\n  druid:\n    columns:\n      fields: {a.b: [c]}", []string{`meterd.yaml:4:21: history.druid.columns.fields["a.b"] must be a single value`}},
		"a value for a map":        {"history: {druid: {columns: {fields: a}}}", []string{"meterd.yaml:1:37: history.druid.columns.fields must have keys of its own, not a value"}},
		"a list for all":           {"- 1", []string{"meterd.yaml:1:1: the configuration must have keys of its own, not a value"}},
		"a key twice":              {"log: {}\nlog: {}", []string{`meterd.yaml:2:1: mapping key "log" already defined at [1:1]`}},
		"two documents":            {"log: {}\n---\nlog: {}", []string{"meterd.yaml:3:4: a second document: there must be one"}},
		"a tag":                    {"log: !!map {}", []string{"meterd.yaml:1:6: tags such as !!map are not used here"}},
		"an alias of nothing":      {"log: *l", []string{"meterd.yaml:1:6: no anchor &l comes before it"}},
		"several at once":          {"a: 1\nlog: {level: {}}\nstate: {memory: x, dri: y}", []string{"meterd.yaml:1:1: unknown key a", "meterd.yaml:2:14: log.level must be a single value", `meterd.yaml:3:17: state.memory: "x" is not a size such as 65536, 512KiB, 1MiB, 2GiB or 500MB`, "meterd.yaml:3:20: unknown key state.dri, did you mean state.dir?"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, err := config.Load(file(t, tt.source), nil, nil)
			require.Equal(t, tt.want, lines(err))
		})
	}
	_, err := config.Load(file(t, "kafka: {brokers: [a"), nil, nil)
	require.ErrorContains(t, err, "meterd.yaml:1:")
	_, err = config.Load(filepath.Join(t.TempDir(), "none.yaml"), nil, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	path := file(t, "application_id: of-file\nlog: {level: warn, format: console}\nhttp: {listen: '127.0.0.1:1'}")
	environ := []string{"METERD_APPLICATION_ID=of-env", "METERD_LOG_LEVEL=error", "METERD_HTTP_LISTEN=", "PATH=/bin", "HOME"}
	c, err := config.Load(path, environ, map[string]string{"application_id": "of-flag"})
	require.NoError(t, err)
	require.Equal(t, "of-flag", c.ApplicationID)
	require.Equal(t, "of-flag.changelog", c.ChangelogTopic)
	require.Equal(t, config.Log{Level: "error", Format: "console"}, c.Log)
	require.Equal(t, "127.0.0.1:1", c.HTTP.Listen, "an empty variable is none")
	require.Equal(t, "usage", c.Usage.Topic)
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	c, err := config.Load("", []string{
		"METERD_KAFKA_BROKERS=a:1, b:2",
		"METERD_KAFKA_TLS_CA_FILE=ca.pem",
		"METERD_KAFKA_SASL={mechanism: PLAIN, username: u, password_file: p}",
		"METERD_LIMIT_EVENTS_STATE_TOPIC=state",
		"METERD_HISTORY_DRUID_URL=http://d:8888",
		"METERD_HISTORY_DRUID_COLUMNS_METER=m",
		"METERD_HISTORY_DRUID_COLUMNS_FIELDS={a.b: c}",
		"METERD_COMMIT_INTERVAL=20ms",
		"METERD_METERS=[{name: a, aggregation: count}]",
		"METERD_DEAD_LETTER_TOPIC=dead",
	}, map[string]string{"usage.fields.id": "", "kafka.connections": "3"})
	require.NoError(t, err)
	require.Equal(t, []string{"a:1", "b:2"}, c.Kafka.Brokers)
	require.Equal(t, &config.TLS{CAFile: "ca.pem"}, c.Kafka.TLS)
	require.Equal(t, &config.SASL{Mechanism: "PLAIN", Username: "u", PasswordFile: "p"}, c.Kafka.SASL)
	require.Equal(t, "state", c.LimitEvents.StateTopic)
	require.Equal(t, "http://d:8888", c.History.Druid.URL)
	require.Equal(t, "m", c.History.Druid.Columns.Meter)
	require.Equal(t, "client_id", c.History.Druid.Columns.Client)
	require.Equal(t, map[string]string{"a.b": "c"}, c.History.Druid.Columns.Fields)
	require.Equal(t, 20*time.Millisecond, c.Commit.Interval.Duration())
	require.Equal(t, []config.Meter{{Name: "a", Aggregation: "count"}}, c.Meters)
	require.Equal(t, "dead", c.DeadLetterTopic)
	require.Empty(t, c.Usage.Fields.ID)
	require.Equal(t, 3, c.Kafka.Connections)
}

func TestEnvironmentRefuses(t *testing.T) {
	t.Parallel()
	_, err := config.Load("", []string{
		"METERD_KAFKA_BROKER=a:1", "METERD_COMMIT_INTERVAL=often", "METERD_METERS=[{nam: a}]", "METERD_COLOUR=red",
	}, map[string]string{"kafka.broker": "a:1", "log": "{level: []}"})
	require.Equal(t, []string{
		"METERD_COLOUR stands for no key",
		`METERD_COMMIT_INTERVAL: commit.interval: "often" is not a duration such as 500ms, 30s, 5m or 72h`,
		"METERD_KAFKA_BROKER stands for no key, did you mean METERD_KAFKA_BROKERS?",
		"METERD_METERS: unknown key meters[0].nam, did you mean meters[0].name?",
		"unknown key kafka.broker, did you mean kafka.brokers?",
		"log.level must be a single value",
	}, lines(err))
}

// Not all that is called METERD_ is meant for meterd's configuration.
func TestEnvironmentOfOthers(t *testing.T) {
	t.Parallel()
	c, err := config.Load("", []string{
		"METERD_CONFIG=meterd.yaml", "METERD_TEST_SEEDS=5", "METERD_TESTBED_CACHE=/tmp", "METERD_CACHE=/tmp",
		"METERD_SERVICE_HOST=10.0.0.1", "METERD_SERVICE_PORT=8080", "METERD_SERVICE_PORT_HTTP=8080", "METERD_PORT=tcp://10.0.0.1:8080",
		"METERD_PORT_8080_TCP=tcp://10.0.0.1:8080", "METERD_PORT_8080_TCP_ADDR=10.0.0.1", "METERD_HEADLESS_SERVICE_HOST=None", "METERD_HEADLESS_PORT_8080_TCP_PROTO=tcp",
	}, nil)
	require.NoError(t, err)
	require.Equal(t, config.Default(), c)
}

// No two keys share a variable.
func TestEnvironmentNamesAreDifferent(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, key := range config.Keys() {
		name := strings.ReplaceAll(key, ".", "_")
		require.Empty(t, seen[name], "%s and %s", key, seen[name])
		seen[name] = key
	}
	require.Contains(t, seen, "history_druid_columns_offset")
}

func TestValidate(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		source string
		want   []string
	}{
		"what is required": {"", []string{
			"kafka.brokers: at least one HOST:PORT is required",
			"schema_registry.url: is required where usage.format or limit_events.format is avro",
		}},
		"no registry without Avro":   {"kafka: {brokers: [a:1]}\nusage: {format: json}\nlimit_events: {format: json}", nil},
		"IPv6 brokers":               {"kafka: {brokers: ['[::1]:9092']}\nschema_registry: {url: 'http://[::1]:8081'}", nil},
		"a secret in an address":     {"kafka: {brokers: ['u:canary@a:1', a, 'a:0', ':1']}\nschema_registry: {url: 'http://u:canary@r'}", []string{"kafka.brokers[0]: must be HOST:PORT", "kafka.brokers[1]: must be HOST:PORT", "kafka.brokers[2]: must be HOST:PORT", "kafka.brokers[3]: must be HOST:PORT", "schema_registry.url: must be http://HOST:PORT or https://HOST:PORT, without a user name and password"}},
		"listening beyond loopback":  {least + "http: {listen: ':8080'}", []string{`http.tokens_file: is required because http.listen, ":8080", is more than loopback`}},
		"with tokens it may":         {least + "http: {listen: '0.0.0.0:8080', tokens_file: t}", nil},
		"loopback by any name":       {least + "http: {listen: '[::1]:0'}", nil},
		"an address nobody reaches":  {least + "http: {listen: 'localhost:http', advertise: ':80', tls: {}}", []string{`http.listen: "localhost:http" is not HOST:PORT`, `http.advertise: ":80" is not HOST:PORT as others can reach it`, "http.tls.cert_file: is required", "http.tls.key_file: is required"}},
		"enumerations":               {least + "usage: {format: avro, start: now, partitioner: random, unknown_meter: drop}\nlog: {level: loud, format: xml}\nhistory: {on_crossed: shout}", []string{`usage.start: "now" is not one of earliest, latest`, `usage.partitioner: "random" is not one of murmur2, crc32, fnv1a`, `usage.unknown_meter: "drop" is not one of ignore, dead_letter`, `history.on_crossed: "shout" is not one of announce, mark`, `log.level: "loud" is not one of debug, info, warn, error`, `log.format: "xml" is not one of json, console`}},
		"ranges":                     {least + "kafka: {brokers: [a:1], connections: 0, dial_timeout: 1h}\ncommit: {interval: 20s, max_records: 0}\nstate: {memory: 1MiB, flush_interval: 0, keep_periods: -1}\nusage: {dedupe_window: -1s, max_record_bytes: 1}", nil},
		"a transaction too long":     {"kafka: {brokers: [a:1], session_timeout: 10s, transaction_timeout: 10s}\nschema_registry: {url: 'http://r'}", []string{"kafka.transaction_timeout: 10s is not below kafka.session_timeout, 10s"}},
		"half of two keys":           {"kafka: {brokers: [a:1], tls: {cert_file: c}, sasl: {mechanism: GSSAPI}}\nschema_registry: {url: 'http://r', password_file: p, tls: {key_file: k}}", []string{"kafka.tls.key_file: is required with cert_file", `kafka.sasl.mechanism: "GSSAPI" is not one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512`, "kafka.sasl.username: is required", "kafka.sasl.password_file: is required", "schema_registry.username: is required with password_file", "schema_registry.tls.cert_file: is required with key_file"}},
		"fields":                     {least + "usage: {fields: {client: '', meter: a..b}}", []string{"usage.fields.client: is required", `usage.fields.meter: "a..b" is not names with single dots between them`}},
		"no duplicates to recognise": {least + "usage: {dedupe_window: 0, fields: {id: ''}}", nil},
		"meters":                     {least + "meters: [{aggregation: count}, {name: a, aggregation: average}, {name: a, aggregation: sum, decimals: 10}, {name: \"b\\tc\", aggregation: sum}]", []string{"meters[0].name: is required", `meters[1].aggregation: "average" is not one of count, sum, max, min, latest, unique`, `meters[2].name: "a" is there twice`, "meters[2].decimals: 10 is not between 0 and 9", "meters[3].name: must be at most 256 bytes of UTF-8 without control characters"}},
		"schedules":                  {least + "schedule: {period: anniversary, timezone: Mars/Base}", []string{`schedule.period: "anniversary" is not one of hour, day, week, month, quarter, year, lifetime`, `schedule.timezone: "Mars/Base" is not the IANA name of a time zone, such as UTC`}},
		"topics":                     {least + "contracts: {topic: usage}\ndead_letter_topic: 'a b'\nchangelog_topic: ..\napplication_id: 'a/b'", []string{"application_id: must be 1 to 100 letters, digits, dots, dashes and underscores", `contracts.topic: "usage" is usage.topic already`, `limit_events.topic: "a/b.limit-events" is not a topic: 1 to 249 letters, digits, dots, dashes and underscores`, `limit_events.state_topic: "a/b.limit-state" is not a topic: 1 to 249 letters, digits, dots, dashes and underscores`, `dead_letter_topic: "a b" is not a topic: 1 to 249 letters, digits, dots, dashes and underscores`, `changelog_topic: ".." is not a topic: 1 to 249 letters, digits, dots, dashes and underscores`}},
		"history":                    {least + "history: {druid: {coordinator_url: 'ftp://x', datasource: '', columns: {offset: ''}, timeout: 0, username: u, max_queries: 65}}", []string{"history.druid.url: must be http://HOST:PORT or https://HOST:PORT, without a user name and password", "history.druid.coordinator_url: must be http://HOST:PORT or https://HOST:PORT, without a user name and password", "history.druid.datasource: is required", "history.druid.columns.offset: is required with partition; where rows have no offsets, both must be empty", "history.druid.timeout: 0s is not between 1s and 10m", "history.druid.password_file: is required with username", "history.druid.max_queries: 65 is not between 1 and 64"}},
	}
	ranges := tests["ranges"]
	ranges.source = strings.TrimPrefix(ranges.source, "kafka: {brokers: [a:9092]}\n")
	ranges.want = []string{"kafka.dial_timeout: 1h is not between 100ms and 5m", "kafka.connections: 0 is not between 1 and 64", "usage.dedupe_window: -1s is not between 0s and 720h", "usage.max_record_bytes: 1 is not between 1KiB and 64MiB", "commit.interval: 20s is not between 1ms and 5s", "commit.max_records: 0 is not between 1 and 1000000", "state.memory: 1MiB is not between 16MiB and 16TiB", "state.flush_interval: 0s is not between 100ms and 10m", "state.keep_periods: -1 is not between 0 and 1000"}
	tests["ranges"] = ranges
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c, err := config.Load(file(t, tt.source), nil, nil)
			require.NoError(t, err)
			require.Equal(t, tt.want, lines(c.Validate()))
		})
	}
}

// The example of the documentation is right as it is.
func TestExample(t *testing.T) {
	t.Parallel()
	c, err := config.Load("testdata/example.yaml", nil, nil)
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	require.NoError(t, c.CheckFiles())
	require.Equal(t, "usage", c.History.Druid.Supervisor)
}

// What is shown can be loaded and means the same.
func TestYAMLIsAFile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"testdata/example.yaml", "../../configs/meterd.yaml", file(t, "kafka: {tls: {}, instance_id: '007'}\nhttp: {tls: {key_file: k}}\nusage: {dedupe_window: 0, fields: {id: ''}}")} {
		want, err := config.Load(name, nil, nil)
		require.NoError(t, err)
		text, err := want.YAML()
		require.NoError(t, err)
		got, err := config.Load(file(t, string(text)), nil, nil)
		require.NoError(t, err, string(text))
		require.Equal(t, want, got)
		text, err = want.JSON()
		require.NoError(t, err)
		require.Contains(t, string(text), `"application_id": "meterd"`)
	}
}

func TestYAMLShowsNoSecret(t *testing.T) {
	t.Parallel()
	c, err := config.Load(file(t, `
kafka: {brokers: ['u:canary@a:1', b:2], sasl: {mechanism: PLAIN, username: u, password_file: /run/secret}}
schema_registry: {url: 'http://u:canary@r:8081'}
history: {druid: {url: 'http://canary@d', coordinator_url: "http://%canary"}}
`), nil, nil)
	require.NoError(t, err)
	text, err := c.YAML()
	require.NoError(t, err)
	require.NotContains(t, string(text), "canary")
	require.Contains(t, string(text), "/run/secret")
	require.Contains(t, string(text), "http://REDACTED@r:8081")
	require.Contains(t, string(text), "b:2")
	require.Equal(t, "http://u:canary@r:8081", c.SchemaRegistry.URL, "c itself is as it was")
	require.Equal(t, "http://canary@d", c.History.Druid.URL)
	require.NotContains(t, c.Validate().Error(), "canary")
}

func TestReadSecret(t *testing.T) {
	t.Parallel()
	secret, err := config.ReadSecret(file(t, "\n hunter2 \n"))
	require.NoError(t, err)
	require.Equal(t, "hunter2", secret)
	_, err = config.ReadSecret(file(t, " \n"))
	require.ErrorContains(t, err, "is empty")
	_, err = config.ReadSecret(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTextOfDurationsAndSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"72h": "72h", "90m": "1h30m", "90s": "1m30s", "0": "0s", "60s": "1m", "1h1s": "1h0m1s", "10h0m": "10h", "500ms": "500ms"} {
		var d config.Duration
		require.NoError(t, d.UnmarshalText([]byte(text)))
		require.Equal(t, want, d.String())
	}
	for text, want := range map[string]string{"1MiB": "1MiB", "1024 KiB": "1MiB", "1500": "1500", "0": "0", "1kB": "1000", "3TiB": "3TiB", "2048B": "2KiB", "1TB": "976562500KiB"} {
		var b config.Bytes
		require.NoError(t, b.UnmarshalText([]byte(text)))
		require.Equal(t, want, b.String())
	}
}

// Whatever is in the file, there is a configuration or an error.
func FuzzLoad(f *testing.F) {
	// Whole files are left to the tests: the fuzzer would spend its time on making them shorter.
	f.Add("kafka: {brokers: [a:1]}\nschema_registry: {url: 'http://r'}\n")
	f.Add("usage: {format: json, dedupe_window: 1h}\nlimit_events: {format: json}\n")
	f.Add("meters:\n  - {name: a, aggregation: sum, decimals: 3}\n")
	f.Add("history: {druid: {url: 'http://d', timeout: 30s, columns: {partition: '', offset: '', fields: {a.b: c}}}}\n")
	f.Add("kafka: {brokers: [a:1]}\nusage: {format: json}\nlimit_events: {format: json}\nmeters: [{name: a, aggregation: unique, value: b.c, group_by: [d, e.f], when: 'd == \"x\"', max_combinations: 3}]\n")
	f.Add("a: &a [*a]\n<<: *a")
	f.Add("kafka: &k {tls: *k, <<: *k}")
	f.Fuzz(func(t *testing.T, source string) {
		c, err := config.Load(file(t, source), nil, nil)
		if err != nil {
			require.Nil(t, c)
			return
		}
		if c.Validate() == nil {
			_, err := c.Catalog()
			require.NoError(t, err)
			text, err := c.YAML()
			require.NoError(t, err)
			again, err := config.Load(file(t, string(text)), nil, nil)
			require.NoError(t, err)
			require.Equal(t, c, again)
		}
	})
}

// The files that are shipped can be run as they are.
func TestShippedFilesAreRight(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../../configs/meterd.yaml", "../../deploy/k8s/meterd.yaml"} {
		cfg, err := config.Load(name, nil, nil)
		require.NoError(t, err, name)
		require.NoError(t, cfg.Validate(), name)
	}
}
