package client_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/client"
)

// meterd answers with a body, and keeps what it was asked.
type meterd struct {
	status  int
	headers map[string]string
	body    string

	asked http.Request
	sent  string
}

func (m *meterd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	m.asked, m.sent = *r, string(body)
	for name, value := range m.headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(m.status)
	_, _ = io.WriteString(w, m.body)
}

func ask(t *testing.T, m *meterd) *client.Client {
	t.Helper()
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL+"/", "secret", server.Client())
	require.NoError(t, err)
	return c
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	m := &meterd{status: http.StatusOK, body: `{"client":"a/b","as_of":{"topic":"usage","partition":3,"offset":7},"complete":true,
		"counters":[{"meter":"bytes_out","usage":"0.5","period":{"id":"lifetime","start":null,"end":null}}]}`}
	c := ask(t, m)
	u, err := c.Usage(t.Context(), "a/b", url.Values{"meter": {"bytes out"}})
	require.NoError(t, err)
	require.Equal(t, "/v1/clients/a%2Fb/usage", m.asked.URL.EscapedPath())
	require.Equal(t, "meter=bytes+out", m.asked.URL.RawQuery)
	require.Equal(t, "Bearer secret", m.asked.Header.Get("Authorization"))
	require.True(t, u.Complete)
	require.Equal(t, int64(7), u.AsOf.Offset)
	require.Equal(t, "0.5", u.Counters[0].Usage)
	require.Nil(t, u.Counters[0].Period.End)

	m.body = `{"client":"a","limits":[{"limit_id":"traffic","blocked":true,"next_reset":"2026-11-30T23:00:00Z"}]}`
	l, err := c.Limits(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC), *l.Limits[0].NextReset)

	m.body = `{"clients":["b","c"],"next":"c"}`
	names, next, err := c.Clients(t.Context(), "a&b")
	require.NoError(t, err)
	require.Equal(t, []string{"b", "c"}, names)
	require.Equal(t, "c", next)
	require.Equal(t, "a&b", m.asked.URL.Query().Get("after"))
}

func TestCheck(t *testing.T) {
	t.Parallel()
	m := &meterd{status: http.StatusOK, body: `{"allowed":false,"limits":[{"limit_id":"traffic","remaining":"3"}]}`}
	c := ask(t, m)
	d, err := c.Check(t.Context(), client.Use{Client: "acme", Meter: "bytes_out", Quantity: "5"})
	require.NoError(t, err)
	require.False(t, d.Allowed)
	require.Equal(t, "3", d.Limits[0].Remaining)
	require.JSONEq(t, `{"client":"acme","meter":"bytes_out","quantity":"5"}`, m.sent)
	require.Equal(t, "application/json", m.asked.Header.Get("Content-Type"))

	m.body = `{"allowed":false,"results":[{"allowed":true},{"allowed":false}]}`
	list, err := c.CheckAll(t.Context(), client.Use{Client: "a", Meter: "m"}, client.Use{Client: "b", Meter: "m"})
	require.NoError(t, err)
	require.JSONEq(t, `{"checks":[{"client":"a","meter":"m"},{"client":"b","meter":"m"}]}`, m.sent)
	require.True(t, list[0].Allowed)
	require.False(t, list[1].Allowed)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	m := &meterd{
		status: http.StatusServiceUnavailable, headers: map[string]string{"Retry-After": "2"},
		body: `{"type":"/problems/not-ready","title":"Not ready","detail":"partition 3 is not running yet"}`,
	}
	c := ask(t, m)
	_, err := c.Limits(t.Context(), "a")
	var refused *client.Refused
	require.ErrorAs(t, err, &refused)
	require.Equal(t, &client.Refused{
		Status: 503, RetryAfter: 2 * time.Second, Type: "/problems/not-ready", Title: "Not ready", Detail: "partition 3 is not running yet",
	}, refused)
	require.EqualError(t, err, "partition 3 is not running yet")
	_, err = c.LimitEvents(t.Context(), "0-1", nil, nil)
	require.ErrorAs(t, err, &refused)

	m.body, m.status = "<html>", http.StatusBadGateway
	_, err = c.Limits(t.Context(), "a")
	require.EqualError(t, err, "Bad Gateway")
	m.status = http.StatusOK
	_, err = c.Limits(t.Context(), "a")
	require.ErrorContains(t, err, "decode")
	for _, base := range []string{"", "localhost:8080", "ftp://a", "http://", "http://a b"} {
		_, err := client.New(base, "", nil)
		require.Error(t, err, base)
	}
}

func TestLimitEvents(t *testing.T) {
	t.Parallel()
	m := &meterd{status: http.StatusOK, body: "retry: 2000\n\n: \nid: 0-5\n\nid: 0-6\nevent: crossed\ndata: {\"client\":\"a\"}\n\n: \nid: 0-8\n\n"}
	c := ask(t, m)
	var got []client.LimitEvent
	take := func(e client.LimitEvent) error {
		got = append(got, e)
		return nil
	}
	last, err := c.LimitEvents(t.Context(), "0-5", url.Values{"client": {"a"}}, take)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "0-8", last, "it moves on without events, too")
	require.Equal(t, "0-5", m.asked.Header.Get("Last-Event-ID"))
	require.Equal(t, "client=a", m.asked.URL.RawQuery)
	require.Len(t, got, 1)
	require.Equal(t, "0-6", got[0].Cursor)
	require.Equal(t, "crossed", got[0].Kind)
	require.JSONEq(t, `{"client":"a"}`, string(got[0].Data))

	// What is half there did not come, and what was not taken comes again.
	m.body = "id: 0-6\nevent: crossed\ndata: {}\n\nid: 0-7\nevent: crossed\ndata: {"
	last, err = c.LimitEvents(t.Context(), "", nil, take)
	require.Error(t, err)
	require.Equal(t, "0-6", last)
	full := errors.New("full")
	last, err = c.LimitEvents(t.Context(), "0-5", nil, func(client.LimitEvent) error { return full })
	require.ErrorIs(t, err, full)
	require.Equal(t, "0-5", last)

	m.body = "id: 0-6\nevent: crossed\ndata: {}\n\nevent: dropped\ndata: {\"detail\":\"too slow\"}\n\n"
	last, err = c.LimitEvents(t.Context(), "0-5", nil, take)
	require.ErrorIs(t, err, client.ErrDropped)
	require.ErrorContains(t, err, "too slow")
	require.Equal(t, "0-6", last)
}
