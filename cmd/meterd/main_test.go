package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// meterd runs a command line and returns the exit status and what was printed.
func meterd(environ []string, args ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(args, environ, &out, &err)
	return status, out.String(), err.String()
}

func file(t *testing.T, source string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "meterd.yaml")
	require.NoError(t, os.WriteFile(name, []byte(source), 0o600))
	return name
}

const least = "kafka: {brokers: [a:9092]}\nschema_registry: {url: 'http://r:8081'}\n"

func TestExitStatus(t *testing.T) {
	t.Parallel()

	good, bad, strange := file(t, least), file(t, "log: {level: loud}"), file(t, "colour: red")
	tests := map[string]struct {
		args   []string
		status int
		stderr string
	}{
		"help":                    {[]string{"--help"}, 0, ""},
		"help of a command":       {[]string{"config", "check", "--help"}, 0, ""},
		"version as a flag":       {[]string{"--version"}, 0, ""},
		"no command":              {nil, 2, "meterd: a command is needed; meterd --help lists them\n"},
		"no command below":        {[]string{"config"}, 2, "meterd: a command is needed; meterd config --help lists them\n"},
		"an unknown command":      {[]string{"fly"}, 2, "meterd: unknown command \"fly\" for \"meterd\"\n"},
		"an unknown one below":    {[]string{"config", "fly"}, 2, "meterd: unknown command \"fly\" for \"meterd config\"\n"},
		"an unknown flag":         {[]string{"version", "--fly"}, 2, "meterd: unknown flag: --fly\n"},
		"an argument too many":    {[]string{"version", "fly"}, 2, "meterd: unknown command \"fly\" for \"meterd version\"\n"},
		"an unknown format":       {[]string{"version", "--output", "xml"}, 2, "meterd: invalid argument \"xml\" for \"--output\" flag: must be table or json\n"},
		"a good file":             {[]string{"config", "check", "--config", good}, 0, ""},
		"a bad file":              {[]string{"config", "check", "--config", bad}, 3, "meterd: kafka.brokers: at least one HOST:PORT is required\nmeterd: schema_registry.url: is required where usage.format or limit_events.format is avro\nmeterd: log.level: \"loud\" is not one of debug, info, warn, error\n"},
		"an unknown key":          {[]string{"config", "check", "--config", strange}, 3, "meterd: meterd.yaml:1:1: unknown key colour\n"},
		"an unknown key to show":  {[]string{"config", "show", "--config", strange}, 2, "meterd: meterd.yaml:1:1: unknown key colour\n"},
		"no such file":            {[]string{"config", "check", "--config", "/no/such"}, 2, "meterd: read configuration: open /no/such: no such file or directory\n"},
		"a setting without value": {[]string{"config", "show", "--set", "log"}, 2, "meterd: --set log: must be key=value\n"},
		"a setting of no key":     {[]string{"config", "check", "--config", good, "--set", "log.levle=info"}, 3, "meterd: unknown key log.levle, did you mean log.level?\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			status, stdout, stderr := meterd(nil, tt.args...)
			require.Equal(t, tt.status, status, stderr)
			require.Equal(t, tt.stderr, stderr)
			require.Equal(t, tt.status == 0, stdout != "", stdout)
		})
	}
}

func TestConfigCheckAsJSON(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := meterd(nil, "config", "check", "--output=json", "--config", file(t, least))
	require.Equal(t, 0, status)
	require.JSONEq(t, `{"valid": true, "problems": []}`, stdout)
	require.Empty(t, stderr)

	status, stdout, stderr = meterd(nil, "config", "check", "--output=json", "--config", file(t, least), "--set", "log.level=loud")
	require.Equal(t, 3, status)
	require.JSONEq(t, `{"valid": false, "problems": ["log.level: \"loud\" is not one of debug, info, warn, error"]}`, stdout)
	require.Empty(t, stderr)
}

func TestConfigShow(t *testing.T) {
	t.Parallel()
	environ := []string{"METERD_CONFIG=" + file(t, least), "METERD_LOG_LEVEL=warn", "METERD_APPLICATION_ID=of-env"}
	status, stdout, stderr := meterd(environ, "config", "show", "--set", "application_id=of-flag", "--set", "kafka.brokers=a:1,b:2")
	require.Equal(t, 0, status, stderr)
	require.Contains(t, stdout, "application_id: of-flag\n")
	require.Contains(t, stdout, "  level: warn\n")
	require.Contains(t, stdout, "changelog_topic: of-flag.changelog\n")
	require.Contains(t, stdout, "- b:2\n")

	status, stdout, stderr = meterd(environ, "config", "show", "--output", "json")
	require.Equal(t, 0, status, stderr)
	var shown struct {
		Kafka struct{ Brokers []string }
		Usage struct {
			Window string `json:"dedupe_window"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &shown))
	require.Equal(t, []string{"a:9092"}, shown.Kafka.Brokers)
	require.Equal(t, "1h", shown.Usage.Window)
}

func TestConfigSchema(t *testing.T) {
	t.Parallel()
	status, stdout, _ := meterd(nil, "config", "schema")
	require.Equal(t, 0, status)
	shipped, err := os.ReadFile(filepath.Join("..", "..", "configs", "meterd.schema.json"))
	require.NoError(t, err)
	require.Equal(t, string(shipped), stdout)
}

// The configuration files of this project are right for the version beside them.
func TestShippedConfigurationsAreRight(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("hunter2"), 0o600))
	status, _, stderr := meterd(nil, "config", "check", "--config", "../../configs/meterd.yaml")
	require.Equal(t, 0, status, stderr)
	status, _, stderr = meterd(nil, "config", "check", "--config", "../../deploy/k8s/meterd.yaml",
		"--set", "kafka.sasl.password_file="+secret, "--set", "http.tokens_file="+secret)
	require.Equal(t, 0, status, stderr)
}

func TestVersion(t *testing.T) {
	t.Parallel()
	status, stdout, _ := meterd(nil, "version")
	require.Equal(t, 0, status)
	require.Regexp(t, `^meterd  \S+\ncommit  \S+\ndate    \S+\ngo      go1\.`, stdout)

	status, stdout, _ = meterd(nil, "version", "--output", "json")
	require.Equal(t, 0, status)
	var b build
	require.NoError(t, json.Unmarshal([]byte(stdout), &b))
	require.Equal(t, readBuild(), b)
}

func TestBuildIsCompletedFromTheGoCommand(t *testing.T) {
	t.Parallel()
	info := &debug.BuildInfo{
		Main:     debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-11-22T00:00:00Z"}},
	}
	b := build{Version: "dev", Commit: "unknown", Date: "unknown"}
	b.complete(info)
	require.Equal(t, build{Version: "v1.2.3", Commit: "abc", Date: "2026-11-22T00:00:00Z"}, b)

	b = build{Version: "v9", Commit: "def", Date: "then"}
	b.complete(info)
	require.Equal(t, build{Version: "v9", Commit: "def", Date: "then"}, b, "what the linker was told goes first")
}

func TestGetenv(t *testing.T) {
	t.Parallel()
	env := &environment{environ: []string{"A=1", "AB=2", "A=3=4", "EMPTY="}}
	require.Equal(t, "3=4", env.getenv("A"), "the last one counts")
	require.Empty(t, env.getenv("EMPTY"))
	require.Empty(t, env.getenv("B"))
}

// Whoever closes the terminal ends a command as with Ctrl-C; not parallel, for
// all commands that run would end.
func TestTerminalThatIsClosed(t *testing.T) {
	cmd := &cobra.Command{}
	cmd.SetContext(t.Context())
	ctx, stop := untilSignal(cmd)
	defer stop()
	require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		require.Fail(t, "the context goes on")
	}
}

// Every command says what it does, and none leaves its errors to cobra.
func TestCommandsAreDescribed(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		require.NotEmpty(t, cmd.Short, cmd.CommandPath())
		require.NotNil(t, cmd.RunE, cmd.CommandPath())
		require.False(t, strings.HasSuffix(cmd.Short, "."), cmd.CommandPath())
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand(&environment{}))
}
