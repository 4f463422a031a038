package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kversion"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/kafka"
)

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*kafka.Config)
		want   string
	}{
		"no brokers":              {func(c *kafka.Config) { c.Brokers = nil }, "kafka.brokers"},
		"a broker without a port": {func(c *kafka.Config) { c.Brokers = []string{"kafka"} }, "kafka.brokers"},
		"a timeout of zero":       {func(c *kafka.Config) { c.DialTimeout = 0 }, "kafka.dial_timeout"},
		"a timeout of an hour":    {func(c *kafka.Config) { c.ReadTimeout = time.Hour }, "kafka.read_timeout"},
		"no connections":          {func(c *kafka.Config) { c.Connections = 0 }, "kafka.connections"},
		"a certificate alone":     {func(c *kafka.Config) { c.TLS.CertFile = "x" }, "kafka.tls"},
		"an unknown mechanism":    {func(c *kafka.Config) { c.SASL.Mechanism = "GSSAPI" }, "kafka.sasl.mechanism"},
		"no password":             {func(c *kafka.Config) { c.SASL = kafka.SASL{Mechanism: "PLAIN", Username: "x"} }, "kafka.sasl"},
		"a missing CA file":       {func(c *kafka.Config) { c.TLS = kafka.TLS{Enabled: true, CAFile: "/none"} }, "kafka.tls.ca_file"},
		"a missing key file":      {func(c *kafka.Config) { c.TLS = kafka.TLS{Enabled: true, CertFile: "/none", KeyFile: "/none"} }, "kafka.tls.cert_file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config("127.0.0.1:1")
			require.NoError(t, cfg.Validate())
			tt.change(&cfg)
			_, err := kafka.Dial(deadline(t), cfg, zaptest.NewLogger(t), nil)
			require.ErrorContains(t, err, tt.want)
		})
	}
	require.NoError(t, kafka.DefaultFetch().Validate())
	require.NoError(t, kafka.DefaultWriter().Validate())
	require.Error(t, kafka.FetchConfig{}.Validate())
	require.Error(t, kafka.WriterConfig{}.Validate())
}

func TestUnreachableBrokersAreNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	_, err = kafka.Dial(deadline(t), config(addr), zaptest.NewLogger(t), prometheus.NewRegistry())
	require.ErrorIs(t, err, kafka.ErrUnreachable)
	require.ErrorContains(t, err, addr)
	require.NotContains(t, err.Error(), "\n")
}

func TestOneOfTheBrokersIsEnough(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	c := dialWith(t, config("127.0.0.1:1", f.ListenAddrs()[0]))
	n, err := c.Partitions(deadline(t), "in")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

// A listener that takes connections and never answers.
func TestDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = kafka.Dial(ctx, config(l.Addr().String()), zaptest.NewLogger(t), nil)
	require.ErrorIs(t, err, kafka.ErrUnreachable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestOldBrokersAreRefused(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.MaxVersions(kversion.V2_4_0()))
	_, err := kafka.Dial(deadline(t), config(f.ListenAddrs()...), zaptest.NewLogger(t), nil)
	require.ErrorIs(t, err, kafka.ErrUnsupported)
}

func TestOldestSupportedBroker(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"), kfake.MaxVersions(kversion.V2_5_0()))
	c := dial(t, f)
	w := writer(t, c, "app-in-0")
	commit(t, w, transaction(2))
	got, _ := values(t, c, "out", 0)
	require.Len(t, got, 2)
	require.EqualValues(t, 2, position(t, c, "app", "in", 0))
	cr := newCrew(t, c)
	cr.settle([]int{1}, cr.start(groupConfig("a"), nil))
}

func TestSecureConnections(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := certificate(t, dir)
	ca := filepath.Join(dir, "ca.pem")
	tests := map[string]kafka.SASL{
		"TLS alone":     {},
		"PLAIN":         {Mechanism: "PLAIN", Username: "u", Password: "p"},
		"SCRAM-SHA-256": {Mechanism: "SCRAM-SHA-256", Username: "u", Password: "p"},
		"SCRAM-SHA-512": {Mechanism: "SCRAM-SHA-512", Username: "u", Password: "p"},
	}
	for name, sasl := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := []kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(1, "in", "out"), kfake.TLS(server), kfake.GroupMinSessionTimeout(time.Second)}
			if sasl.Mechanism != "" {
				opts = append(opts, kfake.EnableSASL(), kfake.Superuser(sasl.Mechanism, sasl.Username, sasl.Password))
			}
			f, err := kfake.NewCluster(opts...)
			require.NoError(t, err)
			t.Cleanup(f.Close)
			cfg := config(f.ListenAddrs()...)
			cfg.TLS, cfg.SASL = kafka.TLS{Enabled: true, CAFile: ca, ServerName: "kafka.test"}, sasl
			c := dialWith(t, cfg)
			w := writer(t, c, "app-in-0")
			commit(t, w, transaction(2))
			s, err := fetcher(t, c).Subscribe("out", 0, 0)
			require.NoError(t, err)
			require.Equal(t, []string{"v0", "v1"}, takeUntil(t, s, 3))
			cr := newCrew(t, c)
			cr.settle([]int{1}, cr.start(groupConfig("a"), nil))

			cfg.TLS.CAFile = ""
			_, err = kafka.Dial(deadline(t), cfg, zaptest.NewLogger(t), nil)
			require.ErrorIs(t, err, kafka.ErrUnreachable)
			require.ErrorContains(t, err, "certificate")
		})
	}
}

func TestWrongPasswordIsRefused(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256"} {
		f, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser(mechanism, "u", "right"))
		require.NoError(t, err)
		t.Cleanup(f.Close)
		cfg := config(f.ListenAddrs()...)
		cfg.SASL = kafka.SASL{Mechanism: mechanism, Username: "u", Password: "wrong-secret"}
		_, err = kafka.Dial(deadline(t), cfg, zaptest.NewLogger(t), nil)
		require.ErrorIs(t, err, kafka.ErrUnreachable)
		require.NotContains(t, err.Error(), "wrong-secret")
	}
}

// certificate makes a server's certificate for kafka.test, and ca.pem in dir.
func certificate(t *testing.T, dir string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kafka.test"}, DNSNames: []string{"kafka.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	pemBytes := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), pemBytes, 0o600))
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestTopicsAreMadeAndChecked(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(4, "usage"))
	c := dial(t, f)
	specs := []kafka.TopicSpec{
		{Name: "changelog", Partitions: 4, Compact: true, Configs: kafka.ChangelogConfigs()},
		{Name: "contracts", Partitions: 1, Compact: true, Configs: kafka.CompactConfigs()},
		{Name: "events", Partitions: 4},
		{Name: "usage"},
	}
	problems, err := c.CheckTopics(deadline(t), specs)
	require.NoError(t, err)
	require.Len(t, problems, 3)
	require.Equal(t, "topic changelog: it does not exist: run 'meterd topics create', or 'meterd run --create-topics'", problems[0].String())

	require.NoError(t, c.CreateTopics(deadline(t), specs[:3]))
	require.NoError(t, c.CreateTopics(deadline(t), specs[:3])) // existing ones are fine
	problems, err = c.CheckTopics(deadline(t), specs)
	require.NoError(t, err)
	require.Empty(t, problems)
	for p := range int32(4) {
		at, err := c.LogStart(deadline(t), "changelog", p)
		require.NoError(t, err)
		require.Zero(t, at)
	}

	problems, err = c.CheckTopics(deadline(t), []kafka.TopicSpec{
		{Name: "changelog", Partitions: 8, Compact: true},
		{Name: "events", Partitions: 2, Compact: true},
		{Name: "none"},
	})
	require.NoError(t, err)
	require.Len(t, problems, 4)
	require.Contains(t, problems[0].String(), "has 4 partitions and needs 8")
	require.Contains(t, problems[0].Remedy, "--partitions 8")
	require.Contains(t, problems[1].Remedy, "cannot be taken away")
	require.Contains(t, problems[2].Problem, "its cleanup.policy is delete and must be compact")
	require.Contains(t, problems[2].Remedy, "cleanup.policy=compact")
	require.Contains(t, problems[3].Remedy, "create it")

	_, err = c.Partitions(deadline(t), "none")
	require.ErrorIs(t, err, kafka.ErrNoTopic)
	require.Error(t, c.CreateTopics(deadline(t), []kafka.TopicSpec{{Name: "x"}}))
}

// signed is a 32-bit hash as Go's int32 has it.
func signed(hash uint32) int64 { return int64(int32(hash)) }

func TestPartitioners(t *testing.T) {
	t.Parallel()
	// murmur2 and crc32: the vectors of Kafka's and librdkafka's own tests;
	// fnv1a: the published hashes of the function, as sarama divides them
	tests := map[string]struct {
		name, key string
		hash      int64 // before the division; negative where it is signed
	}{
		"java 21":              {"murmur2", "21", -973932308 & 0x7fffffff},
		"java foobar":          {"murmur2", "foobar", -790332482 & 0x7fffffff},
		"java a-little-bit":    {"murmur2", "a-little-bit-long-string", -985981536 & 0x7fffffff},
		"java a-little-longer": {"murmur2", "a-little-bit-longer-string", -1486304829 & 0x7fffffff},
		"java lkjh":            {"murmur2", "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971 & 0x7fffffff},
		"java abc":             {"murmur2", "abc", 479470107},
		"crc32 check":          {"crc32", "123456789", 0xcbf43926},
		"crc32 of nothing":     {"crc32", "", 0},
		"fnv1a foobar":         {"fnv1a", "foobar", signed(0xbf9cf968)},
		"fnv1a a":              {"fnv1a", "a", signed(0xe40c292c)},
		"fnv1a of nothing":     {"fnv1a", "", signed(0x811c9dc5)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := kafka.NewPartitioner(tt.name)
			require.NoError(t, err)
			for _, n := range []int32{1, 2, 7, 8, 100, 1 << 30} {
				want := int32(tt.hash % int64(n))
				if want < 0 {
					want = -want
				}
				require.Equal(t, want, p([]byte(tt.key), n), "of %d", n)
			}
		})
	}
	_, err := kafka.NewPartitioner("random")
	require.ErrorContains(t, err, "random")
}
