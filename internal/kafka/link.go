package kafka

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

// link is one connection to a broker. A sarama Broker holds its lock for the
// whole of a round trip and knows no context, so the link keeps the socket too:
// closing that ends a round trip at once. A link that had any failure is not
// used again; it never dials twice.
type link struct {
	addr   string
	broker *sarama.Broker
	socket atomic.Pointer[net.Conn]
	broken atomic.Bool
	used   time.Time // when it went idle; guarded by the pool
}

// dialFunc is a sarama dialer made of a function.
type dialFunc func(network, addr string) (net.Conn, error)

// Dial opens the connection.
func (f dialFunc) Dial(network, addr string) (net.Conn, error) { return f(network, addr) }

// connectError is why there is no connection: nothing was asked over it.
type connectError struct {
	addr string
	err  error
}

// Error names the broker.
func (e *connectError) Error() string { return fmt.Sprintf("connect to %s: %s", e.addr, e.err) }

// Unwrap gives the cause.
func (e *connectError) Unwrap() error { return e.err }

// dial connects and authenticates. The connection waits for an answer as long
// as the configuration says, or for readTimeout if that is longer.
func (c *Cluster) dial(ctx context.Context, addr string, readTimeout time.Duration) (*link, error) {
	l := &link{addr: addr, broker: sarama.NewBroker(addr)}
	cfg := *c.sarama
	cfg.Net.ReadTimeout = max(readTimeout, cfg.Net.ReadTimeout)
	cfg.Net.Proxy.Enable = true
	cfg.Net.Proxy.Dialer = dialFunc(func(network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
		defer cancel()
		open := c.cfg.DialContext
		if open == nil {
			open = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
		}
		conn, err := open(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		l.socket.Store(&conn)
		if l.broken.Load() { // cut while it was being dialled
			_ = conn.Close()
		}
		return conn, nil
	})
	stop := context.AfterFunc(ctx, l.cut)
	defer stop()
	if err := l.broker.Open(&cfg); err != nil {
		return nil, &connectError{addr, err}
	}
	if ok, err := l.broker.Connected(); !ok {
		l.close()
		if err == nil {
			err = sarama.ErrNotConnected
		}
		return nil, &connectError{addr, ended(ctx, err)}
	}
	return l, nil
}

// cut closes the socket under a round trip.
func (l *link) cut() {
	l.broken.Store(true)
	if c := l.socket.Load(); c != nil {
		_ = (*c).Close()
	}
}

// close ends the connection and waits for its goroutine.
func (l *link) close() {
	l.cut()
	_ = l.broker.Close() // only says that it was closed before
}

// roundTrip makes one request. When ctx ends first the connection is cut, and
// whether the broker has carried the request out is not known.
func roundTrip[T any](ctx context.Context, l *link, request func(*sarama.Broker) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	stop := context.AfterFunc(ctx, l.cut)
	answer, err := request(l.broker)
	stop()
	if err != nil {
		l.cut()
		return none, fmt.Errorf("broker %s: %w", l.addr, ended(ctx, err))
	}
	return answer, nil
}

// maxIdle is how long a connection may rest before it is no longer trusted:
// brokers close idle ones after some ten minutes, and a request that finds out
// has an unknown outcome.
const maxIdle = 3 * time.Minute

// pool shares connections for short requests, a fixed number to each broker.
type pool struct {
	dial  func(ctx context.Context, addr string) (*link, error)
	limit int

	mu     sync.Mutex
	idle   map[string][]*link
	slots  map[string]chan struct{}
	closed bool
}

func newPool(limit int, dial func(context.Context, string) (*link, error)) *pool {
	return &pool{dial: dial, limit: limit, idle: map[string][]*link{}, slots: map[string]chan struct{}{}}
}

// ask makes one request to the broker at addr, on any free connection.
func ask[T any](ctx context.Context, p *pool, addr string, request func(*sarama.Broker) (T, error)) (T, error) {
	var none T
	slot, err := p.enter(ctx, addr)
	if err != nil {
		return none, err
	}
	defer func() { <-slot }()
	l, err := p.take(ctx, addr)
	if err != nil {
		return none, err
	}
	answer, err := roundTrip(ctx, l, request)
	p.put(l)
	return answer, err
}

// enter waits until one more connection to addr may be in use.
func (p *pool) enter(ctx context.Context, addr string) (chan struct{}, error) {
	p.mu.Lock()
	slot := p.slots[addr]
	if slot == nil {
		slot = make(chan struct{}, p.limit)
		p.slots[addr] = slot
	}
	p.mu.Unlock()
	select {
	case slot <- struct{}{}:
		return slot, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pool) take(ctx context.Context, addr string) (*link, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	var found *link
	links := p.idle[addr]
	if n := len(links); n > 0 {
		if l := links[n-1]; time.Since(l.used) < maxIdle {
			found, p.idle[addr], links = l, links[:n-1], nil
		} else { // the last was used last, so all are too old
			delete(p.idle, addr)
		}
	}
	p.mu.Unlock()
	if found != nil {
		return found, nil
	}
	for _, l := range links {
		l.close()
	}
	return p.dial(ctx, addr)
}

// put gives a connection back. A broken one is closed, and those to the same
// broker with it, which will be broken too.
func (p *pool) put(l *link) {
	p.mu.Lock()
	drop := []*link{l}
	switch {
	case l.broken.Load():
		drop = append(drop, p.idle[l.addr]...)
		delete(p.idle, l.addr)
	case !p.closed:
		l.used = time.Now()
		p.idle[l.addr] = append(p.idle[l.addr], l)
		drop = nil
	}
	p.mu.Unlock()
	for _, l := range drop {
		l.close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = map[string][]*link{}
	p.mu.Unlock()
	for _, links := range idle {
		for _, l := range links {
			l.close()
		}
	}
}
