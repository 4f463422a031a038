package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/loadgen"
)

// dimensionsConfig is jsonConfig with voids, and with meters of all kinds that
// look at the properties of events.
func dimensionsConfig(t *testing.T, brokers string) string {
	t.Helper()
	path := jsonConfig(t, brokers)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	text := string(content)
	for old, changed := range map[string]string{
		"usage: {format: json}": "usage: {format: json, fields: {void: is_void}}",
		"meters: [{name: calls, aggregation: count}]": `meters:
  - {name: calls, aggregation: count, group_by: [properties.endpoint], max_combinations: 50}
  - {name: bytes, aggregation: sum, group_by: [properties.endpoint]}
  - {name: eu, aggregation: sum, when: 'properties.region == "eu-west-1" && meter == "bytes"', group_by: [properties.plan]}
  - {name: used, aggregation: unique, value: properties.endpoint, when: 'is_void == false'}
  - {name: largest, aggregation: max, when: 'is_void == false && meter == "bytes"'}`,
	} {
		require.Contains(t, text, old)
		text = strings.Replace(text, old, changed, 1)
	}
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestVerify lets meterd count what loadgen writes, in two lives, and has the
// result verified; then it plants a wrong limit event.
func TestVerify(t *testing.T) {
	t.Parallel()

	path := dimensionsConfig(t, broker(t))
	cfg, err := config.Load(path, nil, nil)
	require.NoError(t, err)
	cluster := topicsFor(t, cfg)
	ledgers := [2]string{filepath.Join(t.TempDir(), "1.jsonl"), filepath.Join(t.TempDir(), "2.jsonl")}
	common := []string{
		"--config", path, "--clients", "200", "--duplicates", "0.02", "--undecodable", "0.01", "--late", "0.01",
		"--voids", "0.02", "--negative", "0.05", "--dimensions", "80",
	}

	meterdOK := func(args ...string) string {
		status, stdout, stderr := meterd(nil, args...)
		require.Equal(t, exitDone, status, "%s%s", stdout, stderr)
		return stdout
	}
	meterdOK(append([]string{"loadgen", "--events", "8000", "--contracts", "30", "--ledger", ledgers[0]}, common...)...)
	counted(t, cfg, func(string) {
		meterdOK("verify", "--config", path, "--wait", "30s", "--ledger", ledgers[0])
	})
	printed := meterdOK(append([]string{"loadgen", "--events", "4000", "--first-event", "8000", "--ledger", ledgers[1], "--output", "json"}, common...)...)
	var summary loadgen.Summary
	require.NoError(t, json.Unmarshal([]byte(printed), &summary))
	require.EqualValues(t, 12000, summary.Next)
	counted(t, cfg, func(address string) {
		printed = meterdOK("verify", "--config", path, "--wait", "30s", "--ledger", ledgers[0], "--ledger", ledgers[1], "--http", "http://"+address, "--output", "json")
	})
	var report struct {
		Records, Differences int64
		LimitEvents          int64 `json:"limit_events"`
		Answers              int64 `json:"http_answers"`
		Found                []string
	}
	require.NoError(t, json.Unmarshal([]byte(printed), &report))
	require.EqualValues(t, 12000, report.Records)
	require.Positive(t, report.LimitEvents)
	require.Positive(t, report.Answers)
	require.Empty(t, report.Found)

	// One ledger is not all that was written.
	status, stdout, _ := meterd(nil, "verify", "--config", path, "--ledger", ledgers[0])
	require.Equal(t, exitWrong, status)
	require.Contains(t, stdout, "ledger partition 0: ")

	repeatLimitEvent(t, cfg, cluster)
	status, stdout, stderr := meterd(nil, "verify", "--config", path)
	require.Equal(t, exitWrong, status, stderr)
	require.Contains(t, stdout, " is there twice\n")
}

func TestVerifyFails(t *testing.T) {
	t.Parallel()

	path := jsonConfig(t, broker(t))
	cfg, err := config.Load(path, nil, nil)
	require.NoError(t, err)
	topicsFor(t, cfg)
	incomplete := filepath.Join(t.TempDir(), "ledger")
	require.NoError(t, os.WriteFile(incomplete, []byte(`{"ledger":1,"complete":false}`), 0o600))
	tests := map[string]struct {
		args   []string
		status int
		says   string
	}{
		"a ledger that is not complete":  {[]string{"verify", "--ledger", incomplete}, exitFailed, "ledger is not complete"},
		"a ledger that is not there":     {[]string{"verify", "--ledger", "/no/such"}, exitFailed, "no such file"},
		"a time that is none":            {[]string{"verify", "--wait", "soon"}, exitUsage, "--wait"},
		"a load of nothing":              {[]string{"loadgen", "--events", "0"}, exitUsage, "events: 0 is not above 0"},
		"a ledger that is there already": {[]string{"loadgen", "--events", "1", "--ledger", incomplete}, exitFailed, "--ledger"},
		"a start that is no time":        {[]string{"loadgen", "--start", "now"}, exitUsage, "--start"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			status, _, stderr := meterd(nil, append(tt.args, "--config", path)...)
			require.Equal(t, tt.status, status, stderr)
			require.Contains(t, stderr, tt.says)
			require.Len(t, strings.Split(strings.TrimSpace(stderr), "\n"), 1)
		})
	}
}

// topicsFor makes meterd's topics without letting the in-process broker
// compact them.
func topicsFor(t *testing.T, cfg *config.Config) *kafka.Cluster {
	t.Helper()
	cluster, err := app.Dial(t.Context(), cfg, zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	for _, spec := range app.Topics(cfg, 2) {
		spec.Configs = map[string]string{"min.cleanable.dirty.ratio": "1", "min.compaction.lag.ms": "86400000"}
		require.NoError(t, cluster.CreateTopics(t.Context(), []kafka.TopicSpec{spec}))
	}
	return cluster
}

// counted runs meterd while f does.
func counted(t *testing.T, cfg *config.Config, f func(address string)) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	started, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- app.Run(ctx, cfg, app.Options{Started: func(address string) { started <- address }}, zap.NewNop(), prometheus.NewRegistry())
	}()
	select {
	case address := <-started:
		f(address)
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		require.Fail(t, "meterd did not start")
	}
	stop()
	require.NoError(t, <-ended)
}

// repeatLimitEvent appends the first limit event there is once more.
func repeatLimitEvent(t *testing.T, cfg *config.Config, cluster *kafka.Cluster) {
	t.Helper()
	var again []kafka.Message
	for p := range int32(2) {
		_, err := cluster.Read(t.Context(), cfg.LimitEvents.Topic, p, kafka.Earliest, kafka.Latest, func(b kafka.Batch) error {
			for _, r := range b.Records {
				again = append(again, kafka.Message{
					Topic: cfg.LimitEvents.Topic, Partition: p, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: time.UnixMilli(r.Timestamp),
				})
			}
			return nil
		})
		require.NoError(t, err)
	}
	require.NotEmpty(t, again)
	producer, err := cluster.NewProducer(t.Context())
	require.NoError(t, err)
	_, err = producer.Append(t.Context(), again[:1])
	require.NoError(t, err)
}
