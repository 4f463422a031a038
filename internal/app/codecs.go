package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// Codecs read usage events and write limit events as configured.
type Codecs struct {
	Usage       *schema.Decoder
	LimitEvents *schema.EventCodec
	Registry    *schema.RegistryClient // nil where nothing is Avro
}

// NewCodecs returns the codecs, with the schema of limit events registered
// where they are Avro. Where anything is, the registry has to answer.
func NewCodecs(ctx context.Context, cfg *config.Config, log *zap.Logger, reg prometheus.Registerer) (Codecs, error) {
	var c Codecs
	var registry schema.Registry
	if cfg.SchemaRegistry.URL != "" {
		client, err := registryClient(cfg.SchemaRegistry)
		if err != nil {
			return c, fmt.Errorf("schema_registry: %w", err)
		}
		c.Registry, registry = client, client
	}
	var id uint32
	if cfg.LimitEvents.Format == string(schema.Avro) {
		// The events' subject last: its id is the one that records carry.
		for _, topic := range []string{cfg.LimitEvents.StateTopic, cfg.LimitEvents.Topic} {
			var err error
			if id, err = c.Registry.Register(ctx, topic+"-value", schema.LimitEventSchema); err != nil {
				return c, fmt.Errorf("schema_registry.url: register %s-value at %s: %w", topic, cfg.SchemaRegistry.URL, err)
			}
		}
	}
	var err error
	if cfg.Usage.Format == string(schema.Avro) && c.Registry != nil {
		if err := c.Registry.Check(ctx); err != nil {
			return c, fmt.Errorf("schema_registry.url: ask %s: %w", cfg.SchemaRegistry.URL, err)
		}
	}
	if c.LimitEvents, err = schema.NewEventCodec(schema.Format(cfg.LimitEvents.Format), id); err != nil {
		return c, fmt.Errorf("limit_events: %w", err)
	}
	d := schema.DefaultDecoderConfig()
	d.Format, d.MaxRecordBytes = schema.Format(cfg.Usage.Format), int(cfg.Usage.MaxRecordBytes)
	d.Mapping = Mapping(cfg)
	catalog, err := cfg.Catalog()
	if err != nil {
		return c, err
	}
	d.Mapping.Fields = catalog.Paths
	if c.Usage, err = schema.NewDecoder(d, registry, log.Named("schema"), reg); err != nil {
		return c, fmt.Errorf("usage: %w", err)
	}
	return c, nil
}

// Mapping returns where in a usage record its parts are.
func Mapping(cfg *config.Config) schema.Mapping {
	f := cfg.Usage.Fields
	return schema.Mapping{ID: f.ID, Client: f.Client, Meter: f.Meter, Quantity: f.Quantity, Time: f.Time, Void: f.Void}
}

func registryClient(cfg config.SchemaRegistry) (*schema.RegistryClient, error) {
	r := schema.DefaultRegistryConfig()
	r.URLs, r.Username = []string{cfg.URL}, cfg.Username
	var err error
	if r.Password, err = optionalSecret(cfg.PasswordFile); err != nil {
		return nil, err
	}
	if cfg.TLS != nil {
		if r.TLS, err = clientTLS(cfg.TLS); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	return schema.NewRegistryClient(r)
}

func optionalSecret(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	secret, err := config.ReadSecret(file)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	return secret, nil
}

// errNoCertificate is returned when a CA file has no certificate in it.
var errNoCertificate = errors.New("no certificate in it")

func clientTLS(cfg *config.TLS) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s: %w", cfg.CAFile, errNoCertificate)
		}
	}
	if cfg.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// druidConfig returns how history is asked for what the meters of catalog need.
func druidConfig(c *config.Config, catalog *usage.Catalog) (druid.Config, error) {
	cfg, d := c.History.Druid, druid.Default()
	d.URL, d.CoordinatorURL, d.Datasource, d.Supervisor = cfg.URL, cfg.CoordinatorURL, cfg.Datasource, cfg.Supervisor
	d.Columns = druid.Columns{
		Client: cfg.Columns.Client, Meter: cfg.Columns.Meter, Quantity: cfg.Columns.Quantity,
		Partition: cfg.Columns.Partition, Offset: cfg.Columns.Offset,
		RecordTime: cfg.Columns.RecordTime, Count: cfg.Columns.Count, Void: c.HistoryVoid(),
	}
	for _, field := range c.HistoryFields(catalog) {
		d.Columns.Fields = append(d.Columns.Fields, field.Column)
		d.Columns.Booleans = append(d.Columns.Booleans, field.Boolean)
	}
	d.Granularity = cfg.Granularity.Duration()
	for i := range catalog.Meters {
		switch catalog.Meters[i].Aggregation {
		case usage.Latest:
			d.Latest, d.Extremes = true, true
		case usage.Max, usage.Min:
			d.Extremes = true
		}
	}
	d.Timeout, d.MaxConcurrent, d.Lane, d.Username = cfg.Timeout.Duration(), cfg.MaxQueries, cfg.Lane, cfg.Username
	var err error
	if d.Password, err = optionalSecret(cfg.PasswordFile); err != nil {
		return d, fmt.Errorf("history.druid: %w", err)
	}
	return d, nil
}
