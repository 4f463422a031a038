package envoy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	descriptors "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/meterd/meterd/internal/envoy"
)

func TestEncrypted(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(certificate)

	plain, _ := serve(t, &checker{}, func(c *envoy.Config) {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
		}}
	})
	request := &ratelimit.RateLimitRequest{Descriptors: []*descriptors.RateLimitDescriptor{descriptor("client_id", "acme")}}
	_, err = ratelimit.NewRateLimitServiceClient(plain).ShouldRateLimit(t.Context(), request)
	require.Equal(t, codes.Unavailable, status.Code(err))

	conn, err := grpc.NewClient(plain.Target(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots})))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	answer, err := ratelimit.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, ratelimit.RateLimitResponse_OK, answer.GetOverallCode())
}
