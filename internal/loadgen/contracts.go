package loadgen

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/meterd/meterd/internal/kafka"
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
	ID         string   `json:"id"`
	Meter      string   `json:"meter"`
	Period     string   `json:"period,omitempty"`
	Limit      string   `json:"limit"`
	Thresholds []string `json:"thresholds"`
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
	counted := newBook(load, t)
	for i := range load.First + load.Events {
		ev := g.At(i)
		counted.add(&ev, written(t, &ev), 0)
	}
	var messages []kafka.Message
	// Every so many-th, so that large and small clients are among them.
	step := max(1, able(counted)/max(1, load.Contracts))
	seen := 0
	for client := 0; client < load.Clients && len(messages) < load.Contracts; client++ {
		limits := limitsOf(g, t, counted, client)
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
	for row := b.totals; len(row) > 0; row = row[len(b.meters):] {
		for _, t := range row[:len(b.meters)] {
			if t.Events >= minCalibrated {
				n++
				break
			}
		}
	}
	return n
}

func limitsOf(g *Generator, t Target, counted *book, client int) []limit {
	var limits []limit
	for m, total := range counted.totals[client*len(counted.meters):][:len(counted.meters)] {
		if total.Events < minCalibrated {
			continue
		}
		amount := total.Quantity
		if t.Catalog.Meters[m].Aggregation != "sum" {
			amount = total.Events
		}
		h := g.hash(int64(client*len(counted.meters)+m), forQuantity)
		limits = append(limits, limit{
			ID: counted.meters[m], Meter: counted.meters[m], Period: contractPeriods[h>>32%uint64(len(contractPeriods))],
			Limit:      strconv.FormatInt(max(1, amount*int64(70+h%121)/100), 10),
			Thresholds: []string{"50%", "80%", "100%"},
		})
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
