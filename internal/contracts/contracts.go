// Package contracts reads contracts, checks them against the meters there are,
// and keeps the table of those in force.
//
// Parse turns the value of a record of the contracts topic into a Contract or
// into the reason why it is none. Table holds the last good revision of each,
// what was rejected since, and the order in which things changed. Nothing here
// knows Kafka. Contracts are never changed after they were parsed, so any
// goroutine may keep and read them.
package contracts

import (
	"encoding/json"

	"github.com/meterd/meterd/internal/usage"
)

// Enforcement says whether a limit that is reached blocks its client.
type Enforcement string

// Hard limits block, soft ones only tell.
const (
	Hard Enforcement = "hard"
	Soft Enforcement = "soft"
)

// Threshold is a value of a counter that is worth a limit event.
type Threshold struct {
	Label string         // as written in the contract: "80%", "25000"
	Value usage.Quantity // in the meter's smallest unit, always > 0
}

// Limit is what a contract says of one meter.
type Limit struct {
	ID          string
	Meter       int // index in the catalog
	MeterName   string
	Decimals    int // of the meter
	Value       usage.Quantity
	Schedule    usage.Schedule
	Enforcement Enforcement
	Thresholds  []Threshold       // lowest value first, equal ones as written
	Where       map[string]string // dimension values that an event must have
	Per         []string          // dimensions of which each value has the limit for itself
}

// Contract is the limits of one client from StartsAt until EndsAt.
type Contract struct {
	ID       string
	Client   string
	StartsAt usage.Time
	EndsAt   usage.Time // usage.MaxTime: open
	Limits   []Limit    // in the order of the contract
	Revision int64      // the offset at which it stands on its topic
	Raw      json.RawMessage
}
