package loadgen

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
)

// minCalibrated is how many events a client has of a meter at least for a
// limit on it.
const minCalibrated = 20

// contract and limit are a contract's JSON.
type contract struct {
	ID       string  `json:"id"`
	Client   string  `json:"client"`
	StartsAt string  `json:"starts_at"`
	Limits   []limit `json:"limits"`
}

type limit struct {
	ID         string            `json:"id"`
	Meter      string            `json:"meter"`
	Period     string            `json:"period,omitempty"`
	Timezone   string            `json:"timezone,omitempty"`
	Limit      string            `json:"limit"`
	Thresholds []string          `json:"thresholds"`
	Where      map[string]string `json:"where,omitempty"`
	Per        []string          `json:"per,omitempty"`
}

// contractsStart is before any event, and the beginning of a period of every
// kind but the week.
const contractsStart = "2020-01-01T00:00:00Z"

// contractPeriods are of the limits in turn; "" is the configured schedule's.
var contractPeriods = [...]string{"", "lifetime", "", "day"}

// contractMessages returns the contracts of a load. It counts the events from
// the first of all up to the load's last to find out what the limits have to
// be: between 0.7 and 1.9 times what a client uses, so that one, two or all of
// the thresholds are crossed. Clients with few events get no limits; if there
// are not enough of the others, there are fewer contracts.
func contractMessages(g *Generator, t Target) ([]kafka.Message, error) {
	load := g.load
	counted := newBook(g, t)
	counted.schedule = usage.Schedule{Kind: usage.Lifetime, Zone: time.UTC}
	for i := range load.First + load.Events {
		ev := g.At(i)
		counted.add(&ev, time.Time{}, written(t, &ev), 0)
	}
	best := counted.best()
	var messages []kafka.Message
	// Every so many-th, so that large and small clients are among them.
	step := max(1, able(counted)/max(1, load.Contracts))
	seen := 0
	for client := 0; client < load.Clients && len(messages) < load.Contracts; client++ {
		limits := limitsOf(g, t, counted, best, client)
		if len(limits) == 0 {
			continue
		}
		if seen++; (seen-1)%step != 0 {
			continue
		}
		name := ClientName(client)
		c := contract{ID: "loadgen-" + name, Client: name, StartsAt: contractsStart, Limits: limits}
		value, err := json.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("contract %s: %w", c.ID, err)
		}
		messages = append(messages, kafka.Message{Topic: t.ContractsTopic, Key: []byte(c.ID), Value: value})
	}
	return messages, nil
}

// able returns how many clients have events enough for a limit.
func able(b *book) int {
	n := 0
	for client := range b.clients {
		for m := range b.meters {
			if b.used(client, m).Events >= minCalibrated {
				n++
				break
			}
		}
	}
	return n
}

// best returns the endpoint that is used most of each row.
func (b *book) best() map[int]endpointUse {
	best := map[int]endpointUse{}
	for _, p := range b.pages {
		for k, t := range p.endpoints {
			if have, ok := best[k.row]; !ok || t.Events > have.Events || t.Events == have.Events && k.name < have.name {
				best[k.row] = endpointUse{k.name, t}
			}
		}
	}
	return best
}

type endpointUse struct {
	name string
	Total
}

// zones are of limits in turn.
var zones = [...]string{"", "Asia/Kolkata", "America/St_Johns"}

func limitsOf(g *Generator, t Target, counted *book, best map[int]endpointUse, client int) []limit {
	var limits []limit
	for m, i := range t.meters() {
		total := counted.used(client, m)
		row := client*len(counted.meters) + m
		if total.Events < minCalibrated {
			continue
		}
		h := g.hash(int64(row), forQuantity)
		of := func(id string, total Total) limit {
			amount := total.Quantity
			if t.Catalog.Meters[i].Aggregation != usage.Sum {
				amount = total.Events
			}
			return limit{
				ID: id, Meter: counted.meters[m], Limit: strconv.FormatInt(max(1, amount*int64(70+h%121)/100), 10),
				Thresholds: []string{"50%", "80%", "100%"},
			}
		}
		plain := of(counted.meters[m], total)
		plain.Period = contractPeriods[h>>32%uint64(len(contractPeriods))]
		limits = append(limits, plain)
		use, ok := best[row]
		if !ok {
			continue
		}
		// What endpoints use, in the configured period and in one of its own, each
		// for itself and one of them alone.
		each := of(counted.meters[m]+"-each", use.Total)
		each.Per, each.Timezone = []string{endpointDimension}, zones[h>>40%uint64(len(zones))]
		one := of(counted.meters[m]+"-one", use.Total)
		one.Where, one.Period = map[string]string{endpointDimension: use.name}, contractPeriods[h>>34%uint64(len(contractPeriods))]
		limits = append(limits, each, one)
	}
	return limits
}

// written returns the quantity that ev counts with.
func written(t Target, ev *Event) int64 {
	if t.Mapping.Quantity == "" {
		return 1
	}
	return ev.Quantity
}
