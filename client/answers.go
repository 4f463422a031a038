package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// AsOf is what an answer stands on: all records of the partition below Offset.
type AsOf struct {
	Topic      string    `json:"topic"`
	Partition  int32     `json:"partition"`
	Offset     int64     `json:"offset"`
	Time       time.Time `json:"time"`
	LagRecords int64     `json:"lag_records"`
}

// Period is a period of a counter; Start and End are nil where there is none.
type Period struct {
	ID       string     `json:"id"`
	Start    *time.Time `json:"start"`
	End      *time.Time `json:"end"`
	Timezone string     `json:"timezone"`
}

// Usage is what a client has used. It is all there is to count where Complete.
type Usage struct {
	Client   string    `json:"client"`
	AsOf     AsOf      `json:"as_of"`
	Complete bool      `json:"complete"`
	Counters []Counter `json:"counters"`
}

// Counter is the total of one meter, dimension values and period.
type Counter struct {
	Meter      string            `json:"meter"`
	Dimensions map[string]string `json:"dimensions"`
	Period     Period            `json:"period"`
	Usage      string            `json:"usage"`
	Events     int64             `json:"events"`
	Estimated  bool              `json:"estimated"`
	FirstEvent *time.Time        `json:"first_event"`
	LastEvent  *time.Time        `json:"last_event"`
}

// Limits are those of a client's contracts.
type Limits struct {
	Client   string  `json:"client"`
	AsOf     AsOf    `json:"as_of"`
	Complete bool    `json:"complete"`
	Limits   []Limit `json:"limits"`
}

// Limit is a limit and how much of it is used. NextReset is nil where there is
// none.
type Limit struct {
	Contract    string            `json:"contract"`
	LimitID     string            `json:"limit_id"`
	Meter       string            `json:"meter"`
	Dimensions  map[string]string `json:"dimensions"`
	Enforcement string            `json:"enforcement"`
	Limit       string            `json:"limit"`
	Usage       string            `json:"usage"`
	Remaining   string            `json:"remaining"`
	Utilization string            `json:"utilization"`
	Period      Period            `json:"period"`
	NextReset   *time.Time        `json:"next_reset"`
	Blocked     bool              `json:"blocked"`
}

// Use is what Check is asked about. An empty Quantity is 1.
type Use struct {
	Client     string            `json:"client"`
	Meter      string            `json:"meter"`
	Quantity   string            `json:"quantity,omitempty"`
	Dimensions map[string]string `json:"dimensions,omitempty"`
}

// Decision is whether the limits that apply to a use leave room for it.
type Decision struct {
	Allowed bool           `json:"allowed"`
	AsOf    AsOf           `json:"as_of"`
	Limits  []CheckedLimit `json:"limits"`
}

// CheckedLimit is a limit as it is before a use.
type CheckedLimit struct {
	Contract    string            `json:"contract"`
	LimitID     string            `json:"limit_id"`
	Dimensions  map[string]string `json:"dimensions"`
	Enforcement string            `json:"enforcement"`
	Limit       string            `json:"limit"`
	Usage       string            `json:"usage"`
	Remaining   string            `json:"remaining"`
	Allowed     bool              `json:"allowed"`
	Blocked     bool              `json:"blocked"`
	NextReset   *time.Time        `json:"next_reset"`
}

// Usage returns the counters of a client, narrowed by query: meter, period,
// dimensions. Nil is all of them.
func (c *Client) Usage(ctx context.Context, client string, query url.Values) (Usage, error) {
	var u Usage
	err := c.Do(ctx, Request{Path: "/v1/clients/" + url.PathEscape(client) + "/usage", Query: query}, &u)
	return u, err
}

// Limits returns the limits of a client.
func (c *Client) Limits(ctx context.Context, client string) (Limits, error) {
	var l Limits
	err := c.Do(ctx, Request{Path: "/v1/clients/" + url.PathEscape(client) + "/limits"}, &l)
	return l, err
}

// Clients returns the names of all clients behind after, a page of them, and
// what to give as after for the next page: empty on the last one.
func (c *Client) Clients(ctx context.Context, after string) (names []string, next string, err error) {
	var a struct {
		Clients []string `json:"clients"`
		Next    string   `json:"next"`
	}
	err = c.Do(ctx, Request{Path: "/v1/clients", Query: url.Values{"after": {after}}}, &a)
	return a.Clients, a.Next, err
}

// Check decides about a use. Nothing is counted by it.
func (c *Client) Check(ctx context.Context, use Use) (Decision, error) {
	var d Decision
	body, err := json.Marshal(use)
	if err != nil {
		return d, fmt.Errorf("check: %w", err)
	}
	err = c.Do(ctx, Request{Method: http.MethodPost, Path: "/v1/check", Body: body}, &d)
	return d, err
}

// CheckAll decides about several uses, all or none, each for itself.
func (c *Client) CheckAll(ctx context.Context, uses ...Use) ([]Decision, error) {
	body, err := json.Marshal(map[string][]Use{"checks": uses})
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	var a struct {
		Results []Decision `json:"results"`
	}
	err = c.Do(ctx, Request{Method: http.MethodPost, Path: "/v1/check", Body: body}, &a)
	return a.Results, err
}
