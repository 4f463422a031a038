package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// withHistory is whether a world has a Druid: every third. Its events are JSON,
// and its meters as plain as the embedded history is.
func (w *World) withHistory() bool { return w.opts.Seed%3 == 0 }

// history is the part of the traffic that is.
const history = "history"

// startHistory makes the first part of the traffic history: Druid has it, Kafka
// no longer.
func (w *World) startHistory(ctx context.Context, events int64) error {
	if err := w.load(ctx, history, 0, events, append(w.clean(), "--contracts", fmt.Sprint(contracts))...); err != nil {
		return err
	}
	ends, err := w.admin.ListEndOffsets(ctx, usageTopic)
	if err != nil {
		return err
	}
	for {
		had, all := w.druid.Boundaries(partitions), true
		ends.Each(func(o kadm.ListedOffset) { all = all && had[o.Partition] >= o.Offset })
		if all {
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	_, err = w.admin.DeleteRecords(ctx, kadm.Offsets(ends.Offsets()))
	return err
}

// feed has Druid take in the usage topic, as the tasks of a supervisor do: what
// a contract that comes later asks history for was counted by meterd before.
func (w *World) feed(ctx context.Context) error {
	c, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Brokers()...), kgo.ConsumeTopics(usageTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer c.Close()
	next := map[int32]int64{}
	for ctx.Err() == nil {
		fetched := c.PollFetches(ctx)
		fetched.EachRecord(func(r *kgo.Record) {
			p := r.Partition
			for ; next[p] < r.Offset; next[p]++ { // of transactions that were aborted
				w.blank(p, next[p])
			}
			if r.Offset == next[p] {
				w.remember(r)
				next[p]++
			}
		})
		if fetched.Err() != nil {
			pause(ctx, 100*time.Millisecond) // brokers are down just now
		}
	}
	return nil
}

// blank has Druid take in a row of nobody. Without one for each offset it would
// take a supervisor's status to prove that none is missing.
func (w *World) blank(partition int32, offset int64) {
	w.druid.Add("", "", 0, time.UnixMilli(0), partition, offset)
}

// remember has Druid take in a record, or a row of nobody for what is no event.
func (w *World) remember(r *kgo.Record) {
	var e struct {
		Client    string      `json:"client_id"`
		Meter     string      `json:"meter"`
		Quantity  json.Number `json:"quantity"`
		Timestamp int64       `json:"timestamp"`
	}
	err := json.Unmarshal(r.Value, &e)
	quantity, wrong := e.Quantity.Int64()
	if r.Attrs.IsControl() || err != nil || wrong != nil {
		w.blank(r.Partition, r.Offset)
		return
	}
	w.druid.Add(e.Client, e.Meter, quantity, time.UnixMilli(e.Timestamp), r.Partition, r.Offset)
}

// clean are the flags of traffic that history can have.
func (w *World) clean() []string {
	return []string{"--undecodable", "0", "--second-schema", "0"}
}

// lifetime is the period of the limits of contractsChange, which begin before
// everything.
const lifetime = "lifetime"

// used is what the ledgers say that a client has used of a meter in a period.
type used struct{ client, meter, period string }

func readLedger(path string, into map[used]int64) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(content) {
		var l struct {
			Client, Meter, Period string
			Dimensions            map[string]string
			Events                int64
			Quantity              string
		}
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		if l.Client == "" || l.Dimensions != nil {
			continue
		}
		n := l.Events
		if l.Meter != "api_calls" {
			if n, err = strconv.ParseInt(l.Quantity, 10, 64); err != nil {
				return err
			}
		}
		into[used{l.Client, l.Meter, l.Period}] += n
		into[used{l.Client, l.Meter, lifetime}] += n
	}
	return nil
}

// wholeTotals demands that what HTTP says of clients is all that was ever used,
// before Kafka and since.
func (w *World) wholeTotals(ctx context.Context, via *Instance) error {
	want := map[used]int64{}
	for _, path := range append(w.sorted(), w.past) {
		if err := readLedger(path, want); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	until := time.Now().Add(recovery)
	for n := range clients {
		for {
			wrong, err := w.wholeOf(ctx, via, clientName(n), want)
			if wrong != nil {
				return wrong
			}
			if err == nil {
				break
			}
			if time.Now().After(until) || !pause(ctx, 100*time.Millisecond) {
				return err
			}
		}
	}
	return nil
}

var errTotal = errors.New("a total is wrong")

// wholeOf returns what is wrong with the totals of a client, or else why there
// are none yet.
func (w *World) wholeOf(ctx context.Context, via *Instance, name string, want map[used]int64) (wrong, yet error) {
	some := false
	for k := range want {
		some = some || k.client == name
	}
	if !some {
		return nil, nil
	}
	var answer struct {
		Complete bool
		Counters []struct {
			Meter  string
			Period struct{ ID string }
			Usage  string
		}
	}
	if err := via.Get(ctx, "/v1/clients/"+name+"/usage", &answer); err != nil {
		return nil, err
	}
	if !answer.Complete {
		return nil, fmt.Errorf("%s is not complete", name)
	}
	for _, c := range answer.Counters {
		if n, ok := want[used{name, c.Meter, c.Period.ID}]; ok && c.Usage != strconv.FormatInt(n, 10) {
			return fmt.Errorf("%w: %s of %s in %s is %s, must be %d", errTotal, c.Meter, name, c.Period.ID, c.Usage, n), nil
		}
	}
	return nil, nil
}

// incomplete is a way in which HTTP services fail: it says 200.
const incomplete = "leaves out a row"

// historyFails breaks Druid while counters are asked for.
func historyFails(r *rand.Rand) (string, act) {
	how, d := pick(r, []string{refusing, hanging, slow, truncated, lying, incomplete}), between(r, time.Second, 4*time.Second)
	return fmt.Sprintf("%s for %s", how, d), func(ctx context.Context, w *World) (bool, error) {
		if !w.withHistory() {
			return false, nil
		}
		w.history.Break(how)
		defer w.history.Break("")
		pause(ctx, d)
		return w.history.broke() > 0, nil
	}
}

// shorter answers as handler does, but leaves out the last row.
func shorter(handler http.Handler, out http.ResponseWriter, req *http.Request) {
	whole := &kept{header: http.Header{}}
	handler.ServeHTTP(whole, req)
	var rows []json.RawMessage
	body := whole.body.Bytes()
	if json.Unmarshal(body, &rows) == nil && len(rows) > 1 {
		body, _ = json.Marshal(rows[:len(rows)-1])
	}
	out.Header().Set("Content-Type", "application/json")
	if whole.status > 0 {
		out.WriteHeader(whole.status)
	}
	_, _ = out.Write(body)
}

// kept is an answer on its way.
type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *kept) Header() http.Header         { return k.header }
func (k *kept) WriteHeader(status int)      { k.status = status }
func (k *kept) Write(b []byte) (int, error) { return k.body.Write(b) }
