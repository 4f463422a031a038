package harness

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Service is a schema registry or a Druid that may be down, slow, or cut answers
// short.
type Service struct {
	listener net.Listener
	handler  http.Handler

	mu     sync.Mutex
	broken string
	met    int // requests while it was broken
}

// The ways in which HTTP services fail.
const (
	refusing  = "refuses"    // 503
	hanging   = "hangs"      // no answer until the client goes
	slow      = "is slow"    // half a second
	truncated = "tells half" // the body ends in the middle
	lying     = "talks rubbish"
)

func startService(ctx context.Context, handler http.Handler) (*Service, error) {
	var l net.ListenConfig
	listener, err := l.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Service{listener: listener, handler: handler}, nil
}

// URL is where it is found.
func (r *Service) URL() string { return "http://" + r.listener.Addr().String() }

// Break makes it fail in a way; "" heals it.
func (r *Service) Break(how string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken, r.met = how, 0
}

// broke is how many requests came since it is broken.
func (r *Service) broke() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.met
}

func (r *Service) run(ctx context.Context) error {
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(r.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (r *Service) ServeHTTP(out http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	how := r.broken
	if how != "" {
		r.met++
	}
	r.mu.Unlock()
	breakHTTP(how, r.handler, out, req)
}

// breakHTTP answers as handler does, but for what is broken.
func breakHTTP(how string, handler http.Handler, out http.ResponseWriter, req *http.Request) {
	switch how {
	case refusing:
		http.Error(out, "broken", http.StatusServiceUnavailable)
		return
	case hanging:
		<-req.Context().Done()
		return
	case slow:
		time.Sleep(500 * time.Millisecond)
	case truncated:
		out = &half{ResponseWriter: out}
	case lying:
		out.Header().Set("Content-Type", "application/json")
		_, _ = out.Write([]byte(`{"schema": 17, "error": `))
		return
	}
	if how == incomplete {
		shorter(handler, out, req)
		return
	}
	handler.ServeHTTP(out, req)
}

// half lets only the first half of each write pass, and says that it were all.
type half struct{ http.ResponseWriter }

func (h *half) Write(b []byte) (int, error) {
	if _, err := h.ResponseWriter.Write(b[:len(b)/2]); err != nil {
		return 0, err
	}
	return len(b), nil
}
