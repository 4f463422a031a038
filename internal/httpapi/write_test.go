package httpapi_test

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/httpapi"
)

const contractN = `{"id":"n","client":"acme","starts_at":"2026-01-01T00:00:00Z","limits":[{"id":"l","meter":"bytes_out","limit":"7"}]}`

// topic is that of the contracts: what is produced is applied to the node's
// table at once, unless told otherwise.
type topic struct {
	node    *node
	err     error  // instead of writing
	silent  bool   // does not tell offsets
	unread  bool   // nothing reads it
	waiting bool   // partitions do not judge by it
	others  func() // called before each write
	written []string
}

func (w *topic) Produce(ctx context.Context, key, value []byte) (int64, error) {
	n := w.node
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := cmp.Or(w.err, ctx.Err()); err != nil {
		return 0, err
	}
	if w.others != nil {
		w.others()
	}
	w.written = append(w.written, string(key)+"="+string(value))
	offset := n.table.Position()
	if w.silent {
		return -1, nil
	}
	if w.unread {
		return offset, nil
	}
	if err := n.table.Apply(key, value, offset); err != nil {
		return 0, err
	}
	if !w.waiting {
		n.judges = n.table.Version()
	}
	return offset, nil
}

func (n *node) put(t *testing.T, path, body string, headers ...string) response {
	t.Helper()
	return n.sendBody(t, http.MethodPut, path, body, headers...)
}

func (n *node) delete(t *testing.T, path string, headers ...string) response {
	t.Helper()
	return n.send(t, http.MethodDelete, path, headers...)
}

func shortly(c *httpapi.Config) { c.ContractTimeout = 50 * time.Millisecond }

func TestPutContract(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	serve(t, n, nil)

	r := n.put(t, "/v1/contracts/n", " \n"+contractN+"\n", "Content-Type", "application/json")
	const shown = `{"id":"n","state":"active","revision":8,"reason":null,"contract":` + contractN + `}`
	r.want(t, http.StatusOK, shown)
	require.Equal(t, `"8"`, r.Header.Get("ETag"))
	require.Equal(t, []string{"n=" + contractN}, n.topic.written)
	n.get(t, "/v1/contracts/n").want(t, http.StatusOK, shown)

	// A good revision takes the place of a rejected one.
	require.Equal(t, http.StatusOK, n.put(t, "/v1/contracts/b", contractB).StatusCode)
	require.Contains(t, n.get(t, "/v1/contracts?client=acme&state=rejected").body, `{"contracts":[{"id":"d"`)
	slash := strings.Replace(contractN, `"id":"n"`, `"id":"x/%"`, 1)
	require.Equal(t, http.StatusOK, n.put(t, "/v1/contracts/x%2F%25", slash).StatusCode)
}

func TestPutContractThatIsNone(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	serve(t, n, nil)

	tests := map[string]struct{ path, body, detail string }{
		"not UTF-8":                 {"n", "{\"id\":\"\xff\"}", "not UTF-8"},
		"an unknown key":            {"n", `{"id":"n","colour":"red"}`, `unknown key "colour"`},
		"an unknown meter":          {"b", contractB2, `meter: "none" is not configured (limits[0])`},
		"the id of another":         {"m", contractN, `id "n" is not the record's key "m"`},
		"no start":                  {"d", contractD, "starts_at is missing"},
		"a dry run of a bad one":    {"d?dry_run=true", contractD, "starts_at is missing"},
		"an end before its own day": {"n", strings.Replace(contractN, `"limits"`, `"ends_at":"2025-01-01T00:00:00Z","limits"`, 1), "is not after"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, n.put(t, "/v1/contracts/"+tt.path, tt.body).refused(t, http.StatusUnprocessableEntity, "invalid-contract"), tt.detail)
			require.Empty(t, n.topic.written)
		})
	}
}

func TestBadRequestsToWrite(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	serve(t, n, nil)

	tests := map[string]struct {
		path, body, detail string
		headers            []string
	}{
		"nothing":                     {path: "n", body: "", detail: "not JSON"},
		"an end in the middle":        {path: "n", body: "{", detail: "not JSON"},
		"more than a contract":        {path: "n", body: contractN + contractN, detail: "not JSON"},
		"a parameter that is none":    {path: "n?force=true", body: contractN, detail: "dry_run"},
		"a dry run that is neither":   {path: "n?dry_run=1", body: contractN, detail: "neither true nor false"},
		"an id that is too long":      {path: strings.Repeat("n", 257), body: contractN, detail: "256"},
		"a revision without quotes":   {path: "n", body: contractN, detail: "quotes", headers: []string{"If-Match", "42"}},
		"a revision that breaks off":  {path: "n", body: contractN, detail: "quotes", headers: []string{"If-None-Match", `"`}},
		"a list with nothing in it":   {path: "n", body: contractN, detail: "quotes", headers: []string{"If-Match", `"1",`}},
		"something else than JSON":    {path: "n", body: contractN, detail: "Content-Type", headers: []string{"Content-Type", "application/yaml"}},
		"a content type that is none": {path: "n", body: contractN, detail: "Content-Type", headers: []string{"Content-Type", "json;;"}},
		"a body without end":          {path: "n", body: strings.Repeat(" ", 1<<20+1), detail: "more than 1048576 bytes"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, n.put(t, "/v1/contracts/"+tt.path, tt.body, tt.headers...).refused(t, http.StatusBadRequest, "bad-request"), tt.detail)
			require.Empty(t, n.topic.written)
		})
	}
	for _, kind := range []string{"application/json; charset=utf-8", "application/merge+json", "application/x-www-form-urlencoded", "text/plain", ""} {
		require.Equal(t, http.StatusOK, n.put(t, "/v1/contracts/n", contractN, "Content-Type", kind).StatusCode, kind)
	}
	n.delete(t, "/v1/contracts/n?x").refused(t, http.StatusBadRequest, "bad-request")
}

func TestDeleteContract(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	serve(t, n, nil)

	r := n.delete(t, "/v1/contracts/c")
	require.Equal(t, http.StatusNoContent, r.StatusCode, r.body)
	require.Empty(t, r.body)
	n.get(t, "/v1/contracts/c").refused(t, http.StatusNotFound, "not-found")
	n.delete(t, "/v1/contracts/c").refused(t, http.StatusNotFound, "not-found")
	n.delete(t, "/v1/contracts/nothing").refused(t, http.StatusNotFound, "not-found")
	// One that was never good is listed, and can be removed.
	require.Equal(t, http.StatusNoContent, n.delete(t, "/v1/contracts/e%2F1").StatusCode)
	require.Equal(t, []string{"c=", "e/1="}, n.topic.written)
	require.NotContains(t, n.get(t, "/v1/contracts?state=rejected").body, "e/1")
}

func TestPreconditions(t *testing.T) {
	t.Parallel()

	// a is at revision 1, b at 2 with a rejected 5 on top, d was never good.
	tests := map[string]struct {
		method, id, header, value string
		status                    int
	}{
		"the revision":                        {http.MethodPut, "a", "If-Match", `"1"`, http.StatusOK},
		"one of several":                      {http.MethodPut, "a", "If-Match", `"7", "1"`, http.StatusOK},
		"any":                                 {http.MethodPut, "a", "If-Match", "*", http.StatusOK},
		"another revision":                    {http.MethodPut, "a", "If-Match", `"2"`, http.StatusPreconditionFailed},
		"a weak one is never the same":        {http.MethodPut, "a", "If-Match", `W/"1"`, http.StatusPreconditionFailed},
		"the good revision, not the rejected": {http.MethodPut, "b", "If-Match", `"2"`, http.StatusOK},
		"the rejected revision":               {http.MethodPut, "b", "If-Match", `"5"`, http.StatusPreconditionFailed},
		"any of one that is not there":        {http.MethodPut, "n", "If-Match", "*", http.StatusPreconditionFailed},
		"any of one that was never good":      {http.MethodPut, "d", "If-Match", "*", http.StatusPreconditionFailed},
		"none, and there is one":              {http.MethodPut, "a", "If-None-Match", "*", http.StatusPreconditionFailed},
		"none, and there is none":             {http.MethodPut, "n", "If-None-Match", "*", http.StatusOK},
		"none that was ever good":             {http.MethodPut, "d", "If-None-Match", "*", http.StatusOK},
		"not this one, and it is":             {http.MethodPut, "a", "If-None-Match", `"1"`, http.StatusPreconditionFailed},
		"not this one, and it is not":         {http.MethodPut, "a", "If-None-Match", `"2"`, http.StatusOK},
		"remove the revision":                 {http.MethodDelete, "a", "If-Match", `"1"`, http.StatusNoContent},
		"remove another revision":             {http.MethodDelete, "a", "If-Match", `"3"`, http.StatusPreconditionFailed},
		"remove what is not there":            {http.MethodDelete, "n", "If-Match", `"3"`, http.StatusNotFound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, _ := withContracts(t)
			serve(t, n, nil)
			body := strings.Replace(contractN, `"id":"n"`, `"id":"`+tt.id+`"`, 1)

			r := n.sendBody(t, tt.method, "/v1/contracts/"+tt.id, body, tt.header, tt.value)
			require.Equal(t, tt.status, r.StatusCode, r.body)
			if tt.status == http.StatusPreconditionFailed {
				require.Contains(t, r.refused(t, tt.status, "conflict"), "in force")
				require.Empty(t, n.topic.written)
				n.sendBody(t, tt.method, "/v1/contracts/"+tt.id+"?dry_run=true", body, tt.header, tt.value).refused(t, tt.status, "conflict")
			}
		})
	}
}

// TestAnotherWriterComesFirst writes between the look at the contract and the
// record.
func TestAnotherWriterComesFirst(t *testing.T) {
	t.Parallel()

	apply := func(n *node, key, value string) {
		var record []byte
		if value != "" {
			record = []byte(value)
		}
		_ = n.table.Apply([]byte(key), record, n.table.Position()) // a rejected one is an error
	}
	tests := map[string]struct {
		others func(*node)
		method string
		header string
		value  string
		status int
	}{
		"nobody does":                      {func(*node) {}, http.MethodPut, "If-Match", `"2"`, http.StatusOK},
		"a revision of it":                 {func(n *node) { apply(n, "b", contractB) }, http.MethodPut, "If-Match", `"2"`, http.StatusConflict},
		"a revision, and it is removed":    {func(n *node) { apply(n, "b", contractB) }, http.MethodDelete, "If-Match", `"2"`, http.StatusConflict},
		"a removal of it":                  {func(n *node) { apply(n, "b", "") }, http.MethodPut, "If-Match", "*", http.StatusConflict},
		"one that is rejected":             {func(n *node) { apply(n, "b", contractB2) }, http.MethodPut, "If-Match", `"2"`, http.StatusOK},
		"a revision of another contract":   {func(n *node) { apply(n, "a", contractA) }, http.MethodPut, "If-Match", `"2"`, http.StatusOK},
		"a revision, and nobody minds":     {func(n *node) { apply(n, "b", contractB) }, http.MethodPut, "Accept", "*/*", http.StatusOK},
		"a revision where there was other": {func(n *node) { apply(n, "b", contractB) }, http.MethodPut, "If-None-Match", `"7"`, http.StatusConflict},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, _ := withContracts(t)
			n.topic.others = func() { tt.others(n) }
			serve(t, n, nil)

			r := n.sendBody(t, tt.method, "/v1/contracts/b", contractB, tt.header, tt.value)
			require.Equal(t, tt.status, r.StatusCode, r.body)
			require.Len(t, n.topic.written, 1)
			if tt.status == http.StatusConflict {
				require.Equal(t, "it is written, at revision 9; revision 8 came before it and was replaced", r.refused(t, http.StatusConflict, "conflict"))
			}
		})
	}
}

// TestPreconditionsWithinAnInstance has many writers, of whom only one can be
// the first.
func TestPreconditionsWithinAnInstance(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	serve(t, n, nil)

	statuses := make([]int, 8)
	var writers sync.WaitGroup
	for i := range statuses {
		writers.Go(func() {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, n.url+"/v1/contracts/b", strings.NewReader(contractB))
			if err != nil {
				return
			}
			request.Header.Set("If-Match", `"2"`)
			if r, err := http.DefaultClient.Do(request); err == nil {
				_ = r.Body.Close()
				statuses[i] = r.StatusCode
			}
		})
	}
	writers.Wait()
	count := map[int]int{}
	for _, status := range statuses {
		count[status]++
	}
	require.Equal(t, map[int]int{http.StatusOK: 1, http.StatusPreconditionFailed: 7}, count)
	require.Len(t, n.topic.written, 1)
}

func TestWriteThatIsNotInForce(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change func(*topic)
		detail string
	}{
		"partitions judge by what was before": {func(w *topic) { w.waiting = true }, "it is written, at revision 8, but not in force"},
		"the topic is not read":               {func(w *topic) { w.unread = true }, "it is written, at revision 8, but not read"},
		"the broker does not tell where":      {func(w *topic) { w.silent = true }, "it is written, but the broker does not say"},
		"the broker is away":                  {func(w *topic) { w.err = errors.New("password swordfish refused") }, "it may be written or not"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, _ := withContracts(t)
			tt.change(n.topic)
			serve(t, n, shortly)

			for _, method := range []string{http.MethodPut, http.MethodDelete} {
				r := n.sendBody(t, method, "/v1/contracts/b", contractB)
				detail := r.refused(t, http.StatusServiceUnavailable, "not-ready")
				require.Equal(t, "1", r.Header.Get("Retry-After"))
				require.NotContains(t, r.body, "swordfish")
				if method == http.MethodPut {
					require.Contains(t, detail, tt.detail)
				}
			}
		})
	}
}

// TestPutComesIntoForce has the partitions judge by the contract some time after
// it was written.
func TestPutComesIntoForce(t *testing.T) {
	t.Parallel()
	n, _ := withContracts(t)
	n.topic.waiting = true
	serve(t, n, nil)

	go func() {
		<-n.judging
		n.set(func() { n.judges = n.table.Version() })
	}()
	r := n.put(t, "/v1/contracts/n", contractN)
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
}
