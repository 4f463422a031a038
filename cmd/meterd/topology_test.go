package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const busy = `
application_id: shop
kafka: {brokers: [a:9092]}
schema_registry: {url: "http://r:8081"}
meters:
  - {name: calls, aggregation: count, group_by: [properties.endpoint]}
  - {name: users, aggregation: unique, value: properties.user, when: 'meter == "calls"'}
limit_events: {format: json}
history: {druid: {url: "http://d:8888"}}
`

func TestTopologyOfAConfiguration(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := meterd(nil, "topology", "--config", file(t, busy))
	require.Equal(t, exitDone, status, stderr)
	want := `
application shop: consumer group shop, transactional ids shop-usage-PARTITION

usage           ─▶     avro               usage events, keyed by client
shop.contracts  ─▶     json               contracts, keyed by id
druid usage     ─▶     http://d:8888      what was used before
                meter  calls              count for each client and month (UTC), and by properties.endpoint
                meter  users              unique of properties.user for each client and month (UTC), where meter == "calls"
                ─▶     shop.changelog     avro, compact: counters and positions
                ─▶     shop.limit-events  json, delete: limit events, keyed by client
                ─▶     shop.limit-state   json, compact: what stands now, by limit
                ─▶     shop.dead-letter   as usage, delete: what could not be counted
                ─▶     ./data             a copy of the changelog
`
	require.Equal(t, strings.TrimPrefix(want, "\n"), stdout)

	status, stdout, stderr = meterd(nil, "topology", "--config", file(t, busy), "--output", "json")
	require.Equal(t, exitDone, status, stderr)
	var got topology
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Equal(t, "shop", got.Group)
	require.Equal(t, &topologyHistory{Druid: "http://d:8888", Datasource: "usage"}, got.History)
	require.Len(t, got.Meters, 2)
	require.Len(t, got.Outputs, 4)
	require.NotContains(t, stdout, "partitions", "nobody was asked")
}

func TestTopologyOfARunningMeterd(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	running := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := asked.Add(1)
		_, _ = fmt.Fprintf(w, `{"instances":[{"id":"m-1","address":"h:1","partitions":[{"topic":"usage","partition":0,"state":"running","position":%d,"end":900,"lag":7}]}]}`, n*100)
	}))
	t.Cleanup(running.Close)
	args := []string{"topology", "--config", file(t, busy), "--url", running.URL}
	status, stdout, stderr := meterd(nil, append(args, "--over", "1ms")...)
	require.Equal(t, exitDone, status, stderr)
	require.EqualValues(t, 2, asked.Load())
	require.Regexp(t, `(?m)^0 +m-1 +running +200 +7 +\d+/s$`, stdout)

	status, stdout, stderr = meterd(nil, append(args, "--over", "0s", "--output", "json")...)
	require.Equal(t, exitDone, status, stderr)
	require.EqualValues(t, 3, asked.Load())
	var got topology
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Len(t, got.Partitions, 1)
	require.EqualValues(t, 300, got.Partitions[0].Position)
	require.Nil(t, got.Partitions[0].Rate)

	status, _, stderr = meterd(nil, append(args, "--over", "-1s")...)
	require.Equal(t, exitUsage, status)
	require.Equal(t, "meterd: --over -1s: must not be negative\n", stderr)
}

// A partition that has moved has no rate: another instance may have begun
// anywhere.
func TestRates(t *testing.T) {
	t.Parallel()
	at := func(text string) (a assignments) {
		require.NoError(t, json.Unmarshal([]byte(text), &a))
		return a
	}
	before := at(`{"instances":[{"id":"a","partitions":[{"partition":0,"position":10},{"partition":1,"position":10}]}]}`)
	after := at(`{"instances":[{"id":"a","partitions":[{"partition":0,"position":40}]},{"id":"b","partitions":[{"partition":1,"position":40}]}]}`)
	list := rates(&before, &after, 2*time.Second)
	require.Len(t, list, 2)
	require.InDelta(t, 15, *list[0].Rate, 1e-9)
	require.Nil(t, list[1].Rate)
}
