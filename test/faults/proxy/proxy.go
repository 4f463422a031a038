// Package proxy is a network between Kafka clients and brokers that fails in
// ways of one's choosing.
//
// It knows Kafka's frames, so that a failure may meet one request by its kind:
// its reply is lost or late, it is lost itself or arrives when nobody waits for
// it any more, or it is refused with a code without the broker having seen it.
// The whole network can be cut, one way or both, or made slow.
//
// A Proxy leads to every broker of a cluster through addresses of its own, and
// puts those into what brokers tell about each other; so all connections of a
// client lead through it. One Proxy for each client lets them fail apart.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Direction is one way through the network.
type Direction int

// The two ways.
const (
	ToBroker Direction = iota
	ToClient
	ways
)

// Link is how slow the network is. The zero value is not.
type Link struct {
	Latency time.Duration // of each frame, each way
	Rate    int           // bytes a second of each connection, each way; 0: no bound
	Slice   int           // bytes that are sent at once; 0: all
}

// Proxy is a network to all brokers of a cluster.
type Proxy struct {
	brokers   []string
	listeners []net.Listener
	fronts    []string          // where clients connect, in the order of the brokers
	rebalance time.Duration     // see HurryRebalances
	front     map[broker]broker // what a broker says of itself to what clients are told

	mu    sync.Mutex
	shots []*Shot
	link  Link
	gates [ways]chan struct{} // closed where frames pass
	conns map[*conn]struct{}
}

// broker is an address as brokers tell it.
type broker struct {
	host string
	port int32
}

func parseBroker(address string) (broker, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return broker{}, fmt.Errorf("broker %q: %w", address, err)
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return broker{}, fmt.Errorf("broker %q: %w", address, err)
	}
	return broker{host: host, port: int32(n)}, nil
}

// Listen makes the network to brokers, which are host:port as they tell it
// themselves. Run has to carry it.
func Listen(ctx context.Context, brokers []string) (*Proxy, error) {
	p := &Proxy{brokers: brokers, front: map[broker]broker{}, conns: map[*conn]struct{}{}}
	for i := range p.gates {
		p.gates[i] = make(chan struct{})
		close(p.gates[i])
	}
	for _, address := range brokers {
		var l net.ListenConfig
		listener, err := l.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.listeners = append(p.listeners, listener)
		from, err := parseBroker(address)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		to, err := parseBroker(listener.Addr().String())
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.front[from] = to
		p.fronts = append(p.fronts, listener.Addr().String())
	}
	return p, nil
}

// HurryRebalances has members ask for d as rebalance timeout, before Run. The
// in-memory Kafka waits for members that died while they joined for all of it,
// unlike the real one.
func (p *Proxy) HurryRebalances(d time.Duration) { p.rebalance = d }

// Addresses is where clients find the brokers.
func (p *Proxy) Addresses() []string { return p.fronts }

func (p *Proxy) close() error {
	var err error
	for _, l := range p.listeners {
		err = errors.Join(err, l.Close())
	}
	return err
}

// Run carries connections until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, listener := range p.listeners {
		g.Go(func() error {
			defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
			for {
				client, err := listener.Accept()
				if err != nil {
					if ctx.Err() != nil {
						return nil //nolint:nilerr // that is why
					}
					return fmt.Errorf("proxy of %s: %w", p.brokers[i], err)
				}
				g.Go(func() error {
					p.carry(ctx, client, p.brokers[i])
					return nil
				})
			}
		})
	}
	return g.Wait()
}

// Cut stops all frames of one direction until Heal. What is under way is held,
// and arrives then, if its sender is still there or not.
func (p *Proxy) Cut(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isOpen(p.gates[d]) {
		p.gates[d] = make(chan struct{})
	}
}

// Slow makes the network slow.
func (p *Proxy) Slow(l Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = l
}

// Heal ends Cut and Slow.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = Link{}
	for _, g := range p.gates {
		if !isOpen(g) {
			close(g)
		}
	}
}

// Reset breaks every connection there is.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}

func isOpen(gate chan struct{}) bool {
	select {
	case <-gate:
		return true
	default:
		return false
	}
}

func (p *Proxy) gate(d Direction) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gates[d]
}

func (p *Proxy) speed() Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}
