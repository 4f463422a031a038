// Package config is meterd's configuration: one file of YAML, the environment
// and flags, made into one checked Config.
//
// Load says whatever cannot be read, by line and column; Validate says whatever
// cannot work, by key and allowed range. The JSON Schema of the file is made
// from the types here and their comments.
package config

import "time"

// Config is a whole configuration.
type Config struct {
	// Group, transactional ids and meterd's own topics begin with it: another id is another, independent meterd.
	ApplicationID string `yaml:"application_id"`
	// The Kafka cluster that has the usage topic and meterd's own.
	Kafka Kafka `yaml:"kafka"`
	// Where the schemas of Avro records are; needed where usage or limit events are Avro.
	SchemaRegistry SchemaRegistry `yaml:"schema_registry"`
	// The topic that is counted, and how its records are read.
	Usage Usage `yaml:"usage"`
	// What is counted.
	Meters []Meter `yaml:"meters"`
	// How time is cut for every meter's default counter.
	Schedule Schedule `yaml:"schedule"`
	// The contracts.
	Contracts Contracts `yaml:"contracts"`
	// What is told about limits.
	LimitEvents LimitEvents `yaml:"limit_events"`
	// Topic of records that cannot be counted; by default APPLICATION_ID.dead-letter.
	DeadLetterTopic string `yaml:"dead_letter_topic"`
	// Compacted topic of counters; by default APPLICATION_ID.changelog.
	ChangelogTopic string `yaml:"changelog_topic"`
	// What was used before meterd began to count.
	History History `yaml:"history"`
	// When counted records become visible.
	Commit Commit `yaml:"commit"`
	// The counters in memory and on disk.
	State State `yaml:"state"`
	// The HTTP interface.
	HTTP HTTP `yaml:"http"`
	// Envoy's rate-limit service over gRPC.
	RateLimit RateLimit `yaml:"ratelimit"`
	// What is logged.
	Log Log `yaml:"log"`
}

// Kafka is how the cluster is reached.
type Kafka struct {
	// Brokers as host:port, any of which leads to the others. Required.
	Brokers []string `yaml:"brokers"`
	// Encryption, on when the key is there; {} for the system's root certificates.
	TLS *TLS `yaml:"tls,omitempty"`
	// Who meterd is; without it, nobody in particular.
	SASL *SASL `yaml:"sasl,omitempty"`
	// How long an instance may be silent before its partitions go to others.
	SessionTimeout Duration `yaml:"session_timeout"`
	// When the broker gives up a transaction that has not ended. Shorter than the session.
	TransactionTimeout Duration `yaml:"transaction_timeout"`
	// Makes membership static: after a restart within session_timeout the same partitions come back. Different for each instance; empty for none.
	InstanceID string `yaml:"instance_id"`
	// How long connecting may take.
	DialTimeout Duration `yaml:"dial_timeout"`
	// How long an answer may take.
	ReadTimeout Duration `yaml:"read_timeout"`
	// How long sending a request may take.
	WriteTimeout Duration `yaml:"write_timeout"`
	// Connections to each broker that all partitions share for writing.
	Connections int `yaml:"connections"`
}

// TLS is how a connection that meterd makes is encrypted.
type TLS struct {
	// Certificates to trust (PEM); by default the system's.
	CAFile string `yaml:"ca_file"`
	// meterd's own certificate (PEM), for mutual TLS.
	CertFile string `yaml:"cert_file"`
	// The key of cert_file (PEM).
	KeyFile string `yaml:"key_file"`
	// The name to expect in the other side's certificate instead of its host's.
	ServerName string `yaml:"server_name"`
}

// SASL is how meterd tells Kafka who it is.
type SASL struct {
	// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
	Mechanism string `yaml:"mechanism" jsonschema:"enum=PLAIN,enum=SCRAM-SHA-256,enum=SCRAM-SHA-512"`
	// The name that meterd has at the brokers.
	Username string `yaml:"username"`
	// File with the password; white space around it does not count.
	PasswordFile string `yaml:"password_file"`
}

// SchemaRegistry is a registry with Confluent's API.
type SchemaRegistry struct {
	// http or https, without a name and password in it.
	URL string `yaml:"url"`
	// The name for basic authentication; empty for none.
	Username string `yaml:"username"`
	// File with the password of username; white space around it does not count.
	PasswordFile string `yaml:"password_file"`
	// Certificates for https, where the system's do not do.
	TLS *TLS `yaml:"tls,omitempty"`
}

// Usage is the input.
type Usage struct {
	// The topic, keyed by client; it must exist.
	Topic string `yaml:"topic"`
	// avro (Confluent wire format) or json.
	Format string `yaml:"format" jsonschema:"enum=avro,enum=json"`
	// Where a partition without a committed position starts: earliest or latest.
	Start string `yaml:"start" jsonschema:"enum=earliest,enum=latest"`
	// How producers put clients on partitions: murmur2 (Java), crc32 (librdkafka) or fnv1a (sarama).
	Partitioner string `yaml:"partitioner" jsonschema:"enum=murmur2,enum=crc32,enum=fnv1a"`
	// Where in a record its parts are.
	Fields Fields `yaml:"fields"`
	// An event id counts once within this time; 0 turns that off.
	DedupeWindow Duration `yaml:"dedupe_window"`
	// An event further ahead of its record's timestamp and of the clock is a dead letter.
	MaxFuture Duration `yaml:"max_future"`
	// An event that comes later than this after its period's end is a dead letter.
	AllowedLateness Duration `yaml:"allowed_lateness"`
	// What becomes of events that no meter takes: ignore (a metric counts them) or dead_letter.
	UnknownMeter string `yaml:"unknown_meter" jsonschema:"enum=ignore,enum=dead_letter"`
	// A larger record is a dead letter.
	MaxRecordBytes Bytes `yaml:"max_record_bytes"`
}

// Fields are paths in a usage record; a dot goes into a record or map. An
// empty path means that records do not have it.
type Fields struct {
	// Event id; without it, duplicates are not recognised.
	ID string `yaml:"id"`
	// Who used it. Required.
	Client string `yaml:"client"`
	// Which meter; without it, every meter that has no when takes every event.
	Meter string `yaml:"meter"`
	// How much; without it, 1.
	Quantity string `yaml:"quantity"`
	// When; without it, the record's own timestamp.
	Time string `yaml:"time"`
	// True takes an earlier event back: needs id and usage.dedupe_window.
	Void string `yaml:"void"`
}

// Meter is one thing that is counted.
type Meter struct {
	// Unique; what events, contracts and answers call it.
	Name string `yaml:"name" jsonschema:"required"`
	// count, sum, max, min, latest or unique.
	Aggregation string `yaml:"aggregation" jsonschema:"required,enum=count,enum=sum,enum=max,enum=min,enum=latest,enum=unique"`
	// For people only.
	Unit string `yaml:"unit,omitempty"`
	// Digits after the point that are counted, 0 to 9.
	Decimals int `yaml:"decimals,omitempty" jsonschema:"minimum=0,maximum=9"`
	// Paths of up to 8 dimensions, whose values are also counted separately; a dimension is called by the last part of its path.
	GroupBy []string `yaml:"group_by,omitempty"`
	// Combinations of dimension values that each client has counters for; what is beyond is counted together. 1 to 1000000, by default 10000.
	MaxCombinations *int `yaml:"max_combinations,omitempty" jsonschema:"minimum=1,maximum=1000000"`
	// Which events, instead of those that name the meter: a condition on fields of the record.
	When string `yaml:"when,omitempty"`
	// Path of the value whose distinct values unique counts. Required for unique, and for nothing else.
	Value string `yaml:"value,omitempty"`
}

// Schedule is a kind of period and where its days begin.
type Schedule struct {
	// hour, day, week, month, quarter, year or lifetime.
	Period string `yaml:"period" jsonschema:"enum=hour,enum=day,enum=week,enum=month,enum=quarter,enum=year,enum=lifetime"`
	// IANA name of a time zone.
	Timezone string `yaml:"timezone"`
}

// Contracts is where the contracts are.
type Contracts struct {
	// Compacted, one partition, keyed by contract id, JSON; by default APPLICATION_ID.contracts.
	Topic string `yaml:"topic"`
}

// LimitEvents is where limit events go.
type LimitEvents struct {
	// Every limit event; by default APPLICATION_ID.limit-events.
	Topic string `yaml:"topic"`
	// What stands now, compacted; by default APPLICATION_ID.limit-state.
	StateTopic string `yaml:"state_topic"`
	// avro (Confluent wire format) or json.
	Format string `yaml:"format" jsonschema:"enum=avro,enum=json"`
}

// History is where usage from before meterd's time is known.
type History struct {
	// A Druid that is fed from the usage topic; without it, counters start at zero at usage.start.
	Druid *Druid `yaml:"druid,omitempty"`
	// Thresholds already passed in history: announce (a limit event each) or mark (only in the state topic).
	OnCrossed string `yaml:"on_crossed" jsonschema:"enum=announce,enum=mark"`
}

// Druid is a datasource with one row for each usage record.
type Druid struct {
	// A router's or broker's, http or https, without a name and password in it. Required.
	URL string `yaml:"url"`
	// A coordinator's; by default url, which must then be a router with its management proxy on.
	CoordinatorURL string `yaml:"coordinator_url"`
	// The datasource, without roll-up unless columns.count says what a row stands for.
	Datasource string `yaml:"datasource"`
	// What its columns are called.
	Columns Columns `yaml:"columns"`
	// The supervisor that fills the datasource; needed for topics with gaps in their offsets, and where rows have no offsets.
	Supervisor string `yaml:"supervisor"`
	// The datasource's queryGranularity, a part of a day from 1ms to 24h; needed where rows have neither offsets nor record_time.
	Granularity Duration `yaml:"granularity"`
	// How long one query may take.
	Timeout Duration `yaml:"timeout"`
	// The name for basic authentication; empty for none.
	Username string `yaml:"username"`
	// File with the password of username; white space around it does not count.
	PasswordFile string `yaml:"password_file"`
	// The query lane; empty for none.
	Lane string `yaml:"lane"`
	// Queries under way at once; the lane should have as many places.
	MaxQueries int `yaml:"max_queries"`
}

// Columns are the columns of the Druid datasource.
type Columns struct {
	// The client.
	Client string `yaml:"client"`
	// The meter; empty if there is none.
	Meter string `yaml:"meter"`
	// The quantity; empty: every row is 1.
	Quantity string `yaml:"quantity"`
	// The Kafka partition of the row's record; empty, together with offset, if there is none: seeds are bounded then, not exact.
	Partition string `yaml:"partition"`
	// The Kafka offset of the row's record.
	Offset string `yaml:"offset"`
	// The Kafka timestamp of the row's record in milliseconds; what seeds without offsets should go by.
	RecordTime string `yaml:"record_time"`
	// How many events a rolled-up row stands for; only without offset and record_time.
	Count string `yaml:"count"`
	// Whether the row takes another back; where usage.fields.void is mapped, by default called by the last part of it.
	Void string `yaml:"void"`
	// By path of the record, the columns of what meters look at in when, group_by and value; by default a column is called by the last part of the path.
	Fields map[string]string `yaml:"fields,omitempty"`
}

// Bounded tells whether rows have no offsets, so that what history says is true
// within a bound only.
func (c *Columns) Bounded() bool { return c.Partition == "" && c.Offset == "" }

// Commit says when a partition's transaction ends. A crossing commits at once,
// whatever is set here.
type Commit struct {
	// The longest that a counted record stays invisible.
	Interval Duration `yaml:"interval"`
	// The most records of one transaction.
	MaxRecords int `yaml:"max_records"`
}

// State is what an instance keeps for itself. All of it can be deleted while
// meterd is stopped: it is restored from the changelog.
type State struct {
	// Directory on a disk of its own or one that others do not fill.
	Dir string `yaml:"dir"`
	// Memory for counters and recent event ids, of all partitions together. Not a bound yet: this version keeps all of them in memory.
	Memory Bytes `yaml:"memory"`
	// How often changed counters are written to dir.
	FlushInterval Duration `yaml:"flush_interval"`
	// How many ended periods are kept, at least; usage.allowed_lateness is another lower bound.
	KeepPeriods int `yaml:"keep_periods"`
	// With less free space meterd stops reading until there is more.
	MinFreeDisk Bytes `yaml:"min_free_disk"`
}

// HTTP is the interface for questions, health and metrics.
type HTTP struct {
	// host:port; beyond loopback only with tokens_file.
	Listen string `yaml:"listen"`
	// host:port at which other instances reach this one; by default listen.
	Advertise string `yaml:"advertise"`
	// File with a bearer token on each line and, behind it, what it is for: admin (by default), read, check, client=ID. Read again when it changes.
	TokensFile string `yaml:"tokens_file"`
	// Encryption of the interface; without it, plain HTTP.
	TLS *ServerTLS `yaml:"tls,omitempty"`
}

// RateLimit has requests decided for Envoy by the limits of contracts. It is
// encrypted and asks for tokens as HTTP is.
type RateLimit struct {
	// host:port; beyond loopback only with http.tokens_file. Empty: off.
	Listen string `yaml:"listen"`
	// The domain of requests that are answered; empty for any.
	Domain string `yaml:"domain"`
	// What descriptors stand for: the first rule that fits one counts. Where none does, there is no limit.
	Rules []RateLimitRule `yaml:"rules,omitempty"`
}

// RateLimitRule fits a descriptor that has all entries that it names.
type RateLimitRule struct {
	// Whose limits decide.
	Meter string `yaml:"meter" jsonschema:"required"`
	// Key of the entry that has the client.
	Client string `yaml:"client" jsonschema:"required"`
	// By dimension of the meter, the key of the entry that has its value.
	Dimensions map[string]string `yaml:"dimensions,omitempty"`
	// Values that entries must have, by their keys.
	Match map[string]string `yaml:"match,omitempty"`
}

// ServerTLS is what meterd shows to those who connect.
type ServerTLS struct {
	// meterd's certificate and its chain (PEM). Required.
	CertFile string `yaml:"cert_file"`
	// The key of cert_file (PEM). Required.
	KeyFile string `yaml:"key_file"`
}

// Log is what is logged, to standard error.
type Log struct {
	// debug, info, warn or error.
	Level string `yaml:"level" jsonschema:"enum=debug,enum=info,enum=warn,enum=error"`
	// json or console.
	Format string `yaml:"format" jsonschema:"enum=json,enum=console"`
}

// Default returns a configuration that lacks only Kafka.Brokers and
// SchemaRegistry.URL.
func Default() *Config {
	c := base()
	c.deriveNames()
	return c
}

// base is Default without the names that come from the application id.
func base() *Config {
	return &Config{
		ApplicationID: "meterd",
		Kafka: Kafka{
			SessionTimeout: of(30 * time.Second), TransactionTimeout: of(10 * time.Second),
			DialTimeout: of(5 * time.Second), ReadTimeout: of(15 * time.Second), WriteTimeout: of(10 * time.Second),
			Connections: 8,
		},
		Usage: Usage{
			Topic: "usage", Format: "avro", Start: "earliest", Partitioner: "murmur2",
			Fields:       Fields{ID: "event_id", Client: "client_id", Meter: "meter", Quantity: "quantity", Time: "timestamp"},
			DedupeWindow: of(time.Hour), MaxFuture: of(5 * time.Minute), AllowedLateness: of(72 * time.Hour),
			UnknownMeter: "ignore", MaxRecordBytes: MiB,
		},
		Schedule:    Schedule{Period: "month", Timezone: "UTC"},
		LimitEvents: LimitEvents{Format: "avro"},
		History:     History{OnCrossed: "announce"},
		Commit:      Commit{Interval: of(500 * time.Millisecond), MaxRecords: 50_000},
		State: State{
			Dir: "./data", Memory: GiB, FlushInterval: of(10 * time.Second), KeepPeriods: 2, MinFreeDisk: GiB,
		},
		HTTP: HTTP{Listen: "127.0.0.1:8080"},
		Log:  Log{Level: "info", Format: "json"},
	}
}

// setDefaults is what the decoder gives Druid before it reads the keys in it.
func (d *Druid) setDefaults() {
	*d = Druid{
		Datasource: "usage",
		Columns:    Columns{Client: "client_id", Meter: "meter", Quantity: "quantity", Partition: "k_partition", Offset: "k_offset"},
		Timeout:    of(30 * time.Second),
		MaxQueries: 2,
	}
}

// deriveNames fills in the names that come from the application id.
func (c *Config) deriveNames() {
	for name, topic := range map[string]*string{
		"contracts":    &c.Contracts.Topic,
		"limit-events": &c.LimitEvents.Topic,
		"limit-state":  &c.LimitEvents.StateTopic,
		"dead-letter":  &c.DeadLetterTopic,
		"changelog":    &c.ChangelogTopic,
	} {
		if *topic == "" {
			*topic = c.ApplicationID + "." + name
		}
	}
}
