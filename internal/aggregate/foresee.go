package aggregate

import "github.com/meterd/meterd/internal/usage"

// foreseen is what is known of an event before it is folded.
type foreseen struct {
	event  *usage.Event
	hash   Hash    // of its id, where events are recognised by theirs
	client *client // nil where there is none yet
	lost   int     // of the state, when client was looked up
}

// Foresee prepares for the events that are folded in next, in the order given
// and with nothing but Reject between them. It changes nothing, and Fold does the
// same without it; but a counter, its client and the place of an event id are
// anywhere in a large memory, and the processor waits for one after the other
// where Fold comes upon them. Asked for here in a row, for some dozen events, they
// come together. The events must stay as they are until they are folded.
func (s *State) Foresee(events []*usage.Event) {
	s.foreseen = s.foreseen[:0]
	for _, ev := range events {
		s.foreseen = append(s.foreseen, foreseen{event: ev, lost: s.lost})
		if s.cfg.DedupeWindow > 0 && len(ev.ID) > 0 {
			f := &s.foreseen[len(s.foreseen)-1]
			f.hash, s.id = hashOf(s.id, ev.Client, ev.ID)
			s.sink += s.dedupe.ids.peek(f.hash)
		}
	}
	for i := range s.foreseen {
		f := &s.foreseen[i]
		f.client = s.clients[string(f.event.Client)]
	}
	for i := range s.foreseen {
		f := &s.foreseen[i]
		if m, ok := s.meters[string(f.event.Meter)]; ok && f.client != nil {
			if k := f.client.slots[m].last; k != nil {
				s.sink += uint64(k.txn) + uint64(k.total)
			}
		}
	}
}

// recall returns what was foreseen of ev, or finds it out.
func (s *State) recall(ev *usage.Event) foreseen {
	for len(s.foreseen) > 0 {
		f := s.foreseen[0]
		s.foreseen = s.foreseen[1:]
		if f.event != ev {
			continue // it was not folded
		}
		if f.client == nil || f.lost != s.lost {
			f.client = s.clients[string(ev.Client)]
		}
		return f
	}
	f := foreseen{event: ev, client: s.clients[string(ev.Client)]}
	if s.cfg.DedupeWindow > 0 && len(ev.ID) > 0 {
		f.hash, s.id = hashOf(s.id, ev.Client, ev.ID)
	}
	return f
}
