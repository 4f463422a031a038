package httpapi

import (
	"bytes"
	"net/http"
	"strings"
	"time"
)

const (
	// streamWriteTimeout is how long a client may take to receive what it is sent
	// of a stream at once.
	streamWriteTimeout = 10 * time.Second
	// retryAfterDrop is when browsers come again by themselves, in milliseconds.
	retryAfterDrop = "2000"
	eventStream    = "text/event-stream"
	// eventDropped is the last event of a stream that ends for another reason
	// than that the client went away.
	eventDropped = "dropped"
)

// stream is an answer of server-sent events.
type stream struct {
	w   http.ResponseWriter
	c   *http.ResponseController
	buf bytes.Buffer
}

// newStream begins the answer. What is sent next tells the client that it has.
func newStream(w http.ResponseWriter) (*stream, error) {
	s := &stream{w: w, c: http.NewResponseController(w)}
	// The server's own timeouts are for answers that end.
	if err := s.c.SetReadDeadline(time.Time{}); err != nil {
		return nil, refuse(errInternal, "stream").because(err)
	}
	w.Header().Set("Content-Type", eventStream)
	w.Header().Set("X-Accel-Buffering", "no") // proxies of that kind would hold events back
	s.buf.WriteString("retry: " + retryAfterDrop + "\n\n")
	return s, nil
}

// event adds an event, of which no text but data may have several lines. An
// empty id or name is left out.
func (s *stream) event(id, name string, data []byte) {
	if id != "" {
		s.buf.WriteString("id: " + id + "\n")
	}
	if name != "" {
		s.buf.WriteString("event: " + name + "\n")
	}
	s.buf.WriteString("data: ")
	s.buf.Write(data)
	s.buf.WriteString("\n\n")
}

// heartbeat adds what no client takes for an event. With an id it moves to
// where the client goes on after the stream.
func (s *stream) heartbeat(id string) {
	s.buf.WriteString(": \n")
	if id != "" {
		s.buf.WriteString("id: " + id + "\n")
	}
	s.buf.WriteByte('\n')
}

// flush sends what was added. An error says that the client is gone, or did
// not take it in time.
func (s *stream) flush() error {
	if err := s.c.SetWriteDeadline(time.Now().Add(streamWriteTimeout)); err != nil {
		return err
	}
	_, err := s.w.Write(s.buf.Bytes())
	s.buf.Reset()
	if err != nil {
		return err
	}
	return s.c.Flush()
}

// drop tells the client why the stream ends, as an event that is a problem.
func (s *stream) drop(err *refusal) {
	body, failed := encode(problemOf(err))
	if failed != nil {
		return
	}
	s.event("", eventDropped, []byte(strings.TrimSuffix(string(body), "\n")))
	_ = s.flush() // a client that is gone has no use for it
}
