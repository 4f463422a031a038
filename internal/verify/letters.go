package verify

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/zeebo/xxh3"

	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
)

// letter is a dead letter.
type letter struct {
	reason  usage.Reason
	content xxh3.Uint128 // of the input's key, value and headers
	seen    bool         // its record was met
}

// letters are the dead letters of a partition by the offset of their record.
type letters struct {
	byOffset map[int64]*letter
	from     int64 // those of records below may be gone by retention
}

const letterHeaders = 5 // added to the input's

// readLetters reads the dead letters of what is counted.
func (a *audit) readLetters(ctx context.Context) error {
	a.letters = letters{byOffset: map[int64]*letter{}}
	start, err := a.parts.Cluster.LogStart(ctx, a.cfg.Topics.DeadLetters, a.number)
	if err != nil {
		return err
	}
	first := true
	return a.readAll(ctx, a.cfg.Topics.DeadLetters, a.number, func(r *kafka.Record) error {
		if usage.Time(r.Timestamp) > a.kept.clock() { // of a later commit
			return nil
		}
		offset, l, problem := a.readLetter(r)
		if first && start > 0 {
			a.letters.from = offset
		}
		first = false
		if problem == "" && a.letters.byOffset[offset] != nil {
			problem = fmt.Sprintf("there is another one for offset %d", offset)
		}
		if problem == "" && (offset < a.kept.position.Boundary || offset >= a.kept.position.Position) {
			problem = fmt.Sprintf("offset %d is outside of what was counted, %d to %d", offset, a.kept.position.Boundary, a.kept.position.Position)
		}
		if problem != "" {
			a.fix(DeadLetter, fmt.Sprintf("at %d", r.Offset), "%s", problem)
			return nil
		}
		a.letters.byOffset[offset] = l
		return nil
	})
}

// readLetter reads the headers that were added to the input's.
func (a *audit) readLetter(r *kafka.Record) (offset int64, l *letter, problem string) {
	n := len(r.Headers) - letterHeaders
	if n < 0 {
		return 0, nil, "headers are missing"
	}
	added := map[string]string{}
	for _, h := range r.Headers[n:] {
		added[string(h.Key)] = string(h.Value)
	}
	offset, err := strconv.ParseInt(added["meterd_offset"], 10, 64)
	switch {
	case err != nil:
		return 0, nil, fmt.Sprintf("meterd_offset is %q", added["meterd_offset"])
	case added["meterd_topic"] != a.cfg.Topics.Usage:
		return offset, nil, fmt.Sprintf("meterd_topic is %q", added["meterd_topic"])
	case added["meterd_partition"] != strconv.Itoa(int(a.number)):
		return offset, nil, fmt.Sprintf("meterd_partition is %q", added["meterd_partition"])
	case !slices.Contains(usage.Reasons(), usage.Reason(added["meterd_reason"])):
		return offset, nil, fmt.Sprintf("meterd_reason is %q", added["meterd_reason"])
	case added["meterd_error"] == "":
		return offset, nil, "meterd_error is missing"
	}
	return offset, &letter{reason: usage.Reason(added["meterd_reason"]), content: contentOf(r.Key, r.Value, r.Headers[:n])}, ""
}

// contentOf makes one number of a record's content. Null and empty differ.
func contentOf(key, value []byte, headers []kafka.Header) xxh3.Uint128 {
	var all bytes.Buffer
	part := func(b []byte) {
		if b == nil {
			all.WriteString("null,")
			return
		}
		fmt.Fprintf(&all, "%d:", len(b))
		all.Write(b)
	}
	part(key)
	part(value)
	for _, h := range headers {
		part(h.Key)
		part(h.Value)
	}
	return xxh3.Hash128(all.Bytes())
}

// letterOf returns the dead letter of a record, or nil.
func (a *audit) letterOf(r *kafka.Record) *letter {
	l := a.letters.byOffset[r.Offset]
	if l == nil {
		return nil
	}
	l.seen = true
	if l.content != contentOf(r.Key, r.Value, r.Headers) {
		a.differ(DeadLetter, offsetKey(r.Offset), "its key, value or headers are not the input's")
	}
	return l
}

func offsetKey(offset int64) string { return fmt.Sprintf("offset %d", offset) }

// lettersLeft tells of dead letters whose offset has no record.
func (a *audit) lettersLeft() {
	var left []int64
	for offset, l := range a.letters.byOffset {
		if !l.seen {
			left = append(left, offset)
		}
		l.seen = false // for another reading
	}
	slices.Sort(left)
	for _, offset := range left {
		a.differ(DeadLetter, offsetKey(offset), "there is no such record in the usage topic")
	}
}

// refused checks what became of a record that cannot be counted, for a reason
// that does not depend on the clock.
func (a *audit) refused(offset int64, l *letter, want usage.Reason) {
	switch {
	case l == nil && offset < a.letters.from: // gone
	case l == nil:
		a.differ(DeadLetter, offsetKey(offset), "is missing, the record is %s", want)
	case l.reason != want:
		a.differ(DeadLetter, offsetKey(offset), "reason is %s, must be %s", l.reason, want)
	}
}

// mistaken tells of a dead letter whose record is none.
func (a *audit) mistaken(offset int64, l *letter, why string) {
	a.differ(DeadLetter, offsetKey(offset), "reason is %s, but %s", l.reason, why)
}
