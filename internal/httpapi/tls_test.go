package httpapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/httpapi"
)

// newCertificate returns a certificate for 127.0.0.1 that vouches for itself,
// and its key, in PEM.
func newCertificate(t *testing.T, serial int64) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// TestTLS has clients and other instances come over TLS, and the certificate
// change.
func TestTLS(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t, 1)
	files := httpapi.TLS{CertFile: file(t, certificate), KeyFile: file(t, key), CAFile: file(t, certificate)}
	one, two := pair(t, func(c *httpapi.Config) { c.TLS = files })

	get := func(roots, path string) (response, error) {
		pool := x509.NewCertPool()
		require.True(t, pool.AppendCertsFromPEM([]byte(roots)))
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
		r, err := transport.RoundTrip(mustRequest(t, "https"+strings.TrimPrefix(one.url, "http")+path))
		if err != nil {
			return response{}, err
		}
		return response{Response: r}, r.Body.Close()
	}
	r, err := get(certificate, "/v1/clients/zoe/usage")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, []aggregate.Selection{{}}, two.running[1].selected)
	require.Equal(t, http.StatusBadRequest, plain(t, one.url+"/livez"))

	// Only one of the two files is there: the old pair goes on to serve.
	next, nextKey := newCertificate(t, 2)
	require.NoError(t, os.WriteFile(files.CertFile, []byte(next), 0o600))
	one.set(func() { one.now = one.now.Add(time.Minute) })
	_, err = get(certificate, "/livez")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files.KeyFile, []byte(nextKey), 0o600))
	one.set(func() { one.now = one.now.Add(time.Minute) })
	_, err = get(certificate, "/livez")
	require.Error(t, err)
	_, err = get(next, "/livez")
	require.NoError(t, err)
}

// plain returns the status of a request that is not encrypted.
func plain(t *testing.T, url string) int {
	t.Helper()
	r, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(mustRequest(t, url))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	return r.StatusCode
}

// TestConnectionsAreCapped opens one more than may be: it is served when
// another ends.
func TestConnectionsAreCapped(t *testing.T) {
	t.Parallel()
	n := newNode()
	s := serve(t, n, func(c *httpapi.Config) { c.MaxConnections = 1 })
	idle, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	_, err = idle.Write([]byte("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.NoError(t, err)
	_, err = idle.Read(make([]byte, 1)) // it is accepted
	require.NoError(t, err)

	waiting, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	_, err = waiting.Write([]byte("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	require.NoError(t, err)
	require.NoError(t, waiting.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = waiting.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	require.NoError(t, idle.Close())
	require.NoError(t, waiting.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = waiting.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, waiting.Close())
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	n := newNode()
	serve(t, n, nil)
	r := mustRequest(t, n.url+"/livez")
	r.Header.Set("X-Large", strings.Repeat("x", 64<<10))
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, answer.StatusCode)
}
