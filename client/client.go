// Package client asks a running meterd over HTTP.
//
// A Client may be used by any number of goroutines. What meterd refuses is a
// *Refused, with the type of RFC 9457 and, where it makes sense to come again,
// how long to wait. Quantities are decimal strings, as meterd has them: no
// float can hold them all.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxAnswerBytes bounds what is read of an answer.
const maxAnswerBytes = 64 << 20

// Client is a meterd, or several behind one address: any instance answers for
// all clients.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// New returns a client of the meterd at base, such as http://127.0.0.1:8080,
// which asks with token, if that is not empty, by way of h, of which nil is
// http.DefaultClient.
func New(base, token string, h *http.Client) (*Client, error) {
	parsed, err := url.Parse(base)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return nil, fmt.Errorf("%s: must be http://HOST:PORT or https://HOST:PORT", base)
	}
	return &Client{base: strings.TrimSuffix(base, "/"), token: token, http: cmp.Or(h, http.DefaultClient)}, nil
}

// Refused is an answer of meterd that is none.
type Refused struct {
	Status     int           `json:"-"`
	RetryAfter time.Duration `json:"-"` // zero where meterd does not say
	Type       string        `json:"type"`
	Title      string        `json:"title"`
	Detail     string        `json:"detail"`
}

// Error returns what meterd says of it.
func (e *Refused) Error() string {
	return cmp.Or(e.Detail, e.Title, http.StatusText(e.Status), fmt.Sprintf("status %d", e.Status))
}

// Request is what is put to a meterd. Path is percent-encoded.
type Request struct {
	Method string
	Path   string
	Query  url.Values
	Header http.Header
	Body   []byte // JSON; nil: none
}

// Do puts r and decodes the answer into v, unless it is nil or there is none. A
// status of 300 or more is a *Refused.
func (c *Client) Do(ctx context.Context, r Request, v any) error {
	answer, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer of meterd: %w", err)
	case len(body) > maxAnswerBytes:
		return fmt.Errorf("the answer of meterd has more than %d bytes", maxAnswerBytes)
	case answer.StatusCode >= http.StatusMultipleChoices:
		return refused(answer, body)
	case v == nil || len(body) == 0:
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode the answer of meterd: %w", err)
	}
	return nil
}

// send puts r. The answer's body is to be closed.
func (c *Client) send(ctx context.Context, r Request) (*http.Response, error) {
	target := c.base + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, cmp.Or(r.Method, http.MethodGet), target, bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("ask meterd: %w", err)
	}
	maps.Copy(request.Header, r.Header)
	if r.Body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask meterd: %w", err)
	}
	return answer, nil
}

func refused(answer *http.Response, body []byte) error {
	e := &Refused{}
	_ = json.Unmarshal(body, e) // else the status has to do
	e.Status = answer.StatusCode
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}
