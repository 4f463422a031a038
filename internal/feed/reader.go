package feed

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meterd/meterd/internal/alerts"
)

// Reader is one reader of a Feed. It belongs to one goroutine.
type Reader struct {
	f       *Feed
	want    func(*alerts.Event) bool
	session *session
	at      vector // where it stands, while it is not live
	number  int64  // of the next event, once it is live
}

// Portion is what a reader gets at once: events, or none where only time has
// passed. Cursor is where to go on behind them.
type Portion struct {
	Items  []Item
	Cursor string
}

// maxPortion bounds the events of a Portion.
const maxPortion = 64

// Open returns a reader of the events that are wanted: of those behind cursor,
// or where that is empty, of those that are committed from now on. It waits for
// the topic, for Wait at most. The reader is to be closed.
func (f *Feed) Open(ctx context.Context, cursor string, want func(*alerts.Event) bool) (*Reader, error) {
	var at vector
	if cursor != "" {
		var err error
		if at, err = parseCursor(cursor, f.cfg.Partitions); err != nil {
			return nil, err
		}
	}
	if err := f.enter(); err != nil {
		return nil, err
	}
	r := &Reader{f: f, want: want, at: at}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Wait)
	defer cancel()
	if err := r.find(ctx); err != nil {
		f.leave()
		return nil, err
	}
	return r, nil
}

// Close gives the reader's place to others.
func (r *Reader) Close() { r.f.leave() }

// find takes the reader to where it begins.
func (r *Reader) find(ctx context.Context) (err error) {
	if r.session, err = r.f.await(ctx); err != nil {
		return err
	}
	g := r.session.look()
	if r.at == nil {
		r.at = g.at
		return nil
	}
	if !r.at.reaches(g.base) { // the topic has to have the rest
		if err := r.begin(ctx); err != nil {
			return err
		}
	}
	return r.notAhead(ctx)
}

// begin checks that nothing behind the cursor was deleted.
func (r *Reader) begin(ctx context.Context) error {
	starts, err := r.f.positions(ctx, r.f.source.Start)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	for p := range r.at {
		if r.at[p] == unread {
			r.at[p] = starts[p]
		}
		if r.at[p] < starts[p] {
			return fmt.Errorf("%w: partition %d begins at %d", ErrGone, p, starts[p])
		}
	}
	return nil
}

// notAhead waits until the session has read as far as the cursor, which may be
// of an instance that is quicker.
func (r *Reader) notAhead(ctx context.Context) error {
	for {
		g := r.session.look()
		if g.at.reaches(r.at) {
			return nil
		}
		select {
		case <-g.changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: it is behind the end, %s", ErrCursor, g.at)
		}
		if g.ended {
			return ErrAway
		}
	}
}

// Run calls send with what comes, and with an empty Portion at its beginning and
// when there was nothing for Heartbeat. It returns what send returns, ErrSlow,
// ErrGone, ErrAway, or nil when ctx ends.
func (r *Reader) Run(ctx context.Context, send func(Portion) error) error {
	if err := send(Portion{Cursor: r.at.String()}); err != nil {
		return err
	}
	if err := r.catchUp(ctx, send); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is why
		}
		return err
	}
	return r.live(ctx, send)
}

// live sends what is new.
func (r *Reader) live(ctx context.Context, send func(Portion) error) error {
	heartbeat := time.NewTicker(r.f.cfg.Heartbeat)
	defer heartbeat.Stop()
	for {
		items, changed, ended, ok := r.session.since(r.number)
		if !ok {
			return ErrSlow
		}
		if len(items) > 0 {
			r.number += int64(len(items))
			if err := r.sendAll(items, heartbeat, send); err != nil {
				return err
			}
			continue
		}
		if ended {
			return ErrAway
		}
		select {
		case <-changed:
		case <-heartbeat.C:
			if cursor, newest := r.session.cursor(r.number); newest {
				if err := send(Portion{Cursor: cursor}); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// sendAll sends the wanted ones of items, which are one Portion at most.
func (r *Reader) sendAll(items []Item, heartbeat *time.Ticker, send func(Portion) error) error {
	items = slices.DeleteFunc(items, func(it Item) bool { return !r.want(it.Event.Event) })
	if len(items) == 0 {
		return nil
	}
	heartbeat.Reset(r.f.cfg.Heartbeat)
	return send(Portion{Items: items, Cursor: items[len(items)-1].Cursor})
}

// catchUp sends what lies between the cursor and what the session has read.
func (r *Reader) catchUp(ctx context.Context, send func(Portion) error) error {
	for {
		g := r.session.look()
		if r.at.reaches(g.base) {
			if err := r.fromRing(&g, send); err != nil {
				return err
			}
			r.number = g.next()
			return nil
		}
		if err := r.fromTopic(ctx, g.at, send); err != nil {
			return err
		}
	}
}

// fromRing sends what the ring has behind the cursor.
func (r *Reader) fromRing(g *glance, send func(Portion) error) error {
	o := out{r: r, send: send}
	for i := range g.items {
		if it := &g.items[i]; it.Offset >= r.at[it.Partition] {
			if err := o.event(it.Partition, it.Event); err != nil {
				return err
			}
		}
	}
	r.at = g.at
	return o.flush()
}

// fromTopic sends what the topic has from the cursor up to to. Only few readers
// do that at once.
func (r *Reader) fromTopic(ctx context.Context, to vector, send func(Portion) error) error {
	if err := r.slot(ctx, send); err != nil {
		return err
	}
	defer func() { <-r.f.slots }()
	limited, cancel := context.WithTimeoutCause(ctx, r.f.cfg.CatchUp, ErrSlow)
	defer cancel()
	for p := range r.at {
		partition := int32(p)
		if r.at[p] >= to[p] {
			continue
		}
		err := r.f.source.Read(limited, partition, r.at[p], to[p], func(b Batch) error { return r.sendBatch(partition, b, send) })
		switch {
		case limited.Err() != nil:
			return context.Cause(limited)
		case err != nil:
			return err
		}
		r.at[p] = to[p]
	}
	return nil
}

// slot waits for a place among those that read the topic.
func (r *Reader) slot(ctx context.Context, send func(Portion) error) error {
	heartbeat := time.NewTicker(r.f.cfg.Heartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case r.f.slots <- struct{}{}:
			return nil
		case <-heartbeat.C:
			if err := send(Portion{Cursor: r.at.String()}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sendBatch sends the wanted events of b, which goes on from where the reader
// stands in partition, and moves the reader.
func (r *Reader) sendBatch(partition int32, b Batch, send func(Portion) error) error {
	o := out{r: r, send: send}
	for _, e := range b.Events {
		if err := o.event(partition, e); err != nil {
			return err
		}
	}
	r.at[partition] = max(r.at[partition], b.Next)
	return o.flush()
}

// out makes portions of the wanted events that come to it, with cursors of the
// reader's own, and moves the reader.
type out struct {
	r     *Reader
	send  func(Portion) error
	items []Item
}

func (o *out) event(partition int32, e Event) error {
	o.r.at[partition] = e.Offset + 1
	if !o.r.want(e.Event) {
		return nil
	}
	o.items = append(o.items, Item{Event: e, Partition: partition, Cursor: o.r.at.String()})
	if len(o.items) < maxPortion {
		return nil
	}
	return o.flush()
}

func (o *out) flush() error {
	if len(o.items) == 0 {
		return nil
	}
	items := o.items
	o.items = nil
	return o.send(Portion{Items: items, Cursor: items[len(items)-1].Cursor})
}
