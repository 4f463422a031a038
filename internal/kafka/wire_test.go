package kafka_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
)

// cluster is a fake with a hand on its wires.
type cluster struct {
	*kfake.Cluster
	wire *wire
}

// wire cuts connections at chosen requests: either the request never reaches
// the broker, or the broker carries it out and its answer is lost.
type wire struct {
	mu   sync.Mutex
	cuts []cut
}

type cut struct {
	key     int16
	applied bool
}

// lose cuts the connection at the next request of a key.
func (w *wire) lose(key int16, applied bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts = append(w.cuts, cut{key, applied})
}

// left is how many cuts have not happened yet.
func (w *wire) left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.cuts)
}

func (w *wire) take(key int16) (found cut, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, c := range w.cuts {
		if c.key == key {
			w.cuts = append(w.cuts[:i:i], w.cuts[i+1:]...)
			return c, true
		}
	}
	return cut{}, false
}

func (w *wire) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return &wireListener{Listener: l, wire: w}, nil
}

type wireListener struct {
	net.Listener
	wire *wire
}

func (l *wireListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: c, wire: l.wire}, nil
}

// wireConn is the broker's end of a connection. The client has one request at
// a time on it, so an answer belongs to the request before.
type wireConn struct {
	net.Conn
	wire *wire
	rest []byte // of the request being read

	mu     sync.Mutex
	doomed bool
}

func (c *wireConn) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		frame, err := c.frame()
		if err != nil {
			return 0, err
		}
		c.rest = frame
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *wireConn) frame() ([]byte, error) {
	size := make([]byte, 4)
	if _, err := io.ReadFull(c.Conn, size); err != nil {
		return nil, err
	}
	frame := append(size, make([]byte, binary.BigEndian.Uint32(size))...)
	if _, err := io.ReadFull(c.Conn, frame[4:]); err != nil {
		return nil, err
	}
	if found, ok := c.wire.take(int16(binary.BigEndian.Uint16(frame[4:]))); ok {
		if !found.applied {
			_ = c.Close()
			return nil, net.ErrClosed
		}
		c.mu.Lock()
		c.doomed = true
		c.mu.Unlock()
	}
	return frame, nil
}

func (c *wireConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	doomed := c.doomed
	c.mu.Unlock()
	if doomed {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}
