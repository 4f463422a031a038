package app

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/druid"
)

// What history is asked for is what the configuration says and meters need.
func TestDruidConfig(t *testing.T) {
	t.Parallel()

	cfg, err := config.Load("", nil, map[string]string{
		"kafka.brokers": "a:1", "usage.format": "json", "limit_events.format": "json", "usage.fields.void": "undo",
		"meters":                      `[{name: a, aggregation: latest, group_by: [p.zone], when: p.on}, {name: b, aggregation: unique, value: p.user}]`,
		"history.druid.url":           "http://d:8888",
		"history.druid.supervisor":    "s",
		"history.druid.granularity":   "1m",
		"history.druid.columns":       `{partition: "", offset: "", record_time: r, void: v, fields: {p.user: who}}`,
		"history.druid.max_queries":   "3",
		"history.druid.lane":          "low",
		"history.druid.timeout":       "7s",
		"history.druid.columns.meter": "",
	})
	require.NoError(t, err)
	require.NoError(t, cfg.Validate())
	catalog, err := cfg.Catalog()
	require.NoError(t, err)

	got, err := druidConfig(cfg, &catalog)
	require.NoError(t, err)
	want := druid.Default()
	want.URL, want.Supervisor, want.Granularity, want.Lane, want.Timeout, want.MaxConcurrent = "http://d:8888", "s", time.Minute, "low", 7*time.Second, 3
	want.Columns = druid.Columns{
		Client: "client_id", Quantity: "quantity", RecordTime: "r", Void: "v",
		Fields: []string{"zone", "on", "who"}, Booleans: []bool{false, true, false},
	}
	want.Latest, want.Extremes = true, true
	require.Equal(t, want, got)
	require.NoError(t, got.Validate())
	require.True(t, got.Bounded())
}
