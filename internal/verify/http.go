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

// answer is what GET /v1/clients/{client}/usage says.
type answer struct {
	Client string `json:"client"`
	AsOf   struct {
		Partition int32      `json:"partition"`
		Offset    int64      `json:"offset"`
		Time      usage.Time `json:"time"`
	} `json:"as_of"`
	Counters []answeredCounter `json:"counters"`
}

type answeredCounter struct {
	Meter  string `json:"meter"`
	Period struct {
		ID    string      `json:"id"`
		Start *usage.Time `json:"start"`
		End   *usage.Time `json:"end"`
	} `json:"period"`
	Usage  string `json:"usage"`
	Events int64  `json:"events"`
	Seed   struct {
		State    aggregate.SeedState `json:"state"`
		Usage    string              `json:"usage"`
		Boundary int64               `json:"boundary"`
	} `json:"seed"`
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// errRefused is returned when HTTP does not answer us: nothing was compared.
var errRefused = errors.New("http refuses to answer")

// ask returns the answer about a client. The problem is what the answer has
// wrong as such.
func (h *HTTP) ask(ctx context.Context, client string) (a answer, problem string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(h.URL, "/")+"/v1/clients/"+url.PathEscape(client)+"/usage", nil)
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
		said, problem, err := a.parts.HTTP.ask(ctx, client)
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
		for _, problem := range a.unanswered(&said, records[client]) {
			a.found(Difference{Answer, a.number, client, problem})
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
			problems = append(problems, fmt.Sprintf("%s in %s: usage is %s of %d events, the changelog has %s of %d",
				k.Meter, k.Period.ID, k.Usage, k.Events, fits[0].Total.Format(fits[0].Decimals), fits[0].Events))
		case k.Usage != "0" || k.Events != 0:
			problems = append(problems, fmt.Sprintf("%s in %s: usage is %s of %d events, the changelog has no such counter", k.Meter, k.Period.ID, k.Usage, k.Events))
		}
	}
	for _, r := range records {
		if r.Scope.Default() && r.Period.Contains(said.AsOf.Time) && !answered[r] && a.cfg.Catalog.Find(r.Meter) >= 0 {
			problems = append(problems, fmt.Sprintf("%s in %s: is not answered", r.Meter, r.Period.ID))
		}
	}
	return problems
}

// periodOf tells whether k is of the meter and period of r.
func (k *answeredCounter) periodOf(r *aggregate.CounterRecord) bool {
	start, end := usage.MinTime, usage.MaxTime
	if k.Period.Start != nil {
		start = *k.Period.Start
	}
	if k.Period.End != nil {
		end = *k.Period.End
	}
	return k.Meter == r.Meter && k.Period.ID == r.Period.ID && start == r.Period.Start && end == r.Period.End
}

// is tells whether k says the same as r.
func (k *answeredCounter) is(r *aggregate.CounterRecord) bool {
	return k.Usage == r.Total.Format(r.Decimals) && k.Events == r.Events &&
		k.Seed.State == r.Seed.State && k.Seed.Usage == r.Seed.Usage.Format(r.Decimals) && k.Seed.Boundary == r.Seed.Boundary
}
