package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/httpapi"
)

// pair is two instances: one has partition 0 with acme and the clients a, c
// and e; two has partition 1 with the client zoe, and b, d and f.
func pair(t *testing.T, change func(*httpapi.Config)) (one, two *node) {
	t.Helper()
	one, two = newNode(), newNode()
	two.id = "two"
	two.here = []httpapi.PartitionStatus{{Topic: "usage", Partition: 1, State: httpapi.Restoring, Position: 30, End: 20}}
	clients := map[string]int32{"zoe": 1, "b": 1, "d": 1, "f": 1, "z/o": 1}
	one.running = map[int32]*reader{0: {views: map[string]aggregate.View{"a": {}, "c": {}, "e": {}}}}
	zoe := acme(t)
	zoe.Client = "zoe"
	two.running = map[int32]*reader{1: {views: map[string]aggregate.View{"zoe": zoe, "b": {}, "d": {}, "f": {}}, unknown: true}}
	for _, n := range []*node{one, two} {
		n.clients, n.partitions = clients, 2
		serve(t, n, change)
	}
	instances := []httpapi.Instance{
		{ID: "two", Address: strings.TrimPrefix(two.url, "http://"), Partitions: []int32{1}},
		{ID: "one", Address: strings.TrimPrefix(one.url, "http://"), Partitions: []int32{0}},
	}
	one.instances, two.instances = instances, instances
	return one, two
}

func TestForward(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)

	want := strings.NewReplacer(`"acme"`, `"zoe"`, `"partition": 3`, `"partition": 1`).Replace(acmeUsage)
	one.get(t, "/v1/clients/zoe/usage").want(t, http.StatusOK, want)
	two.get(t, "/v1/clients/zoe/usage").want(t, http.StatusOK, want)
	one.get(t, "/v1/clients/zoe/usage?meter=a%20b&period=2026-11").want(t, http.StatusOK, want)
	selected := two.running[1].selected
	require.Equal(t, aggregate.Selection{Meter: "a b", Period: "2026-11"}, selected[len(selected)-1])
	one.send(t, http.MethodHead, "/v1/clients/zoe/usage")

	// Refusals of the owner are passed on as they are.
	r := one.get(t, "/v1/clients/z%2Fo/usage")
	r.refused(t, http.StatusServiceUnavailable, "incomplete")
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	require.Equal(t, []string{"1 z/o"}, two.lookedUp)
}

func TestForwardedOnceAtMost(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)
	// Each believes that the other has partition 1.
	two.set(func() { two.running = nil })
	two.instances = []httpapi.Instance{{ID: "one", Address: two.instances[1].Address, Partitions: []int32{0, 1}}, {ID: "two"}}

	for _, n := range []*node{one, two} {
		r := n.get(t, "/v1/clients/zoe/usage")
		r.refused(t, http.StatusServiceUnavailable, "not-ready")
		require.Equal(t, "1", r.Header.Get("Retry-After"))
	}
	require.Equal(t, 2, one.asked[1]) // once by its own client, once by two
	require.Equal(t, 2, two.asked[1])
	one.get(t, "/v1/clients/zoe/usage", "Meterd-Forwarded", "x").refused(t, http.StatusServiceUnavailable, "not-ready")
	require.Equal(t, 2, two.asked[1])
}

// TestForwardFollowsAPartitionOnce that goes on to another instance while its
// owner is asked.
func TestForwardFollowsAPartitionOnce(t *testing.T) {
	t.Parallel()

	tests := map[string]http.HandlerFunc{
		"the old owner says so": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Meterd-Instance", "old")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"the old owner is gone": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := pair(t, nil)
			moved := one.instances
			var asked atomic.Int32
			old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				one.set(func() { one.instances = moved })
				answer(w, r)
			}))
			t.Cleanup(old.Close)
			one.set(func() {
				one.instances = []httpapi.Instance{{ID: "old", Address: old.Listener.Addr().String(), Partitions: []int32{1}}, {ID: "one", Partitions: []int32{0}}}
			})
			want := strings.NewReplacer(`"acme"`, `"zoe"`, `"partition": 3`, `"partition": 1`).Replace(acmeUsage)
			one.get(t, "/v1/clients/zoe/usage").want(t, http.StatusOK, want)
			require.Equal(t, int32(1), asked.Load())

			// Where it goes on once more, the client is to come again.
			two.set(func() { two.running = nil })
			one.set(func() {
				one.instances = []httpapi.Instance{{ID: "old", Address: old.Listener.Addr().String(), Partitions: []int32{1}}, {ID: "one", Partitions: []int32{0}}}
			})
			r := one.get(t, "/v1/clients/zoe/usage")
			r.refused(t, http.StatusServiceUnavailable, "not-ready")
			require.Equal(t, "1", r.Header.Get("Retry-After"))
			require.Equal(t, int32(2), asked.Load())
		})
	}
}

func TestForwardWithTokens(t *testing.T) {
	t.Parallel()
	name := file(t, "secret\n")
	one, _ := pair(t, func(c *httpapi.Config) { c.TokensFile = name })

	one.get(t, "/v1/clients/zoe/usage").refused(t, http.StatusUnauthorized, "unauthorized")
	for _, path := range []string{"/v1/clients/zoe/usage", "/v1/clients", "/v1/assignments"} {
		require.Equal(t, http.StatusOK, one.get(t, path, "Authorization", "Bearer secret").StatusCode)
	}
}

// TestOtherInstanceIsNotWhoItShouldBe has something else answer at the other
// instance's address.
func TestOtherInstanceIsNotWhoItShouldBe(t *testing.T) {
	t.Parallel()

	tests := map[string]http.HandlerFunc{
		"another program": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"clients":["x"],"next":""}`)) },
		"another instance": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Meterd-Instance", "three")
			_, _ = w.Write([]byte(`{}`))
		},
		"one that refuses our token": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"one that breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Meterd-Instance", "two")
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"clients"`))
		},
		"one that never answers": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"one that sends elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		},
	}
	for name, handler := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := httptest.NewServer(handler)
			t.Cleanup(other.Close)
			one, _ := pair(t, func(c *httpapi.Config) { c.ForwardTimeout = 100 * time.Millisecond })
			one.instances = []httpapi.Instance{{ID: "two", Address: other.Listener.Addr().String(), Partitions: []int32{1}}, {ID: "one", Partitions: []int32{0}}}

			for _, path := range []string{"/v1/clients/zoe/usage", "/v1/clients", "/v1/assignments"} {
				one.get(t, path).refused(t, http.StatusServiceUnavailable, "not-ready")
			}
		})
	}
}

func TestClients(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)

	tests := map[string]struct{ query, want string }{
		"all":                       {"", `{"clients":["a","b","c","d","e","f","zoe"],"next":""}`},
		"a page":                    {"?limit=3", `{"clients":["a","b","c"],"next":"c"}`},
		"the next page":             {"?limit=3&after=c", `{"clients":["d","e","f"],"next":"f"}`},
		"the last page":             {"?limit=3&after=f", `{"clients":["zoe"],"next":""}`},
		"a page that just fits":     {"?limit=7", `{"clients":["a","b","c","d","e","f","zoe"],"next":""}`},
		"only the other has more":   {"?limit=1&after=e", `{"clients":["f"],"next":"f"}`},
		"after the last":            {"?after=zoe", `{"clients":[],"next":""}`},
		"after one that is not one": {"?after=bb&limit=2", `{"clients":["c","d"],"next":"d"}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			one.get(t, "/v1/clients"+tt.query).want(t, http.StatusOK, tt.want)
			two.get(t, "/v1/clients"+tt.query).want(t, http.StatusOK, tt.want)
		})
	}
}

func TestClientsAreAllOrNone(t *testing.T) {
	t.Parallel()

	tests := map[string]func(one, two *node){
		"a partition of the other is restoring": func(_, two *node) { two.running = nil },
		"one here is":                           func(one, _ *node) { one.running = nil },
		"one is nobody's":                       func(one, _ *node) { one.partitions = 3 },
		"their number is not known":             func(one, _ *node) { one.partitions = 0 },
		"the other is away":                     func(one, _ *node) { one.instances[0].Address = "127.0.0.1:1" },
		"this instance is not in the group":     func(one, _ *node) { one.id = "" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := pair(t, nil)
			change(one, two)
			one.get(t, "/v1/clients").refused(t, http.StatusServiceUnavailable, "not-ready")
		})
	}
}

// TestClientsByPages walks over more clients than a page has, on both.
func TestClientsByPages(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)
	var want []string
	one.running[0].views, two.running[1].views = map[string]aggregate.View{}, map[string]aggregate.View{}
	for i := range 100 {
		name := "client-" + strconv.Itoa(1000+i)
		want = append(want, name)
		if i%3 == 0 || i > 80 {
			one.running[0].views[name] = aggregate.View{}
		}
		if i%3 != 0 { // some are on both: they were put where they do not belong
			two.running[1].views[name] = aggregate.View{}
		}
	}
	var got []string
	for after := ""; ; {
		var a struct {
			Clients []string
			Next    string
		}
		decode(t, one.get(t, "/v1/clients?limit=7&after="+after), &a)
		got = append(got, a.Clients...)
		if after = a.Next; after == "" {
			break
		}
	}
	require.Equal(t, want, got)
}

func TestAssignments(t *testing.T) {
	t.Parallel()
	one, two := pair(t, nil)

	want := `{"instances":[
		{"id":"one","address":"` + strings.TrimPrefix(one.url, "http://") + `","partitions":[{"topic":"usage","partition":0,"state":"running","position":7,"end":19,"lag":12}]},
		{"id":"two","address":"` + strings.TrimPrefix(two.url, "http://") + `","partitions":[{"topic":"usage","partition":1,"state":"restoring","position":30,"end":20,"lag":0}]}
	]}`
	one.get(t, "/v1/assignments").want(t, http.StatusOK, want)
	two.get(t, "/v1/assignments").want(t, http.StatusOK, want)

	two.here = nil
	require.Contains(t, one.get(t, "/v1/assignments").body, `"partitions":[]`)
	one.id = ""
	one.get(t, "/v1/assignments").refused(t, http.StatusServiceUnavailable, "not-ready")
}
