package httpapi

import (
	"context"
	"sync"
)

// streams are the answers that end only with their client, or with the server.
type streams struct {
	most int

	mu    sync.Mutex // guards all below
	open  map[*context.CancelFunc]struct{}
	ended bool
}

func newStreams(most int) *streams {
	return &streams{most: most, open: map[*context.CancelFunc]struct{}{}}
}

// begin returns a context for a stream, which ends with ctx and with end. It
// refuses more of them than are allowed. The returned function is to be called.
func (s *streams) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return nil, nil, refuse(errNotReady, "this instance stops")
	case len(s.open) >= s.most:
		return nil, nil, refuse(errNotReady, "as many streams are open as are allowed")
	}
	ctx, cancel := context.WithCancel(ctx)
	s.open[&cancel] = struct{}{}
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, &cancel)
	}, nil
}

// end ends all streams, and lets none begin.
func (s *streams) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for cancel := range s.open {
		(*cancel)()
	}
}

// count returns how many are open.
func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}
