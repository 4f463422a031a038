package druid_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

// run runs s for the length of the test and returns a set of requests. The
// test's bubble ends only when Run has returned.
func run(t *testing.T, s *druid.Seeder) *druid.Submitter {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	sub := s.Submitter()
	t.Cleanup(sub.Close)
	return sub
}

// until takes updates until n requests have the state, and returns the last
// ones of all.
func until(sub *druid.Submitter, state druid.State, n int) map[druid.Request]druid.Update {
	got := make(map[druid.Request]druid.Update)
	for range sub.Ready() {
		reached := 0
		for _, u := range sub.Take() {
			got[u.Request] = u
		}
		for _, u := range got {
			if u.State == state {
				reached++
			}
		}
		if reached >= n {
			break
		}
	}
	return got
}

func request(client string) druid.Request {
	return druid.Request{Boundary: 100, Start: usage.MinTime, End: usage.MaxTime, Client: client}
}

func requests(n int) []druid.Request {
	out := make([]druid.Request, n)
	for i := range out {
		out[i] = request(fmt.Sprintf("client-%05d", i))
	}
	return out
}

func TestRunGathersRequestsIntoFewQuestions(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t)
		s := newSeeder(t, "http://druid", through(h), time.Now, func(c *druid.Config) { c.BatchClients = 40 })
		sub := run(t, s)
		all := requests(100)
		begin := time.Now()
		for _, r := range all[:10] { // one after another, less than the gathering apart
			require.Equal(t, 1, sub.Submit(r))
			<-time.After(time.Millisecond)
		}
		require.Equal(t, 90, sub.Submit(all[10:]...))
		require.Equal(t, 100, sub.Submit(all...), "what is outstanding is not asked twice")
		got := until(sub, druid.Exact, 100)
		for _, r := range all {
			require.Equal(t, druid.Exact, got[r].State)
			require.Equal(t, 1, got[r].Attempts)
			require.Len(t, got[r].Totals, 1)
			require.Equal(t, r.Client, got[r].Totals[0].Client)
		}
		require.Len(t, h.all(), 3)
		require.LessOrEqual(t, time.Since(begin), 70*time.Millisecond)
		require.Empty(t, sub.Take())
	})
}

func TestRunAsksApartWhatDiffers(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t)
		sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, nil))
		other := []druid.Request{request("a"), request("a"), request("a"), request("a"), request("b")}
		other[1].Partition = 1
		other[2].Boundary = 50
		other[3].Start = 5
		require.Equal(t, 5, sub.Submit(other...))
		until(sub, druid.Exact, 5)
		require.Len(t, h.all(), 4)
	})
}

func TestRunAsksAFewAtATime(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t)
		h.fault = func(_ int, _ question, _ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
			return false
		}
		sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, func(c *druid.Config) { c.BatchClients, c.MaxConcurrent = 10, 3 }))
		sub.Submit(requests(100)...)
		until(sub, druid.Exact, 100)
		require.Equal(t, int32(3), h.most.Load())
	})
}

// What goes wrong in Druid is tried again until it goes right; meanwhile it is
// seen, and nothing is zero.
func TestRunRetriesForEver(t *testing.T) {
	t.Parallel()

	status := func(status int, name string) func(*testing.T, http.ResponseWriter) {
		return func(t *testing.T, w http.ResponseWriter) { says(status, recorded(t, name), "true")(w, nil) }
	}
	body := func(body string) func(*testing.T, http.ResponseWriter) {
		return func(_ *testing.T, w http.ResponseWriter) { _, _ = io.WriteString(w, body) }
	}
	tests := map[string]struct {
		fault func(*testing.T, http.ResponseWriter)
		says  string
	}{
		"busy":             {status(429, "lane-full.json"), "CAPACITY_EXCEEDED"},
		"too slow":         {status(504, "timeout.json"), "TIMEOUT"},
		"a lost service":   {status(500, "historical-just-lost.json"), "RUNTIME_FAILURE"},
		"rows missing":     {body("[]"), "not proven complete"},
		"a broken answer":  {body("[[1,"), "unusable answer"},
		"wrong JSON":       {body("{}"), "unusable answer"},
		"credentials":      {func(_ *testing.T, w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, "status 403"},
		"not understood":   {func(_ *testing.T, w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) }, "status 400"},
		"memory for one":   {status(400, "resource-limit.json"), "Resource limit exceeded"},
		"count too high":   {body(`[["a","m",101,0,99,1,1,5,5,0,7,7.0,7,7]]`), "in history twice"},
		"a strange client": {body(`[["z","m",1,0,99,1,1,5,5,0,7,7.0,7,7]]`), "was not asked for"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			synctest.Test(t, func(t *testing.T) {
				const failures = 12
				h := newHistory(t)
				h.fault = func(n int, _ question, w http.ResponseWriter, _ *http.Request) bool {
					if n <= failures {
						tt.fault(t, w)
					}
					return n <= failures
				}
				sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, nil))
				require.Equal(t, 1, sub.Submit(request("a")))
				failed := until(sub, druid.Failed, 1)[request("a")]
				require.ErrorContains(t, failed.Reason, tt.says)
				require.Equal(t, 3, failed.Attempts)
				require.Empty(t, failed.Totals)
				exact := until(sub, druid.Exact, 1)[request("a")]
				require.NoError(t, exact.Reason)
				require.Equal(t, failures+1, exact.Attempts)
				require.Len(t, exact.Totals, 1)
				all := h.all()
				for i := 1; i < len(all); i++ {
					gap := all[i].at.Sub(all[i-1].at)
					require.GreaterOrEqual(t, gap, 125*time.Millisecond)
					require.LessOrEqual(t, gap, time.Minute)
				}
			})
		})
	}
}

func TestRunWaitsAsLongAsItIsTold(t *testing.T) {
	t.Parallel()

	for header, want := range map[string]time.Duration{
		"90":                            90 * time.Second,
		"Sat, 01 Jan 2000 00:02:00 GMT": 2 * time.Minute,
		"86400":                         5 * time.Minute,
	} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()

			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t)
				h.fault = func(n int, _ question, w http.ResponseWriter, _ *http.Request) bool {
					if n == 1 {
						w.Header().Set("Date", "Sat, 01 Jan 2000 00:00:00 GMT")
						w.Header().Set("Retry-After", header)
						w.WriteHeader(http.StatusTooManyRequests)
					}
					return n == 1
				}
				sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, nil))
				sub.Submit(request("a"))
				<-time.After(time.Second)
				other := request("b")
				other.Partition = 1
				sub.Submit(other) // the wait is for all
				until(sub, druid.Exact, 2)
				all := h.all()
				require.Equal(t, want, all[1].at.Sub(all[0].at))
				require.Len(t, all, 3)
			})
		})
	}
}

func TestRunHalvesWhatIsTooMuch(t *testing.T) {
	t.Parallel()

	tests := map[string]func(*testing.T, http.ResponseWriter){
		"memory": func(t *testing.T, w http.ResponseWriter) {
			says(400, recorded(t, "resource-limit.json"), "true")(w, nil)
		},
		"length": func(_ *testing.T, w http.ResponseWriter) { _, _ = io.WriteString(w, strings.Repeat(" ", 300_000)) },
	}
	for name, fault := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t)
				h.fault = func(_ int, q question, w http.ResponseWriter, _ *http.Request) bool {
					if len(q.clients) > 30 {
						fault(t, w)
					}
					return len(q.clients) > 30
				}
				s := newSeeder(t, "http://druid", through(h), time.Now, func(c *druid.Config) { c.MaxConcurrent, c.MaxResponseBytes = 1, 200_000 })
				sub := run(t, s)
				begin := time.Now()
				sub.Submit(requests(100)...)
				for _, u := range until(sub, druid.Exact, 100) {
					require.Equal(t, 1, u.Attempts)
				}
				require.Less(t, time.Since(begin), time.Second, "halving does not wait")
				require.Len(t, h.all(), 2+4, "100 and 50 are too many, 25 are not")
			})
		})
	}
}

func TestOneClientThatIsNotExactDoesNotHinderOthers(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t)
		h.fault = func(n int, q question, w http.ResponseWriter, _ *http.Request) bool {
			if n > 3 || len(q.clients) == 1 && n < 3 {
				return false
			}
			rows := []any{}
			for i, c := range q.clients {
				sum, float := any(7), any(7.0)
				if c == "client-00001" {
					sum, float = -2, 1.8446744073709552e19
				}
				rows = append(rows, []any{c, "m", 2, 2 * i, 2*i + 1, 4*i + 1, 2, 5, 5, 0, sum, float, 3, int64(9223372036854775807)})
			}
			n2, b := int64(2*len(q.clients)), q.boundary
			rows = append(rows, []any{nil, "m", b - n2, n2, b - 1, b*(b-1)/2 - n2*(n2-1)/2, b - n2, 5, 5, 0, 7, 7.0, 7, 7})
			_ = json.NewEncoder(w).Encode(rows)
			return true
		}
		sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, nil))
		sub.Submit(requests(3)...)
		<-sub.Ready()
		var exact, failed []druid.Update
		for _, u := range sub.Take() {
			if u.State == druid.Exact {
				exact = append(exact, u)
			} else {
				failed = append(failed, u)
			}
		}
		require.Len(t, exact, 2)
		require.Len(t, failed, 1)
		require.ErrorIs(t, failed[0].Reason, druid.ErrOverflow)
		begin := time.Now()
		got := until(sub, druid.Exact, 1)
		require.Contains(t, got, request("client-00001"), "it is retried, slowly, and alone")
		require.GreaterOrEqual(t, time.Since(begin), time.Minute)
		require.Len(t, h.all()[1].clients, 1)
	})
}

func TestRunIsStartedAndStoppedManyTimes(t *testing.T) {
	t.Parallel()

	h := newHistory(t)
	server := httptest.NewServer(h)
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	s := newSeeder(t, server.URL, transport, time.Now, func(c *druid.Config) { c.BatchClients = 3 })
	sub := s.Submitter()
	defer sub.Close()
	for i := range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		r := request(fmt.Sprintf("late-%d", i))
		require.Equal(t, 1, sub.Submit(r))
		if i%3 == 0 {
			<-sub.Ready()
		}
		cancel()
		require.NoError(t, <-done)
		sub.Take()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	last := request("last")
	require.Equal(t, 1, sub.Submit(last))
	for found := false; !found; {
		<-sub.Ready()
		for _, u := range sub.Take() {
			found = found || u.Request == last
		}
	}
	cancel()
	require.NoError(t, <-done)
}
