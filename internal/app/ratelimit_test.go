package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	descriptors "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
)

// TestEnvoyAsksForClientsOfAllInstances by its published client, at one of two.
func TestEnvoyAsksForClientsOfAllInstances(t *testing.T) {
	w := newWorld(t, 4)
	w.cfg.RateLimit = config.RateLimit{Listen: "127.0.0.1:0", Domain: "api", Rules: []config.RateLimitRule{{Meter: "bytes", Client: "client_id"}}}
	require.NoError(t, w.cfg.Validate())
	const clients = 8
	for i := range clients {
		w.contract(fmt.Sprintf("c-%d", i), fmt.Sprintf(`{"id":"c-%d","client":"client-%d","starts_at":"2020-01-01T00:00:00Z","limits":[
			{"id":"traffic","meter":"bytes","limit":"3"}]}`, i, i))
		for n := range 2 {
			w.use(fmt.Sprintf("%d-%d", i, n), fmt.Sprintf("client-%d", i), "bytes", 1, time.Now())
		}
	}
	address := make(chan string, 2)
	first := w.startWith(app.Options{RateLimit: func(a string) { address <- a }})
	w.cfg.State.Dir = t.TempDir()
	second := w.start(nil)
	for i := range clients {
		second.usage(t, fmt.Sprintf("client-%d", i), "bytes", "2")
	}
	conn, err := grpc.NewClient(<-address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	request := func(hits uint32) *ratelimit.RateLimitRequest {
		r := &ratelimit.RateLimitRequest{Domain: "api", HitsAddend: hits}
		for i := range clients {
			r.Descriptors = append(r.Descriptors, &descriptors.RateLimitDescriptor{Entries: []*descriptors.RateLimitDescriptor_Entry{
				{Key: "client_id", Value: fmt.Sprintf("client-%d", i)},
			}})
		}
		return r
	}
	for hits, want := range map[uint32]ratelimit.RateLimitResponse_Code{1: ratelimit.RateLimitResponse_OK, 2: ratelimit.RateLimitResponse_OVER_LIMIT} {
		var answer *ratelimit.RateLimitResponse
		require.Eventually(t, func() bool { // partitions may be on their way to the second
			answer, err = ratelimit.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), request(hits))
			return err == nil
		}, patience, 10*time.Millisecond)
		require.Equal(t, want, answer.GetOverallCode())
		require.Len(t, answer.GetStatuses(), clients)
		for i, status := range answer.GetStatuses() {
			require.Equal(t, want, status.GetCode())
			require.Equal(t, fmt.Sprintf(`"c-%d" "traffic"`, i), status.GetCurrentLimit().GetName())
			require.Equal(t, uint32(3), status.GetCurrentLimit().GetRequestsPerUnit())
			require.Equal(t, uint32(1), status.GetLimitRemaining(), "nothing is counted by asking")
			require.Positive(t, status.GetDurationUntilReset().AsDuration())
		}
	}

	// HTTP decides the same for many at once, on any instance.
	var uses []string
	for i := range clients {
		uses = append(uses, fmt.Sprintf(`{"client":"client-%d","meter":"bytes","quantity":"2"}`, i))
	}
	for _, d := range []*daemon{first, second} {
		r, err := http.Post("http://"+d.address+"/v1/check", "application/json", strings.NewReader(`{"checks":[`+strings.Join(uses, ",")+`]}`)) //nolint:noctx // a test of one's own server
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.StatusCode)
		var a struct {
			Allowed bool
			Results []struct{ Allowed bool }
		}
		require.NoError(t, json.NewDecoder(r.Body).Decode(&a))
		require.NoError(t, r.Body.Close())
		require.False(t, a.Allowed)
		require.Len(t, a.Results, clients)
	}
	require.NoError(t, first.end())
	require.NoError(t, second.end())
}
