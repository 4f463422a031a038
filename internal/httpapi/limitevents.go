package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/feed"
)

const headerLastEventID = "Last-Event-ID"

// LimitEvents are those that are committed. Open is that of feed.Feed.
type LimitEvents interface {
	Open(ctx context.Context, cursor string, want func(*alerts.Event) bool) (*feed.Reader, error)
}

// limitEvents answers with committed limit events as they come, or from where
// the client left a stream before.
func (s *Server) limitEvents(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "client", "meter", "kind", "last_event_id")
	if err != nil {
		return err
	}
	client, meter, kind := values.Get("client"), values.Get("meter"), alerts.EventKind(values.Get("kind"))
	if err := checkID("client", client); err != nil {
		return err
	}
	if client, err = s.ownClient(r, client); err != nil {
		return err
	}
	if meter != "" {
		if _, err := s.meter(meter); err != nil {
			return err
		}
	}
	if kinds := []alerts.EventKind{"", alerts.Crossed, alerts.Cleared, alerts.Reset}; !slices.Contains(kinds, kind) {
		return refuse(errBadRequest, "kind: not one of crossed, cleared, reset")
	}
	cursor := values.Get("last_event_id")
	if again := r.Header.Get(headerLastEventID); again != "" { // a browser that comes again repeats the address as well
		cursor = again
	}
	ctx, end, err := s.streams.begin(r.Context())
	if err != nil {
		return err
	}
	defer end()
	reader, err := s.parts.LimitEvents.Open(r.Context(), cursor, func(e *alerts.Event) bool {
		return (client == "" || client == e.Client) && (meter == "" || meter == e.Meter) && (kind == "" || kind == e.Kind)
	})
	if err != nil {
		return readingEnded(err)
	}
	defer reader.Close()
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", eventStream)
		return nil
	}
	return tell(ctx, w, r, reader)
}

// tell streams what reader brings until the client is gone, or ctx ends.
func tell(ctx context.Context, w http.ResponseWriter, r *http.Request, reader *feed.Reader) error {
	out, err := newStream(w)
	if err != nil {
		return err
	}
	gone := false
	err = reader.Run(ctx, func(p feed.Portion) error {
		for i := range p.Items {
			it := &p.Items[i]
			out.event(it.Cursor, string(it.Event.Event.Kind), it.Data)
		}
		if len(p.Items) == 0 {
			out.heartbeat(p.Cursor)
		}
		err := out.flush()
		gone = gone || err != nil
		return err
	})
	switch {
	case gone || r.Context().Err() != nil:
	case err != nil:
		out.drop(readingEnded(err))
	default:
		out.drop(refuse(errNotReady, "this instance stops"))
	}
	return nil
}

// readingEnded is what a client is told of the end of a reader, or of one that
// could not begin.
func readingEnded(err error) *refusal {
	switch {
	case errors.Is(err, feed.ErrCursor):
		return refuse(errBadRequest, "%s: %s", headerLastEventID, err)
	case errors.Is(err, feed.ErrGone):
		return refuse(errNotFound, "%s", err)
	case errors.Is(err, feed.ErrSlow):
		return refuse(errNotReady, "the stream was not read as fast as limit events came; go on from the last id")
	case errors.Is(err, feed.ErrBusy):
		return refuse(errNotReady, "as many streams of limit events are open as are allowed")
	}
	return refuse(errNotReady, "limit events cannot be read at present").because(err)
}
