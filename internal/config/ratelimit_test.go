package config_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/config"
)

func TestRateLimit(t *testing.T) {
	t.Parallel()
	rule := config.RateLimitRule{Meter: "searches", Client: "client_id", Dimensions: map[string]string{"endpoint": "path"}}

	tests := map[string]struct {
		change func(*config.Config)
		want   string // empty: nothing is wrong
	}{
		"off": {func(*config.Config) {}, ""},
		"on": {func(c *config.Config) {
			c.RateLimit = config.RateLimit{Listen: "127.0.0.1:8090", Rules: []config.RateLimitRule{rule}}
		}, ""},
		"without rules": {func(c *config.Config) { c.RateLimit.Listen = "127.0.0.1:8090" }, "ratelimit.rules"},
		"not an address": {func(c *config.Config) {
			c.RateLimit = config.RateLimit{Listen: "here", Rules: []config.RateLimitRule{rule}}
		}, "ratelimit.listen"},
		"open to all": {func(c *config.Config) {
			c.RateLimit = config.RateLimit{Listen: ":8090", Rules: []config.RateLimitRule{rule}}
		}, "http.tokens_file"},
		"open to those with tokens": {func(c *config.Config) {
			c.RateLimit, c.HTTP.TokensFile = config.RateLimit{Listen: ":8090", Rules: []config.RateLimitRule{rule}}, "tokens"
		}, ""},
		"a meter that is none": {func(c *config.Config) { c.RateLimit.Rules = []config.RateLimitRule{{Meter: "none", Client: "c"}} }, "ratelimit.rules[0].meter"},
		"no client":            {func(c *config.Config) { c.RateLimit.Rules = []config.RateLimitRule{{Meter: "searches"}} }, "ratelimit.rules[0].client"},
		"a dimension that is none": {func(c *config.Config) {
			c.RateLimit.Rules = []config.RateLimitRule{{Meter: "searches", Client: "c", Dimensions: map[string]string{"region": "r"}}}
		}, "ratelimit.rules[0].dimensions"},
		"a dimension of nothing": {func(c *config.Config) {
			c.RateLimit.Rules = []config.RateLimitRule{{Meter: "searches", Client: "c", Dimensions: map[string]string{"endpoint": ""}}}
		}, "ratelimit.rules[0].dimensions.endpoint"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config.Default()
			c.Kafka.Brokers, c.SchemaRegistry.URL = []string{"a:9092"}, "http://a:8081"
			c.Meters = []config.Meter{{Name: "searches", Aggregation: "count", GroupBy: []string{"properties.endpoint"}}}
			tt.change(c)
			if tt.want == "" {
				require.NoError(t, c.Validate())
				return
			}
			require.ErrorContains(t, c.Validate(), tt.want+":")
		})
	}
}
