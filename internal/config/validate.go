package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/usage"
)

// Validate returns all that meterd cannot start with: an error for each key,
// with its path and what is allowed, joined in the order of the file. It opens
// no files: CheckFiles does.
func (c *Config) Validate() error {
	var p problems
	if !regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`).MatchString(c.ApplicationID) {
		p.add("application_id", "must be 1 to 100 letters, digits, dots, dashes and underscores")
	}
	c.Kafka.validate(&p)
	c.SchemaRegistry.validate(&p, c.Usage.Format == "avro" || c.LimitEvents.Format == "avro")
	c.Usage.validate(&p)
	meters := len(p)
	catalog := c.catalog(&p)
	metersRight := len(p) == meters
	c.Schedule.validate(&p)
	c.validateTopics(&p)
	p.oneOf("limit_events.format", c.LimitEvents.Format, "avro", "json")
	c.History.validate(&p)
	if c.History.Druid != nil && metersRight {
		c.validateHistoryFields(&p, &catalog)
	}
	// The broker aborts what is open longer than transaction_timeout.
	between(&p, "commit.interval", c.Commit.Interval, of(time.Millisecond), max(c.Kafka.TransactionTimeout/2, of(time.Millisecond)))
	between(&p, "commit.max_records", c.Commit.MaxRecords, 1, 1_000_000)
	c.State.validate(&p)
	c.HTTP.validate(&p)
	c.RateLimit.validate(&p, &catalog, c.HTTP.TokensFile)
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "json", "console")
	return errors.Join(p...)
}

// problems collects what is wrong.
type problems []error

func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
}

func (p *problems) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		p.add(key, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

// maxParts is how deep in a record a path may go.
const maxParts = 16

// path complains about what is no path in a record.
func (p *problems) path(key, path string) {
	if err := checkPath(path); err != nil {
		p.add(key, "%v", err)
	}
}

func checkPath(path string) error {
	switch parts := strings.Split(path, "."); {
	case slices.Contains(parts, "") || !utf8.ValidString(path):
		return fmt.Errorf("%q is not names with single dots between them", path)
	case len(parts) > maxParts:
		return fmt.Errorf("%q has %d parts, more than %d", path, len(parts), maxParts)
	}
	return nil
}

func (p *problems) needed(key, value string) {
	if value == "" {
		p.add(key, "is required")
	}
}

// together complains when one of two keys is set without the other.
func (p *problems) together(key, first, firstValue, second, secondValue string) {
	switch {
	case firstValue != "" && secondValue == "":
		p.add(join(key, second), "is required with %s", first)
	case firstValue == "" && secondValue != "":
		p.add(join(key, first), "is required with %s", second)
	}
}

// url complains without the value, in which a password may be.
func (p *problems) url(key, value string) {
	if u, err := url.Parse(value); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		p.add(key, "must be http://HOST:PORT or https://HOST:PORT, without a user name and password")
	}
}

// between complains about a value outside of low to high.
func between[T int | Duration | Bytes](p *problems, key string, value, low, high T) {
	if value < low || value > high {
		p.add(key, "%v is not between %v and %v", value, low, high)
	}
}

func (k *Kafka) validate(p *problems) {
	if len(k.Brokers) == 0 {
		p.add("kafka.brokers", "at least one HOST:PORT is required")
	}
	for i, broker := range k.Brokers {
		if host, port, ok := splitAddress(broker); !ok || host == "" || port == 0 {
			p.add(fmt.Sprintf("kafka.brokers[%d]", i), "must be HOST:PORT")
		}
	}
	k.TLS.validate(p, "kafka.tls")
	if k.SASL != nil {
		p.oneOf("kafka.sasl.mechanism", k.SASL.Mechanism, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
		p.needed("kafka.sasl.username", k.SASL.Username)
		p.needed("kafka.sasl.password_file", k.SASL.PasswordFile)
	}
	between(p, "kafka.session_timeout", k.SessionTimeout, of(6*time.Second), of(30*time.Minute))
	between(p, "kafka.transaction_timeout", k.TransactionTimeout, of(time.Second), of(15*time.Minute))
	if k.TransactionTimeout >= k.SessionTimeout {
		// else whoever takes over waits for a transaction of the one that is gone
		p.add("kafka.transaction_timeout", "%v is not below kafka.session_timeout, %v", k.TransactionTimeout, k.SessionTimeout)
	}
	if !regexp.MustCompile(`^[a-zA-Z0-9._-]{0,249}$`).MatchString(k.InstanceID) {
		p.add("kafka.instance_id", "must be at most 249 letters, digits, dots, dashes and underscores")
	}
	between(p, "kafka.dial_timeout", k.DialTimeout, of(100*time.Millisecond), of(5*time.Minute))
	between(p, "kafka.read_timeout", k.ReadTimeout, of(100*time.Millisecond), of(5*time.Minute))
	between(p, "kafka.write_timeout", k.WriteTimeout, of(100*time.Millisecond), of(5*time.Minute))
	between(p, "kafka.connections", k.Connections, 1, 64)
}

func (t *TLS) validate(p *problems, key string) {
	if t != nil {
		p.together(key, "cert_file", t.CertFile, "key_file", t.KeyFile)
	}
}

func (r *SchemaRegistry) validate(p *problems, avro bool) {
	switch {
	case r.URL != "":
		p.url("schema_registry.url", r.URL)
	case avro:
		p.add("schema_registry.url", "is required where usage.format or limit_events.format is avro")
	}
	p.together("schema_registry", "username", r.Username, "password_file", r.PasswordFile)
	r.TLS.validate(p, "schema_registry.tls")
}

func (u *Usage) validate(p *problems) {
	const year = 366 * 24 * time.Hour
	p.oneOf("usage.format", u.Format, "avro", "json")
	p.oneOf("usage.start", u.Start, "earliest", "latest")
	p.oneOf("usage.partitioner", u.Partitioner, "murmur2", "crc32", "fnv1a")
	p.needed("usage.fields.client", u.Fields.Client)
	for _, f := range []struct{ key, path string }{
		{"id", u.Fields.ID},
		{"client", u.Fields.Client},
		{"meter", u.Fields.Meter},
		{"quantity", u.Fields.Quantity},
		{"time", u.Fields.Time},
		{"void", u.Fields.Void},
	} {
		if f.path != "" {
			p.path("usage.fields."+f.key, f.path)
		}
	}
	if u.Fields.Void != "" && u.Fields.ID == "" {
		p.add("usage.fields.void", "needs usage.fields.id: an event is taken back by its id")
	}
	if u.Fields.Void != "" && u.DedupeWindow == 0 {
		p.add("usage.dedupe_window", "must be above 0 where usage.fields.void is mapped: an event can be taken back within it")
	}
	between(p, "usage.dedupe_window", u.DedupeWindow, 0, of(30*24*time.Hour))
	between(p, "usage.max_future", u.MaxFuture, 0, of(year))
	between(p, "usage.allowed_lateness", u.AllowedLateness, 0, of(year))
	p.oneOf("usage.unknown_meter", u.UnknownMeter, "ignore", "dead_letter")
	between(p, "usage.max_record_bytes", u.MaxRecordBytes, KiB, 64*MiB)
}

func (s *Schedule) validate(p *problems) {
	periods := []string{"hour", "day", "week", "month", "quarter", "year", "lifetime"}
	p.oneOf("schedule.period", s.Period, periods...)
	if _, err := usage.NewSchedule(usage.Month, s.Timezone); err != nil || s.Timezone == "" {
		p.add("schedule.timezone", "%q is not the IANA name of a time zone, such as UTC", s.Timezone)
	}
}

func (c *Config) validateTopics(p *problems) {
	valid := regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)
	first := map[string]string{}
	for _, topic := range []struct{ key, name string }{
		{"usage.topic", c.Usage.Topic},
		{"contracts.topic", c.Contracts.Topic},
		{"limit_events.topic", c.LimitEvents.Topic},
		{"limit_events.state_topic", c.LimitEvents.StateTopic},
		{"dead_letter_topic", c.DeadLetterTopic},
		{"changelog_topic", c.ChangelogTopic},
	} {
		switch other, taken := first[topic.name]; {
		case !valid.MatchString(topic.name) || topic.name == "." || topic.name == "..":
			p.add(topic.key, "%q is not a topic: 1 to 249 letters, digits, dots, dashes and underscores", topic.name)
		case taken:
			p.add(topic.key, "%q is %s already", topic.name, other)
		}
		first[topic.name] = topic.key
	}
}

func (s *State) validate(p *problems) {
	p.needed("state.dir", s.Dir)
	between(p, "state.memory", s.Memory, 16*MiB, 16*TiB)
	between(p, "state.flush_interval", s.FlushInterval, of(100*time.Millisecond), of(10*time.Minute))
	between(p, "state.keep_periods", s.KeepPeriods, 0, 1000)
	between(p, "state.min_free_disk", s.MinFreeDisk, 0, 16*TiB)
}

func (h *HTTP) validate(p *problems) {
	host, _, ok := splitAddress(h.Listen)
	switch {
	case !ok:
		p.add("http.listen", "%q is not HOST:PORT", h.Listen)
	case !loopback(host) && h.TokensFile == "":
		p.add("http.tokens_file", "is required because http.listen, %q, is more than loopback", h.Listen)
	}
	if host, port, ok := splitAddress(h.Advertise); h.Advertise != "" && (!ok || host == "" || port == 0) {
		p.add("http.advertise", "%q is not HOST:PORT as others can reach it", h.Advertise)
	}
	if h.TLS != nil {
		p.needed("http.tls.cert_file", h.TLS.CertFile)
		p.needed("http.tls.key_file", h.TLS.KeyFile)
	}
}

func (r *RateLimit) validate(p *problems, catalog *usage.Catalog, tokensFile string) {
	if host, _, ok := splitAddress(r.Listen); r.Listen != "" {
		switch {
		case !ok:
			p.add("ratelimit.listen", "%q is not HOST:PORT", r.Listen)
		case !loopback(host) && tokensFile == "":
			p.add("http.tokens_file", "is required because ratelimit.listen, %q, is more than loopback", r.Listen)
		}
		if len(r.Rules) == 0 {
			p.add("ratelimit.rules", "at least one is required where there is ratelimit.listen: without one, everything is let through")
		}
	}
	for i := range r.Rules {
		r.Rules[i].validate(p, fmt.Sprintf("ratelimit.rules[%d]", i), catalog)
	}
}

func (r *RateLimitRule) validate(p *problems, key string, catalog *usage.Catalog) {
	p.needed(key+".client", r.Client)
	m := catalog.Find(r.Meter)
	if m < 0 {
		p.add(key+".meter", "%q is not a meter", r.Meter)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(r.Dimensions)) {
		if !slices.ContainsFunc(catalog.Meters[m].Dimensions, func(d usage.Dimension) bool { return d.Name == name }) {
			p.add(key+".dimensions", "%q is not a dimension of the meter %q", name, r.Meter)
		}
		if r.Dimensions[name] == "" {
			p.add(key+".dimensions."+name, "the key of an entry is required")
		}
	}
}

func splitAddress(address string) (host string, port int, ok bool) {
	host, text, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsAny(host, "@/ ") {
		return "", 0, false
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, int(n), err == nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
