package druid

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	// errorBytes bounds how much of an error's body is read.
	errorBytes = 64 << 10
	// cancelTimeout bounds the call that ends a query nobody waits for.
	cancelTimeout = 2 * time.Second
	// completeTrailer is "true" after an answer that Druid wrote to its end.
	completeTrailer = "X-Druid-Response-Complete"
)

// StatusError is returned when Druid, or something before it, answers with
// another status than 200.
type StatusError struct {
	Status   int
	Category string // Druid's, such as CAPACITY_EXCEEDED; may be empty
	Message  string
	// RetryAfter is how long to wait at least; 0 where nothing is said.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	text := "druid: status " + strconv.Itoa(e.Status)
	if e.Category != "" {
		text += " " + e.Category
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Denied tells whether the credentials were refused: someone must act.
func (e *StatusError) Denied() bool {
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
}

// tooMuch tells whether half the clients may be answered where all were not.
func tooMuch(err error) bool {
	if status, ok := errors.AsType[*StatusError](err); ok {
		return strings.Contains(status.Message, resourceLimit)
	}
	return errors.Is(err, errTooLong)
}

// resourceLimit is Druid's name for a query that needs more memory than it may
// have.
const resourceLimit = "Resource limit exceeded"

// errTooLong is returned when an answer is longer than MaxResponseBytes.
var errTooLong = errors.New("answer is too long")

// client speaks HTTP with one Druid.
type client struct {
	http *http.Client
	cfg  Config
}

// query runs a native query and hands its whole answer to read. Should ctx or
// the time-out end first, Druid is told to end the query too: it would notice
// a closed connection only when it next writes.
func (c *client) query(ctx context.Context, q object, read func(io.Reader) error) error {
	id := "meterd-" + uuid.NewString()
	q["context"] = c.cfg.context(id)
	body, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("write query: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	err = c.do(limited, http.MethodPost, c.cfg.URL+"/druid/v2/", body, read)
	if ended := limited.Err(); err != nil && ended != nil {
		c.cancel(ctx, id)
		return fmt.Errorf("%w: %v", ended, err) //nolint:errorlint // whatever the end of the context broke is no flaw of the answer
	}
	return err
}

// cancel asks Druid to end a query. It is a courtesy: whether it succeeds
// changes nothing here.
func (c *client) cancel(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(cancelTimeout, c.cfg.Timeout))
	defer cancel()
	_ = c.do(ctx, http.MethodDelete, c.cfg.URL+"/druid/v2/"+url.PathEscape(id), nil, func(io.Reader) error { return nil })
}

// get reads a small JSON document of the coordinator into v.
func (c *client) get(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	return c.do(ctx, http.MethodGet, c.cfg.CoordinatorURL+path, nil, func(r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return json.Unmarshal(data, v)
	})
}

func (c *client) do(ctx context.Context, method, address string, body []byte, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch {
	case c.cfg.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	case c.cfg.Username != "":
		req.SetBasicAuth(c.cfg.Username, c.cfg.Password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask druid: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return statusError(resp)
	}
	return readWhole(resp, c.cfg.MaxResponseBytes, read)
}

// readWhole hands the body to read and makes sure that it was all of it: not
// longer than limit, ended as HTTP says, and declared complete where that is
// announced.
func readWhole(resp *http.Response, limit int64, read func(io.Reader) error) error {
	_, announced := resp.Trailer[completeTrailer]
	body := &io.LimitedReader{R: resp.Body, N: limit + 1}
	err := read(body)
	if err == nil {
		_, err = io.Copy(io.Discard, body) // trailers come after the last byte
	}
	if body.N <= 0 {
		return fmt.Errorf("%w: over %d bytes", errTooLong, limit)
	}
	if complete := resp.Trailer.Get(completeTrailer); announced && complete != "true" {
		err = errors.Join(fmt.Errorf("%w: ended as complete=%q: %s", errAnswer, complete, resp.Trailer.Get("X-Error-Message")), err)
	}
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// statusError reads what an answer with another status than 200 says of its
// reason. The body may be Druid's JSON or anything else.
func statusError(resp *http.Response) error {
	e := &StatusError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header)}
	data, err := io.ReadAll(io.LimitReader(resp.Body, errorBytes))
	if err != nil {
		return e
	}
	var body struct{ Error, Category, ErrorMessage string }
	if json.Unmarshal(data, &body) == nil {
		e.Category = body.Category
		e.Message = strings.Trim(body.Error+": "+body.ErrorMessage, ": ")
	}
	return e
}

// maxRetryAfter bounds how long a server may keep us waiting.
const maxRetryAfter = 5 * time.Minute

func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	var d time.Duration
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		if sent, err := http.ParseTime(h.Get("Date")); err == nil {
			d = at.Sub(sent) // by the server's clock alone
		}
	}
	return max(0, min(d, maxRetryAfter))
}
