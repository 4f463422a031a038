//go:build integration

package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// patience bounds each wait for something that is to happen.
const patience = 3 * time.Minute

// parts are the real Kafka, registry and Druid, and a meterd binary.
type parts struct {
	t        *testing.T
	binary   string
	dir      string
	kafka    string
	registry string
	druid    string
	admin    *kadm.Client
}

// env returns a variable that the testbed sets. Without it the test fails:
// what was not tested is not known to work.
func env(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	require.NotEmpty(t, value, "%s is not set: start the parts with test/testbed/testbed.sh, or run make integration", name)
	return value
}

func newParts(t *testing.T) *parts {
	t.Helper()
	p := &parts{
		t: t, dir: t.TempDir(), kafka: env(t, "METERD_TEST_KAFKA"),
		registry: env(t, "METERD_TEST_REGISTRY"), druid: env(t, "METERD_TEST_DRUID"),
	}
	p.binary = filepath.Join(p.dir, "meterd")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", p.binary, "github.com/meterd/meterd/cmd/meterd")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(p.kafka, ",")...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	p.admin = kadm.NewClient(client)
	return p
}

// testbed runs one of the testbed's scripts.
func (p *parts) testbed(script string, args ...string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), filepath.Join(env(p.t, "METERD_TESTBED"), script), args...)
	out, err := cmd.CombinedOutput()
	require.NoError(p.t, err, "%s %v: %s", script, args, out)
}

// meterd runs a command of the binary to its end, and returns what it printed.
func (p *parts) meterd(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(p.t.Context(), p.binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (p *parts) must(args ...string) string {
	p.t.Helper()
	out, err := p.meterd(args...)
	require.NoError(p.t, err, "meterd %v: %s", args, out)
	return out
}

// file writes a file of the test and returns its name.
func (p *parts) file(name, content string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	require.NoError(p.t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// process is a running meterd.
type process struct {
	p       *parts
	cmd     *exec.Cmd
	log     *os.File
	address string
	ended   chan error
}

// run starts a daemon that is killed at the latest when the test ends.
func (p *parts) run(name, config, address string) *process {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(p.t, err)
	d := &process{p: p, log: log, address: address, ended: make(chan error, 1)}
	d.cmd = exec.Command(p.binary, "run", "--config", config,
		"--set", "state.dir="+filepath.Join(p.dir, name), "--set", "http.listen="+address)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	require.NoError(p.t, d.cmd.Start())
	go func() { d.ended <- d.cmd.Wait() }()
	p.t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		_ = log.Close()
		if p.t.Failed() {
			p.t.Logf("%s: %s", name, p.tail(name))
		}
	})
	return d
}

func (p *parts) tail(name string) string {
	content, err := os.ReadFile(filepath.Join(p.dir, name+".log"))
	if err != nil {
		return err.Error()
	}
	const most = 8 << 10
	return string(content[max(0, len(content)-most):])
}

// kill ends the process with SIGKILL.
func (d *process) kill() {
	d.p.t.Helper()
	require.NoError(d.p.t, d.cmd.Process.Kill())
	require.Error(d.p.t, <-d.ended, "a killed process ends so")
}

// stop ends the process with SIGTERM and demands a clean end.
func (d *process) stop() {
	d.p.t.Helper()
	require.NoError(d.p.t, d.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-d.ended:
		require.NoError(d.p.t, err, "meterd did not stop cleanly")
	case <-time.After(time.Minute):
		require.Fail(d.p.t, "meterd did not stop within its grace period")
	}
}

var errStatus = errors.New("status")

// get reads JSON from the process.
func (d *process) get(path string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.address+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%w %d: %s", errStatus, resp.StatusCode, body)
	}
	return json.Unmarshal(body, into)
}

// ready waits until the process counts all of its partitions.
func (d *process) ready() {
	d.p.t.Helper()
	d.p.eventually("ready", func() error {
		var answer any
		return d.get("/readyz?verbose", &answer)
	})
}

// eventually waits until f returns nil.
func (p *parts) eventually(what string, f func() error) {
	p.t.Helper()
	var last error
	require.Eventually(p.t, func() bool {
		last = f()
		return last == nil
	}, patience, 200*time.Millisecond, "%s: %v", what, &last)
}
