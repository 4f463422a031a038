package httpapi_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
)

func TestNotModified(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)
	for _, path := range []string{"/v1/clients/zoe/usage", "/v1/clients/zoe/limits", "/v1/clients/zoe/explain"} {
		first := one.get(t, path)
		tag := first.Header.Get("ETag")
		require.Equal(t, "no-store", first.Header.Get("Cache-Control"))
		require.Regexp(t, `^W/"[0-9a-f]{32}"$`, tag)
		require.Equal(t, tag, two.get(t, path).Header.Get("ETag"), "any instance has the same")

		// Others' events move the position, and the tag stays.
		change := func(fn func(*aggregate.View)) {
			reader := two.running[1]
			reader.mu.Lock()
			defer reader.mu.Unlock()
			v := reader.views["zoe"]
			fn(&v)
			reader.views["zoe"] = v
		}
		change(func(v *aggregate.View) { v.AsOf.Position++ })
		for _, n := range []*node{one, two} {
			r := n.get(t, path, "If-None-Match", `"other", `+tag)
			require.Equal(t, http.StatusNotModified, r.StatusCode)
			require.Empty(t, r.body)
			require.Equal(t, tag, r.Header.Get("ETag"))
			require.Equal(t, http.StatusNotModified, n.send(t, http.MethodHead, path, "If-None-Match", tag).StatusCode)
		}
		change(func(v *aggregate.View) {
			v.Complete = !v.Complete
		})
		r := one.get(t, path, "If-None-Match", tag)
		require.Equal(t, http.StatusOK, r.StatusCode)
		require.NotEqual(t, tag, r.Header.Get("ETag"))
		one.get(t, path, "If-None-Match", "42").refused(t, http.StatusBadRequest, "bad-request")
	}
}

func TestContractNotModified(t *testing.T) {
	t.Parallel()
	n := newNode()
	serve(t, n, nil)
	require.NoError(t, n.table.Apply([]byte("c"), []byte(`{"id":"c","client":"acme","starts_at":"2026-01-01T00:00:00Z"}`), 4))
	n.set(func() { n.judges = 1 })
	require.Equal(t, http.StatusOK, n.get(t, "/v1/contracts/c", "If-None-Match", `"3"`).StatusCode)
	require.Equal(t, http.StatusNotModified, n.get(t, "/v1/contracts/c", "If-None-Match", `"4"`).StatusCode)
}

func TestLargeAnswersAreCompressed(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	n.running[0].views = map[string]aggregate.View{}
	for i := range 200 {
		n.running[0].views[fmt.Sprintf("client-%d", i)] = aggregate.View{}
	}
	serve(t, n, nil)
	want := n.get(t, "/v1/clients?limit=200").body
	r := n.get(t, "/v1/clients?limit=200", "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", r.Header.Get("Content-Encoding"))
	require.Contains(t, r.Header.Get("Vary"), "Accept-Encoding")
	unzipped, err := gzip.NewReader(strings.NewReader(r.body))
	require.NoError(t, err)
	body, err := io.ReadAll(unzipped)
	require.NoError(t, err)
	require.Equal(t, want, string(body))
	require.Less(t, len(r.body), len(want)/2)
	require.Empty(t, n.get(t, "/livez", "Accept-Encoding", "gzip").Header.Get("Content-Encoding"))
	require.Empty(t, n.get(t, "/v1/clients?limit=1", "Accept-Encoding", "gzip").Header.Get("Content-Encoding"))
}
