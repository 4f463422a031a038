package demo

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

func serveHistory(t *testing.T, rows ...row) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(&history{rows: rows})
	t.Cleanup(server.Close)
	return server
}

func TestHistoryAnswersWhatMeterdAsks(t *testing.T) {
	server := serveHistory(t,
		row{client: "acme", meter: traffic, quantity: 100, time: 1000, offset: 0},
		row{client: "acme", meter: traffic, quantity: -30, time: 3000, offset: 1},
		row{client: "acme", meter: calls, quantity: 1, time: 2000, offset: 2},
		row{client: "zoo", meter: calls, quantity: 1, time: 2000, offset: 3},
		row{client: "acme", meter: calls, quantity: 1, time: 9000, offset: 4},
		row{client: "acme", meter: calls, quantity: 7, time: 2000, partition: 1, offset: 0},
	)
	cfg := druid.Default()
	cfg.URL, cfg.Datasource = server.URL, datasource
	seeder, err := druid.New(cfg, server.Client(), zap.NewNop(), prometheus.NewRegistry(), time.Now)
	require.NoError(t, err)
	ask := func(boundary int64, start, end usage.Time, clients ...string) ([]druid.Total, error) {
		return seeder.Ask(t.Context(), druid.Question{Boundary: boundary, Start: start, End: end, Clients: clients})
	}
	one, seventy := usage.DecimalOf(1), usage.DecimalOf(70)

	totals, err := ask(5, usage.MinTime, 9000, "acme", "nobody")
	require.NoError(t, err)
	require.Equal(t, []druid.Total{
		{Client: "acme", Meter: calls, Events: 1, Quantity: one, Min: one, Max: one, First: 2000, Last: 2000},
		{Client: "acme", Meter: traffic, Events: 2, Quantity: seventy, Min: usage.DecimalOf(-30), Max: usage.DecimalOf(100), First: 1000, Last: 3000},
	}, totals)

	totals, err = ask(4, 5000, usage.MaxTime, "acme", "zoo")
	require.NoError(t, err)
	require.Empty(t, totals, "the row in that time is at the boundary")

	cfg.Columns.Fields = []string{"meter"} // asks for the sums apart
	if seeder, err = druid.New(cfg, server.Client(), zap.NewNop(), prometheus.NewRegistry(), time.Now); err == nil {
		totals, err = ask(5, usage.MinTime, 9000, "zoo", "nobody")
	}
	require.NoError(t, err)
	require.Equal(t, []druid.Total{{
		Client: "zoo", Meter: calls, Fields: []usage.Value{{Kind: usage.TextValue, Text: []byte(calls)}},
		Events: 1, Quantity: one, Min: one, Max: one, First: 2000, Last: 2000,
	}}, totals)

	_, err = ask(6, usage.MinTime, usage.MaxTime, "acme")
	require.ErrorIs(t, err, druid.ErrIncomplete, "there are only five rows")
}

func TestHistoryRefusesWhatItDoesNotKnow(t *testing.T) {
	server := serveHistory(t, row{client: "acme", meter: calls})
	const of = `"dataSource":"usage"`
	for _, query := range []string{
		`{`,
		`{"queryType":"groupBy","dataSource":"other"}`,
		`{"queryType":"timeseries",` + of + `}`,
		`{"queryType":"groupBy",` + of + `,"filter":{"type":"equals","column":"colour"}}`,
		`{"queryType":"groupBy",` + of + `,"filter":{"type":"like","column":"k_offset"}}`,
		`{"queryType":"groupBy",` + of + `,"filter":{"type":"in","dimension":"colour"}}`,
		`{"queryType":"groupBy",` + of + `,"filter":{"type":"and","fields":[{"type":"like","column":"k_offset"}]}}`,
		`{"queryType":"groupBy",` + of + `,"dimensions":[{"type":"default","dimension":"colour"}]}`,
		`{"queryType":"groupBy",` + of + `,"dimensions":[{"type":"listFiltered"}]}`,
		`{"queryType":"groupBy",` + of + `,"aggregations":[{"type":"filtered"}]}`,
		`{"queryType":"groupBy",` + of + `,"aggregations":[{"type":"longSum","fieldName":"colour"}]}`,
		`{"queryType":"groupBy",` + of + `,"aggregations":[{"type":"sketch"}]}`,
	} {
		resp, err := server.Client().Post(server.URL+"/druid/v2/", "application/json", strings.NewReader(query)) //nolint:noctx // a test of one's own server
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusBadRequest, resp.StatusCode, query)
	}
	resp, err := server.Client().Get(server.URL + "/druid/v2/") //nolint:noctx // a test of one's own server
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
}

func TestBoundaries(t *testing.T) {
	h := &history{}
	for i := range 3 {
		h.add(row{partition: 1, offset: int64(i)})
	}
	require.Equal(t, "map[0:0 1:3 2:0]", fmt.Sprint(h.Boundaries(3)))
}
