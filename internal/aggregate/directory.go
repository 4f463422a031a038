package aggregate

import (
	"hash/maphash"
	"iter"
	"unsafe"
)

// directory finds clients by their names. It does what a map does, but lets a
// search be begun for many names before the first of them is gone on with.
type directory struct {
	seed  maphash.Seed
	cells []directoryCell
	used  int // cells that are not free
	count int
}

// directoryCell has a client, or none. Where one was, hash is removed, and a search
// goes on behind it.
type directoryCell struct {
	hash   uint64
	client *client
}

const removed uint64 = 1

func newDirectory() directory {
	return directory{seed: maphash.MakeSeed(), cells: make([]directoryCell, firstCells)}
}

func (d *directory) hash(name []byte) uint64 { return maphash.Bytes(d.seed, name) }

// peek returns the cell where the search for a hash begins.
func (d *directory) peek(hash uint64) *directoryCell { return &d.cells[hash&uint64(len(d.cells)-1)] }

// search returns the cell of the client of that name and hash. Where there is
// none, it is the first that it may be put into, and ok is false.
func (d *directory) search(hash uint64, name string) (cell *directoryCell, ok bool) {
	mask := uint64(len(d.cells) - 1)
	var room *directoryCell
	for i := hash & mask; ; i = (i + 1) & mask {
		c := &d.cells[i]
		switch {
		case c.client == nil:
			if room == nil {
				room = c
			}
			if c.hash != removed {
				return room, false
			}
		case c.hash == hash && c.client.name == name:
			return c, true
		}
	}
}

// find returns the client of that name and hash, or nil.
func (d *directory) find(hash uint64, name []byte) *client {
	// search keeps nothing of the name
	if c, ok := d.search(hash, unsafe.String(unsafe.SliceData(name), len(name))); ok {
		return c.client
	}
	return nil
}

// named returns the client of that name, or nil.
func (d *directory) named(name string) *client {
	if c, ok := d.search(maphash.String(d.seed, name), name); ok {
		return c.client
	}
	return nil
}

// has tells whether c is in the directory.
func (d *directory) has(c *client) bool { return d.named(c.name) == c }

// add puts in a client of whose name there is none.
func (d *directory) add(c *client) {
	if (d.used+1)*4 > len(d.cells)*3 {
		d.grow()
	}
	hash := maphash.String(d.seed, c.name)
	cell, _ := d.search(hash, c.name)
	if cell.hash != removed {
		d.used++
	}
	cell.hash, cell.client = hash, c
	d.count++
}

// remove takes c out, if it is in.
func (d *directory) remove(c *client) {
	if cell, ok := d.search(maphash.String(d.seed, c.name), c.name); ok && cell.client == c {
		cell.hash, cell.client = removed, nil
		d.count--
	}
}

// grow makes room for as many clients again, without what is dead.
func (d *directory) grow() {
	size := firstCells
	for size < d.count*2+2 {
		size *= 2
	}
	old := d.cells
	d.cells, d.used = make([]directoryCell, size), d.count
	mask := uint64(size - 1)
	for _, c := range old {
		if c.client == nil {
			continue
		}
		i := c.hash & mask
		for d.cells[i].client != nil {
			i = (i + 1) & mask
		}
		d.cells[i] = c
	}
}

// all yields the clients, in no order. Those that are removed meanwhile are not
// yielded any more; those that are added may be or not.
func (d *directory) all() iter.Seq[*client] {
	return func(yield func(*client) bool) {
		cells := d.cells
		for i := range cells {
			c := cells[i].client
			if c == nil || &d.cells[0] != &cells[0] && !d.has(c) {
				continue
			}
			if !yield(c) {
				return
			}
		}
	}
}
