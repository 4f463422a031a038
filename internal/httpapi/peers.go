package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

const (
	// headerForwarded says which instance passes a request on. It is passed on
	// once: whoever gets such a request answers by itself.
	headerForwarded = "Meterd-Forwarded"
	// headerInstance says who answers a request that was passed on. An address
	// may have gone to somebody else since the group told it.
	headerInstance = "Meterd-Instance"
	// maxAnswerBytes bounds the answer of another instance.
	maxAnswerBytes = 16 << 20
)

// peers asks other instances.
type peers struct {
	cluster   Cluster
	scheme    string
	timeout   time.Duration
	transport *http.Transport
}

func newPeers(cluster Cluster, encryption *tls.Config, timeout time.Duration) *peers {
	p := &peers{cluster: cluster, scheme: "http", timeout: timeout}
	if encryption != nil {
		p.scheme = "https"
	}
	p.transport = &http.Transport{
		DialContext:            (&net.Dialer{Timeout: timeout / 2}).DialContext,
		TLSClientConfig:        encryption,
		TLSHandshakeTimeout:    timeout / 2,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        idleTimeout / 2, // ours ends before theirs
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
	return p
}

func (p *peers) close() { p.transport.CloseIdleConnections() }

// forwarded tells whether another instance passes r on.
func forwarded(r *http.Request) bool { return r.Header.Get(headerForwarded) != "" }

// signed puts this instance's name to the answers of requests that another
// instance passes on.
func (p *peers) signed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if forwarded(r) {
			w.Header().Set(headerInstance, p.cluster.Self())
		}
		next.ServeHTTP(w, r)
	})
}

// others returns the instances that are not this one. Without a name of its
// own an instance asks nobody: they could not tell that it had.
func (p *peers) others() []Instance {
	self := p.cluster.Self()
	if self == "" {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(p.cluster.Instances()), func(i Instance) bool { return i.ID == self })
}

// owner returns the other instance that has partition.
func (p *peers) owner(partition int32) (Instance, bool) {
	others := p.others()
	i := slices.IndexFunc(others, func(i Instance) bool { return slices.Contains(i.Partitions, partition) })
	if i < 0 {
		return Instance{}, false
	}
	return others[i], true
}

// relay answers r, of which body was read already, by whoever runs the
// partition, which this instance does not.
func (p *peers) relay(w http.ResponseWriter, r *http.Request, partition int32, body []byte) error {
	if forwarded(r) {
		return refuse(errNotReady, "partition %d does not run here", partition)
	}
	owner, ok := p.owner(partition)
	if !ok {
		return refuse(errNotReady, "partition %d is not running yet", partition)
	}
	reply, err := p.ask(r, owner, body)
	if err != nil || reply.status == http.StatusServiceUnavailable {
		// It may have gone on to somebody else since we last heard, who is asked
		// then: once, and who is asked passes nothing on.
		if next, ok := p.owner(partition); ok && next.ID != owner.ID {
			reply, err = p.ask(r, next, body)
		}
	}
	if err != nil {
		return refuse(errNotReady, "the instance that has partition %d does not answer", partition).because(err)
	}
	for _, name := range []string{"Retry-After", "ETag"} {
		if value := reply.header.Get(name); value != "" {
			w.Header().Set(name, value)
		}
	}
	if reply.status == http.StatusNotModified {
		w.WriteHeader(reply.status)
		return nil
	}
	write(w, reply.header.Get("Content-Type"), reply.status, reply.body)
	return nil
}

// reply is the whole answer of another instance.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// ask puts r, which is a question and changes nothing, with body, of which nil
// is none, to another instance. Nothing of the headers goes along but what is
// named here.
func (p *peers) ask(r *http.Request, to Instance, body []byte) (reply, error) {
	return p.askUpTo(r, to, body, maxAnswerBytes)
}

// askUpTo is ask for an answer of at most limit bytes.
func (p *peers) askUpTo(r *http.Request, to Instance, body []byte, limit int64) (reply, error) {
	ctx, cancel := context.WithTimeout(r.Context(), p.timeout)
	defer cancel()
	target := url.URL{Scheme: p.scheme, Host: to.Address, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return reply{}, fmt.Errorf("ask instance %s: %w", to.ID, err)
	}
	request.Header["Idempotency-Key"] = []string{} // not sent: only says that a connection that was closed meanwhile may be replaced
	for _, name := range []string{"Authorization", "If-None-Match", headerRequestID} {
		if values := r.Header.Values(name); len(values) > 0 {
			request.Header[name] = values
		}
	}
	request.Header.Set(headerForwarded, p.cluster.Self())
	response, err := p.transport.RoundTrip(request)
	if err != nil {
		return reply{}, fmt.Errorf("ask instance %s: %w", to.ID, err)
	}
	defer response.Body.Close()
	answered, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return reply{}, fmt.Errorf("read the answer of instance %s: %w", to.ID, err)
	case int64(len(answered)) > limit:
		return reply{}, fmt.Errorf("the answer of instance %s has more than %d bytes", to.ID, limit)
	case response.Header.Get(headerInstance) != to.ID:
		return reply{}, fmt.Errorf("instance %s is not what answers at %s, with status %d", to.ID, to.Address, response.StatusCode)
	}
	return reply{status: response.StatusCode, header: response.Header, body: answered}, nil
}
