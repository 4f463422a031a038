package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
)

// broker returns the address of an in-process Kafka with a usage topic.
func broker(t *testing.T) string {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "usage"))
	require.NoError(t, err)
	t.Cleanup(fake.Close)
	return fake.ListenAddrs()[0]
}

// closedPort returns an address that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

func jsonConfig(t *testing.T, brokers string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meterd.yaml")
	content := fmt.Sprintf(`
kafka: {brokers: [%q], dial_timeout: 1s}
usage: {format: json}
limit_events: {format: json}
meters: [{name: calls, aggregation: count}]
state: {dir: %q, min_free_disk: 0}
http: {listen: "127.0.0.1:0"}
`, brokers, filepath.Join(t.TempDir(), "state"))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// Whatever keeps meterd from starting is said in one line that names the key or
// the thing, and in the exit status.
func TestStartFails(t *testing.T) {
	t.Parallel()

	address := broker(t)
	missing, ready := jsonConfig(t, address), jsonConfig(t, address)
	var out bytes.Buffer
	require.Equal(t, exitDone, run([]string{"topics", "create", "--config", ready, "--set", "application_id=ready"}, nil, &out, &out), out.String())
	registryDown := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	t.Cleanup(registryDown.Close)
	used := &holder{}
	used.hold(t, ready)

	tests := map[string]struct {
		args []string
		code int
		says string
	}{
		"a broker that cannot be reached": {[]string{"--config", jsonConfig(t, closedPort(t))}, exitFailed, "kafka.brokers: no broker is reachable"},
		"no usage topic":                  {[]string{"--config", ready, "--set", "usage.topic=nothing"}, exitFailed, "usage.topic: no such topic"},
		"topics that are missing":         {[]string{"--config", missing, "--set", "application_id=other"}, exitFailed, "run 'meterd topics create'"},
		"a key that does not exist":       {[]string{"--config", ready, "--set", "kafka.broker=a:1"}, exitUsage, "kafka.broker"},
		"a value out of range":            {[]string{"--config", ready, "--set", "commit.interval=0s"}, exitUsage, "commit.interval"},
		"a directory in use":              {[]string{"--config", ready, "--set", "application_id=ready"}, exitFailed, "local state is in use by another process"},
		"a registry that is down": {
			[]string{"--config", ready, "--set", "application_id=ready", "--set", "limit_events.format=avro", "--set", "schema_registry.url=" + registryDown.URL, "--set", "state.dir=" + t.TempDir()},
			exitFailed, "schema_registry.url",
		},
		"a registry that is down, for usage alone": {
			[]string{"--config", ready, "--set", "application_id=ready", "--set", "usage.format=avro", "--set", "schema_registry.url=" + registryDown.URL, "--set", "state.dir=" + t.TempDir()},
			exitFailed, "schema_registry.url",
		},
		"an address in use": {
			[]string{"--config", ready, "--set", "application_id=ready", "--set", "http.listen=" + used.address, "--set", "state.dir=" + t.TempDir()},
			exitFailed, "http",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, tt.code, run(append([]string{"run"}, tt.args...), nil, &stdout, &stderr), stderr.String())
			var lines []string
			for line := range strings.Lines(stderr.String()) {
				if strings.HasPrefix(line, "meterd: ") {
					lines = append(lines, line)
				}
			}
			require.Len(t, lines, 1, stderr.String())
			require.Contains(t, lines[0], tt.says)
		})
	}
	used.release(t)
}

// holder is a meterd that has its directory and address.
type holder struct {
	address string
	stop    context.CancelFunc
	ended   chan int
	stderr  lockedBuffer
}

func (h *holder) hold(t *testing.T, config string) {
	t.Helper()
	h.address, h.ended = closedPort(t), make(chan int, 1)
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	t.Cleanup(stop)
	go func() {
		h.ended <- runContext(ctx, []string{"run", "--config", config, "--set", "application_id=ready", "--set", "http.listen=" + h.address}, nil, &h.stderr, &h.stderr)
	}()
	require.Eventually(t, func() bool {
		resp, err := http.Get("http://" + h.address + "/readyz?verbose") //nolint:noctx // of one's own server
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		return resp.StatusCode == http.StatusOK
	}, 30*time.Second, 20*time.Millisecond, "%s", &h.stderr)
}

// release ends the meterd as a signal does, and demands exit status 0.
func (h *holder) release(t *testing.T) {
	t.Helper()
	h.stop()
	select {
	case code := <-h.ended:
		require.Equal(t, exitDone, code, h.stderr.String())
	case <-time.After(30 * time.Second):
		require.Fail(t, "meterd did not stop", h.stderr.String())
	}
}

// lockedBuffer is a bytes.Buffer for a writer and a reader at once.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestTopicsCheckTellsWhatToDo(t *testing.T) {
	t.Parallel()

	config := jsonConfig(t, broker(t))
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitWrong, run([]string{"topics", "check", "--config", config, "--output", "json"}, nil, &stdout, &stderr), stderr.String())
	var list []topicStatus
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &list))
	require.Len(t, list, 5)
	for _, s := range list {
		require.False(t, s.OK)
		require.Contains(t, s.Remedy, "meterd topics create")
	}

	stdout.Reset()
	require.Equal(t, exitWrong, run([]string{"topics", "check", "--config", config, "--output", "json", "--set", "usage.topic=none"}, nil, &stdout, &stderr), stderr.String())
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &list))
	require.Equal(t, []topicStatus{{Topic: "none", Problem: "it does not exist", Remedy: "create it, with as many partitions as it is ever to have"}}, list)

	stdout.Reset()
	require.Equal(t, exitDone, run([]string{"topics", "create", "--config", config, "--output", "json"}, nil, &stdout, &stderr), stderr.String())
	var made []createdTopic
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &made))
	require.Contains(t, made, createdTopic{Topic: "meterd.changelog", Partitions: 2})
	require.Len(t, made, 5)
	stdout.Reset()
	require.Equal(t, exitDone, run([]string{"topics", "check", "--config", config}, nil, &stdout, &stderr), stderr.String())
	require.Equal(t, 5, strings.Count(stdout.String(), " ok"), stdout.String())
}

// What loadgen wrote is counted, and verify has nothing to say.
func TestLoadgenRunVerify(t *testing.T) {
	config := jsonConfig(t, broker(t))
	ledger := filepath.Join(t.TempDir(), "ledger")
	for _, args := range [][]string{
		{"topics", "create", "--set", "application_id=ready"},
		{"loadgen", "--set", "application_id=ready", "--events", "5000", "--clients", "50", "--contracts", "10", "--undecodable", "0.01", "--duplicates", "0.01", "--ledger", ledger},
	} {
		var out bytes.Buffer
		require.Equal(t, exitDone, run(append(args, "--config", config), nil, &out, &out), out.String())
	}
	var h holder
	h.hold(t, config)
	var out bytes.Buffer
	args := []string{"verify", "--config", config, "--set", "application_id=ready", "--ledger", ledger, "--wait", "30s", "--http", "http://" + h.address}
	require.Equal(t, exitDone, run(args, nil, &out, &out), out.String())
	require.Contains(t, out.String(), "5000 records of 2 partitions")
	require.Contains(t, out.String(), "0 differences")
	h.release(t)
}
