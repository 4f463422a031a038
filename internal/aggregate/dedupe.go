package aggregate

import (
	"slices"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/meterd/meterd/internal/usage"
)

// dedupe recognises event ids that were counted within the window.
//
// Ids are kept as hashes of 128 bits: among 10^12 of them, two that fall
// together are expected once in 10^14 such sets, so no event is lost to a
// collision. They lie in buckets of time and leave bucket by bucket: an id is
// remembered for at least the window, and for at most one bucket longer.
type dedupe struct {
	window  time.Duration
	void    bool                   // its ids are of voids
	slice   usage.Time             // length of a bucket in milliseconds
	seenIn  map[Hash]usage.Time    // to the end of its bucket
	buckets map[usage.Time]*bucket // by their ends
	fresh   []freshHash            // of the open transaction
	wrote   []segmentKey           // of the open transaction
	dropped []usage.Time           // when it commits
	latest  usage.Time             // the end of the bucket looked up last
	last    *bucket
}

type bucket struct {
	hashes []Hash
	keys   []string // of the changelog records that hold them
}

// segmentKey is the key of a record of the changelog that holds ids of a
// bucket.
type segmentKey struct {
	at  usage.Time
	key string
}

type freshHash struct {
	hash  Hash
	at    usage.Time // its bucket
	was   usage.Time // the bucket that it was in before
	known bool       // it was in one
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
		seenIn:  map[Hash]usage.Time{},
		buckets: map[usage.Time]*bucket{},
	}
}

// hashOf returns the hash of a client's event id. The client's length keeps
// ("ab", "c") and ("a", "bc") apart.
func hashOf(client, id []byte) Hash {
	var buf [2 * usage.MaxIDBytes]byte
	b := append(buf[:0], byte(len(client)), byte(len(client)>>8))
	b = append(b, client...)
	b = append(b, id...)
	h := xxh3.Hash128(b)
	return Hash{Hi: h.Hi, Lo: h.Lo}
}

// seen tells whether hash was counted within the window before now.
func (d *dedupe) seen(hash Hash, now usage.Time) bool {
	at, ok := d.seenIn[hash]
	return ok && !d.outside(at, now)
}

// outside tells whether what lies in the bucket that ends at at has left the
// window before now. Ends, unlike starts, mean the same whatever the window was
// when they were written.
func (d *dedupe) outside(at, now usage.Time) bool { return at <= now.Add(-d.window) }

// add claims hash at partition time now, as part of the open transaction.
func (d *dedupe) add(hash Hash, now usage.Time) {
	at := now - now%d.slice
	if now < 0 && now%d.slice != 0 {
		at -= d.slice
	}
	at += d.slice
	was, known := d.seenIn[hash]
	d.put(hash, at)
	d.fresh = append(d.fresh, freshHash{hash: hash, at: at, was: was, known: known})
}

func (d *dedupe) put(hash Hash, at usage.Time) {
	d.seenIn[hash] = at
	b := d.bucket(at)
	b.hashes = append(b.hashes, hash)
}

func (d *dedupe) bucket(at usage.Time) *bucket {
	if d.last != nil && d.latest == at {
		return d.last
	}
	b, ok := d.buckets[at]
	if !ok {
		b = &bucket{}
		d.buckets[at] = b
	}
	d.latest, d.last = at, b
	return b
}

// segments returns the records of what the open transaction, which began at
// position, claimed and is within the window before now.
func (d *dedupe) segments(position int64, now usage.Time) []DedupeRecord {
	var records []DedupeRecord
	for _, f := range d.fresh {
		if d.outside(f.at, now) {
			continue // its bucket goes with this commit
		}
		n := len(records) - 1
		if n < 0 || records[n].Bucket != f.at || len(records[n].Hashes) == maxSegment {
			records = append(records, DedupeRecord{Bucket: f.at, Offset: position, Piece: n + 1, Void: d.void})
			n++
		}
		records[n].Hashes = append(records[n].Hashes, f.hash)
	}
	return records
}

// expired returns the keys of records that hold nothing of the window before
// now any more. They go when the open transaction commits.
func (d *dedupe) expired(now usage.Time) []string {
	var keys []string
	d.dropped = d.dropped[:0]
	for at, b := range d.buckets {
		if d.outside(at, now) {
			d.dropped = append(d.dropped, at)
			keys = append(keys, b.keys...)
		}
	}
	return keys
}

func (d *dedupe) committed() {
	d.fresh = d.fresh[:0]
	for _, w := range d.wrote {
		b := d.bucket(w.at)
		b.keys = append(b.keys, w.key)
	}
	d.wrote = d.wrote[:0]
	for _, at := range d.dropped {
		for _, h := range d.buckets[at].hashes {
			if d.seenIn[h] == at { // else it was counted again since
				delete(d.seenIn, h)
			}
		}
		delete(d.buckets, at)
	}
	d.dropped, d.last = d.dropped[:0], nil
}

func (d *dedupe) rollback() {
	for _, f := range slices.Backward(d.fresh) {
		if f.known {
			d.seenIn[f.hash] = f.was
		} else {
			delete(d.seenIn, f.hash)
		}
		b := d.bucket(f.at)
		b.hashes = b.hashes[:len(b.hashes)-1]
	}
	d.fresh, d.dropped, d.wrote = d.fresh[:0], d.dropped[:0], d.wrote[:0]
}
