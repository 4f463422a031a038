package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// LimitEvent is a limit event as it came. Cursor is where to go on behind it.
type LimitEvent struct {
	Cursor string
	Kind   string
	Data   json.RawMessage // the limit event, as in the topic's JSON
}

// ErrDropped is returned when meterd ended a stream; the text says why. Go on
// from the last cursor.
var ErrDropped = errors.New("meterd ended the stream")

// maxEventBytes bounds a line of a stream.
const maxEventBytes = 4 << 20

// LimitEvents calls fn with limit events as they are committed, from behind
// cursor on, or from now on where that is empty, narrowed by query: client,
// meter, kind. It goes on until fn fails, ctx ends or the stream does, and
// returns how far it came: with that cursor, nothing is lost and nothing comes
// twice. An http.Client with a Timeout would cut the stream off.
func (c *Client) LimitEvents(ctx context.Context, cursor string, query url.Values, fn func(LimitEvent) error) (last string, err error) {
	r := Request{Path: "/v1/limit-events", Query: query, Header: http.Header{}}
	if cursor != "" {
		r.Header.Set("Last-Event-Id", cursor)
	}
	answer, err := c.send(ctx, r)
	if err != nil {
		return cursor, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes))
		if err != nil {
			return cursor, fmt.Errorf("read the answer of meterd: %w", err)
		}
		return cursor, refused(answer, body)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, maxEventBytes)
	return follow(lines, cursor, fn)
}

func follow(lines *bufio.Scanner, cursor string, fn func(LimitEvent) error) (last string, err error) {
	var e LimitEvent
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "": // the end of an event, or of what only moves the cursor
			if len(e.Data) > 0 {
				if e.Kind == "dropped" {
					var why Refused
					_ = json.Unmarshal(e.Data, &why) // else there is no more to say
					return cursor, fmt.Errorf("%w: %s", ErrDropped, why.Detail)
				}
				if err := fn(e); err != nil {
					return cursor, err
				}
			}
			if e.Cursor != "" {
				cursor = e.Cursor
			}
			e = LimitEvent{}
		case name == "id":
			e.Cursor = value
		case name == "event":
			e.Kind = value
		case name == "data":
			e.Data = json.RawMessage(value)
		}
	}
	if err := lines.Err(); err != nil {
		return cursor, fmt.Errorf("read limit events: %w", err)
	}
	return cursor, fmt.Errorf("read limit events: %w", io.ErrUnexpectedEOF)
}
