package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/kafka"
)

// dealing is a running meterd that has counted four calls of acme, and how to
// put commands to it.
type dealing struct {
	url string
	dir string // of contracts
}

func deal(t *testing.T, f func(d *dealing)) {
	t.Helper()
	cfg, err := config.Load(jsonConfig(t, broker(t)), nil, nil)
	require.NoError(t, err)
	cluster := topicsFor(t, cfg)
	producer, err := cluster.NewProducer(t.Context())
	require.NoError(t, err)
	partitioner, err := kafka.NewPartitioner("murmur2")
	require.NoError(t, err)
	for i := range 4 {
		value := fmt.Sprintf(`{"event_id":"e%d","client_id":"acme","meter":"calls","timestamp":%d}`, i, time.Now().UnixMilli())
		_, err := producer.Append(t.Context(), []kafka.Message{{Topic: "usage", Partition: partitioner([]byte("acme"), 2), Key: []byte("acme"), Value: []byte(value)}})
		require.NoError(t, err)
	}
	counted(t, cfg, func(address string) {
		d := &dealing{url: "http://" + address, dir: t.TempDir()}
		require.Eventually(t, func() bool {
			_, stdout, _ := d.run("explain", "acme")
			return strings.Contains(stdout, ": 4 of 4 events")
		}, 30*time.Second, 20*time.Millisecond)
		f(d)
	})
}

func (d *dealing) run(args ...string) (status int, stdout, stderr string) {
	return meterd([]string{"METERD_URL=" + d.url}, args...)
}

// want runs a command and checks its exit status and what it prints.
func (d *dealing) want(t *testing.T, status int, stdout string, args ...string) {
	t.Helper()
	got, printed, stderr := d.run(args...)
	require.Equal(t, stdout, printed, stderr)
	require.Equal(t, status, got, stderr)
}

// sign writes a file with a contract of acme for so many calls a month.
func (d *dealing) sign(t *testing.T, id string, limit int) {
	t.Helper()
	content := fmt.Sprintf(`{"id":%q,"client":"acme","starts_at":"2020-01-01T00:00:00Z","limits":[{"id":"calls","meter":"calls","limit":"%d","thresholds":["50%%","100%%"]}]}`, id, limit)
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, id+".json"), []byte(content), 0o600))
}

// TestContractsOfARunningMeterd takes a contract through its life.
func TestContractsOfARunningMeterd(t *testing.T) {
	t.Parallel()
	month := time.Now().UTC().Format("2006-01")
	deal(t, func(d *dealing) {
		apply, diff := []string{"contracts", "apply", "-f", d.dir}, []string{"contracts", "diff", "-f", d.dir}
		d.sign(t, "a", 4)
		d.want(t, exitDone, "a: would be created\n  crossed 50% 100% of a/calls for acme: calls is 4 of 4 in "+month+"\n", append(apply, "--dry-run")...)
		d.want(t, exitWrong, "a: would be created\n", diff...)
		d.want(t, exitDone, "a: created, revision 0\n", apply...)
		d.want(t, exitDone, "a: unchanged\n", apply...)
		d.want(t, exitDone, "a: unchanged\n", append(apply, "--dry-run")...)
		d.want(t, exitDone, "a: unchanged\n", diff...)

		d.sign(t, "a", 8)
		d.sign(t, "b", 0)
		d.want(t, exitWrong, "a: would be changed\n  limits[calls].limit: \"4\" -> \"8\"\nb: would be created\n", diff...)
		cleared := "  cleared 100% of a/calls for acme: calls is 4 of 8 in " + month + "\n"
		bad := "b: rejected: limit: \"0\" is not greater than 0 (limits[0])\n"
		d.want(t, exitFailed, "a: would be changed\n"+cleared+bad, append(apply, "--dry-run")...)
		d.want(t, exitFailed, "a: changed, revision 1\n"+bad, apply...)
		d.want(t, exitDone, "ID  CLIENT  STATE   REVISION  LIMITS  REASON\na   acme    active  1         1       \n", "contracts", "get")
		d.want(t, exitDone, "ID  CLIENT  STATE  REVISION  LIMITS  REASON\n", "contracts", "get", "--state", "ended")
		status, stdout, _ := d.run("contracts", "get", "a", "--output", "json")
		require.Equal(t, exitDone, status)
		var e entry
		require.NoError(t, json.Unmarshal([]byte(stdout), &e))
		require.EqualValues(t, 1, e.Revision)
		status, _, stderr := d.run("contracts", "get", "b")
		require.Equal(t, exitFailed, status)
		require.Equal(t, "meterd: b: there is no contract of this id in force\n", stderr)

		d.explained(t)
		d.want(t, exitDone, "a: would be deleted\n  cleared 50% of a/calls for acme: calls is 4 of 8 in "+month+"\n", "contracts", "delete", "a", "--dry-run")
		d.want(t, exitFailed, "a: deleted\nb: failed: there is no contract of this id\n", "contracts", "delete", "a", "b")
		d.want(t, exitDone, "[]\n", "contracts", "get", "--output", "json")
	})
}

// explained waits for the limit events of a to be committed, and checks what is
// said of them.
func (d *dealing) explained(t *testing.T) {
	t.Helper()
	var stdout string
	require.Eventually(t, func() bool {
		_, stdout, _ = d.run("explain", "acme", "--meter", "calls")
		return strings.Contains(stdout, "\n  2. cleared")
	}, 30*time.Second, 20*time.Millisecond)
	require.Contains(t, stdout, "client acme: complete\n")
	require.Contains(t, stdout, "\ncontract a: active, revision 1\n")
	require.Contains(t, stdout, "up to 4: 4 of 4 events\n")
	require.Regexp(t, `(?m)^a/calls, hard of calls in \S+ \(UTC\): 4 of 8$`, stdout)
	require.Regexp(t, `(?m)^  1\. crossed 50% 100% at \S+: 4 -> 4 by contract \(meterd\.contracts, partition 0, offset 0\), contract revision 0$`, stdout)

	status, stdout, _ := d.run("explain", "acme", "--output", "json")
	require.Equal(t, exitDone, status)
	require.Contains(t, stdout, `"contract_revision": 1`)
	status, _, stderr := d.run("explain", "acme", "--meter", "none")
	require.Equal(t, exitFailed, status)
	require.Equal(t, "meterd: meter: \"none\" is not configured\n", stderr)
}

// office answers as meterd does, from a list of answers by method.
type office struct {
	mu       sync.Mutex
	answers  map[string][]string // status and body
	requests []string
}

func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	o.requests = append(o.requests, strings.TrimSpace(strings.Join([]string{
		r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("If-Match") + r.Header.Get("If-None-Match"), string(body),
	}, " ")))
	list := o.answers[r.Method]
	if len(list) == 0 {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	code, text, _ := strings.Cut(list[0], " ")
	o.answers[r.Method] = list[1:]
	status, _ := strconv.Atoi(code)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func officeOf(t *testing.T, answers map[string][]string) (*office, string) {
	t.Helper()
	o := &office{answers: answers}
	server := httptest.NewServer(o)
	t.Cleanup(server.Close)
	return o, server.URL
}

const inForceA = `200 {"id":"a","state":"active","revision":7,"reason":null,"contract":{"id":"a"}}`

func TestContractsApplyWhatIsRefused(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		put    string
		dry    bool
		status int
		stdout string
		stderr string
	}{
		"a bad one":                 {put: `422 {"title":"Bad","detail":"limit is missing"}`, status: exitFailed, stdout: "a: rejected: limit is missing\n"},
		"somebody came first":       {put: `412 {"title":"Not it","detail":"the revision in force is 8"}`, status: exitFailed, stdout: "a: failed: the revision in force is 8\n"},
		"somebody came between":     {put: `409 {"detail":"revision 8 came before it"}`, status: exitFailed, stdout: "a: failed: revision 8 came before it\n"},
		"it is not ready":           {put: `503 {"title":"Not ready"}`, status: exitFailed, stdout: "a: failed: Not ready\n"},
		"something else answers":    {put: `502 <html>`, status: exitFailed, stdout: "a: failed: Bad Gateway\n"},
		"a dry run that is refused": {put: `503 {"title":"Not ready"}`, dry: true, status: exitFailed, stdout: "a: failed: Not ready\n"},
		"no token":                  {put: `401 {"detail":"a bearer token is required"}`, status: exitFailed, stderr: "meterd: a bearer token is required\n"},
		"an answer that is none":    {put: `200 <html>`, status: exitFailed, stderr: "meterd: decode the answer of meterd: invalid character '<' looking for beginning of value\n"},
		"an owner is away":          {put: `200 {"events":[],"pending":true,"away":["zoe"]}`, dry: true, stdout: "a: would be changed\n  history is yet to be asked: more may follow\n  not known for zoe: the instance that has it does not answer\n"},
		"an event of another shape": {put: `200 {"events":[7],"pending":false}`, dry: true, stdout: "a: would be changed\n  7\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, url := officeOf(t, map[string][]string{"GET": {inForceA}, "PUT": {tt.put}})
			args := []string{"contracts", "apply", "--url", url, "-f", dirOf(t, map[string]string{"a.json": `{"id":"a","client":"acme"}`})}
			if tt.dry {
				args = append(args, "--dry-run")
			}
			status, stdout, stderr := meterd(nil, args...)
			require.Equal(t, tt.stdout, stdout)
			require.Equal(t, tt.stderr, stderr)
			require.Equal(t, tt.status, status)
		})
	}
}

// TestContractsAreChangedUnderPreconditions looks at what is put to meterd.
func TestContractsAreChangedUnderPreconditions(t *testing.T) {
	t.Parallel()

	o, url := officeOf(t, map[string][]string{
		"GET":    {inForceA, `404 {}`, `200 {"contracts":[],"next":"x&y"}`, `200 {"contracts":[{"id":"z","state":"rejected","revision":9,"reason":"bad","contract":null}],"next":""}`},
		"PUT":    {`200 {"revision":8}`, `200 {"revision":9}`},
		"DELETE": {`204 `},
	})
	dir := dirOf(t, map[string]string{"1.json": `{"id":"a", "client":"acme"}`, "2.yaml": "id: b/c\n", "3.json": `{}`, "token": "secret\n"})
	require.NoError(t, os.Rename(filepath.Join(dir, "token"), filepath.Join(dir, "token.txt")))
	token := []string{"--url", url + "/", "--token-file", filepath.Join(dir, "token.txt")}

	status, stdout, _ := meterd(nil, append([]string{"contracts", "apply", "-f", dir, "--output", "json"}, token...)...)
	require.Equal(t, exitFailed, status)
	require.JSONEq(t, `[{"id":"a","result":"changed","revision":8},{"id":"b/c","result":"created","revision":9},{"id":"","result":"rejected","reason":"id is missing"}]`, stdout)
	status, stdout, _ = meterd(nil, append([]string{"contracts", "get", "--client", "c"}, token...)...)
	require.Equal(t, exitDone, status)
	require.Equal(t, "ID  CLIENT  STATE     REVISION  LIMITS  REASON\nz           rejected  9         0       bad\n", stdout)
	status, stdout, _ = meterd(nil, append([]string{"contracts", "delete", "b/c"}, token...)...)
	require.Equal(t, exitDone, status)
	require.Equal(t, "b/c: deleted\n", stdout)
	require.Equal(t, []string{
		`GET /v1/contracts/a Bearer secret`,
		`PUT /v1/contracts/a Bearer secret "7" {"id":"a","client":"acme"}`,
		`GET /v1/contracts/b%2Fc Bearer secret`,
		`PUT /v1/contracts/b%2Fc Bearer secret * {"id":"b/c"}`,
		`GET /v1/contracts?client=c&limit=1000&state= Bearer secret`,
		`GET /v1/contracts?after=x%26y&client=c&limit=1000&state= Bearer secret`,
		`DELETE /v1/contracts/b%2Fc Bearer secret`,
	}, o.requests)
}

func TestContractsUsedWrongly(t *testing.T) {
	t.Parallel()

	file := filepath.Join(dirOf(t, map[string]string{"a.json": `{"id":"a"}`}), "a.json")
	away := "http://" + closedPort(t)
	tests := map[string]struct {
		args   []string
		status int
		says   string
	}{
		"no command":                    {[]string{"contracts"}, exitUsage, "meterd contracts --help lists them"},
		"nothing to apply":              {[]string{"contracts", "apply"}, exitUsage, `"filename" not set`},
		"nothing to delete":             {[]string{"contracts", "delete"}, exitUsage, "at least 1 arg"},
		"a file that is not there":      {[]string{"contracts", "diff", "-f", "/no/such"}, exitFailed, "no such file"},
		"a URL that is none":            {[]string{"contracts", "get", "--url", "localhost:8080"}, exitUsage, "--url localhost:8080: must be http"},
		"a token that is not there":     {[]string{"contracts", "get", "--url", away, "--token-file", "/no/such"}, exitFailed, "--token-file: read secret"},
		"roots that are not there":      {[]string{"contracts", "get", "--url", away, "--ca-file", "/no/such"}, exitFailed, "--ca-file: open"},
		"roots that are none":           {[]string{"contracts", "get", "--url", away, "--ca-file", file}, exitFailed, "has no certificate"},
		"nobody to apply to":            {[]string{"contracts", "apply", "-f", file, "--url", away}, exitFailed, "ask meterd: "},
		"nobody to get from":            {[]string{"contracts", "get", "--url", away}, exitFailed, "ask meterd: "},
		"nobody to explain":             {[]string{"explain", "acme", "--url", away}, exitFailed, "ask meterd: "},
		"no client to explain":          {[]string{"explain"}, exitUsage, "accepts 1 arg"},
		"a configuration that is wrong": {[]string{"explain", "acme", "--set", "colour=red"}, exitUsage, "unknown key colour"},
		"a configuration without port":  {[]string{"explain", "acme", "--set", "http.listen=127.0.0.1:0"}, exitUsage, "--url: is needed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			status, stdout, stderr := meterd(nil, tt.args...)
			require.Equal(t, tt.status, status, stderr)
			require.Contains(t, stderr, tt.says)
			require.Empty(t, stdout)
		})
	}
}

func TestWhereMeterdListens(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		cfg  config.HTTP
		want string
	}{
		"loopback":               {config.HTTP{Listen: "127.0.0.1:8080"}, "http://127.0.0.1:8080"},
		"everywhere":             {config.HTTP{Listen: "0.0.0.0:1"}, "http://127.0.0.1:1"},
		"everywhere, in short":   {config.HTTP{Listen: ":1"}, "http://127.0.0.1:1"},
		"everywhere, in IPv6":    {config.HTTP{Listen: "[::]:1"}, "http://127.0.0.1:1"},
		"IPv6":                   {config.HTTP{Listen: "[::1]:1"}, "http://[::1]:1"},
		"what others are told":   {config.HTTP{Listen: ":0", Advertise: "meterd-0.meterd:8080"}, "http://meterd-0.meterd:8080"},
		"encrypted":              {config.HTTP{Listen: "127.0.0.1:1", TLS: &config.ServerTLS{}}, "https://127.0.0.1:1"},
		"a port that is not one": {config.HTTP{Listen: "127.0.0.1:0"}, ""},
		"no port":                {config.HTTP{Listen: "127.0.0.1"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			got, err := listening(&tt.cfg)
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.want == "", err != nil)
		})
	}
}

// The variable of --url is none of the configuration's keys.
func TestURLVariable(t *testing.T) {
	t.Parallel()

	status, _, stderr := meterd([]string{"METERD_URL=http://x:1"}, "config", "show")
	require.Equal(t, exitDone, status, stderr)
}
