package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever config check finds, run finds before it does anything.
func TestConfigCheckAndRunFindTheSame(t *testing.T) {
	t.Parallel()

	none := filepath.Join(t.TempDir(), "none")
	tests := map[string]struct{ source, stderr string }{
		"a file that is not there": {
			least + "http: {tokens_file: " + none + "}\nhistory: {druid: {url: 'http://d', username: u, password_file: " + none + "}}",
			"meterd: history.druid.password_file: read secret: open " + none + ": no such file or directory\n" +
				"meterd: http.tokens_file: read secret: open " + none + ": no such file or directory\n",
		},
		"a condition that cannot be": {
			least + `meters: [{name: a, aggregation: count}, {name: b, aggregation: count, when: 'region == "eu" && region > 3'}]`,
			"meterd: meters[1].when: region is used as text and as a number (1:19)\n" +
				"meterd:  | region == \"eu\" && region > 3\n" +
				"meterd:  | ..................^\n",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			path := file(t, tt.source)
			status, _, stderr := meterd(nil, "config", "check", "--config", path)
			require.Equal(t, exitWrong, status)
			require.Equal(t, tt.stderr, stderr)
			status, _, stderr = meterd(nil, "run", "--config", path)
			require.Equal(t, exitUsage, status)
			require.Equal(t, tt.stderr, stderr)
		})
	}
}

// A problem that takes several lines is one problem.
func TestConfigCheckKeepsProblemsWhole(t *testing.T) {
	t.Parallel()

	path := file(t, least+"meters: [{name: a, aggregation: count, when: 'a +'}, {aggregation: count}]")
	status, stdout, _ := meterd(nil, "config", "check", "--output", "json", "--config", path)
	require.Equal(t, exitWrong, status)
	var got checked
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Equal(t, checked{Problems: []string{"meters[0].when: unexpected token EOF (1:3)\n | a +\n | ..^", "meters[1].name: is required"}}, got)

	status, stdout, _ = meterd(nil, "config", "check", "--output", "json", "--config", file(t, "colour: red\nsize: 1"))
	require.Equal(t, exitWrong, status)
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Equal(t, []string{"meterd.yaml:1:1: unknown key colour", "meterd.yaml:2:1: unknown key size"}, got.Problems)
}

// The example that documents the configuration is right.
func TestExampleConfiguration(t *testing.T) {
	t.Parallel()

	status, stdout, stderr := meterd(nil, "config", "check", "--config", filepath.Join("..", "..", "internal", "config", "testdata", "example.yaml"))
	require.Equal(t, exitDone, status, stderr)
	require.Equal(t, "the configuration is right: application id meterd, 5 meters\n", stdout)
}
