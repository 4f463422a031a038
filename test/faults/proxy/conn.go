package proxy

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxFrame is more than any frame has.
const maxFrame = 256 << 20

// conn is one connection of a client to a broker.
type conn struct {
	p      *Proxy
	client net.Conn
	broker net.Conn

	mu      sync.Mutex // guards pending, and writing to the client
	pending map[int32]request
}

// request is what is known of one under way.
type request struct {
	key, version int16
	correlation  int32
	shot         *Shot // nil: none
}

const header = 8 // key, version and correlation

func parseRequest(frame []byte) (request, error) {
	if len(frame) < header {
		return request{}, fmt.Errorf("request of %d bytes", len(frame))
	}
	return request{
		key: int16(binary.BigEndian.Uint16(frame)), version: int16(binary.BigEndian.Uint16(frame[2:])),
		correlation: int32(binary.BigEndian.Uint32(frame[4:])),
	}, nil
}

// carry is the life of a connection.
func (p *Proxy) carry(ctx context.Context, client net.Conn, address string) {
	defer client.Close() //nolint:errcheck // it may be closed
	broker, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return // as a broker that is not there
	}
	c := &conn{p: p, client: client, broker: broker, pending: map[int32]request{}}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	defer func() {
		c.close()
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}()
	defer context.AfterFunc(ctx, c.close)()
	var g errgroup.Group
	g.Go(func() error { return c.requests(ctx) })
	g.Go(func() error { return c.replies(ctx) })
	_ = g.Wait() // connections end
}

func (c *conn) close() {
	_ = c.client.Close()
	_ = c.broker.Close()
}

// requests carries frames to the broker.
func (c *conn) requests(ctx context.Context) error {
	defer c.close()
	for {
		frame, err := readFrame(c.client)
		if err != nil {
			return err
		}
		r, err := parseRequest(frame)
		if err != nil {
			return err
		}
		if frame, err = c.p.hurry(r, frame); err != nil {
			return err
		}
		r.shot = c.p.struck(r.key)
		if r.shot != nil {
			switch r.shot.What {
			case LoseRequest:
				r.shot.met()
				return nil
			case LateRequest:
				r.shot.met()
				return c.late(ctx, r.shot.Delay, frame)
			case Refuse:
				if err := c.refuse(r, frame); err != nil {
					return err
				}
				continue
			}
		}
		c.mu.Lock()
		c.pending[r.correlation] = r
		c.mu.Unlock()
		if err := c.pass(ctx, ToBroker, c.broker, frame); err != nil {
			return err
		}
	}
}

// late closes the connection to the client, and gives the broker the request
// when nobody waits for it any more.
func (c *conn) late(ctx context.Context, after time.Duration, frame []byte) error {
	_ = c.client.Close()
	if !pause(ctx, after) {
		return ctx.Err()
	}
	if err := writeFrame(c.broker, frame, Link{}); err != nil {
		return err
	}
	// A reply says that it was carried out before the connection goes.
	_ = c.broker.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, _ = c.broker.Read(make([]byte, 1))
	return nil
}

// refuse answers a request in the broker's name.
func (c *conn) refuse(r request, frame []byte) error {
	reply, err := refusal(r, frame, r.shot.Code)
	if err != nil {
		return err
	}
	r.shot.met()
	c.mu.Lock()
	defer c.mu.Unlock()
	return writeFrame(c.client, reply, Link{})
}

// replies carries frames to the client.
func (c *conn) replies(ctx context.Context) error {
	defer func() {
		_ = c.client.Close() // the broker may yet get what is held for it
	}()
	for {
		frame, err := readFrame(c.broker)
		if err != nil {
			return err
		}
		if len(frame) < 4 {
			return fmt.Errorf("reply of %d bytes", len(frame))
		}
		correlation := int32(binary.BigEndian.Uint32(frame))
		c.mu.Lock()
		r, known := c.pending[correlation]
		delete(c.pending, correlation)
		c.mu.Unlock()
		if !known {
			return fmt.Errorf("reply %d to nothing", correlation)
		}
		if r.shot != nil {
			r.shot.met()
			switch r.shot.What {
			case LoseReply:
				return nil
			case Silence:
				continue
			case DelayReply:
				if !pause(ctx, r.shot.Delay) {
					return ctx.Err()
				}
			}
		}
		if frame, err = c.p.rewrite(r, frame); err != nil {
			return err
		}
		if err := c.pass(ctx, ToClient, c.client, frame); err != nil {
			return err
		}
	}
}

// pass sends a frame on, when and as fast as the network does.
func (c *conn) pass(ctx context.Context, d Direction, to net.Conn, frame []byte) error {
	select {
	case <-c.p.gate(d):
	case <-ctx.Done():
		return ctx.Err()
	}
	link := c.p.speed()
	if link.Latency > 0 && !pause(ctx, link.Latency) {
		return ctx.Err()
	}
	if d == ToClient {
		c.mu.Lock()
		defer c.mu.Unlock()
	}
	return writeFrame(to, frame, link)
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// readFrame returns a frame without its length.
func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes", n)
	}
	frame := make([]byte, n)
	_, err := io.ReadFull(r, frame)
	return frame, err
}

// writeFrame writes a frame with its length before it.
func writeFrame(w io.Writer, frame []byte, link Link) error {
	all := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame)))
	all = append(all, frame...)
	if link.Slice <= 0 && link.Rate <= 0 {
		_, err := w.Write(all)
		return err
	}
	slice := link.Slice
	if slice <= 0 {
		slice = max(1, link.Rate/20)
	}
	for len(all) > 0 {
		n := min(slice, len(all))
		if _, err := w.Write(all[:n]); err != nil {
			return err
		}
		all = all[n:]
		if link.Rate > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(link.Rate))
		}
	}
	return nil
}
