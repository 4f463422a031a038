//go:build integration

package kafka_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/kafka"
)

// secured starts a broker of its own whose clients need TLS and a certificate,
// and say who they are. It returns where it is, where it is without all that,
// and the directory with ca.pem, client.pem and client.key.
func secured(t *testing.T) (address, open, dir string) {
	t.Helper()
	dir = t.TempDir()
	pair := certificate(t, dir).Certificates[0] // it is its own authority, for both sides
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	for name, content := range map[string][]byte{
		"client.pem": certPEM, "client.key": keyPEM, "server.pem": append(append([]byte{}, keyPEM...), certPEM...),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	base, err := strconv.Atoi(os.Getenv("KAFKA_PORT"))
	require.NoError(t, err, "KAFKA_PORT must be the testbed's")
	port := base + 60
	blank := `\u0020` // the variable is split at blanks
	overrides := []string{
		"listener.security.protocol.map=CLIENT:SASL_SSL,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"ssl.keystore.type=PEM", "ssl.keystore.location=" + filepath.Join(dir, "server.pem"),
		"ssl.truststore.type=PEM", "ssl.truststore.location=" + filepath.Join(dir, "ca.pem"),
		"listener.name.client.ssl.client.auth=required",
		"listener.name.client.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"listener.name.client.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule" + blank + "required" + blank + `user_meterd="right";`,
	}
	for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
		overrides = append(overrides, "listener.name.client."+m+".sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule"+blank+"required;")
	}
	script := func(args ...string) {
		cmd := exec.Command(filepath.Join(os.Getenv("METERD_TESTBED"), "kafka.sh"), args...) //nolint:noctx // reset runs when the test's context has ended
		cmd.Env = append(os.Environ(), fmt.Sprintf("KAFKA_PORT=%d", port), "KAFKA_DATA="+filepath.Join(dir, "kafka"), "KAFKA_OVERRIDES="+strings.Join(overrides, " "))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "kafka.sh %v: %s", args, out)
	}
	t.Cleanup(func() { script("reset") })
	script("up")
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), net.JoinHostPort("127.0.0.1", strconv.Itoa(port+3)), dir
}

// TLS, a certificate of one's own, and each way to say who one is, at a real
// broker: transactions work, and without any of the three nothing does.
func TestRealBrokerWithTLSAndSASL(t *testing.T) {
	address, open, dir := secured(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(open))
	require.NoError(t, err)
	defer client.Close()
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		changed, err := kadm.NewClient(client).AlterUserSCRAMs(deadline(t), nil, []kadm.UpsertSCRAM{{User: "meterd", Mechanism: m, Iterations: 4096, Password: "right"}})
		require.NoError(t, err)
		require.NoError(t, changed.Error())
	}
	for n, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			cfg := config(address)
			cfg.TLS = kafka.TLS{
				Enabled: true, CAFile: filepath.Join(dir, "ca.pem"), ServerName: "kafka.test",
				CertFile: filepath.Join(dir, "client.pem"), KeyFile: filepath.Join(dir, "client.key"),
			}
			cfg.SASL = kafka.SASL{Mechanism: mechanism, Username: "meterd", Password: "right"}
			c := dialWith(t, cfg)
			suffix := fmt.Sprintf("-%d", n)
			require.NoError(t, c.CreateTopics(deadline(t), []kafka.TopicSpec{{Name: "in" + suffix, Partitions: 1}, {Name: "out" + suffix, Partitions: 1}}))
			w := writer(t, c, "app"+suffix)
			commit(t, w, realTransaction(suffix, 2))
			s, err := fetcher(t, c).Subscribe("out"+suffix, 0, 0)
			require.NoError(t, err)
			require.Equal(t, []string{"v0", "v1"}, takeUntil(t, s, 3))

			wrong := map[string]func(*kafka.Config){
				"another password":         func(c *kafka.Config) { c.SASL.Password = "wrong-secret" },
				"nobody":                   func(c *kafka.Config) { c.SASL = kafka.SASL{} },
				"no certificate":           func(c *kafka.Config) { c.TLS.CertFile, c.TLS.KeyFile = "", "" },
				"no trust in the broker":   func(c *kafka.Config) { c.TLS.CAFile = "" },
				"another broker than that": func(c *kafka.Config) { c.TLS.ServerName = "other.test" },
				"no encryption":            func(c *kafka.Config) { c.TLS = kafka.TLS{} },
			}
			for name, change := range wrong {
				other := cfg
				change(&other)
				_, err := kafka.Dial(deadline(t), other, zaptest.NewLogger(t), nil)
				require.ErrorIs(t, err, kafka.ErrUnreachable, name)
				require.NotContains(t, err.Error(), "wrong-secret")
				require.NotContains(t, err.Error(), "right")
			}
		})
	}
}
