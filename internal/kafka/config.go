package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
	"github.com/xdg-go/scram"
)

// Config says how to reach the brokers. Begin with Default.
type Config struct {
	Brokers  []string // host:port, any of which leads to the others
	ClientID string
	TLS      TLS
	SASL     SASL
	// DialTimeout bounds connecting, ReadTimeout and WriteTimeout one request.
	DialTimeout  time.Duration
	ReadTimeout  time.Duration
	WriteTimeout time.Duration
	// DialContext opens connections; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Connections is how many connections to one broker writers share.
	Connections int
}

// TLS turns encryption on. Without CAFile the system's roots count; CertFile
// and KeyFile, if set, are shown to the broker.
type TLS struct {
	Enabled    bool
	CAFile     string
	CertFile   string
	KeyFile    string
	ServerName string // instead of the host name dialled
}

// SASL is how the client says who it is; an empty Mechanism turns it off.
type SASL struct {
	Mechanism string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	Username  string
	Password  string
}

// Default is a Config that lacks only Brokers.
func Default() Config {
	return Config{
		ClientID:     "meterd",
		DialTimeout:  5 * time.Second,
		ReadTimeout:  15 * time.Second,
		WriteTimeout: 10 * time.Second,
		Connections:  8,
	}
}

// Validate names the first key that is wrong, as it is in the configuration.
func (c Config) Validate() error {
	if len(c.Brokers) == 0 {
		return errors.New("kafka.brokers: at least one host:port is required")
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			return fmt.Errorf("kafka.brokers: %q is not host:port", b)
		}
	}
	for name, d := range map[string]time.Duration{
		"dial_timeout": c.DialTimeout, "read_timeout": c.ReadTimeout, "write_timeout": c.WriteTimeout,
	} {
		if d < 100*time.Millisecond || d > 5*time.Minute {
			return fmt.Errorf("kafka.%s: %s is not between 100ms and 5m", name, d)
		}
	}
	if c.Connections < 1 || c.Connections > 64 {
		return fmt.Errorf("kafka.connections: %d is not between 1 and 64", c.Connections)
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		return errors.New("kafka.tls: cert_file and key_file go together")
	}
	return c.SASL.validate()
}

func (s SASL) validate() error {
	known := []string{sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512}
	switch {
	case s.Mechanism == "":
		return nil
	case !slices.Contains(known, s.Mechanism):
		return fmt.Errorf("kafka.sasl.mechanism: %q is not one of %v", s.Mechanism, known)
	case s.Username == "" || s.Password == "":
		return errors.New("kafka.sasl: username and password are required")
	}
	return nil
}

// Limits of one response and of one decompressed batch, in bytes. They bound
// what a broken or hostile log can make us allocate.
const (
	maxResponseBytes     = 128 << 20
	maxDecompressedBytes = 256 << 20
)

// limitSarama sets the variables with which sarama is configured as a whole. It
// runs once, before the first connection, because sarama reads them unguarded.
var limitSarama = sync.OnceFunc(func() {
	sarama.MaxResponseSize = maxResponseBytes
	sarama.MaxDecompressedBatchSize = maxDecompressedBytes
	metrics.UseNilMetrics = true
})

// sarama translates the Config for sarama's Broker.
func (c Config) sarama() (*sarama.Config, error) {
	limitSarama()
	s := sarama.NewConfig()
	s.ClientID = c.ClientID
	s.Version = sarama.V3_7_0_0
	s.Net.DialTimeout, s.Net.ReadTimeout, s.Net.WriteTimeout = c.DialTimeout, c.ReadTimeout, c.WriteTimeout
	s.Net.MaxOpenRequests = 1
	if c.TLS.Enabled {
		t, err := c.TLS.load()
		if err != nil {
			return nil, err
		}
		s.Net.TLS.Enable, s.Net.TLS.Config = true, t
	}
	if c.SASL.Mechanism != "" {
		s.Net.SASL.Enable = true
		s.Net.SASL.Version = sarama.SASLHandshakeV1
		s.Net.SASL.Mechanism = sarama.SASLMechanism(c.SASL.Mechanism)
		s.Net.SASL.User, s.Net.SASL.Password = c.SASL.Username, c.SASL.Password
		s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{mechanism: c.SASL.Mechanism} }
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return s, nil
}

func (t TLS) load() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("kafka.tls.ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka.tls.ca_file: %s has no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return nil, fmt.Errorf("kafka.tls.cert_file: %w", err)
		}
		// read again at each handshake, so that a renewed certificate is used
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &cert, err
		}
	}
	return out, nil
}

// scramClient is one SCRAM exchange.
type scramClient struct {
	mechanism    string
	conversation *scram.ClientConversation
}

// Begin prepares the exchange.
func (s *scramClient) Begin(user, password, authzID string) error {
	hash := scram.SHA512
	if s.mechanism == sarama.SASLTypeSCRAMSHA256 {
		hash = scram.SHA256
	}
	client, err := hash.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	s.conversation = client.NewConversation()
	return nil
}

// Step answers one challenge.
func (s *scramClient) Step(challenge string) (string, error) { return s.conversation.Step(challenge) }

// Done is true when the exchange is over.
func (s *scramClient) Done() bool { return s.conversation.Done() }
