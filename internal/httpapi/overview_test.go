package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/httpapi"
)

// overview is what the tests look at of an answer.
type overview struct {
	Complete  bool
	Instances []struct {
		ID, Address    string
		Answers, Ready bool
		Checks         []httpapi.Check
		Partitions     []struct {
			Partition        int32
			State            string
			Position, Lag    int64
			RecordsPerSecond float64 `json:"records_per_second"`
		}
		Totals, Rates map[string]float64
	}
	Nearest []struct {
		Client, Contract, Usage, Utilization string
		Complete                             bool
	}
}

func (n *node) overview(t *testing.T) (o overview) {
	t.Helper()
	decode(t, n.get(t, "/v1/overview"), &o)
	return o
}

func TestOverview(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)
	two.checks = []httpapi.Check{{Name: "partition-1", Detail: "restoring"}}
	for _, n := range []*node{one, two} {
		o := n.overview(t)
		require.True(t, o.Complete)
		require.Len(t, o.Instances, 2)
		require.Equal(t, "one", o.Instances[0].ID)
		require.Equal(t, strings.TrimPrefix(one.url, "http://"), o.Instances[0].Address)
		require.True(t, o.Instances[0].Ready && o.Instances[0].Answers && o.Instances[1].Answers)
		require.False(t, o.Instances[1].Ready)
		require.Equal(t, two.checks, o.Instances[1].Checks)
		require.Equal(t, int64(12), o.Instances[0].Partitions[0].Lag)
		require.Equal(t, "restoring", o.Instances[1].Partitions[0].State)
	}
	// One that is away is there as that. An overview is shown for a moment.
	one.set(func() { one.instances[0].Address = "127.0.0.1:1" })
	require.True(t, one.overview(t).Complete)
	one.set(func() { one.now = one.now.Add(time.Second) })
	o := one.overview(t)
	require.False(t, o.Complete)
	require.Equal(t, "two", o.Instances[1].ID)
	require.False(t, o.Instances[1].Answers)
}

func TestOverviewHasRates(t *testing.T) {
	t.Parallel()
	n := newNode()
	n.instances = []httpapi.Instance{{ID: "one", Partitions: []int32{0}}}
	serve(t, n, nil)
	require.Zero(t, n.overview(t).Instances[0].Partitions[0].RecordsPerSecond)
	for i, want := range []float64{50, 50, 75} { // of 1, 2 and 4 seconds
		n.set(func() {
			n.now = n.now.Add([]time.Duration{time.Second, time.Second, 2 * time.Second}[i])
			n.here[0].Position += []int64{50, 50, 200}[i]
		})
		require.InDelta(t, want, n.overview(t).Instances[0].Partitions[0].RecordsPerSecond, 0.001)
	}
	// What is more than ten seconds ago is of no account.
	for range 20 {
		n.set(func() { n.now = n.now.Add(time.Second) })
		n.overview(t)
	}
	require.Zero(t, n.overview(t).Instances[0].Partitions[0].RecordsPerSecond)
	// A partition that begins again has no rate.
	n.set(func() { n.now, n.here[0].Position = n.now.Add(time.Second), 3 })
	require.Zero(t, n.overview(t).Instances[0].Partitions[0].RecordsPerSecond)
}

func TestOverviewHasTheLimitsThatAreUsedMost(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)
	for i, client := range []string{"a", "zoe", "z/o"} {
		contract := `{"id":"of-` + strings.ReplaceAll(client, "/", "") + `","client":"` + client + `","starts_at":"2026-01-01T00:00:00Z","limits":[]}`
		for _, n := range []*node{one, two} {
			require.NoError(t, n.table.Apply([]byte("of-"+strings.ReplaceAll(client, "/", "")), []byte(contract), int64(i)))
		}
	}
	o := one.overview(t)
	var used []string
	for _, l := range o.Nearest {
		require.Equal(t, "zoe", l.Client)
		used = append(used, l.Utilization)
	}
	require.NotEmpty(t, used)
	require.Equal(t, used, two.overviewUtilizations(t))
	require.IsDecreasing(t, used)
	// What is counted is not looked at: that could be a lot.
	require.Contains(t, two.running[1].selected, aggregate.Selection{Period: "-", Dimensions: map[string]string{"": ""}})
}

func (n *node) overviewUtilizations(t *testing.T) []string {
	t.Helper()
	var used []string
	for _, l := range n.overview(t).Nearest {
		used = append(used, l.Utilization)
	}
	return used
}

func TestOverviewStream(t *testing.T) {
	t.Parallel()
	n := newNode()
	serve(t, n, nil)
	s := n.follow(t, "/v1/overview/stream")
	for range 2 {
		e := s.next(t)
		require.Equal(t, "overview", e.event)
		var o overview
		require.NoError(t, json.Unmarshal([]byte(e.data), &o))
		require.Len(t, o.Instances, 1)
	}
	n.send(t, http.MethodHead, "/v1/overview/stream")
	n.get(t, "/v1/overview/stream?interval=1").refused(t, http.StatusBadRequest, "bad-request")
	n.get(t, "/v1/overview?x=1").refused(t, http.StatusBadRequest, "bad-request")
}
