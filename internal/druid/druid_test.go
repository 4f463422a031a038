package druid_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/druid"
)

func TestConfigNamesTheKeyThatIsWrong(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change func(*druid.Config)
		want   string
	}{
		"no url":                       {func(c *druid.Config) { c.URL = "" }, "history.druid.url: must be http"},
		"another scheme":               {func(c *druid.Config) { c.URL = "ftp://h" }, "history.druid.url: must be http"},
		"a password in a url":          {func(c *druid.Config) { c.URL = "http://u:secret@h" }, "history.druid.url: must not hold a password"},
		"no url at all":                {func(c *druid.Config) { c.URL = "http://h:x:y\n/secret" }, "history.druid.url: not a URL"},
		"a coordinator's path":         {func(c *druid.Config) { c.CoordinatorURL = "http://h?x" }, "history.druid.coordinator_url: must have no query"},
		"no datasource":                {func(c *druid.Config) { c.Datasource = "" }, "history.druid.datasource: must not be empty"},
		"no offset column":             {func(c *druid.Config) { c.Columns.Offset = "" }, "history.druid.columns.offset: must not be empty"},
		"timeout too short":            {func(c *druid.Config) { c.Timeout = time.Millisecond }, "history.druid.timeout: 1ms is not within 1s to 1h"},
		"no concurrency":               {func(c *druid.Config) { c.MaxConcurrent = 0 }, "history.druid.max_queries: 0 is not within 1 to 64"},
		"batches too large":            {func(c *druid.Config) { c.BatchClients = 10_001 }, "history.druid.batch_clients: 10001 is not within 1 to 10000"},
		"nothing may wait":             {func(c *druid.Config) { c.MaxPending = 0 }, "history.druid.max_pending: 0 is not"},
		"answers too short":            {func(c *druid.Config) { c.MaxResponseBytes = 1 }, "history.druid.max_response_bytes: 1 is less than 1024"},
		"no partition column":          {func(c *druid.Config) { c.Columns.Partition = "" }, "history.druid.columns.partition: must not be empty while"},
		"bounded without a supervisor": {func(c *druid.Config) { c.Columns.Partition, c.Columns.Offset, c.Columns.RecordTime = "", "", "k_ts" }, "history.druid.supervisor: must not be empty without"},
		"no granularity":               {func(c *druid.Config) { rolledUp(c); c.Granularity = 0 }, "history.druid.granularity: 0s is no part of a day"},
		"a granularity of 7 h":         {func(c *druid.Config) { rolledUp(c); c.Granularity = 7 * time.Hour }, "history.druid.granularity: 7h0m0s is no part of a day"},
		"a granularity too fine":       {func(c *druid.Config) { rolledUp(c); c.Granularity = time.Microsecond }, "history.druid.granularity: 1µs is no part"},
		"extremes of rolled-up rows":   {func(c *druid.Config) { rolledUp(c); c.Extremes = true }, "history.druid.columns.record_time: must not be empty, or columns.offset, with meters that are max, min or latest"},
		"a count of single rows":       {func(c *druid.Config) { c.Columns.Count = "n" }, "history.druid.columns.count: is for rolled-up rows"},
		"a field without a column":     {func(c *druid.Config) { c.Columns.Fields = []string{"a", ""} }, "history.druid.columns.fields: must have no empty column"},
		"a field of no known kind":     {func(c *druid.Config) { c.Columns.Fields, c.Columns.Booleans = []string{"a", "b"}, []bool{true} }, "history.druid.columns.fields: 1 of 2 are known"},
		"two kinds of secret":          {func(c *druid.Config) { c.Token, c.Username = "t", "u" }, "history.druid.token: excludes username"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			cfg := druid.Default()
			cfg.URL = "http://127.0.0.1:8888"
			require.NoError(t, cfg.Validate())
			tt.change(&cfg)
			_, err := druid.New(cfg, http.DefaultClient, zap.NewNop(), prometheus.NewRegistry(), time.Now)
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestConfigTakesEveryWayToTellRowsApart(t *testing.T) {
	t.Parallel()

	for name, change := range map[string]func(*druid.Config){
		"offsets":                 func(*druid.Config) {},
		"offsets and all else":    detailed,
		"record times":            byRecordTime,
		"rolled-up rows":          rolledUp,
		"rows without a count":    func(c *druid.Config) { rolledUp(c); c.Columns.Count, c.Granularity = "", time.Millisecond },
		"extremes of record time": func(c *druid.Config) { byRecordTime(c); c.Extremes, c.Latest = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			cfg := druid.Default()
			cfg.URL = "http://127.0.0.1:8888"
			change(&cfg)
			require.NoError(t, cfg.Validate())
			require.Equal(t, cfg.Columns.Offset == "", cfg.Bounded())
		})
	}
}
