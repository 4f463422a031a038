package aggregate

import "github.com/meterd/meterd/internal/usage"

// foreseen is what is known of an event before it is folded.
type foreseen struct {
	event   *usage.Event
	hash    Hash     // of its id, where events are recognised by theirs
	name    uint64   // hash of the client's
	client  *client  // nil where there is none yet
	lost    int      // of the state, when client was looked up
	meter   int      // that the event names, -1 for none
	counter *counter // that is likely to count it
}

// Foresee prepares for the events that are folded in next, in the order given
// and with nothing but Reject between them. It changes nothing, and Fold does the
// same without it; but a counter, its client and the place of an event id are
// anywhere in a large memory, and the processor waits for one after the other
// where Fold comes upon them. Asked for here in a row, for some dozen events, they
// come together: each loop takes one step of all searches, and is so short that
// the processor is at the next event long before memory has answered for the
// first. The events must stay as they are until they are folded.
func (s *State) Foresee(events []*usage.Event) {
	s.foreseen, s.recalled = s.foreseen[:0], 0
	for _, ev := range events {
		f := foreseen{event: ev, lost: s.lost, meter: -1, name: s.clients.hash(ev.Client)}
		if s.cfg.DedupeWindow > 0 && len(ev.ID) > 0 {
			f.hash, s.id = hashOf(s.id, ev.Client, ev.ID)
		}
		if m, ok := s.meters[string(ev.Meter)]; ok {
			f.meter = m
		}
		s.foreseen = append(s.foreseen, f)
	}
	list := s.foreseen
	sum := uint64(0)
	for i := range list {
		sum += s.dedupe.ids.peek(list[i].hash)
	}
	for i := range list {
		sum += s.clients.peek(list[i].name).hash
	}
	for i := range list {
		if c := s.clients.peek(list[i].name).client; c != nil {
			sum += uint64(len(c.name)) + uint64(len(c.slots))
		}
	}
	for i := range list {
		f := &list[i]
		f.client = s.clients.find(f.name, f.event.Client)
	}
	for i := range list {
		if f := &list[i]; f.client != nil && f.meter >= 0 {
			f.counter = f.client.slots[f.meter].last
		}
	}
	for i := range list {
		if k := list[i].counter; k != nil {
			sum += uint64(k.txn) + uint64(len(k.limits))
		}
	}
	s.sink += sum
}

// recall returns what was foreseen of ev, or finds it out.
func (s *State) recall(ev *usage.Event) foreseen {
	for s.recalled < len(s.foreseen) {
		f := s.foreseen[s.recalled]
		s.recalled++
		if f.event != ev {
			continue // it was not folded
		}
		if f.client == nil || f.lost != s.lost {
			f.client = s.clients.find(f.name, ev.Client)
		}
		return f
	}
	f := foreseen{event: ev, client: s.clients.find(s.clients.hash(ev.Client), ev.Client)}
	if s.cfg.DedupeWindow > 0 && len(ev.ID) > 0 {
		f.hash, s.id = hashOf(s.id, ev.Client, ev.ID)
	}
	return f
}
