package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// HTTP is the interface of a running meterd, of any of its instances.
type HTTP struct {
	URL    string       // without a path
	Token  string       // empty: none
	Client *http.Client // nil: http.DefaultClient
}

// answer is what GET /v1/clients/{client}/usage says, or .../limits.
type answer struct {
	Client string `json:"client"`
	AsOf   struct {
		Partition int32      `json:"partition"`
		Offset    int64      `json:"offset"`
		Time      usage.Time `json:"time"`
	} `json:"as_of"`
	Complete bool              `json:"complete"`
	Counters []answeredCounter `json:"counters"`
	Limits   []answeredLimit   `json:"limits"`
}

// answeredPeriod is a period, of which null is no start or no end.
type answeredPeriod struct {
	ID    string      `json:"id"`
	Start *usage.Time `json:"start"`
	End   *usage.Time `json:"end"`
}

type answeredCounter struct {
	Meter      string            `json:"meter"`
	Dimensions map[string]string `json:"dimensions"`
	Period     answeredPeriod    `json:"period"`
	Usage      string            `json:"usage"`
	Events     int64             `json:"events"`
	Seed       struct {
		State    aggregate.SeedState `json:"state"`
		Usage    string              `json:"usage"`
		Boundary int64               `json:"boundary"`
	} `json:"seed"`
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// errRefused is returned when HTTP does not answer us: nothing was compared.
var errRefused = errors.New("http refuses to answer")

// ask returns what HTTP says of a client's usage or limits. The problem is what
// the answer has wrong as such.
func (h *HTTP) ask(ctx context.Context, client, what string) (a answer, problem string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(h.URL, "/")+"/v1/clients/"+url.PathEscape(client)+"/"+what, nil)
	if err != nil {
		return a, "", err
	}
	if h.Token != "" {
		request.Header.Set("Authorization", "Bearer "+h.Token)
	}
	response, err := cmp.Or(h.Client, http.DefaultClient).Do(request)
	if err != nil {
		return a, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return a, "", fmt.Errorf("read answer: %w", err)
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return a, "", fmt.Errorf("%w: %s: give a token that %s takes", errRefused, response.Status, h.URL)
	default:
		return a, fmt.Sprintf("the answer is %s", response.Status), nil
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, fmt.Sprintf("the answer is no such JSON: %s", err), nil
	}
	return a, "", nil
}

// compareHTTP compares what is answered about every client with the changelog.
// Answers of another position are left alone.
func (a *audit) compareHTTP(ctx context.Context) error {
	records := map[string][]*aggregate.CounterRecord{}
	for _, r := range a.kept.counters {
		records[r.Client] = append(records[r.Client], r)
	}
	moved := 0
	for _, client := range slices.Sorted(maps.Keys(records)) {
		for _, of := range []struct {
			what    string
			compare func(*answer, []*aggregate.CounterRecord) []string
		}{{"usage", a.unanswered}, {"limits", a.unansweredLimits}} {
			if of.what == "limits" && len(a.deals.terms[client]) == 0 {
				continue
			}
			said, problem, err := a.parts.HTTP.ask(ctx, client, of.what)
			switch {
			case err != nil:
				return err
			case problem != "":
				a.found(Difference{Answer, a.number, client, problem})
				continue
			case said.AsOf.Offset != a.kept.position.Position:
				moved++
				continue
			}
			a.report.Answers++
			if said.Client != client || said.AsOf.Partition != a.number {
				a.found(Difference{Answer, a.number, client, fmt.Sprintf("the answer is about client %q, partition %d", said.Client, said.AsOf.Partition)})
				continue
			}
			for _, problem := range of.compare(&said, records[client]) {
				a.found(Difference{Answer, a.number, client, problem})
			}
		}
	}
	if moved > 0 {
		a.unchecked("partition %d: %d answers over HTTP were of another position", a.number, moved)
	}
	return nil
}

// unanswered returns how an answer and the changelog's counters differ: each
// counter answered must be one of those or zero, and each default counter of
// the current period must be answered.
func (a *audit) unanswered(said *answer, records []*aggregate.CounterRecord) []string {
	var problems []string
	answered := map[*aggregate.CounterRecord]bool{}
	for i := range said.Counters {
		k := &said.Counters[i]
		fits := slices.DeleteFunc(slices.Clone(records), func(r *aggregate.CounterRecord) bool { return !k.periodOf(r) })
		match := slices.IndexFunc(fits, func(r *aggregate.CounterRecord) bool { return !answered[r] && k.is(r) })
		switch {
		case match >= 0:
			answered[fits[match]] = true
		case len(fits) > 0:
			answered[fits[0]] = true
			problems = append(problems, k.unlike(fits[0]))
		case k.Usage != "0" || k.Events != 0:
			problems = append(problems, fmt.Sprintf("%s in %s: usage is %s of %d events, the changelog has no such counter", k.name(), k.Period.ID, k.Usage, k.Events))
		}
	}
	for _, r := range records {
		if r.Scope.Default() && r.Period.Contains(said.AsOf.Time) && !answered[r] && a.cfg.Catalog.Find(r.Meter) >= 0 {
			problems = append(problems, fmt.Sprintf("%s in %s: is not answered", named(r.Meter, r.Dimensions), r.Period.ID))
		}
	}
	return problems
}

// periodOf tells whether k is of the meter, dimensions and period of r.
func (k *answeredCounter) periodOf(r *aggregate.CounterRecord) bool {
	return k.Meter == r.Meter && maps.Equal(k.Dimensions, r.Dimensions) && k.Period.is(&r.Period)
}

func (p *answeredPeriod) is(o *usage.Period) bool {
	start, end := usage.MinTime, usage.MaxTime
	if p.Start != nil {
		start = *p.Start
	}
	if p.End != nil {
		end = *p.End
	}
	return p.ID == o.ID && start == o.Start && end == o.End
}

func (k *answeredCounter) name() string { return named(k.Meter, k.Dimensions) }

// named returns how differences name a counter.
func named(meter string, dimensions map[string]string) string {
	if len(dimensions) == 0 {
		return meter
	}
	return meter + " " + showValues(dimensions)
}

// is tells whether k says the same as r.
func (k *answeredCounter) is(r *aggregate.CounterRecord) bool { return k.counts(r) && k.seeded(r) }

func (k *answeredCounter) counts(r *aggregate.CounterRecord) bool {
	return k.Usage == r.Total.Format(r.Decimals) && k.Events == r.Events
}

// seeded tells whether k says the same of its seed as r. That history has failed
// to answer so far is known to who asked, and not written down for its own sake.
func (k *answeredCounter) seeded(r *aggregate.CounterRecord) bool {
	said := aggregate.Seed{State: k.Seed.State}
	waits := !said.Complete() && !r.Seed.Complete()
	return (said.State == r.Seed.State || waits) && k.Seed.Usage == r.Seed.Usage.Format(r.Decimals) && k.Seed.Boundary == r.Seed.Boundary
}

// unlike returns how k differs from r, which is of the same period.
func (k *answeredCounter) unlike(r *aggregate.CounterRecord) string {
	if k.counts(r) {
		return fmt.Sprintf("%s in %s: seed is %s with %s below %d, the changelog has %s with %s below %d", k.name(), k.Period.ID,
			k.Seed.State, k.Seed.Usage, k.Seed.Boundary, r.Seed.State, r.Seed.Usage.Format(r.Decimals), r.Seed.Boundary)
	}
	return fmt.Sprintf("%s in %s: usage is %s of %d events, the changelog has %s of %d",
		k.name(), k.Period.ID, k.Usage, k.Events, r.Total.Format(r.Decimals), r.Events)
}
