package demo

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// signed returns accounts whose contracts are in Kafka, with what is around.
func signed(t *testing.T) (*accounts, *surroundings) {
	t.Helper()
	around, err := openSurroundings(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, around.Close()) })
	admin := kadm.NewClient(around.producer)
	for _, topic := range []string{usageTopic, "contracts"} {
		_, err = admin.CreateTopic(t.Context(), 1, 1, nil, topic)
		require.NoError(t, err)
	}
	a := newAccounts(newCrowd(300, 2000), newSender(around, newLedger()), "contracts")
	require.NoError(t, a.sign(t.Context(), noon()))
	return a, around
}

// read returns n records of a topic.
func read(t *testing.T, around *surroundings, topic string, n int) []*kgo.Record {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(around.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic))
	require.NoError(t, err)
	defer client.Close()
	var records []*kgo.Record
	for len(records) < n {
		fetches := client.PollFetches(t.Context())
		require.NoError(t, fetches.Err())
		records = append(records, fetches.Records()...)
	}
	require.Len(t, records, n)
	return records
}

func TestContractsAreRight(t *testing.T) {
	_, around := signed(t)
	catalog := &usage.Catalog{Meters: []usage.Meter{{Name: calls, Aggregation: usage.Count}, {Name: traffic, Aggregation: usage.Sum}}}
	catalog.Schedule = usage.Schedule{Kind: usage.Month, Zone: time.UTC}
	limits := 0
	for _, r := range read(t, around, "contracts", len(firms())) {
		c, err := contracts.Parse(r.Key, r.Value, r.Offset, catalog)
		require.NoError(t, err)
		limits += len(c.Limits)
	}
	require.Equal(t, len(offers()), limits)
}

// limitOf returns a limit with this enforcement and meter.
func limitOf(t *testing.T, a *accounts, meter, enforcement string) (*contract, *limit) {
	t.Helper()
	for _, c := range a.contracts {
		for _, l := range c.Limits {
			if l.Meter == meter && l.Enforcement == enforcement {
				return c, l
			}
		}
	}
	require.Fail(t, "there is no such limit")
	return nil, nil
}

// reach lets the client use so much of a limit's meter, and tells that the
// limit is reached.
func reach(t *testing.T, a *accounts, c *contract, l *limit, quantity int64) {
	t.Helper()
	require.NoError(t, a.out.send(t.Context(), &usageEvent{ID: "1", Client: c.Client, Meter: l.Meter, Quantity: quantity, Time: noon()}))
	a.hear(&limitEvent{Kind: "crossed", Contract: c.ID, LimitID: l.ID, Standing: []string{"50%", full}})
}

func TestHardLimitIsRaisedAfterAWhile(t *testing.T) {
	a, around := signed(t)
	c, l := limitOf(t, a, traffic, "hard")
	first := l.value
	reach(t, a, c, l, first)
	require.NoError(t, a.lookAfter(t.Context(), l.due.Add(-time.Millisecond)))
	require.Equal(t, first, l.value, "its time has not come")

	l.due = noon()
	require.NoError(t, a.lookAfter(t.Context(), noon()))
	require.Greater(t, l.value, first)
	require.NoError(t, a.lookAfter(t.Context(), noon()), "once is enough")
	records := read(t, around, "contracts", len(firms())+1)
	var written contract
	require.NoError(t, json.Unmarshal(records[len(firms())].Value, &written))
	require.Equal(t, c.ID, written.ID)
	require.Equal(t, l.Limit, written.Limits[0].Limit)

	first = l.first
	a.hear(&limitEvent{Kind: "reset", Contract: c.ID, LimitID: l.ID})
	require.NoError(t, a.lookAfter(t.Context(), time.Now()))
	require.Equal(t, first, l.value, "a new period begins with the first limit")
}

func TestSoftLimitIsCredited(t *testing.T) {
	a, around := signed(t)
	c, l := limitOf(t, a, traffic, "soft")
	before := l.value
	reach(t, a, c, l, l.value+17)
	l.due = noon()
	require.NoError(t, a.lookAfter(t.Context(), noon()))
	require.Equal(t, before, l.value, "the contract stays")
	require.Equal(t, l.value*45/100, a.used(c.rank, l, noon()))
	require.NoError(t, a.out.flush(t.Context()))
	read(t, around, usageTopic, 2)
}

func TestGateFollowsHardLimits(t *testing.T) {
	g := newGate()
	hear := func(enforcement, limit string, standing ...string) {
		g.hear(&limitEvent{Client: "acme", Meter: calls, LimitID: limit, Enforcement: enforcement, Standing: standing})
	}
	hear("hard", "a", "50%", "80%")
	require.True(t, g.pass("acme", calls))
	hear("soft", "b", "50%", "80%", full)
	require.True(t, g.pass("acme", calls), "soft limits close nothing")
	hear("hard", "a", "50%", "80%", full)
	require.False(t, g.pass("acme", calls))
	require.True(t, g.pass("acme", traffic))
	require.True(t, g.pass("zoo", calls))
	hear("hard", "c", "50%")
	require.False(t, g.pass("acme", calls), "another limit does not open it")
	hear("hard", "a")
	require.True(t, g.pass("acme", calls))
	require.Equal(t, int64(2), g.count())
}

func TestCrowd(t *testing.T) {
	c := newCrowd(50, 1000)
	require.Equal(t, "acme", c.clients[0])
	require.Equal(t, "client-0050", c.clients[49])
	seen, events, quantity := map[string]int{}, 0.0, 0.0
	const n = 200_000
	for i := range n {
		e := c.event(noon())
		seen[e.Client]++
		if i == len(c.clients)-1 {
			require.Len(t, seen, len(c.clients), "the first round goes to everyone")
		}
		switch {
		case e.Client == "acme" && e.Meter == calls:
			events++
		case e.Client == "acme":
			quantity += float64(e.Quantity)
		}
	}
	require.Greater(t, seen["acme"], 2*seen["ember"])
	seconds := float64(n) / 1000
	require.InEpsilon(t, c.perSecond(0, calls), events/seconds, 0.05)
	require.InEpsilon(t, c.perSecond(0, traffic), quantity/seconds, 0.05)
}

func TestPastLiesInTheHour(t *testing.T) {
	_, around := signed(t)
	c, ledger := newCrowd(20, 100), newLedger()
	now := noon().Add(time.Millisecond)
	require.NoError(t, c.past(t.Context(), newSender(around, ledger), now))
	require.Equal(t, "map[0:3000]", fmt.Sprint(around.history.Boundaries(1)))
	require.Len(t, around.history.rows, 3000)
	for _, r := range around.history.rows {
		require.LessOrEqual(t, r.time, now.UnixMilli())
		require.GreaterOrEqual(t, r.time, noon().UnixMilli())
	}
	past, produced, _ := ledger.counts()
	require.Equal(t, []int64{3000, 0}, []int64{past, produced})
}
