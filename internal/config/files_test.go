package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// certificate writes a certificate and its key.
func certificate(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	secret, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	return write(name+".pem", "CERTIFICATE", der), write(name+".key", "EC PRIVATE KEY", secret)
}

func TestCheckFiles(t *testing.T) {
	t.Parallel()

	dir := t.TempDir()
	cert, key := certificate(t, dir, "a")
	_, otherKey := certificate(t, dir, "b")
	secret, empty, none := filepath.Join(dir, "secret"), filepath.Join(dir, "empty"), filepath.Join(dir, "none")
	require.NoError(t, os.WriteFile(secret, []byte("canary\n"), 0o600))
	require.NoError(t, os.WriteFile(empty, []byte(" \n"), 0o600))

	tests := map[string]struct {
		source string
		want   []string
	}{
		"none named": {"", nil},
		"all there": {
			"kafka: {tls: {ca_file: CERT, cert_file: CERT, key_file: KEY}, sasl: {password_file: SECRET}}\n" +
				"schema_registry: {password_file: SECRET, tls: {}}\nhistory: {druid: {password_file: SECRET}}\nhttp: {tokens_file: SECRET, tls: {cert_file: CERT, key_file: KEY}}", nil,
		},
		"all away": {
			"kafka: {tls: {ca_file: NONE, cert_file: NONE, key_file: NONE}, sasl: {password_file: NONE}}\n" +
				"schema_registry: {password_file: NONE, tls: {ca_file: NONE}}\nhistory: {druid: {password_file: NONE}}\nhttp: {tokens_file: NONE, tls: {cert_file: NONE, key_file: NONE}}",
			[]string{
				"kafka.tls.ca_file: open NONE: no such file or directory",
				"kafka.tls.cert_file: open NONE: no such file or directory",
				"kafka.tls.key_file: open NONE: no such file or directory",
				"kafka.sasl.password_file: read secret: open NONE: no such file or directory",
				"schema_registry.password_file: read secret: open NONE: no such file or directory",
				"schema_registry.tls.ca_file: open NONE: no such file or directory",
				"history.druid.password_file: read secret: open NONE: no such file or directory",
				"http.tokens_file: read secret: open NONE: no such file or directory",
				"http.tls.cert_file: open NONE: no such file or directory",
				"http.tls.key_file: open NONE: no such file or directory",
			},
		},
		"nothing in it":      {"http: {tokens_file: EMPTY}", []string{"http.tokens_file: read secret: EMPTY is empty"}},
		"no certificate":     {"kafka: {tls: {ca_file: SECRET}}", []string{"kafka.tls.ca_file: no certificate in SECRET"}},
		"another's key":      {"http: {tls: {cert_file: CERT, key_file: OTHER}}", []string{"http.tls.cert_file: CERT with OTHER: tls: private key does not match public key"}},
		"half a certificate": {"kafka: {tls: {cert_file: CERT}}", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fill := strings.NewReplacer("CERT", cert, "KEY", key, "OTHER", otherKey, "SECRET", secret, "EMPTY", empty, "NONE", none).Replace
			for i := range tt.want {
				tt.want[i] = fill(tt.want[i])
			}
			err := load(t, fill(tt.source)).CheckFiles()
			require.Equal(t, tt.want, lines(err))
			if err != nil {
				require.NotContains(t, err.Error(), "canary")
			}
		})
	}
}
