package httpapi_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	contractA  = `{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z","ends_at":"2026-02-01T00:00:00Z"}`
	contractB  = `{"id":"b","client":"acme","starts_at":"2026-01-01T00:00:00Z","limits":[{"id":"l","meter":"api_calls","limit":"5"}]}`
	contractB2 = `{"id":"b","client":"acme","starts_at":"2026-01-01T00:00:00Z","limits":[{"id":"l","meter":"none","limit":"5"}]}`
	contractC  = `{"id":"c","client":"<&>","starts_at":"2027-01-01T00:00:00Z"}`
	contractD  = `{"id":"d","client":"acme"}`

	shownA  = `{"id":"a","state":"ended","revision":1,"reason":null,"contract":` + contractA + `}`
	shownB  = `{"id":"b","state":"active","revision":2,"reason":null,"contract":` + contractB + `}`
	shownB2 = `{"id":"b","state":"rejected","revision":5,"reason":"meter: \"none\" is not configured (limits[0])","contract":` + contractB2 + `}`
	shownC  = `{"id":"c","state":"future","revision":3,"reason":null,"contract":` + contractC + `}`
	shownD  = `{"id":"d","state":"rejected","revision":6,"reason":%q,"contract":` + contractD + `}`
	shownE  = `{"id":"e/1","state":"rejected","revision":7,"reason":%q,"contract":null}`
)

// withContracts is an instance with five contracts: one ended, one active with
// a bad revision on top, one to come, and two that were never good.
func withContracts(t *testing.T) (n *node, reasons map[string]string) {
	t.Helper()
	n = newNode()
	require.NoError(t, n.table.Apply([]byte("a"), []byte(contractA), 1))
	require.NoError(t, n.table.Apply([]byte("b"), []byte(contractB), 2))
	require.NoError(t, n.table.Apply([]byte("c"), []byte(contractC), 3))
	require.Error(t, n.table.Apply([]byte("b"), []byte(contractB2), 5))
	require.Error(t, n.table.Apply([]byte("d"), []byte(contractD), 6))
	require.Error(t, n.table.Apply([]byte("e/1"), []byte("{not\xffJSON"), 7))
	n.judges = n.table.Version()
	reasons = map[string]string{}
	for _, e := range n.table.Entries() {
		reasons[e.ID] = e.Reason
	}
	return n, reasons
}

func TestContracts(t *testing.T) {
	t.Parallel()
	n, reasons := withContracts(t)
	serve(t, n, nil)
	d, e := fmt.Sprintf(shownD, reasons["d"]), fmt.Sprintf(shownE, reasons["e/1"])

	tests := map[string]struct{ query, want, next string }{
		"all of them":                    {"", shownA + "," + shownB + "," + shownB2 + "," + shownC + "," + d + "," + e, ""},
		"those in force now":             {"?state=active", shownB, ""},
		"those to come":                  {"?state=future", shownC, ""},
		"those that ended":               {"?state=ended", shownA, ""},
		"those rejected":                 {"?state=rejected", shownB2 + "," + d + "," + e, ""},
		"of a client":                    {"?client=acme", shownA + "," + shownB + "," + shownB2 + "," + d, ""},
		"of another client":              {"?client=%3C%26%3E", shownC, ""},
		"of nobody":                      {"?client=nobody", "", ""},
		"of a client and rejected":       {"?client=acme&state=rejected", shownB2 + "," + d, ""},
		"a page":                         {"?limit=1", shownA, "a"},
		"the next, which is not parted":  {"?limit=1&after=a", shownB + "," + shownB2, "b"},
		"a page of two":                  {"?limit=2&after=b", shownC + "," + d, "d"},
		"the last page":                  {"?limit=2&after=d", e, ""},
		"after an id that is not there":  {"?after=bb&limit=1", shownC, "c"},
		"a page within a state":          {"?state=rejected&limit=1", shownB2, "b"},
		"the last of a state":            {"?state=ended&limit=1", shownA, ""},
		"after the last":                 {"?after=zz", "", ""},
		"an empty filter is no filter":   {"?state=&client=&limit=1", shownA, "a"},
		"a state, page, client together": {"?state=rejected&client=acme&limit=1&after=b", d, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n.get(t, "/v1/contracts"+tt.query).want(t, http.StatusOK, `{"contracts":[`+tt.want+`],"next":"`+tt.next+`"}`)
		})
	}
}

// TestContractKeysThatAreNoIDs pages past records whose keys cannot be given
// as after.
func TestContractKeysThatAreNoIDs(t *testing.T) {
	t.Parallel()
	n := newNode()
	for i, key := range []string{"", "a", "b\xff", "c"} {
		require.Error(t, n.table.Apply([]byte(key), []byte("x"), int64(i)))
	}
	serve(t, n, nil)

	var revisions []int64
	after := ""
	for pages := 0; ; pages++ {
		require.Less(t, pages, 4)
		var a struct {
			Contracts []struct{ Revision int64 }
			Next      string
		}
		decode(t, n.get(t, "/v1/contracts?limit=1&after="+url.QueryEscape(after)), &a)
		for _, c := range a.Contracts {
			revisions = append(revisions, c.Revision)
		}
		if after = a.Next; after == "" {
			break
		}
	}
	require.Equal(t, []int64{0, 1, 2, 3}, revisions)
}

func TestContract(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	require.NoError(t, n.table.Apply([]byte("x/y%"), []byte(`{"id":"x/y%","client":"acme","starts_at":"2026-01-01T00:00:00Z"}`), 8))
	n.judges = n.table.Version()
	serve(t, n, nil)

	r := n.get(t, "/v1/contracts/a")
	r.want(t, http.StatusOK, shownA)
	require.Equal(t, `"1"`, r.Header.Get("ETag"))
	n.get(t, "/v1/contracts/c").want(t, http.StatusOK, shownC)
	// The last good revision stays in force.
	n.get(t, "/v1/contracts/b").want(t, http.StatusOK, shownB)
	n.get(t, "/v1/contracts/d").refused(t, http.StatusNotFound, "not-found")
	n.get(t, "/v1/contracts/e%2F1").refused(t, http.StatusNotFound, "not-found")
	n.get(t, "/v1/contracts/nothing").refused(t, http.StatusNotFound, "not-found")
	require.Equal(t, http.StatusOK, n.get(t, "/v1/contracts/x%2Fy%25").StatusCode)

	n.set(func() { n.now = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC) })
	require.Contains(t, n.get(t, "/v1/contracts/c").body, `"state":"active"`)
}

// TestContractComesIntoForce asks for a revision that the table has and the
// partitions do not judge by yet.
func TestContractComesIntoForce(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	n.judges--
	serve(t, n, nil)

	r := n.get(t, "/v1/contracts/c")
	r.refused(t, http.StatusServiceUnavailable, "not-ready")
	require.Equal(t, "1", r.Header.Get("Retry-After"))

	select { // forget the questions of the request before
	case <-n.judging:
	default:
	}
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		<-n.judging
		n.set(func() { n.judges++ })
	}()
	n.get(t, "/v1/contracts/c").want(t, http.StatusOK, shownC)
	<-changed
}
