package envoy_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	descriptors "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meterd/meterd/internal/envoy"
)

var now = time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)

// checker is a Checker that says what it is told to.
type checker struct {
	mu            sync.Mutex
	decisions     map[string]envoy.Decision // by client
	failure       error
	authorization string
	asked         []envoy.Use
}

func (c *checker) check(_ context.Context, authorization string, uses []envoy.Use) ([]envoy.Decision, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.authorization, c.asked = authorization, uses
	if c.failure != nil {
		return nil, c.failure
	}
	var list []envoy.Decision
	for _, u := range uses {
		d, ok := c.decisions[u.Client]
		if !ok {
			d.Allowed = true
		}
		list = append(list, d)
	}
	return list, nil
}

func (c *checker) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err
}

var rules = []envoy.Rule{
	{Meter: "searches", Client: "client_id", Dimensions: map[string]string{"endpoint": "path"}, Match: map[string]string{"generic_key": "search"}},
	{Meter: "api_calls", Client: "client_id"},
}

// serve runs the service until the test ends, and returns the published client.
func serve(t *testing.T, c *checker, change func(*envoy.Config)) (*grpc.ClientConn, *prometheus.Registry) {
	t.Helper()
	cfg := envoy.Config{Listen: "127.0.0.1:0", Rules: rules}
	if change != nil {
		change(&cfg)
	}
	reg := prometheus.NewRegistry()
	s, err := envoy.New(cfg, c.check, func() time.Time { return now }, zap.NewNop(), reg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	conn, err := grpc.NewClient(s.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, s.Close())
	})
	return conn, reg
}

// descriptor has entries as key, value, key, value.
func descriptor(entries ...string) *descriptors.RateLimitDescriptor {
	d := &descriptors.RateLimitDescriptor{}
	for i := 0; i < len(entries); i += 2 {
		d.Entries = append(d.Entries, &descriptors.RateLimitDescriptor_Entry{Key: entries[i], Value: entries[i+1]})
	}
	return d
}

func TestDescriptorsAreUses(t *testing.T) {
	t.Parallel()
	c := &checker{}
	conn, _ := serve(t, c, nil)
	adds := descriptor("client_id", "acme")
	adds.HitsAddend = wrapperspb.UInt64(1 << 40)
	gives := descriptor("client_id", "acme")
	gives.IsNegativeHits, gives.HitsAddend = true, wrapperspb.UInt64(3)

	tests := map[string]struct {
		descriptor *descriptors.RateLimitDescriptor
		hits       uint32
		want       []envoy.Use
	}{
		"the client alone":           {descriptor("client_id", "acme"), 0, []envoy.Use{{Client: "acme", Meter: "api_calls", Quantity: "1"}}},
		"as many as the request has": {descriptor("client_id", "acme"), 5, []envoy.Use{{Client: "acme", Meter: "api_calls", Quantity: "5"}}},
		"as many as it has itself":   {adds, 5, []envoy.Use{{Client: "acme", Meter: "api_calls", Quantity: "1099511627776"}}},
		"what is given back":         {gives, 5, []envoy.Use{{Client: "acme", Meter: "api_calls", Quantity: "0"}}},
		"the first rule that fits": {descriptor("path", "/s", "client_id", "acme", "generic_key", "search"), 0, []envoy.Use{{
			Client: "acme", Meter: "searches", Quantity: "1", Dimensions: map[string]string{"endpoint": "/s"},
		}}},
		"without a dimension":    {descriptor("client_id", "acme", "generic_key", "search"), 0, []envoy.Use{{Client: "acme", Meter: "api_calls", Quantity: "1"}}},
		"another value to match": {descriptor("path", "/s", "client_id", "acme", "generic_key", "find"), 0, []envoy.Use{{Client: "acme", Meter: "api_calls", Quantity: "1"}}},
		"an entry twice":         {descriptor("client_id", "acme", "client_id", "zoe"), 0, []envoy.Use{{Client: "acme", Meter: "api_calls", Quantity: "1"}}},
		"no client":              {descriptor("remote_address", "10.0.0.1"), 0, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			answer, err := ratelimit.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &ratelimit.RateLimitRequest{
				Domain: "any", Descriptors: []*descriptors.RateLimitDescriptor{tt.descriptor}, HitsAddend: tt.hits,
			})
			require.NoError(t, err)
			require.Equal(t, ratelimit.RateLimitResponse_OK, answer.GetOverallCode())
			require.Len(t, answer.GetStatuses(), 1)
			c.mu.Lock()
			defer c.mu.Unlock()
			require.Equal(t, tt.want, c.asked)
		})
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	month := now.Add(9 * 24 * time.Hour)
	hard := func(name, limit, remaining string, allowed bool, reset time.Time) envoy.Limit {
		return envoy.Limit{Name: name, Limit: limit, Remaining: remaining, Allowed: allowed, Reset: reset}
	}
	c := &checker{decisions: map[string]envoy.Decision{
		"acme": {Limits: []envoy.Limit{
			hard("a/day", "10", "0", false, now.Add(time.Hour)), hard("a/month", "1000.5", "0.5", false, month), hard("a/year", "5", "1", true, month.AddDate(1, 0, 0)),
		}},
		"ever": {Limits: []envoy.Limit{hard("e/month", "10", "0", false, month), hard("e/lifetime", "99999999999999999999", "0", false, time.Time{})}},
		"zoe": {Allowed: true, Limits: []envoy.Limit{
			hard("z/much", "99999999999", "5000000000", true, month), hard("z/least", "9", "7.9", true, month), {Name: "z/soft", Soft: true, Remaining: "0", Allowed: true},
		}},
	}}
	conn, reg := serve(t, c, nil)
	client := ratelimit.NewRateLimitServiceClient(conn)
	ask := func(clients ...string) *ratelimit.RateLimitResponse {
		r := &ratelimit.RateLimitRequest{}
		for _, name := range clients {
			r.Descriptors = append(r.Descriptors, descriptor("client_id", name))
		}
		answer, err := client.ShouldRateLimit(t.Context(), r)
		require.NoError(t, err)
		return answer
	}
	answer := ask("zoe", "acme", "nobody", "ever")
	require.Equal(t, ratelimit.RateLimitResponse_OVER_LIMIT, answer.GetOverallCode())
	zoe, acme, nobody, ever := answer.GetStatuses()[0], answer.GetStatuses()[1], answer.GetStatuses()[2], answer.GetStatuses()[3]
	require.Equal(t, ratelimit.RateLimitResponse_OK, zoe.GetCode())
	require.Equal(t, "z/least", zoe.GetCurrentLimit().GetName())
	require.Equal(t, uint32(7), zoe.GetLimitRemaining())
	require.Equal(t, ratelimit.RateLimitResponse_OVER_LIMIT, acme.GetCode())
	require.Equal(t, "a/month", acme.GetCurrentLimit().GetName(), "that for which one has to wait longest")
	require.Equal(t, uint32(1000), acme.GetCurrentLimit().GetRequestsPerUnit())
	require.Equal(t, 9*24*time.Hour, acme.GetDurationUntilReset().AsDuration())
	require.Equal(t, ratelimit.RateLimitResponse_OK, nobody.GetCode())
	require.Nil(t, nobody.GetCurrentLimit())
	require.Equal(t, "e/lifetime", ever.GetCurrentLimit().GetName())
	require.Equal(t, uint32(1<<32-1), ever.GetCurrentLimit().GetRequestsPerUnit())
	require.Nil(t, ever.GetDurationUntilReset())
	require.Equal(t, ratelimit.RateLimitResponse_OK, ask("zoe").GetOverallCode())
	count, err := testutil.GatherAndCount(reg, "meterd_ratelimit_answers_total")
	require.NoError(t, err)
	require.Equal(t, 2, count)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	c := &checker{}
	conn, _ := serve(t, c, func(cfg *envoy.Config) { cfg.Domain = "meterd" })
	client := ratelimit.NewRateLimitServiceClient(conn)
	one := []*descriptors.RateLimitDescriptor{descriptor("client_id", "acme")}
	for want, failure := range map[codes.Code]error{
		codes.Unauthenticated: envoy.ErrUnauthorized, codes.PermissionDenied: envoy.ErrForbidden, codes.InvalidArgument: envoy.ErrInvalid,
		codes.Unavailable: errors.New("the password is swordfish"),
	} {
		c.fail(failure)
		_, err := client.ShouldRateLimit(t.Context(), &ratelimit.RateLimitRequest{Domain: "meterd", Descriptors: one})
		require.Equal(t, want, status.Code(err))
		require.NotContains(t, err.Error(), "swordfish")
	}
	c.fail(nil)
	for _, bad := range []*ratelimit.RateLimitRequest{
		{Domain: "other", Descriptors: one}, {Descriptors: one}, {Domain: "meterd"}, {Domain: "meterd", Descriptors: make([]*descriptors.RateLimitDescriptor, 101)},
	} {
		for i := range bad.Descriptors {
			bad.Descriptors[i] = descriptor("client_id", "acme")
		}
		_, err := client.ShouldRateLimit(t.Context(), bad)
		require.Equal(t, codes.InvalidArgument, status.Code(err))
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer x")
	_, err := client.ShouldRateLimit(ctx, &ratelimit.RateLimitRequest{Domain: "meterd", Descriptors: one})
	require.NoError(t, err)
	c.mu.Lock()
	require.Equal(t, "Bearer x", c.authorization)
	c.mu.Unlock()
	healthy, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, healthy.GetStatus())
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	_, err = envoy.New(envoy.Config{Listen: l.Addr().String()}, (&checker{}).check, time.Now, zap.NewNop(), prometheus.NewRegistry())
	require.ErrorContains(t, err, "ratelimit.listen")
}

func TestRunManyTimes(t *testing.T) {
	t.Parallel()
	for range 20 {
		s, err := envoy.New(envoy.Config{Listen: "127.0.0.1:0"}, (&checker{}).check, time.Now, zap.NewNop(), prometheus.NewRegistry())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		cancel()
		require.NoError(t, <-ended)
	}
}
