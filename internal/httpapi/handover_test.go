package httpapi_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/internal/usage"
)

func told(t *testing.T) aggregate.Handover {
	t.Helper()
	return aggregate.Handover{
		Held: aggregate.Held{Contract: "k/1", Revision: 7},
		Limits: []aggregate.LimitRecord{
			{
				Contract: "k/1", Limit: "l", Dimensions: map[string]string{"region": "eu"}, Where: map[string]string{"endpoint": ""}, Place: 2,
				Period: usage.Period{ID: "2026-11", Start: at(t, "2026-11-01T00:00:00Z"), End: at(t, "2026-12-01T00:00:00Z"), Timezone: "UTC"},
				Client: "acme", Meter: "searches",
				Scope:    aggregate.Scope{Contract: "k/1", Kind: usage.Month, Timezone: "UTC", StartsAt: at(t, "2026-01-01T00:00:00Z"), Where: `{"endpoint":""}`, Per: `["region"]`},
				Revision: 5, Value: 1 << 60, Decimals: 2, Enforcement: contracts.Soft, Sequence: 9, Closed: true,
			},
			{
				Contract: "k/1", Limit: "m", Period: usage.Period{ID: "lifetime", Start: usage.MinTime, End: usage.MaxTime, Timezone: "UTC"},
				Client: "acme", Meter: "searches", Enforcement: contracts.Hard, Sequence: 1,
			},
		},
	}
}

func TestAskHandover(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte("# of all instances\nsecret\nother\n"), 0o600))
	change := func(c *httpapi.Config) { c.TokensFile = file }
	one, two := pair(t, change)
	server := serve(t, one, change) // another door to the same instance
	want := told(t)
	two.told = map[int32][]aggregate.Handover{1: {want, {Held: aggregate.Held{Contract: "not asked", Revision: 1}}}}

	got, err := server.AskHandover(t.Context(), 1, []aggregate.Held{want.Held, {Contract: "k/1", Revision: 8}, {Contract: "other", Revision: 7}})
	require.NoError(t, err)
	require.Equal(t, []aggregate.Handover{want}, got)

	got, err = server.AskHandover(t.Context(), 5, []aggregate.Held{want.Held})
	require.NoError(t, err, "nobody has the partition")
	require.Empty(t, got)

	two.set(func() { two.told = nil })
	_, err = server.AskHandover(t.Context(), 1, []aggregate.Held{want.Held})
	require.ErrorContains(t, err, "with status 503")
}

func TestHandover(t *testing.T) {
	t.Parallel()
	n := newNode()
	serve(t, n, nil)
	const path = "/v1/internal/handover"
	asked := `{"partition":0,"contracts":[{"id":"k/1","revision":7}]}`
	n.sendBody(t, http.MethodPost, path, asked).refused(t, http.StatusServiceUnavailable, "not-ready")

	n.set(func() { n.told = map[int32][]aggregate.Handover{0: {told(t)}} })
	r := n.sendBody(t, http.MethodPost, path, asked)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Contains(t, r.body, `"sequence":9`)
	r = n.sendBody(t, http.MethodPost, path, strings.ReplaceAll(asked, "7", "6"))
	r.want(t, http.StatusOK, `{"contracts": []}`)

	for _, body := range []string{"", "{", `{"contracts":[]}`, `{"partition":"0"}`} {
		n.sendBody(t, http.MethodPost, path, body).refused(t, http.StatusBadRequest, "bad-request")
	}
	n.sendBody(t, http.MethodPost, path+"?x=1", asked).refused(t, http.StatusBadRequest, "bad-request")
}

// A contract that waits for other partitions is not in force.
func TestAHeldContractIsNotInForce(t *testing.T) {
	t.Parallel()
	n := newNode()
	serve(t, n, nil)
	require.NoError(t, n.table.Apply([]byte("k"), []byte(`{"id":"k","client":"acme","starts_at":"2026-01-01T00:00:00Z","limits":[{"id":"l","meter":"api_calls","limit":"1"}]}`), 0))
	n.set(func() { n.judges, n.holds = n.table.Version(), "k" })
	n.get(t, "/v1/contracts/k").refused(t, http.StatusServiceUnavailable, "not-ready")
	n.set(func() { n.holds = "" })
	require.Equal(t, http.StatusOK, n.get(t, "/v1/contracts/k").StatusCode)
}
