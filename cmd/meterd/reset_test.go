package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/store"
)

// localState opens a local state in a new directory.
func localState(t *testing.T) (*store.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s, err := store.Open(store.Config{Dir: dir}, store.Identity{ApplicationID: "meterd", ClusterID: "kfake", Topic: "usage"}, zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, dir
}

func TestResetDeletesTheLocalState(t *testing.T) {
	t.Parallel()
	s, dir := localState(t)
	args := []string{"reset", "--local-state", "--config", file(t, least), "--set", "state.dir=" + dir}

	status, stdout, stderr := meterd(nil, args...)
	require.Equal(t, exitFailed, status)
	require.Empty(t, stdout)
	require.Equal(t, "meterd: state.dir: look at store in "+dir+": local state is in use by another process\n", stderr)
	require.FileExists(t, filepath.Join(dir, "meterd.store"))

	require.NoError(t, s.Close())
	status, stdout, stderr = meterd(nil, append(args, "--dry-run")...)
	require.Equal(t, exitDone, status, stderr)
	require.Equal(t, dir+": counters would be deleted\n"+dir+": meterd.store would be deleted\n", stdout)
	require.DirExists(t, filepath.Join(dir, "counters"))

	status, stdout, stderr = meterd(nil, append(args, "--output", "json")...)
	require.Equal(t, exitDone, status, stderr)
	var report resetReport
	require.NoError(t, json.Unmarshal([]byte(stdout), &report))
	require.Equal(t, resetReport{Dir: dir, Deleted: []string{"counters", "meterd.store"}}, report)
	require.NoDirExists(t, filepath.Join(dir, "counters"))

	status, stdout, stderr = meterd(nil, args...)
	require.Equal(t, exitDone, status, stderr)
	require.Equal(t, dir+": there is no local state\n", stdout)
}

func TestResetDeletesNothingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	thesis := filepath.Join(dir, "thesis.tex")
	require.NoError(t, os.WriteFile(thesis, nil, 0o600))
	tests := map[string]struct {
		args   []string
		status int
		says   string
	}{
		"without saying what":      {[]string{}, exitUsage, "--local-state: must be given"},
		"in a directory of others": {[]string{"--local-state", "--set", "state.dir=" + dir}, exitFailed, "not a store of meterd"},
		"in no directory":          {[]string{"--local-state", "--set", "state.dir="}, exitUsage, "state.dir: is required"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := meterd(nil, append([]string{"reset", "--config", file(t, least)}, tt.args...)...)
			require.Equal(t, tt.status, status, stderr)
			require.Empty(t, stdout)
			require.Contains(t, stderr, tt.says)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
			require.FileExists(t, thesis)
		})
	}
}
