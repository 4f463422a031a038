package aggregate

import (
	"slices"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/meterd/meterd/internal/usage"
)

// dedupe recognises event ids that were counted within the window.
//
// Ids are kept as hashes of 120 bits: among 10^12 of them, two that fall
// together are expected once in 10^12 such sets, so no event is lost to a
// collision. They lie in buckets of time and leave bucket by bucket: an id is
// remembered for at least the window, and for at most one bucket longer.
type dedupe struct {
	window  time.Duration
	void    bool       // its ids are of voids
	slice   usage.Time // length of a bucket in milliseconds
	ids     idSet      // tagged with their buckets
	buckets []bucket   // by tag; there is none with freeTag
	last    uint8      // the bucket that was looked up last
	fresh   []freshID  // of the open transaction
	wrote   []segmentKey
	dropped []uint8 // buckets that go when the open transaction commits
}

// bucket is a slice of time.
type bucket struct {
	used bool
	end  usage.Time
	keys []string // of the changelog records that hold its ids
}

// segmentKey is the key of a record of the changelog that holds ids of a
// bucket.
type segmentKey struct {
	at  usage.Time
	key string
}

type freshID struct {
	hash Hash
	at   uint8 // its bucket
	was  uint8 // the bucket that it was in before, or freeTag
}

// bucketsPerWindow sets how much longer than the window an id may be known.
const bucketsPerWindow = 8

// maxSegment bounds the hashes in one record of the changelog to half a
// megabyte.
const maxSegment = 32_768

func newDedupe(window time.Duration, void bool) dedupe { //revive:disable-line:flag-parameter // it is kept, not decided by
	return dedupe{
		void:    void,
		window:  window,
		slice:   max(1, usage.Time(window.Milliseconds()/bucketsPerWindow)),
		buckets: make([]bucket, 1, bucketsPerWindow+3),
	}
}

// hashOf returns the hash of a client's event id. The client's length keeps
// ("ab", "c") and ("a", "bc") apart. buf is where they are put together.
func hashOf(buf, client, id []byte) (h Hash, used []byte) {
	buf = append(buf[:0], byte(len(client)), byte(len(client)>>8))
	buf = append(buf, client...)
	buf = append(buf, id...)
	sum := xxh3.Hash128(buf)
	return Hash{Hi: sum.Hi, Lo: sum.Lo}, buf
}

// seen tells whether hash was counted within the window before now.
func (d *dedupe) seen(hash Hash, now usage.Time) bool {
	if d.ids.count == 0 {
		return false
	}
	at := d.ids.tag(hash)
	return at != freeTag && !d.outside(d.buckets[at].end, now)
}

// outside tells whether what lies in the bucket that ends at at has left the
// window before now. Ends, unlike starts, mean the same whatever the window was
// when they were written.
func (d *dedupe) outside(at, now usage.Time) bool { return at <= now.Add(-d.window) }

// add claims hash at partition time now, as part of the open transaction.
func (d *dedupe) add(hash Hash, now usage.Time) {
	end := now - now%d.slice
	if now < 0 && now%d.slice != 0 {
		end -= d.slice
	}
	at := d.bucket(end + d.slice)
	d.fresh = append(d.fresh, freshID{hash: hash, at: at, was: d.ids.put(hash, at)})
}

// load takes in a hash of a bucket that ends at end. The latest one counts.
func (d *dedupe) load(hash Hash, end usage.Time) {
	at := d.bucket(end)
	if was := d.ids.tag(hash); was == freeTag || d.buckets[was].end < end {
		d.ids.put(hash, at)
	}
}

// bucket returns the bucket that ends at end, made if need be. There are a
// dozen, and more only after the window was made shorter: where tags run out,
// ids of the next later bucket are remembered with it, or the last one lives
// longer.
func (d *dedupe) bucket(end usage.Time) uint8 {
	if d.last != freeTag && d.buckets[d.last].end == end {
		return d.last
	}
	unused, later, latest := freeTag, freeTag, freeTag
	for i := 1; i < len(d.buckets); i++ {
		at := uint8(i)
		switch b := &d.buckets[at]; {
		case !b.used:
			unused = at
		case b.end == end:
			d.last = at
			return at
		case b.end > end && (later == freeTag || b.end < d.buckets[later].end):
			later = at
		case latest == freeTag || b.end > d.buckets[latest].end:
			latest = at
		}
	}
	switch {
	case unused != freeTag:
	case len(d.buckets) < int(deadTag):
		unused = uint8(len(d.buckets))
		d.buckets = append(d.buckets, bucket{})
	case later != freeTag:
		return later
	default:
		unused = latest
	}
	b := &d.buckets[unused]
	b.used, b.end, d.last = true, end, unused
	return unused
}

// segments returns the records of what the open transaction, which began at
// position, claimed and is within the window before now.
func (d *dedupe) segments(position int64, now usage.Time) []DedupeRecord {
	var records []DedupeRecord
	left := len(d.fresh)
	for i := range d.fresh {
		f := &d.fresh[i]
		end := d.buckets[f.at].end
		if d.outside(end, now) {
			left--
			continue // its bucket goes with this commit
		}
		n := len(records) - 1
		if n < 0 || records[n].Bucket != end || len(records[n].Hashes) == maxSegment {
			n++
			records = append(records, DedupeRecord{
				Bucket: end, Offset: position, Piece: n, Void: d.void, Hashes: make([]Hash, 0, min(left, maxSegment)),
			})
		}
		records[n].Hashes = append(records[n].Hashes, f.hash)
		left--
	}
	return records
}

// expired returns the keys of records that hold nothing of the window before
// now any more. They go when the open transaction commits.
func (d *dedupe) expired(now usage.Time) []string {
	var keys []string
	d.dropped = d.dropped[:0]
	for i := range d.buckets {
		if b := &d.buckets[i]; b.used && d.outside(b.end, now) {
			d.dropped = append(d.dropped, uint8(i))
			keys = append(keys, b.keys...)
		}
	}
	return keys
}

func (d *dedupe) committed() {
	d.fresh = d.fresh[:0]
	for _, w := range d.wrote {
		b := &d.buckets[d.bucket(w.at)]
		b.keys = append(b.keys, w.key)
	}
	d.wrote = d.wrote[:0]
	d.drop()
}

// drop forgets the buckets that are to be dropped, and the ids that are in no
// later one.
func (d *dedupe) drop() {
	if len(d.dropped) == 0 {
		return
	}
	var tags [256]bool
	for _, at := range d.dropped {
		tags[at] = true
		d.buckets[at] = bucket{}
	}
	d.ids.sweep(&tags)
	d.dropped, d.last = d.dropped[:0], freeTag
}

// unload forgets a record of a bucket, and the bucket with the last of them:
// they go together.
func (d *dedupe) unload(end usage.Time, key string) {
	at := slices.IndexFunc(d.buckets, func(b bucket) bool { return b.used && b.end == end })
	if at < 0 {
		return
	}
	b := &d.buckets[at]
	if i := slices.Index(b.keys, key); i >= 0 {
		b.keys = slices.Delete(b.keys, i, i+1)
	}
	if len(b.keys) == 0 {
		d.dropped = append(d.dropped, uint8(at))
		d.drop()
	}
}

func (d *dedupe) rollback() {
	for _, f := range slices.Backward(d.fresh) {
		if f.was != freeTag {
			d.ids.put(f.hash, f.was)
		} else {
			d.ids.remove(f.hash)
		}
	}
	d.fresh, d.dropped, d.wrote = d.fresh[:0], d.dropped[:0], d.wrote[:0]
}
