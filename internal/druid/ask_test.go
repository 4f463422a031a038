package druid_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

func TestAskReadsARecordedAnswer(t *testing.T) {
	t.Parallel()

	s := serve(t, &fake{groupBy: says(200, recorded(t, "complete.json"), "true")}, nil)
	totals, err := s.Ask(t.Context(), small())
	require.NoError(t, err)
	total := func(client, meter string, quantity int64, at usage.Time) druid.Total {
		q := usage.DecimalOf(quantity)
		return druid.Total{Client: client, Meter: meter, Events: 1, Quantity: q, Min: q, Max: q, First: at, Last: at}
	}
	require.Equal(t, []druid.Total{
		total("client-00001", "meter_2", 774, 1795332076160),
		total("client-00627", "meter_1", 25, 1795323665839),
		total("client-00973", "meter_3", 207, 1795333949628),
	}, totals)
}

func TestAskCountsOnlyWithinTheBounds(t *testing.T) {
	t.Parallel()

	s := serve(t, &fake{groupBy: says(200, recorded(t, "bounded.json"), "true")}, nil)
	q := small()
	q.Start = 1795328000000
	totals, err := s.Ask(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, totals, 2, "client-00627 has a row below the boundary, but before the start")
	require.Equal(t, "client-00001", totals[0].Client)
	require.Equal(t, "client-00973", totals[1].Client)
}

func TestAskSumsManyRows(t *testing.T) {
	t.Parallel()

	s := serve(t, &fake{groupBy: says(200, recorded(t, "whole.json"), "true")}, nil)
	q := small()
	q.Boundary = largeBoundary
	totals, err := s.Ask(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, totals, 12)
	require.Equal(t, druid.Total{
		Client: "client-00001", Meter: "meter_0", Events: 18, Quantity: usage.DecimalOf(10819),
		Min: usage.DecimalOf(169), Max: usage.DecimalOf(914), First: 1795323417268, Last: 1795333408868,
	}, totals[0])
}

func TestAskWithoutAQuestionAsksNothing(t *testing.T) {
	t.Parallel()

	tests := map[string]func(*druid.Question){
		"nothing is below boundary 0":   func(q *druid.Question) { q.Boundary = 0 },
		"nothing is in an empty period": func(q *druid.Question) { q.Start, q.End = 5, 5 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			f := &fake{}
			s := serve(t, f, nil)
			q := small()
			change(&q)
			totals, err := s.Ask(t.Context(), q)
			require.NoError(t, err)
			require.Empty(t, totals)
			require.Empty(t, f.paths)
		})
	}
}

func TestAskRefusesAQuestionWithoutSense(t *testing.T) {
	t.Parallel()

	tests := map[string]func(*druid.Question){
		"negative partition":    func(q *druid.Question) { q.Partition = -1 },
		"negative boundary":     func(q *druid.Question) { q.Boundary = -1 },
		"no clients":            func(q *druid.Question) { q.Clients = nil },
		"too many clients":      func(q *druid.Question) { q.Clients = make([]string, 1001) },
		"client without a name": func(q *druid.Question) { q.Clients = []string{""} },
		"client not in UTF-8":   func(q *druid.Question) { q.Clients = []string{"\xff"} },
		"client id too long":    func(q *druid.Question) { q.Clients = []string{strings.Repeat("x", 257)} },
		"start after end":       func(q *druid.Question) { q.Start, q.End = 2, 1 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			f := &fake{}
			s := serve(t, f, nil)
			q := small()
			change(&q)
			_, err := s.Ask(t.Context(), q)
			require.ErrorContains(t, err, "question: ")
			require.Empty(t, f.paths)
		})
	}
}

// Every fault that Druid was seen to have, and some more: none of them yields
// totals.
func TestAskSurvivesFaults(t *testing.T) {
	t.Parallel()

	whole := recorded(t, "complete.json")
	tests := map[string]struct {
		groupBy http.HandlerFunc
		is      error
		says    string
	}{
		"lane is full":                   {says(429, recorded(t, "lane-full.json"), "true"), nil, "status 429 CAPACITY_EXCEEDED: Query capacity exceeded"},
		"query timed out":                {says(504, recorded(t, "timeout.json"), "true"), nil, "status 504 TIMEOUT"},
		"not enough memory":              {says(400, recorded(t, "resource-limit.json"), "true"), nil, "Resource limit exceeded"},
		"query is not understood":        {says(500, recorded(t, "bad-query.json"), "true"), nil, "status 500: Unknown exception"},
		"historical was killed just now": {says(500, recorded(t, "historical-just-lost.json"), "true"), nil, "status 500 RUNTIME_FAILURE"},
		"historical was killed":          {says(200, recorded(t, "historical-lost.json"), "true"), druid.ErrIncomplete, "rows of offsets 427016 to 428053"},
		"datasource is unknown":          {says(200, "[]", "true"), druid.ErrIncomplete, "0 rows"},
		"an HTML page":                   {says(503, "<html>busy</html>", "true"), nil, "status 503"},
		"an HTML page with 200":          {says(200, "<html>hello</html>", "true"), nil, "does not begin with an array"},
		"no body":                        {says(200, "", "true"), nil, "does not begin with an array"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, nil, "status 307"},
		"moved, and followed would be":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/druid/v2/", http.StatusSeeOther) }, nil, "status 303"},
		"trailer says incomplete":       {says(200, whole, "false"), nil, `complete="false"`},
		"trailer announced, not sent":   {says(200, whole, ""), nil, `complete=""`},
		"half a body":                   {says(200, whole[:len(whole)/2], "true"), nil, "unusable answer"},
		"stops after a whole row":       {says(200, whole[:strings.LastIndex(whole, ",[")], "true"), nil, "unusable answer"},
		"stops before the last bracket": {says(200, whole[:len(whole)-1], "true"), nil, "does not end"},
		"goes on after its end":         {says(200, whole+"[]", "true"), nil, "goes on after its end"},
		"an error object":               {says(200, `{"error":"x"}`, "true"), nil, "does not begin with an array"},
		"an error in mid-answer":        {says(200, whole[:len(whole)-1]+`,{"error":"x"}]`, "true"), nil, "unusable answer"},
		"rows of another shape":         {says(200, `[["x",1]]`, "true"), nil, "2 cells instead of 14"},
		"a client nobody asked for":     {says(200, strings.Replace(whole, "client-00001", "client-7", 1), "true"), nil, `"client-7" was not asked for`},
		"the same group twice":          {says(200, strings.Replace(whole, `"client-00973","meter_3"`, `"client-00627","meter_1"`, 1), "true"), nil, "the same group twice"},
		"a count that is a float":       {says(200, strings.Replace(whole, `"meter_0",13`, `"meter_0",13.0`, 1), "true"), nil, "invalid syntax"},
		"a count beyond int64":          {says(200, strings.Replace(whole, `"meter_0",13`, `"meter_0",9223372036854775808`, 1), "true"), nil, "out of range"},
		"a row missing":                 {says(200, strings.Replace(whole, `"meter_0",13`, `"meter_0",12`, 1), "true"), nil, "contradict"},
		"a client's row missing":        {says(200, whole[:strings.LastIndex(whole, ",[")]+"]", "true"), druid.ErrIncomplete, "39 rows"},
		"a row too many":                {says(200, strings.Replace(whole, `"meter_0",13`, `"meter_0",14`, 1), "true"), druid.ErrIncomplete, "in history twice"},
		"one lost, one twice":           {says(200, strings.Replace(whole, `0,37,213`, `0,37,212`, 1), "true"), druid.ErrIncomplete, "40 rows"},
		"connection cut":                {cut(200, whole[:len(whole)/2]), nil, "unusable answer"},
		"connection cut behind the end": {cut(200, whole), nil, "unexpected EOF"},
		"content shorter than declared": {short(whole), nil, "unusable answer"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			s := serve(t, &fake{groupBy: tt.groupBy}, nil)
			q := small()
			if strings.Contains(name, "historical") {
				q.Boundary = largeBoundary
			}
			totals, err := s.Ask(t.Context(), q)
			require.ErrorContains(t, err, tt.says)
			require.Equal(t, tt.is != nil, errors.Is(err, druid.ErrIncomplete))
			require.Empty(t, totals)
		})
	}
}

// cut ends the connection after body, in the middle of a chunked answer.
func cut(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		_ = http.NewResponseController(w).Flush()
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
	}
}

// short declares all of body and sends half.
func short(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = buf.WriteString("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n" + body[:len(body)/2])
		_ = buf.Flush()
		_ = conn.Close()
	}
}

func TestAskWithDruidDown(t *testing.T) {
	t.Parallel()

	server := httptest.NewServer(http.NotFoundHandler())
	address := server.URL
	server.Close()
	transport := &http.Transport{}
	s := newSeeder(t, address, transport, time.Now, nil)
	_, err := s.Ask(t.Context(), small())
	require.ErrorContains(t, err, "connection refused")
	require.NotErrorIs(t, err, druid.ErrIncomplete)
}

func TestAskRefusesAnAnswerThatIsTooLong(t *testing.T) {
	t.Parallel()

	f := &fake{groupBy: says(200, recorded(t, "whole.json"), "true")}
	s := serve(t, f, func(c *druid.Config) { c.MaxResponseBytes = 1500 })
	q := small()
	q.Boundary = largeBoundary
	_, err := s.Ask(t.Context(), q)
	require.ErrorContains(t, err, "answer is too long: over 1500 bytes")
}

func TestAskEndsTheQueryNobodyWaitsFor(t *testing.T) {
	t.Parallel()

	asked := make(chan struct{})
	f := &fake{groupBy: func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}}
	s := serve(t, f, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := s.Ask(ctx, small())
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []string{queryID(t, f.asked()[0])}, f.ended())
}

func TestAskEndsTheQueryThatIsTooSlow(t *testing.T) {
	t.Parallel()

	f := &fake{groupBy: func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "[")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}}
	s := serve(t, f, func(c *druid.Config) { c.Timeout = time.Second })
	_, err := s.Ask(t.Context(), small())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, []string{queryID(t, f.asked()[0])}, f.ended())
}

func queryID(t *testing.T, q map[string]any) string {
	t.Helper()
	ctx, ok := q["context"].(map[string]any)
	require.True(t, ok)
	id, ok := ctx["queryId"].(string)
	require.True(t, ok)
	return id
}

func TestQueryIsOneGroupByOverAllRowsBelowTheBoundary(t *testing.T) {
	t.Parallel()

	f := &fake{groupBy: says(200, recorded(t, "bounded.json"), "true")}
	s := serve(t, f, func(c *druid.Config) { c.Lane = "seed" })
	q := small()
	q.Start, q.End = 1795328000000, 1795400000000
	_, err := s.Ask(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, f.asked(), 1)
	got := f.asked()[0]
	queryContext, ok := got["context"].(map[string]any)
	require.True(t, ok)
	delete(queryContext, "queryId")
	text, err := json.MarshalIndent(got, "", "  ")
	require.NoError(t, err)
	require.JSONEq(t, recorded(t, "query.json"), string(text))
}

func TestAskSendsCredentials(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change func(*druid.Config)
		want   string
	}{
		"none":     {func(*druid.Config) {}, ""},
		"token":    {func(c *druid.Config) { c.Token = "t" }, "Bearer t"},
		"password": {func(c *druid.Config) { c.Username, c.Password = "u", "p" }, "Basic dTpw"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			got := make(chan string, 1)
			s := serve(t, &fake{groupBy: func(w http.ResponseWriter, r *http.Request) {
				got <- r.Header.Get("Authorization")
				says(200, recorded(t, "complete.json"), "true")(w, r)
			}}, tt.change)
			_, err := s.Ask(t.Context(), small())
			require.NoError(t, err)
			require.Equal(t, tt.want, <-got)
		})
	}
}

func TestAskRefusesADatasourceThatCannotBeExact(t *testing.T) {
	t.Parallel()

	columns := recorded(t, "columns.json")
	column := func(name, old, now string) string {
		at := strings.Index(columns, `"`+name+`":{`)
		return columns[:at] + strings.Replace(columns[at:], old, now, 1)
	}
	tests := map[string]struct {
		columns string
		is      error
		says    string
	}{
		"rolled up":            {strings.Replace(columns, `"rollup":false`, `"rollup":true`, 1), druid.ErrColumns, "rolled up"},
		"quantity is a double": {column("quantity", `"type":"LONG"`, `"type":"DOUBLE"`), druid.ErrColumns, `column "quantity" is DOUBLE, not LONG`},
		"offset is a string":   {column("k_offset", `"type":"LONG"`, `"type":"STRING"`), druid.ErrColumns, `column "k_offset" is STRING`},
		"several clients":      {column("client_id", `"hasMultipleValues":false`, `"hasMultipleValues":true`), druid.ErrColumns, "several values"},
		"types differ":         {column("quantity", `"errorMessage":null`, `"errorMessage":"cannot_merge_diff_types"`), druid.ErrColumns, "differs between segments"},
		"no partition column":  {strings.Replace(columns, `"k_partition"`, `"other"`, 1), druid.ErrColumns, `no column "k_partition"`},
		"no segments":          {"[]", druid.ErrIncomplete, "no segments"},
		"no JSON":              {"<html>", nil, "unusable answer"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			f := &fake{columns: tt.columns, groupBy: says(200, recorded(t, "complete.json"), "true")}
			s := serve(t, f, nil)
			_, err := s.Ask(t.Context(), small())
			require.ErrorContains(t, err, tt.says)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			require.Empty(t, f.asked())
		})
	}
}

func TestAskTakesAPartitionColumnOfStrings(t *testing.T) {
	t.Parallel()

	columns := recorded(t, "columns.json")
	at := strings.Index(columns, `"k_partition":{`)
	columns = columns[:at] + strings.Replace(columns[at:], `"type":"LONG"`, `"type":"STRING"`, 1)
	s := serve(t, &fake{columns: columns, groupBy: says(200, recorded(t, "complete.json"), "true")}, nil)
	totals, err := s.Ask(t.Context(), small())
	require.NoError(t, err)
	require.Len(t, totals, 3)
}

func TestAskWithoutMeterAndQuantityColumns(t *testing.T) {
	t.Parallel()

	s := serve(t, &fake{groupBy: says(200, `[[null,2,1,2,3,2,10,20],["a",1,0,0,0,1,5,5]]`, "true")}, func(c *druid.Config) {
		c.Columns.Meter, c.Columns.Quantity = "", ""
	})
	q := small()
	q.Boundary, q.Clients = 3, []string{"a", "b"}
	totals, err := s.Ask(t.Context(), q)
	require.NoError(t, err)
	one := usage.DecimalOf(1)
	require.Equal(t, []druid.Total{{Client: "a", Events: 1, Quantity: one, Min: one, Max: one, First: 5, Last: 5}}, totals)
}
