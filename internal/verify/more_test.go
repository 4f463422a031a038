package verify_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/verify"
)

// totals is a ledger of one partition. Rows are of a client, a meter, the day
// and, if any, a region.
type totals struct {
	rows                                    map[[4]string][2]int64
	records, duplicates, undecodable, voids int64
}

func (l totals) Each(fn func(client, meter, period string, dimensions map[string]string, events, quantity int64)) {
	for k, v := range l.rows {
		var dimensions map[string]string
		if k[3] != "" {
			dimensions = map[string]string{"region": k[3]}
		}
		fn(k[0], k[1], "2026-11-"+k[2], dimensions, v[0], v[1])
	}
}

func (l totals) EachPartition(fn func(partition int32, records, duplicates, undecodable, voids int64)) {
	fn(0, l.records, l.duplicates, l.undecodable, l.voids)
}

func TestLedger(t *testing.T) {
	t.Parallel()

	two := func() []verify.Ledger {
		return []verify.Ledger{
			totals{map[[4]string][2]int64{{"acme", "bytes", "20"}: {1, 30}}, 1, 0, 0, 0},
			totals{map[[4]string][2]int64{{"acme", "bytes", "20"}: {1, 12}, {"acme", "calls", "20"}: {1, 7}, {"beta", "bytes", "17"}: {1, 4}}, 5, 1, 1, 0},
		}
	}
	life := func(t *testing.T) *world {
		t.Helper()
		w := newWorld(t)
		w.start(0)
		w.use("acme", "bytes", "30")
		w.use("acme", "bytes", "12")
		w.send("acme", "bytes", "12", "e2", w.now)
		w.use("acme", "calls", "7")
		w.raw("beta", "{")
		w.send("beta", "bytes", "4", "old", w.now.Add(-72*time.Hour)) // too late, but in the ledger
		return w
	}

	w := life(t)
	w.count()
	found, _ := w.check(two()...)
	require.Empty(t, found)

	w = life(t)
	w.use("acme", "bytes", "5")
	w.count()
	found, _ = w.check(two()...)
	require.Equal(t, []string{
		"ledger partition 0: 7 records were counted, the ledger has 6",
		"ledger bytes of client acme in 2026-11-20: the ledger has -1 more events, and -5 more",
	}, found)
}

// A ledger may have combinations, and has taken off what was taken back.
func TestLedgerOfCombinations(t *testing.T) {
	t.Parallel()

	w := newWorld(t, rich)
	w.start(0)
	w.give("acme", "egress", "30", `"region":"eu"`)
	w.give("acme", "egress", "12", `"region":"us"`)
	w.takeBack("acme", w.sent[1])
	w.give("acme", "egress", "5", `"region":"us"`)
	w.count()
	rows := map[[4]string][2]int64{
		{"acme", "egress", "20"}:       {2, 35},
		{"acme", "egress", "20", "eu"}: {1, 30},
		{"acme", "egress", "20", "us"}: {1, 5},
	}
	found, _ := w.check(totals{rows, 4, 0, 0, 1})
	require.Empty(t, found)

	rows[[4]string{"acme", "egress", "20", "us"}] = [2]int64{2, 17}
	found, _ = w.check(totals{rows, 4, 0, 0, 2})
	require.Equal(t, []string{
		"ledger partition 0: 1 records are voids, the ledger has 2",
		`ledger egress of client acme in 2026-11-20 {"region":"us"}: the ledger has 1 more events, and 12 more`,
	}, found)
}

// doubtful records may have been counted or not.
func TestDuplicatesInDoubt(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		after time.Duration
		want  []int64 // counted, duplicates, doubtful
	}{
		"within the window":               {50 * time.Minute, []int64{2, 1, 0}},
		"a little later it may be either": {63 * time.Minute, []int64{2, 0, 1}},
		"long after it counts":            {80 * time.Minute, []int64{3, 0, 0}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			w := newWorld(t)
			w.start(0)
			w.use("acme", "bytes", "30")
			w.count()
			w.now = w.now.Add(tt.after)
			w.use("beta", "bytes", "1")
			w.count()
			w.send("acme", "bytes", "30", "e1", w.now)
			w.count()
			found, report := w.check()
			require.Empty(t, found)
			require.Equal(t, tt.want, []int64{report.Counted, report.Duplicates, report.Doubtful})
		})
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()

	type counter map[string]any
	period := counter{"id": "2026-11-20", "start": "2026-11-20T00:00:00Z", "end": "2026-11-21T00:00:00Z", "timezone": "UTC"}
	one := func(meter, used string, events int) counter {
		return counter{"meter": meter, "period": period, "usage": used, "events": events, "seed": counter{"state": "none", "usage": "0", "boundary": 0}}
	}
	tests := map[string]struct {
		counters []counter
		offset   int
		status   int
		want     []string
	}{
		"what the changelog has": {[]counter{one("bytes", "30.5", 1), one("calls", "1", 1)}, 2, 200, nil},
		"zero where nothing was": {[]counter{one("bytes", "30.5", 1), one("calls", "1", 1), one("other", "0", 0)}, 2, 200, nil},
		"another total":          {[]counter{one("bytes", "31", 1), one("calls", "1", 1)}, 2, 200, []string{"http partition 0 a/b: bytes in 2026-11-20: usage is 31 of 1 events, the changelog has 30.5 of 1"}},
		"a counter that is not":  {[]counter{one("bytes", "30.5", 1), one("calls", "1", 1), one("other", "5", 1)}, 2, 200, []string{"http partition 0 a/b: other in 2026-11-20: usage is 5 of 1 events, the changelog has no such counter"}},
		"a counter too few":      {[]counter{one("bytes", "30.5", 1)}, 2, 200, []string{"http partition 0 a/b: calls in 2026-11-20: is not answered"}},
		"an answer of later":     {[]counter{one("bytes", "99", 1)}, 3, 200, nil},
		"no answer":              {nil, 2, 503, []string{"http partition 0 a/b: the answer is 503 Service Unavailable"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			w := newWorld(t)
			w.start(0)
			w.use("a/b", "bytes", "30.5")
			w.use("a/b", "calls", "1")
			w.count()
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.EscapedPath() != "/v1/clients/a%2Fb/usage" || r.Header.Get("Authorization") != "Bearer secret" {
					rw.WriteHeader(http.StatusTeapot)
					return
				}
				rw.WriteHeader(tt.status)
				_ = json.NewEncoder(rw).Encode(counter{
					"client": "a/b", "counters": tt.counters,
					"as_of": counter{"topic": "usage", "partition": 0, "offset": tt.offset, "time": w.now},
				})
			}))
			t.Cleanup(server.Close)
			found, report := w.checkWith(func(p *verify.Parts) {
				p.HTTP = &verify.HTTP{URL: server.URL, Token: "secret", Client: server.Client()}
			})
			require.Equal(t, tt.want, found)
			require.Equal(t, tt.offset == 3, len(report.Unchecked) == 1)
		})
	}
}

// That history does not answer is told over HTTP, and not written down.
func TestHTTPOfSeeds(t *testing.T) {
	t.Parallel()

	type object map[string]any
	tests := map[string]struct {
		state    aggregate.SeedState
		usage    string
		boundary int
		want     []string
	}{
		"pending":          {aggregate.SeedPending, "0", 1, nil},
		"failed so far":    {aggregate.SeedFailed, "0", 1, nil},
		"answered":         {aggregate.SeedExact, "0", 1, []string{"http partition 0 acme: bytes in 2026-11-20: seed is exact with 0 below 1, the changelog has pending with 0 below 1"}},
		"another boundary": {aggregate.SeedFailed, "0", 2, []string{"http partition 0 acme: bytes in 2026-11-20: seed is failed with 0 below 2, the changelog has pending with 0 below 1"}},
		"some of it":       {aggregate.SeedPending, "7", 1, []string{"http partition 0 acme: bytes in 2026-11-20: seed is pending with 7 below 1, the changelog has pending with 0 below 1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			w := newWorld(t, func(c *verify.Config) { c.History = true })
			w.use("acme", "bytes", "40") // below the boundary
			w.start(1)
			w.use("acme", "bytes", "15")
			w.count()
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(rw).Encode(object{
					"client": "acme", "as_of": object{"topic": "usage", "partition": 0, "offset": 2, "time": w.now},
					"counters": []object{{
						"meter": "bytes", "usage": "15", "events": 1,
						"period": object{"id": "2026-11-20", "start": "2026-11-20T00:00:00Z", "end": "2026-11-21T00:00:00Z", "timezone": "UTC"},
						"seed":   object{"state": tt.state, "usage": tt.usage, "boundary": tt.boundary},
					}},
				})
			}))
			t.Cleanup(server.Close)
			found, report := w.checkWith(func(p *verify.Parts) { p.HTTP = &verify.HTTP{URL: server.URL, Client: server.Client()} })
			require.Equal(t, tt.want, found)
			require.EqualValues(t, 1, report.Answers)
		})
	}
}

func TestHTTPOfLimits(t *testing.T) {
	t.Parallel()

	type object map[string]any
	limit := func(id, meter, used string, change func(object)) object {
		o := object{
			"contract": "acme-2", "contract_revision": 0, "limit_id": id, "meter": meter, "dimensions": object{}, "enforcement": "hard",
			"limit": "100", "usage": used, "remaining": "0", "utilization": "1.2", "blocked": true,
			"thresholds": []object{{"threshold": "100%", "value": "100", "crossed": true}},
			"period":     object{"id": "2026-11-20", "start": "2026-11-20T00:00:00Z", "end": "2026-11-21T00:00:00Z"},
		}
		change(o)
		return o
	}
	right := func(object) {}
	eu := func(o object) {
		o["dimensions"], o["remaining"], o["utilization"], o["blocked"] = object{"region": "eu"}, "40", "0.6", false
		o["thresholds"] = []object{{"threshold": "50%", "value": "50", "crossed": true}, {"threshold": "100%", "value": "100", "crossed": false}}
	}
	set := func(key string, value any) func(object) { return func(o object) { o[key] = value } }
	tests := map[string]struct {
		limits []object
		want   []string
	}{
		"as they are":       {[]object{limit("faults", "errors", "120", right), limit("regions", "egress", "60", eu)}, nil},
		"another total":     {[]object{limit("faults", "errors", "119", right)}, []string{"limit faults of acme-2: usage is 119, the changelog has 120"}},
		"another remainder": {[]object{limit("faults", "errors", "120", set("remaining", "5"))}, []string{"limit faults of acme-2: remaining is 5, must be 0"}},
		"not blocked":       {[]object{limit("faults", "errors", "120", set("blocked", false))}, []string{"limit faults of acme-2: blocked is false with 120 of 100"}},
		"another limit":     {[]object{limit("faults", "errors", "120", set("limit", "99"))}, []string{"limit faults of acme-2: it is hard 99 of errors, must be hard 100 of errors"}},
		"another share":     {[]object{limit("faults", "errors", "120", set("utilization", "1"))}, []string{"limit faults of acme-2: utilization is 1, must be 1.2"}},
		"one of no contract": {
			[]object{limit("faults", "errors", "120", right), limit("others", "errors", "120", right)},
			[]string{"limit others of acme-2: the contracts topic has none at revision 0"},
		},
		"a value of another": {
			[]object{limit("faults", "errors", "120", right), limit("regions", "egress", "30", eu)},
			[]string{`limit regions {"region":"eu"} of acme-2: usage is 30, the changelog has 60`},
		},
		"a threshold not crossed": {
			[]object{limit("faults", "errors", "120", set("thresholds", []object{{"threshold": "100%", "value": "100", "crossed": false}}))},
			[]string{"limit faults of acme-2: crossed of 100% is false, the changelog has true"},
		},
		"none": {nil, []string{"limit faults of acme-2: is not answered"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			w := various(t)
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				offset := w.position // of usage, which is not looked at here
				if strings.HasSuffix(r.URL.Path, "/usage") {
					offset++
				}
				_ = json.NewEncoder(rw).Encode(object{
					"client": "acme", "limits": tt.limits, "complete": true,
					"as_of": object{"topic": "usage", "partition": 0, "offset": offset, "time": w.now},
				})
			}))
			t.Cleanup(server.Close)
			all, _ := w.checkWith(func(p *verify.Parts) { p.HTTP = &verify.HTTP{URL: server.URL, Client: server.Client()} })
			var found []string
			for _, text := range all {
				problem := strings.TrimPrefix(text, "http partition 0 acme: ")
				require.NotEqual(t, text, problem)
				// Other limits are left out of all answers here.
				if !strings.HasSuffix(problem, "is not answered") || strings.HasPrefix(problem, "limit faults") {
					found = append(found, problem)
				}
			}
			require.Equal(t, tt.want, found)
		})
	}
}

// Without a token that HTTP takes, nothing was compared: that is no difference.
func TestHTTPThatRefuses(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	w.start(0)
	w.use("acme", "bytes", "1")
	w.count()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(server.Close)
	_, err := verify.Run(t.Context(), w.cfg, verify.Parts{
		Cluster: w.write(), Decoder: w.decoder(), Events: w.codec, Found: func(d verify.Difference) { require.Fail(t, d.String()) },
		HTTP: &verify.HTTP{URL: server.URL, Client: server.Client()},
	})
	require.ErrorContains(t, err, "401 Unauthorized")
}

// A partition that was never counted has nothing to be compared, and must have
// nothing.
func TestNothingCountedYet(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	w.use("acme", "bytes", "1")
	w.position = -1
	found, report := w.check()
	require.Empty(t, found)
	require.Zero(t, report.Records)

	w = ordinary(t)
	w.changelog, w.position = nil, -1
	found, _ = w.check()
	require.Equal(t, []string{
		"position partition 0: limit-events has 7 records, but nothing was counted",
		"position partition 0: dead-letter has 2 records, but nothing was counted",
	}, found)
}

// What is written after the snapshot of the changelog is of later commits.
func TestLaterCommitsAreLeftAlone(t *testing.T) {
	t.Parallel()

	w := ordinary(t)
	changelog, position := len(w.changelog), w.position
	w.use("acme", "bytes", "500")
	w.raw("acme", "{")
	w.count()
	w.changelog, w.position = w.changelog[:changelog], position
	found, report := w.check()
	require.Empty(t, found)
	require.EqualValues(t, 14, report.Records)
}

// A contract that comes while its client is counted judges from then on.
func TestContractsThatComeLater(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	w.start(0)
	for range 4 {
		w.use("acme", "calls", "1")
		w.use("acme", "bytes", "30")
	}
	w.count()
	w.contract("acme-1", acme)
	w.use("acme", "calls", "1")
	w.count()
	require.Len(t, w.events, 1, "the day's counter has passed all thresholds, the hour's begins at zero")
	found, _ := w.check()
	require.Empty(t, found)

	cut(&w.events, 0)
	found, _ = w.check()
	require.Equal(t, []string{
		`limit-event partition 0 ["acme-1","traffic",{}] 2026-11-20: is missing: offset 3 takes the total from 30 to 60, crossed 50%`,
		`limit-event partition 0 ["acme-1","traffic",{}] 2026-11-20: is missing: offset 5 takes the total from 60 to 90, crossed 80%`,
		`limit-event partition 0 ["acme-1","traffic",{}] 2026-11-20: is missing: offset 7 takes the total from 90 to 120, crossed 100%`,
		`limit-record partition 0 ["limit","acme-1","traffic",{},"2026-11-20"]: 1 limit events were told, the topic has none`,
	}, found)
}

// Under several revisions, what was told is still checked.
func TestRevisions(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	w.contract("acme-1", acme)
	w.now += 60_000
	w.start(0)
	w.use("acme", "bytes", "120")
	w.count()
	w.contract("acme-1", strings.Replace(acme, `"limit":"100"`, `"limit":"200"`, 1))
	w.count()
	w.use("acme", "bytes", "45")
	w.count()
	w.contract("acme-1", "")
	w.count()
	require.Len(t, w.events, 4)
	found, _ := w.check()
	require.Empty(t, found)

	w.spoil(2, func(e *alerts.Event) { e.UsageBefore = "119" })
	w.spoil(1, func(e *alerts.Event) { e.UsageBefore, e.UsageAfter, e.Utilization = "110", "110", "0.55" })
	found, _ = w.check()
	require.Equal(t, []string{
		`limit-event partition 0 ["acme-1","traffic",{}] 2026-11-20 #2: usage_after is 110, which the counter did not have then`,
		`limit-event partition 0 ["acme-1","traffic",{}] 2026-11-20 #3: usage_before is "119", must be "120"`,
	}, found)
}

// Records below the boundary are gone as soon as retention takes them; those
// above are needed.
func TestUsageThatIsGone(t *testing.T) {
	t.Parallel()

	w := ordinary(t)
	report, err := verify.Run(t.Context(), w.cfg, verify.Parts{
		Cluster: shortened{memory{w}}, Decoder: w.decoder(), Events: w.codec,
	})
	require.NoError(t, err)
	require.Equal(t, []string{"partition 0: counted from offset 0, but the usage topic begins at 5"}, report.Unchecked)
	require.Zero(t, report.Differences)
}

// shortened is a cluster whose usage topic has lost its beginning.
type shortened struct{ memory }

func (shortened) LogStart(_ context.Context, topic string, _ int32) (int64, error) {
	if topic == topics.Usage {
		return 5, nil
	}
	return 0, nil
}

func TestSeeds(t *testing.T) {
	t.Parallel()

	seeded := func(c *verify.Config) { c.History = true }
	w := newWorld(t, seeded)
	w.contract("acme-1", acme)
	w.use("acme", "bytes", "40") // below the boundary
	w.now += 60_000
	w.start(1)
	w.use("acme", "bytes", "15")
	w.count()
	found, _ := w.check()
	require.Empty(t, found, "while the seed is pending nothing is to be told")

	for _, ask := range w.state.Pending() {
		w.answer(t, ask, map[bool]string{true: "40"}[ask.Scope.Default()])
	}
	w.use("acme", "bytes", "30")
	w.count()
	require.Len(t, w.events, 2)
	require.Equal(t, "0", w.event(0).UsageBefore)
	found, _ = w.check()
	require.Empty(t, found)

	w.spoil(0, func(e *alerts.Event) { e.UsageBefore = "40" })
	w.spoil(1, func(e *alerts.Event) { e.Seeded = false })
	found, _ = w.check()
	require.Equal(t, []string{
		`limit-event partition 0 ["acme-1","traffic",{}] 2026-11-20 #1: usage_before is "40", must be "0"`,
		`limit-event partition 0 ["acme-1","traffic",{}] 2026-11-20 #2: seeded is false, must be true`,
	}, found)
}
