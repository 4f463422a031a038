package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/usage"
)

const (
	// overviewEvery is how often a stream of overviews has a new one, and how
	// long one is shown to whoever asks.
	overviewEvery = time.Second
	// maxNearest bounds the limits that an overview shows.
	maxNearest = 20
)

// overviewAnswer is what goes on in all instances. Complete is false where one
// of them did not answer.
type overviewAnswer struct {
	Time      usage.Time         `json:"time"`
	Complete  bool               `json:"complete"`
	Instances []instanceOverview `json:"instances"`
	Nearest   []nearLimit        `json:"nearest"`
}

// instanceOverview is what one instance says of itself, or that it does not
// answer. Totals are counters by their names as in /metrics; Rates are the same
// for a second, over the last ten seconds or as long as somebody looks.
type instanceOverview struct {
	ID         string              `json:"id"`
	Address    string              `json:"address"`
	Answers    bool                `json:"answers"`
	Ready      bool                `json:"ready"`
	Checks     []Check             `json:"checks"`
	Partitions []partitionOverview `json:"partitions"`
	Totals     map[string]float64  `json:"totals"`
	Rates      map[string]float64  `json:"rates"`
}

type partitionOverview struct {
	partition
	RecordsPerSecond float64 `json:"records_per_second"`
}

// overviews are those of this instance, made once for all that look.
type overviews struct {
	making sync.Mutex // held while one is made

	mu   sync.Mutex // guards all below
	last []byte     // of all instances
	at   time.Time
}

// overview answers with what goes on.
func (s *Server) overview(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if forwarded(r) {
		return answer(w, s.overviewHere())
	}
	body, err := s.overviewOfAll(r)
	if err != nil {
		return err
	}
	write(w, "application/json", http.StatusOK, body)
	return nil
}

// overviewStream answers with an overview, and with a new one each second.
func (s *Server) overviewStream(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	ctx, end, err := s.streams.begin(r.Context())
	if err != nil {
		return err
	}
	defer end()
	body, err := s.overviewOfAll(r)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", eventStream)
		return nil
	}
	out, err := newStream(w)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(overviewEvery)
	defer ticker.Stop()
	for {
		out.event("", "overview", []byte(strings.TrimSuffix(string(body), "\n")))
		if out.flush() != nil {
			return nil // the client is gone
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if r.Context().Err() == nil {
				out.drop(refuse(errNotReady, "this instance stops"))
			}
			return nil
		}
		if body, err = s.overviewOfAll(r); err != nil {
			out.drop(refuse(errNotReady, "there is no overview at present").because(err))
			return nil
		}
	}
}

// overviewOfAll returns an overview of all instances, which is no older than
// half of overviewEvery.
func (s *Server) overviewOfAll(r *http.Request) ([]byte, error) {
	o := &s.overviews
	fresh := func() []byte {
		o.mu.Lock()
		defer o.mu.Unlock()
		if s.parts.Now().Sub(o.at).Abs() > overviewEvery/2 {
			return nil
		}
		return o.last
	}
	if body := fresh(); body != nil {
		return body, nil
	}
	o.making.Lock()
	defer o.making.Unlock()
	if body := fresh(); body != nil { // another has made it meanwhile
		return body, nil
	}
	body, err := encode(s.gatherOverview(r))
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last, o.at = body, s.parts.Now()
	return body, nil
}

// gatherOverview asks all instances. Those that do not answer are there as that.
func (s *Server) gatherOverview(r *http.Request) overviewAnswer {
	a := s.overviewHere()
	others := s.peers.others()
	list := make([]overviewAnswer, len(others))
	group := errgroup.Group{}
	group.SetLimit(maxAsked)
	// Who waits for it is not only who asked first.
	r = r.Clone(context.WithoutCancel(r.Context()))
	r.Method, r.URL.Path, r.URL.RawPath, r.URL.RawQuery = http.MethodGet, pathOverview, "", ""
	for i, other := range others {
		group.Go(func() error {
			list[i] = overviewAnswer{Instances: []instanceOverview{{
				ID: other.ID, Address: other.Address, Checks: []Check{}, Partitions: []partitionOverview{},
				Totals: map[string]float64{}, Rates: map[string]float64{},
			}}}
			reply, err := s.peers.ask(r, other, nil)
			if err != nil || reply.status != http.StatusOK {
				return nil
			}
			var theirs overviewAnswer
			if json.Unmarshal(reply.body, &theirs) == nil {
				list[i] = theirs
			}
			return nil
		})
	}
	_ = group.Wait() // none fails
	for i := range list {
		a.Complete = a.Complete && list[i].Complete
		a.Instances = append(a.Instances, list[i].Instances...)
		a.Nearest = append(a.Nearest, list[i].Nearest...)
	}
	slices.SortFunc(a.Instances, func(x, y instanceOverview) int { return cmp.Compare(x.ID, y.ID) })
	a.Nearest = nearestOf(a.Nearest)
	return a
}

// overviewHere returns the overview of this instance alone.
func (s *Server) overviewHere() overviewAnswer {
	now := s.parts.Now()
	self := instanceOverview{ID: s.parts.Cluster.Self(), Answers: true, Ready: true, Checks: s.parts.Checks(), Partitions: []partitionOverview{}}
	for _, i := range s.parts.Cluster.Instances() {
		if i.ID == self.ID {
			self.Address = i.Address
		}
	}
	for _, c := range self.Checks {
		self.Ready = self.Ready && c.OK
	}
	here := s.partitionsHere()
	self.Totals, self.Rates = s.pulse.take(now, here)
	for _, p := range here {
		self.Partitions = append(self.Partitions, partitionOverview{partition: p, RecordsPerSecond: self.Rates[positionKey(p.Partition)]})
		delete(self.Rates, positionKey(p.Partition))
	}
	return overviewAnswer{
		Time: usage.TimeOf(now), Complete: self.ID != "", Instances: []instanceOverview{self}, Nearest: s.nearest.get(s),
	}
}
