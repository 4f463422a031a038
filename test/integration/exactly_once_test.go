//go:build integration

package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The sizes of the whole.
const (
	partitions = 8
	clients    = 2000
	part       = 100_000 // events of each quarter
)

// total is what was used of a meter.
type total struct{ events, quantity int64 }

type key struct{ client, meter string }

// counted returns what a meter makes of events: api_calls counts them, the
// others sum their quantities.
func (k key) counted(events, quantity int64) total {
	if k.meter == "api_calls" {
		quantity = events
	}
	return total{events: events, quantity: quantity}
}

// The whole of meterd's promise, on real parts: some usage is history in Druid
// and gone from Kafka, some waits in Kafka, the rest comes while daemons are
// killed, the broker is killed, and partitions move between two instances. Some
// events are taken back, some meters have dimensions or conditions, and some
// limits are on single values and in zones of their own. In the end verify
// finds nothing, and every total is what the ledgers say, what Druid says, and
// what HTTP says.
func TestExactlyOnceOnRealParts(t *testing.T) {
	p := newParts(t)
	topic := fmt.Sprintf("usage-%d", time.Now().UnixNano())
	_, err := p.admin.CreateTopic(t.Context(), partitions, -1, nil, topic)
	require.NoError(t, err)
	config := p.config(topic)
	p.must("topics", "create", "--config", config)
	p.supervise(topic)

	// The first quarter becomes history: Druid has it, Kafka no longer. It is of
	// one schema, for the second has times in microseconds, which the testbed's
	// Druid takes for milliseconds.
	ledgers := []string{p.load(config, 1, part, 0, "--duplicates", "0", "--undecodable", "0", "--contracts", "300")}
	p.contracts(topic, ledgers[0])
	boundary := p.ends(topic)
	p.druidHas(topic, part)
	_, err = p.admin.DeleteRecords(t.Context(), boundary)
	require.NoError(t, err)
	// The second waits in Kafka.
	ledgers = append(ledgers, p.load(config, 2, part, 0, "--second-schema", "0.3"))

	first := p.run("first", config, freeAddress(t))
	first.ready()

	// The rest comes while things break.
	loads := make(chan string, 1)
	go func() { loads <- p.load(config, 3, 2*part, 4000, "--second-schema", "0.3") }()
	for range 2 {
		first.counts(part / 5) // traffic flows between two faults
		first.kill()
		first = p.run("first", config, first.address)
		first.ready()
	}
	second := p.run("second", config, freeAddress(t)) // partitions move to it
	p.eventually("both instances have partitions", func() error { return shared(first, second) })
	p.testbed("kafka.sh", "kill")
	p.testbed("kafka.sh", "start")
	second.ready()
	first.kill() // and back to the other one
	first = p.run("third", config, first.address)
	first.ready()
	ledgers = append(ledgers, <-loads)

	p.eventually("everything is counted", func() error { return drained(first) })
	second.stop()
	first.ready()
	p.eventually("every client is complete", func() error { return drained(first) })
	out := p.must("verify", "--config", config, "--wait", "60s", "--http", "http://"+first.address)
	t.Log(out)

	want := map[key]total{}
	for _, path := range ledgers {
		addLedger(t, path, want)
	}
	p.druidHas(topic, int64(4*part)-p.undecodable(ledgers))
	require.Empty(t, differences(want, p.druidTotals(topic)), "Druid, each event id once, against the ledgers")
	require.Empty(t, differences(want, first.totals(t)), "HTTP against the ledgers")
	first.stop()
}

// differences returns a line for each total that is not as it must be, a few
// at most.
func differences(want, got map[key]total) []string {
	var lines []string
	for k, w := range want {
		if g, ok := got[k]; !ok || g != w {
			lines = append(lines, fmt.Sprintf("%v: %v, must be %v", k, g, w))
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			lines = append(lines, fmt.Sprintf("%v: %v, must not be", k, g))
		}
	}
	slices.Sort(lines)
	return lines[:min(len(lines), 20)]
}

func (p *parts) config(topic string) string {
	return p.file("meterd.yaml", fmt.Sprintf(`
application_id: %[1]s-meterd
kafka: {brokers: [%[2]q], session_timeout: 10s, transaction_timeout: 5s}
schema_registry: {url: %[3]q}
usage: {topic: %[1]s, allowed_lateness: 72h, fields: {void: is_void}}
meters:
  - {name: api_calls, aggregation: count, group_by: [source]}
  - {name: bytes_out, aggregation: sum}
  - {name: jobs, aggregation: sum}
  - {name: imports, aggregation: count, when: 'meter == "jobs" && source == "batch-importer"'}
  - {name: origins, aggregation: unique, value: source, when: 'meter == "bytes_out" && is_void == false'}
history:
  druid:
    {url: %[4]q, coordinator_url: %[5]q, datasource: %[1]s, supervisor: %[1]s, lane: seed, columns: {void: is_void}}
schedule: {period: year}
state: {min_free_disk: 100MiB, flush_interval: 2s}
`, topic, p.kafka, p.registry, p.druid, env(p.t, "METERD_TEST_DRUID_COORDINATOR")))
}

// contracts writes contracts for some of the clients in a ledger of a quarter
// of all events, with limits on single values, in zones of their own and on
// meters with conditions, which are reached in the course of the test.
func (p *parts) contracts(topic, ledger string) {
	p.t.Helper()
	const some, least = 60, 80 // clients, events
	var records []*kgo.Record
	for _, l := range ledgerLines(p.t, ledger) {
		if l.Meter != "api_calls" || l.Dimensions != nil || l.Events < least || len(records) == some {
			continue
		}
		each := l.Events * 3 / 4 // of about as many of each of four sources
		id := "values-" + l.Client
		records = append(records, &kgo.Record{Topic: topic + "-meterd.contracts", Key: []byte(id), Value: fmt.Appendf(nil, `
			{"id": %q, "client": %q, "starts_at": "2020-02-29T12:00:00+05:30", "timezone": "Asia/Kolkata", "limits": [
			{"id": "each", "meter": "api_calls", "limit": "%[3]d", "timezone": "UTC", "per": ["source"], "thresholds": ["20%%", "50%%", "100%%"]},
			{"id": "each-here", "meter": "api_calls", "limit": "%[3]d", "per": ["source"], "thresholds": ["40%%", "90%%"]},
			{"id": "importer", "meter": "api_calls", "limit": "%[3]d", "period": "anniversary", "where": {"source": "batch-importer"}},
			{"id": "imports", "meter": "imports", "limit": "%[4]d", "thresholds": ["10%%", "50%%", "100%%"]},
			{"id": "imports-today", "meter": "imports", "period": "day", "timezone": "America/St_Johns", "limit": "%[4]d", "thresholds": ["10%%", "50%%"]},
			{"id": "origins", "meter": "origins", "limit": "4", "timezone": "UTC", "thresholds": ["50%%", "100%%"]}]}`,
			id, l.Client, each, max(1, l.Events/4))})
	}
	require.Len(p.t, records, some)
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(p.kafka, ",")...))
	require.NoError(p.t, err)
	defer client.Close()
	require.NoError(p.t, client.ProduceSync(p.t.Context(), records...).FirstErr())
}

// supervise has Druid ingest the topic.
func (p *parts) supervise(topic string) {
	p.t.Helper()
	spec, err := os.ReadFile(filepath.Join(env(p.t, "METERD_TESTBED"), "spec", "usage.json"))
	require.NoError(p.t, err)
	text := strings.ReplaceAll(string(spec), `"usage"`, fmt.Sprintf("%q", topic))
	const last = `{"type": "long", "name": "k_ts"}`
	require.Contains(p.t, text, last)
	text = strings.Replace(text, last, last+`, {"type": "string", "name": "source"}, {"type": "string", "name": "is_void"}`, 1)
	p.testbed("druid.sh", "supervise", p.file("supervisor.json", text))
}

// load produces events and returns the name of their ledger. It runs beside
// the test, so it does not end it.
func (p *parts) load(config string, seed, events, rate int, more ...string) string {
	ledger := filepath.Join(p.dir, fmt.Sprintf("ledger-%d.jsonl", seed))
	args := append([]string{
		"loadgen", "--config", config, "--seed", fmt.Sprint(seed), "--events", fmt.Sprint(events), "--rate", fmt.Sprint(rate),
		"--clients", fmt.Sprint(clients), "--ledger", ledger, "--voids", "0.002", "--negative", "0.01",
	}, more...)
	if out, err := p.meterd(args...); err != nil {
		p.t.Errorf("meterd %v: %v: %s", args, err, out)
	}
	return ledger
}

// ends returns the ends of the topic's partitions.
func (p *parts) ends(topic string) kadm.Offsets {
	p.t.Helper()
	listed, err := p.admin.ListEndOffsets(p.t.Context(), topic)
	require.NoError(p.t, err)
	require.NoError(p.t, listed.Error())
	return listed.Offsets()
}

// druidHas waits until Druid has that many rows.
func (p *parts) druidHas(datasource string, rows int64) {
	p.t.Helper()
	p.eventually(fmt.Sprintf("Druid has %d rows", rows), func() error {
		answer, err := p.sql(fmt.Sprintf(`SELECT COUNT(*) FROM "%s"`, datasource))
		if err != nil {
			return err
		}
		if have := fmt.Sprint(answer[0][0]); have != fmt.Sprint(rows) {
			return fmt.Errorf("%w: it has %s", errStatus, have)
		}
		return nil
	})
}

// sql asks Druid.
func (p *parts) sql(query string) ([][]json.Number, error) {
	rows, err := p.sqlRows(query)
	if err != nil {
		return nil, err
	}
	numbers := make([][]json.Number, len(rows))
	for i, row := range rows {
		for _, cell := range row {
			n, ok := cell.(json.Number)
			if !ok {
				return nil, fmt.Errorf("%w: %v is no number", errStatus, cell)
			}
			numbers[i] = append(numbers[i], n)
		}
	}
	return numbers, nil
}

func (p *parts) sqlRows(query string) ([][]any, error) {
	body, err := json.Marshal(map[string]any{"query": query, "resultFormat": "array", "context": map[string]any{"useCache": false}})
	if err != nil {
		return nil, err
	}
	resp, err := http.Post(p.druid+"/druid/v2/sql", "application/json", bytes.NewReader(body)) //nolint:noctx // bounded by the test
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w %d: %s", errStatus, resp.StatusCode, answer)
	}
	d := json.NewDecoder(bytes.NewReader(answer))
	d.UseNumber()
	var rows [][]any
	return rows, d.Decode(&rows)
}

// druidTotals returns what Druid has of each client and meter, each event id
// once that was not taken back, a few partitions of the topic at a time.
func (p *parts) druidTotals(datasource string) map[key]total {
	p.t.Helper()
	totals := map[key]total{}
	for partition := range partitions {
		rows, err := p.sqlRows(fmt.Sprintf(`SELECT client_id, meter, COUNT(*), SUM(q) FROM (
			SELECT client_id, meter, event_id, MAX(quantity) AS q FROM "%s" WHERE k_partition = %d GROUP BY 1, 2, 3
			HAVING COUNT(*) FILTER (WHERE is_void = 'true') = 0) GROUP BY 1, 2`, datasource, partition))
		require.NoError(p.t, err)
		for _, row := range rows {
			k := key{fmt.Sprint(row[0]), fmt.Sprint(row[1])}
			totals[k] = k.counted(number(p.t, row[2]), number(p.t, row[3]))
		}
	}
	return totals
}

func number(t *testing.T, cell any) int64 {
	t.Helper()
	n, ok := cell.(json.Number)
	require.True(t, ok, "%v", cell)
	value, err := n.Int64()
	require.NoError(t, err)
	return value
}

// ledgerLine is any line of a ledger.
type ledgerLine struct {
	Client, Meter string
	Dimensions    map[string]string
	Events        int64
	Quantity      json.Number
	Undecodable   int64
	Partition     *int32
}

func ledgerLines(t *testing.T, path string) []ledgerLine {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	var lines []ledgerLine
	for line := range bytes.Lines(content) {
		var l ledgerLine
		require.NoError(t, json.Unmarshal(line, &l), "%s", line)
		lines = append(lines, l)
	}
	return lines
}

func addLedger(t *testing.T, path string, totals map[key]total) {
	t.Helper()
	for _, l := range ledgerLines(t, path) {
		if l.Client == "" || l.Dimensions != nil {
			continue
		}
		quantity, err := l.Quantity.Int64()
		require.NoError(t, err)
		k := key{l.Client, l.Meter}
		more := k.counted(l.Events, quantity)
		totals[k] = total{events: totals[k].events + more.events, quantity: totals[k].quantity + more.quantity}
	}
}

// undecodable returns how many records Druid cannot read either.
func (p *parts) undecodable(ledgers []string) int64 {
	p.t.Helper()
	var n int64
	for _, path := range ledgers {
		for _, l := range ledgerLines(p.t, path) {
			if l.Partition != nil {
				n += l.Undecodable
			}
		}
	}
	return n
}

// totals returns what the process says of every client.
func (d *process) totals(t *testing.T) map[key]total {
	t.Helper()
	totals := map[key]total{}
	for after := ""; ; {
		var page struct {
			Clients []string
			Next    string
		}
		require.NoError(t, d.get("/v1/clients?limit=1000&after="+after, &page))
		for _, client := range page.Clients {
			d.addTotals(t, client, totals)
		}
		if after = page.Next; after == "" {
			return totals
		}
	}
}

func (d *process) addTotals(t *testing.T, client string, totals map[key]total) {
	t.Helper()
	year := time.Now().UTC().Format("2006")
	var answer struct {
		Complete bool
		Counters []struct {
			Meter      string
			Dimensions map[string]string

			Usage  json.Number
			Events int64
			Period struct{ ID, Start string }
			Seed   struct{ State string }
		}
	}
	require.NoError(t, d.get("/v1/clients/"+client+"/usage", &answer))
	require.True(t, answer.Complete, "%s: %+v", client, answer)
	for _, c := range answer.Counters {
		if c.Period.ID != year || c.Period.Start != year+"-01-01T00:00:00Z" {
			continue // of a limit with a period of its own
		}
		if len(c.Dimensions) > 0 || c.Meter == "imports" || c.Meter == "origins" {
			continue // the ledgers have no such totals
		}
		require.Equal(t, "exact", c.Seed.State)
		usage, err := c.Usage.Int64()
		require.NoError(t, err)
		totals[key{client, c.Meter}] = total{events: c.Events, quantity: usage}
	}
}

// drained returns nil when everything on the topic is counted and complete.
func drained(d *process) error {
	var answer struct {
		Instances []struct {
			Partitions []struct {
				State string
				Lag   int64
			}
		}
	}
	if err := d.get("/v1/assignments", &answer); err != nil {
		return err
	}
	running := 0
	for _, instance := range answer.Instances {
		for _, p := range instance.Partitions {
			if p.State != "running" || p.Lag > 0 {
				return fmt.Errorf("%w: %+v", errStatus, p)
			}
			running++
		}
	}
	if running != partitions {
		return fmt.Errorf("%w: %d partitions run", errStatus, running)
	}
	return pendingSeeds(d)
}

func pendingSeeds(d *process) error {
	resp, err := http.Get("http://" + d.address + "/metrics") //nolint:noctx // bounded by the test
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	for _, line := range []string{`meterd_seeds{state="pending"} 0`, `meterd_seeds{state="failed"} 0`} {
		if !strings.Contains(string(body), line+"\n") {
			return fmt.Errorf("%w: seeds are pending", errStatus)
		}
	}
	return nil
}

// counts waits until the process has counted that many more events.
func (d *process) counts(events int64) {
	d.p.t.Helper()
	var begin int64
	d.p.eventually("answering", func() (err error) {
		begin, err = positions(d)
		return err
	})
	d.p.eventually("counting", func() error {
		position, err := positions(d)
		if err == nil && position < begin+events {
			err = fmt.Errorf("%w: at %d, begun at %d", errStatus, position, begin)
		}
		return err
	})
}

// positions returns how much the process has counted, of all its partitions.
func positions(d *process) (int64, error) {
	var answer struct {
		Instances []struct {
			Partitions []struct{ Position int64 }
		}
	}
	if err := d.get("/v1/assignments", &answer); err != nil {
		return 0, err
	}
	var sum int64
	for _, instance := range answer.Instances {
		for _, p := range instance.Partitions {
			sum += p.Position
		}
	}
	return sum, nil
}

// shared returns nil when both instances have partitions.
func shared(a, b *process) error {
	var answer struct {
		Instances []struct {
			Address    string
			Partitions []any
		}
	}
	if err := a.get("/v1/assignments", &answer); err != nil {
		return err
	}
	have := map[string]int{}
	for _, instance := range answer.Instances {
		have[instance.Address] = len(instance.Partitions)
	}
	if have[a.address] == 0 || have[b.address] == 0 {
		return fmt.Errorf("%w: %v", errStatus, slices.Collect(maps.Keys(have)))
	}
	return nil
}

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}
