package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const assigned = `{"instances":[
	{"id":"m-1","address":"10.0.0.1:8080","partitions":[
		{"topic":"usage","partition":0,"state":"running","position":7,"end":9,"lag":2},
		{"topic":"usage","partition":2,"state":"restoring","position":0,"end":5,"lag":5}]},
	{"id":"m-2","address":"10.0.0.2:8080","partitions":[]}]}`

func TestAssignments(t *testing.T) {
	t.Parallel()
	meter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/assignments" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(assigned))
	}))
	t.Cleanup(meter.Close)

	status, stdout, stderr := meterd(nil, "assignments", "--url", meter.URL)
	require.Equal(t, 0, status, stderr)
	want := `
INSTANCE  ADDRESS        TOPIC  PARTITION  STATE      POSITION  END  LAG
m-1       10.0.0.1:8080  usage  0          running    7         9    2
m-1       10.0.0.1:8080  usage  2          restoring  0         5    5
m-2       10.0.0.2:8080  -      -          idle       -         -    -
`
	require.Equal(t, strings.TrimPrefix(want, "\n"), stdout)

	status, stdout, stderr = meterd(nil, "assignments", "--url", meter.URL, "--output", "json")
	require.Equal(t, 0, status, stderr)
	require.JSONEq(t, assigned, stdout)
}

func TestAssignmentsOfNobody(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := meterd(nil, "assignments", "--url", "http://"+closedPort(t))
	require.Equal(t, 1, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "meterd: ask meterd: ")
	require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
}
