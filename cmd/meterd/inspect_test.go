package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// stopped returns the configuration of a meterd that has counted some events
// of client acme, crossed a threshold, and stopped; and its broker.
func stopped(t *testing.T) (config, brokers string) {
	t.Helper()
	brokers = broker(t)
	config = jsonConfig(t, brokers)
	var out strings.Builder
	require.Equal(t, exitDone, run([]string{"topics", "create", "--config", config, "--set", "application_id=ready"}, nil, &out, &out), out.String())
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.DefaultProduceTopic("usage"))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	contract := `{"id":"c","client":"acme","starts_at":"2020-01-01T00:00:00Z","limits":[{"id":"l","meter":"calls","limit":"4","thresholds":["50%","100%"]}]}`
	require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Topic: "ready.contracts", Key: []byte("c"), Value: []byte(contract)}).FirstErr())
	for _, id := range []string{"1", "2", "3", "3"} {
		value := `{"event_id":"` + id + `","client_id":"acme","meter":"calls"}`
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Key: []byte("acme"), Value: []byte(value)}).FirstErr())
	}
	var h holder
	h.hold(t, config)
	status, stdout, stderr := meterd(nil, "verify", "--config", config, "--set", "application_id=ready", "--wait", "30s")
	require.Equal(t, exitDone, status, stdout+stderr)

	status, stdout, stderr = meterd(nil, "inspect", "store", "--config", config, "--set", "application_id=ready")
	require.Equal(t, exitFailed, status, "it is in use")
	require.Empty(t, stdout)
	require.Contains(t, stderr, "local state is in use by another process: stop it first")
	h.release(t)
	return config, brokers
}

func TestInspect(t *testing.T) {
	t.Parallel()
	config, _ := stopped(t)
	tests := map[string]struct{ identity any }{
		"changelog": {nil},
		"store":     {map[string]any{"application_id": "ready", "cluster_id": "kfake", "topic": "usage"}},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			args := []string{"inspect", what, "--config", config, "--set", "application_id=ready"}
			status, stdout, stderr := meterd(nil, append(args, "--client", "acme", "--output", "json")...)
			require.Equal(t, exitDone, status, stderr)
			var report struct {
				Identity   any       `json:"identity"`
				Partitions []holding `json:"partitions"`
			}
			require.NoError(t, json.Unmarshal([]byte(stdout), &report), stdout)
			require.Equal(t, tt.identity, report.Identity)
			require.Len(t, report.Partitions, 2)
			h := report.Partitions[0]
			if h.Counters == 0 {
				h = report.Partitions[1]
			}
			require.EqualValues(t, 4, h.Position.Position)
			require.Equal(t, []int{1, 1, 3, 0, 0}, []int{h.Counters, h.Limits, h.EventIDs, h.Voids, h.Unreadable})
			require.Len(t, h.Records, 2)
			require.Equal(t, "3", h.Records[0].Counter.Usage)
			require.EqualValues(t, 3, h.Records[0].Counter.Events)
			limit := h.Records[1].Limit
			require.Equal(t, "4", limit.Limit)
			require.Equal(t, []string{"50%"}, limit.Standing)
			require.EqualValues(t, 1, limit.Sequence)

			status, stdout, stderr = meterd(nil, append(args, "--client", "acme")...)
			require.Equal(t, exitDone, status, stderr)
			require.Contains(t, stdout, "PARTITION  POSITION  PARTITION TIME")
			require.Contains(t, stdout, "\n  3 of 3 events, the last at ")
			require.Contains(t, stdout, "\n  limit 4 of revision 0: 50% stand, 1 limit events\n")

			status, stdout, stderr = meterd(nil, append(args, "--partition", "7")...)
			require.Equal(t, exitUsage, status)
			require.Empty(t, stdout)
			require.Contains(t, stderr, "--partition 7: there is none, but 2 others")
		})
	}
}

// To look for local state does not make any.
func TestInspectStoreThatIsNotThere(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	status, stdout, stderr := meterd(nil, "inspect", "store", "--config", file(t, least), "--set", "state.dir="+dir)
	require.Equal(t, exitFailed, status)
	require.Empty(t, stdout)
	require.Equal(t, "meterd: state.dir: there is no local state in "+dir+"\n", stderr)
	require.NoDirExists(t, dir)
}

func TestInspectTransactions(t *testing.T) {
	t.Parallel()
	config, brokers := stopped(t)
	args := []string{"inspect", "transactions", "--config", config, "--set", "application_id=ready"}
	status, stdout, stderr := meterd(nil, args...)
	require.Equal(t, exitDone, status, stderr)
	require.Equal(t, "no transaction is open\n", stdout)

	producer, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.TransactionalID("stranger"))
	require.NoError(t, err)
	t.Cleanup(producer.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, producer.BeginTransaction())
	require.NoError(t, producer.ProduceSync(ctx, &kgo.Record{Topic: "ready.changelog", Partition: 0, Value: []byte("x")}).FirstErr())

	status, stdout, stderr = meterd(nil, args...)
	require.Equal(t, exitDone, status, stderr)
	require.Regexp(t, `(?m)^ready.changelog +\d +\d+ .* stranger +Ongoing$`, stdout)

	status, stdout, stderr = meterd(nil, append(args, "--output", "json")...)
	require.Equal(t, exitDone, status, stderr)
	var report struct {
		Transactions []openTransaction `json:"transactions"`
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &report))
	require.Len(t, report.Transactions, 1)
	require.Equal(t, "stranger", report.Transactions[0].TransactionalID)
	require.False(t, report.Transactions[0].Hanging)
	require.NoError(t, producer.EndTransaction(ctx, kgo.TryAbort))
}

func TestTransactionThatHangs(t *testing.T) {
	t.Parallel()
	row := (&openTransaction{Topic: "t", Partition: 1, Start: 5, ProducerID: 3, Hanging: true}).row()
	require.Equal(t, []string{"t", "1", "5", "0001-01-01T00:00:00Z", "3, epoch 0", "-", "HANGS"}, row)
	row = (&openTransaction{TransactionalID: "x", State: "Empty", Hanging: true}).row()
	require.Equal(t, "HANGS, its id is in state Empty", row[6])
}
