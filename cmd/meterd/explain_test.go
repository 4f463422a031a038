package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const explained = `200 {"client":"acme","as_of":{"topic":"usage","partition":3,"offset":90,"time":null,"lag_records":12},"complete":false,
"contracts":[{"id":"c","state":"active","revision":42}],
"counters":[
 {"meter":"calls","dimensions":{},"period":{"id":"2026-11","timezone":"UTC"},"usage":"10","events":10,"seed":{"state":"exact","usage":"7","boundary":50},"scope":null,"counted":{"from":50,"to":90,"events":3,"usage":"3"}},
 {"meter":"calls","dimensions":{"region":"eu","endpoint":"/a"},"period":{"id":"2026-11-22","timezone":"Europe/Berlin"},"usage":"1","events":1,"seed":{"state":"pending","usage":"0","boundary":50},"scope":{"contract":"c"},"counted":{"from":50,"to":90,"events":1,"usage":"1"}},
 {"meter":"users","dimensions":{},"period":{"id":"2026-11","timezone":"UTC"},"usage":"2000","error":"0.0081","events":9999,"seed":{"state":"bounded","usage":"0","boundary":50,"cut":"2026-11-22T00:00:00Z","bound":"so much"},"scope":null,"counted":{"from":50,"to":90,"events":9999,"usage":null}},
 {"meter":"peak","dimensions":{},"period":{"id":"2026-11","timezone":"UTC"},"usage":"5","events":1,"seed":{"state":"none","usage":"0","boundary":0},"scope":null,"counted":{"from":0,"to":90,"events":1,"usage":null}}
],
"limits":[{"contract":"c","limit_id":"l","meter":"calls","dimensions":{"region":"eu"},"enforcement":"hard","limit":"8","usage":"10","blocked":true,"period":{"id":"2026-11","timezone":"UTC"},
 "events":[
  {"sequence":1,"kind":"crossed","thresholds":["50%"],"usage_before":"0","usage_after":"4","contract_revision":41,"cause":{"kind":"seed"},"late":false,"marked":true,"decided_at":"2026-11-01T00:00:00Z"},
  {"sequence":2,"kind":"crossed","thresholds":["80%","100%"],"usage_before":"4","usage_after":"9","contract_revision":42,"cause":{"kind":"usage","topic":"usage","partition":3,"offset":77,"event_id":"e-1","event_time":"2026-11-21T00:00:00Z"},"late":true,"decided_at":"2026-11-22T00:00:00Z"},
  {"sequence":3,"kind":"reset","thresholds":["100%"],"usage_before":"9","usage_after":"0","contract_revision":42,"cause":{"kind":"period_end"},"late":false,"decided_at":"2026-12-01T00:00:00Z"}
 ]}]}`

const explainedText = `client acme: not complete: history is yet to tell of something
as of the beginning: all below offset 90 of usage, partition 3; 12 records are yet to be counted
contract c: active, revision 42

calls in 2026-11 (UTC): 10 of 10 events
  history below offset 50: 7
  stream from offset 50 up to 90: 3 of 3 events

calls endpoint="/a" region="eu" in 2026-11-22 (Europe/Berlin, kept for c): 1 of 1 events
  history below offset 50: pending
  stream from offset 50 up to 90: 1 of 1 events

users in 2026-11 (UTC): 2000 of 9999 events, an estimate with a standard error of 0.0081
  history before 2026-11-22T00:00:00Z: 0, within a bound: so much
  stream from offset 50 up to 90: 9999 events

peak in 2026-11 (UTC): 5 of 1 events
  stream from offset 0 up to 90: 1 events

c/l region="eu", hard of calls in 2026-11 (UTC): 10 of 8, blocked
  1. crossed 50% at 2026-11-01T00:00:00Z: 0 -> 4 by seed, contract revision 41, in limit-state alone
  2. crossed 80% 100% at 2026-11-22T00:00:00Z: 4 -> 9 by usage "e-1" (usage, partition 3, offset 77), contract revision 42, late
  3. reset 100% at 2026-12-01T00:00:00Z: 9 -> 0 by period end, contract revision 42
`

func TestExplain(t *testing.T) {
	t.Parallel()

	o, url := officeOf(t, map[string][]string{"GET": {explained, explained, `200 []`, `503 {"detail":"history is being asked"}`}})
	status, stdout, stderr := meterd(nil, "explain", "a/b", "--url", url, "--meter", "c d")
	require.Equal(t, exitDone, status, stderr)
	require.Equal(t, explainedText, stdout)
	require.Equal(t, []string{"GET /v1/clients/a%2Fb/explain?meter=c+d"}, o.requests)

	status, stdout, _ = meterd(nil, "explain", "acme", "--url", url, "--output", "json")
	require.Equal(t, exitDone, status)
	require.JSONEq(t, explained[len("200 "):], stdout)

	status, _, stderr = meterd(nil, "explain", "acme", "--url", url)
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr, "meterd: decode the answer of meterd: ")
	status, _, stderr = meterd(nil, "explain", "acme", "--url", url)
	require.Equal(t, exitFailed, status)
	require.Equal(t, "meterd: history is being asked\n", stderr)
}
