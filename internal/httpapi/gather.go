package httpapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

const (
	// headerPartitions says which partitions an answer to another instance
	// covers.
	headerPartitions = "Meterd-Partitions"
	// maxAsked bounds how many instances are asked at once.
	maxAsked = 8
)

// gather puts r to all other instances and decodes what they say. Without one
// of them there is no answer.
func gather[T any](p *peers, r *http.Request) ([]T, []http.Header, error) {
	others := p.others()
	answers := make([]T, len(others))
	headers := make([]http.Header, len(others))
	group, ctx := errgroup.WithContext(r.Context())
	group.SetLimit(maxAsked)
	r = r.WithContext(ctx)
	for i, other := range others {
		group.Go(func() error {
			reply, err := p.ask(r, other, nil)
			if err != nil {
				return err
			}
			if reply.status != http.StatusOK {
				return fmt.Errorf("instance %s answers with status %d", other.ID, reply.status)
			}
			headers[i] = reply.header
			if err := json.Unmarshal(reply.body, &answers[i]); err != nil {
				return fmt.Errorf("decode the answer of instance %s: %w", other.ID, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, refuse(errNotReady, "not all instances answer").because(err)
	}
	return answers, headers, nil
}

type clientsAnswer struct {
	Clients []string `json:"clients"`
	Next    string   `json:"next"`
}

// clients answers with a page of the names of all clients, in the order of
// their bytes. Instances that were asked by another one answer for themselves.
func (s *Server) clients(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "after", "limit")
	if err != nil {
		return err
	}
	after, limit, err := page(values)
	if err != nil {
		return err
	}
	names, covered := s.clientsHere(after, limit)
	if forwarded(r) {
		w.Header().Set(headerPartitions, strings.Join(covered, ","))
		return answer(w, paged(names, limit))
	}
	answers, headers, err := gather[clientsAnswer](s.peers, r)
	if err != nil {
		return err
	}
	more := false
	for i, a := range answers {
		names = append(names, a.Clients...)
		more = more || a.Next != ""
		covered = append(covered, strings.Split(headers[i].Get(headerPartitions), ",")...)
	}
	if err := s.whole(covered); err != nil {
		return err
	}
	a := paged(names, limit)
	if more && len(a.Clients) > 0 {
		a.Next = a.Clients[len(a.Clients)-1]
	}
	return answer(w, a)
}

// clientsHere returns one client more than limit, if there are as many, and
// the partitions that it looked at.
func (s *Server) clientsHere(after string, limit int) (names, covered []string) {
	for _, p := range s.parts.Partitions.Here() {
		reader, ok := s.parts.Partitions.Running(p.Partition)
		if !ok {
			continue
		}
		names = append(names, reader.Clients(after, limit+1)...)
		covered = append(covered, strconv.Itoa(int(p.Partition)))
	}
	return names, covered
}

// whole checks that covered has every partition there is.
func (s *Server) whole(covered []string) error {
	n := s.parts.Cluster.Partitions()
	if n <= 0 {
		return refuse(errNotReady, "the number of partitions is not known yet")
	}
	for p := range n {
		if !slices.Contains(covered, strconv.Itoa(int(p))) {
			return refuse(errNotReady, "partition %d is not running yet", p)
		}
	}
	return nil
}

// paged returns the first of names, which it sorts. Each of several sources has
// given at least as many as it has of the first limit.
func paged(names []string, limit int) clientsAnswer {
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > limit {
		return clientsAnswer{Clients: names[:limit], Next: names[limit-1]}
	}
	return clientsAnswer{Clients: append([]string{}, names...)}
}

type assignmentsAnswer struct {
	Instances []instance `json:"instances"`
}

type instance struct {
	ID         string      `json:"id"`
	Address    string      `json:"address"`
	Partitions []partition `json:"partitions"`
}

type partition struct {
	Topic     string         `json:"topic"`
	Partition int32          `json:"partition"`
	State     PartitionState `json:"state"`
	Position  int64          `json:"position"`
	End       int64          `json:"end"`
	Lag       int64          `json:"lag"`
}

// assignments answers with what each instance has, by its own word.
func (s *Server) assignments(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	self := instance{ID: s.parts.Cluster.Self(), Partitions: s.partitionsHere()}
	if self.ID == "" {
		return refuse(errNotReady, "this instance is not a member of the group at present")
	}
	for _, i := range s.parts.Cluster.Instances() {
		if i.ID == self.ID {
			self.Address = i.Address
		}
	}
	a := assignmentsAnswer{Instances: []instance{self}}
	if forwarded(r) {
		return answer(w, a)
	}
	answers, _, err := gather[assignmentsAnswer](s.peers, r)
	if err != nil {
		return err
	}
	for _, other := range answers {
		a.Instances = append(a.Instances, other.Instances...)
	}
	slices.SortFunc(a.Instances, func(a, b instance) int { return cmp.Compare(a.ID, b.ID) })
	return answer(w, a)
}

func (s *Server) partitionsHere() []partition {
	list := []partition{}
	for _, p := range s.parts.Partitions.Here() {
		list = append(list, partition{
			Topic: p.Topic, Partition: p.Partition, State: p.State,
			Position: p.Position, End: p.End, Lag: max(0, p.End-p.Position),
		})
	}
	slices.SortFunc(list, func(a, b partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return list
}
