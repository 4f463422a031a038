package feed

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Earliest is the cursor before all that the topic has.
const Earliest = "earliest"

// vector has the next offset of each partition.
type vector []int64

func (v vector) clone() vector { return slices.Clone(v) }

// String returns v as a cursor: 0-17,1-40.
func (v vector) String() string {
	b := make([]byte, 0, len(v)*10)
	for p, offset := range v {
		if p > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(p), 10)
		b = append(b, '-')
		b = strconv.AppendInt(b, offset, 10)
	}
	return string(b)
}

// reaches tells whether v is at or behind w in all partitions.
func (v vector) reaches(w vector) bool {
	for p := range v {
		if v[p] < w[p] {
			return false
		}
	}
	return true
}

// unread stands for the beginning of a partition, wherever that is.
const unread = -1

// parseCursor reads what String wrote, of a topic with so many partitions. A
// partition that is not in it was not read: it is unread.
func parseCursor(text string, partitions int32) (vector, error) {
	v := make(vector, partitions)
	for p := range v {
		v[p] = unread
	}
	if text == Earliest {
		return v, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		name, position, ok := strings.Cut(part, "-")
		p, errName := strconv.ParseUint(name, 10, 31)
		offset, errPosition := strconv.ParseUint(position, 10, 63)
		switch {
		case !ok || errName != nil || errPosition != nil:
			return nil, fmt.Errorf("%w: PARTITION-OFFSET is expected, parted by commas", ErrCursor)
		case p >= uint64(partitions):
			return nil, fmt.Errorf("%w: there is no partition %d", ErrCursor, p)
		case v[p] != unread:
			return nil, fmt.Errorf("%w: partition %d is there twice", ErrCursor, p)
		}
		v[p] = int64(offset)
	}
	return v, nil
}
