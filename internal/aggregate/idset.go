package aggregate

import "math/bits"

// idSet keeps hashes, each with a tag of one byte. It is an open-addressed table
// in parts that grow one by one, so that no insertion waits for the whole of it
// to be copied, and it has no pointers for a collector to follow: some 30 bytes
// for each hash.
//
// Of a hash, 120 bits are told apart: its lowest eight make room for the tag.
type idSet struct {
	parts [idParts]idPart
	count int
}

const (
	idParts    = 256
	firstCells = 8
)

// Tags of cells that hold no hash. All others are the caller's.
const (
	freeTag uint8 = 0
	deadTag uint8 = 255 // something was here: a search goes on behind it
)

// idPart has the hashes whose lower half begins with the same byte.
type idPart struct {
	cells []idCell
	used  int // cells that are not free
}

// idCell is a hash and, in the lowest byte of hi, its tag.
type idCell struct{ hi, lo uint64 }

func (c idCell) tag() uint8 { return uint8(c.hi) }

func (c idCell) is(h Hash) bool { return c.lo == h.Lo && (c.hi^h.Hi)>>8 == 0 }

func (s *idSet) part(h Hash) *idPart { return &s.parts[h.Lo>>56] }

// home is where the search for a hash begins. It grows with the hash, so that
// copying a part in order fills the new one in order.
func (p *idPart) home(lo uint64) int {
	at, _ := bits.Mul64(lo<<8, uint64(len(p.cells)))
	return int(at)
}

// find returns where h is, or -1 and the first cell that it may be put into.
func (p *idPart) find(h Hash) (at, room int) {
	room = -1
	for i := p.home(h.Lo); ; i++ {
		if i == len(p.cells) {
			i = 0
		}
		switch c := p.cells[i]; c.tag() {
		case freeTag:
			if room < 0 {
				room = i
			}
			return -1, room
		case deadTag:
			if room < 0 {
				room = i
			}
		default:
			if c.is(h) {
				return i, i
			}
		}
	}
}

// tag returns the tag of h, and freeTag where h is not in the set.
func (s *idSet) tag(h Hash) uint8 {
	p := s.part(h)
	if p.used == 0 {
		return freeTag
	}
	if at, _ := p.find(h); at >= 0 {
		return p.cells[at].tag()
	}
	return freeTag
}

// peek reads the cell where the search for h begins, and returns anything.
func (s *idSet) peek(h Hash) uint64 {
	p := s.part(h)
	if p.used == 0 {
		return 0
	}
	return p.cells[p.home(h.Lo)].lo
}

// put gives h a tag, and returns the one that it had, freeTag for none.
func (s *idSet) put(h Hash, tag uint8) (was uint8) {
	p := s.part(h)
	if (p.used+1)*4 > len(p.cells)*3 {
		p.rebuild(nil)
	}
	at, room := p.find(h)
	if at >= 0 {
		was = p.cells[at].tag()
	} else {
		s.count++
		if p.cells[room].tag() == freeTag {
			p.used++
		}
	}
	p.cells[room] = idCell{hi: h.Hi&^0xff | uint64(tag), lo: h.Lo}
	return was
}

// remove takes h out of the set, in which it is.
func (s *idSet) remove(h Hash) {
	p := s.part(h)
	if at, _ := p.find(h); at >= 0 {
		p.cells[at].hi |= uint64(deadTag)
		s.count--
	}
}

// sweep takes out all hashes with one of tags.
func (s *idSet) sweep(tags *[256]bool) {
	for i := range s.parts {
		if p := &s.parts[i]; p.used > 0 {
			s.count -= p.rebuild(tags)
		}
	}
}

// rebuild makes room: for twice as many hashes as fit, or, where those with one
// of tags are left out, for half as many again as are left. It returns how many
// were left out.
func (p *idPart) rebuild(tags *[256]bool) (swept int) {
	kept := 0
	for _, c := range p.cells {
		switch tag := c.tag(); {
		case tag == freeTag, tag == deadTag:
		case tags != nil && tags[tag]:
			swept++
		default:
			kept++
		}
	}
	size := kept * 2
	if tags == nil {
		size = kept * 8 / 3
	}
	old := p.cells
	p.cells, p.used = make([]idCell, max(firstCells, size)), kept
	for _, c := range old {
		if tag := c.tag(); tag == freeTag || tag == deadTag || tags != nil && tags[tag] {
			continue
		}
		at := p.home(c.lo)
		for p.cells[at].tag() != freeTag {
			if at++; at == len(p.cells) {
				at = 0
			}
		}
		p.cells[at] = c
	}
	return swept
}
