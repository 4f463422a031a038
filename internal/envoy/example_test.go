package envoy_test

import (
	"os"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	filter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // the example names it
	manager "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3" // likewise
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestExample reads the configuration that is shipped as Envoy does: by the
// published types, none of which has a key that is not known, and with the
// checks that Envoy makes.
func TestExample(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../../deploy/envoy/envoy.yaml")
	require.NoError(t, err)
	text, err := yaml.YAMLToJSON(source)
	require.NoError(t, err)
	var config bootstrap.Bootstrap
	require.NoError(t, protojson.Unmarshal(text, &config))
	require.NoError(t, config.ValidateAll())

	var connections manager.HttpConnectionManager
	listener := config.GetStaticResources().GetListeners()[0]
	require.NoError(t, listener.GetFilterChains()[0].GetFilters()[0].GetTypedConfig().UnmarshalTo(&connections))
	require.NoError(t, connections.ValidateAll())
	var limits filter.RateLimit
	require.NoError(t, connections.GetHttpFilters()[0].GetTypedConfig().UnmarshalTo(&limits))
	require.NoError(t, limits.ValidateAll())
	service := limits.GetRateLimitService().GetGrpcService().GetEnvoyGrpc().GetClusterName()
	names := []string{}
	for _, c := range config.GetStaticResources().GetClusters() {
		names = append(names, c.GetName())
	}
	require.Contains(t, names, service)
	actions := connections.GetRouteConfig().GetVirtualHosts()[0].GetRoutes()[0].GetRoute().GetRateLimits()[0].GetActions()
	require.Equal(t, rules[1].Client, actions[0].GetRequestHeaders().GetDescriptorKey())
}
