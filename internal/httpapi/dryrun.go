package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/meterd/meterd/internal/usage"
)

// dryRunAnswer is what a change of a contract would tell. Events are limit
// events. Away are the clients of which nothing is known because the instance
// that has them does not answer.
type dryRunAnswer struct {
	Events  []json.RawMessage `json:"events"`
	Pending bool              `json:"pending"`
	Away    []string          `json:"away,omitempty"`
}

// trial is what a dry run finds of one client.
type trial struct {
	client    string
	partition int32
	events    []json.RawMessage
	pending   bool
	done      bool
}

// dryRun answers with the limit events that c would cause, of the client that
// has the contract and of the one that is to have it. An instance that was
// asked by another one answers for the partitions that it runs.
func (s *Server) dryRun(w http.ResponseWriter, r *http.Request, c change) error {
	e, known := s.parts.Contracts.Entry(c.id)
	if !forwarded(r) {
		if err := c.allowed(&e, known); err != nil {
			return err
		}
	}
	var list []trial
	add := func(client string) {
		if !slices.ContainsFunc(list, func(t trial) bool { return t.client == client }) {
			list = append(list, trial{client: client, partition: s.parts.Partitions.Of(client)})
		}
	}
	if e.Contract != nil {
		add(e.Contract.Client) // what it clears comes before what the other one crosses
	}
	if c.contract != nil {
		add(c.contract.Client)
	}
	for i := range list {
		if err := s.try(&list[i], &c); err != nil {
			return err
		}
	}
	if forwarded(r) {
		w.Header().Set(headerPartitions, partitionsOf(list))
	} else {
		s.tryElsewhere(r, c.value, list)
	}
	return answerTrials(w, list)
}

// try has t's client previewed, if its partition runs here. Nobody knows where
// the change would stand on the topic; the next record is what it would be.
func (s *Server) try(t *trial, c *change) error {
	reader, ok := s.parts.Partitions.Running(t.partition)
	if !ok {
		return nil
	}
	now, revision := usage.TimeOf(s.parts.Now()), s.parts.Contracts.Position()
	preview, err := reader.Preview(t.client, c.id, c.contract, revision, now)
	if err != nil {
		return fmt.Errorf("preview contract: %w", err)
	}
	t.pending = preview.Pending
	for _, event := range preview.Events {
		event.DecidedAt = now
		text, err := encode(event)
		if err != nil {
			return err
		}
		t.events = append(t.events, text)
	}
	_, t.done = s.parts.Partitions.Running(t.partition) // else somebody else may have counted on
	return nil
}

// tryElsewhere has the instances that have them preview all of list that is not
// done.
func (s *Server) tryElsewhere(r *http.Request, body []byte, list []trial) {
	for i := range list {
		t := &list[i]
		owner, ok := s.peers.owner(t.partition)
		if t.done || !ok {
			continue
		}
		reply, err := s.peers.ask(r, owner, body)
		if err != nil || reply.status != http.StatusOK || !slices.Contains(strings.Split(reply.header.Get(headerPartitions), ","), strconv.Itoa(int(t.partition))) {
			continue // it is named in the answer
		}
		var a dryRunAnswer
		if json.Unmarshal(reply.body, &a) != nil {
			continue
		}
		t.events, t.pending, t.done = eventsOf(a.Events, t.client), a.Pending, true
	}
}

// eventsOf returns those of events that are of client, as they are.
func eventsOf(events []json.RawMessage, client string) []json.RawMessage {
	return slices.DeleteFunc(events, func(event json.RawMessage) bool {
		var of struct {
			Client string `json:"client"`
		}
		return json.Unmarshal(event, &of) != nil || of.Client != client
	})
}

func partitionsOf(list []trial) string {
	var covered []string
	for i := range list {
		if list[i].done {
			covered = append(covered, strconv.Itoa(int(list[i].partition)))
		}
	}
	return strings.Join(covered, ",")
}

func answerTrials(w http.ResponseWriter, list []trial) error {
	a := dryRunAnswer{Events: []json.RawMessage{}}
	for i := range list {
		t := &list[i]
		if !t.done {
			a.Away = append(a.Away, t.client)
			continue
		}
		a.Events = append(a.Events, t.events...)
		a.Pending = a.Pending || t.pending
	}
	if len(list) > 0 && len(a.Away) == len(list) {
		return refuse(errNotReady, "the partition of the client is not running yet, or the instance that has it does not answer")
	}
	return answer(w, a)
}
