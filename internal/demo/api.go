package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// api asks meterd over HTTP, as anybody would.
type api struct {
	base   string
	client *http.Client
}

func newAPI(base string) *api {
	return &api{base: base, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}, Timeout: 5 * time.Second}}
}

// Close closes idle connections.
func (a *api) Close() { a.client.CloseIdleConnections() }

// errLater is returned when meterd does not know yet.
var errLater = errors.New("not known yet")

// get hands the answer's body to read. It returns errLater for a 503.
func (a *api) get(ctx context.Context, path string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask meterd: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusServiceUnavailable:
		return fmt.Errorf("GET %s: %w", path, errLater)
	default:
		return fmt.Errorf("GET %s: status %s", path, resp.Status)
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	_, err = io.Copy(io.Discard, resp.Body) // to its end, so that the connection can be used again
	return err
}

func into(v any) func(io.Reader) error {
	return func(r io.Reader) error { return json.NewDecoder(r).Decode(v) }
}

// limitAnswer is a limit of a client.
type limitAnswer struct {
	Meter       string `json:"meter"`
	Limit       string `json:"limit"`
	Usage       string `json:"usage"`
	Utilization string `json:"utilization"`
	Blocked     bool   `json:"blocked"`
	Period      struct {
		ID string `json:"id"`
	} `json:"period"`
}

// limits returns the limits of a client, and whether history is in them.
func (a *api) limits(ctx context.Context, client string) (limits []limitAnswer, complete bool, err error) {
	var answer struct {
		Complete bool          `json:"complete"`
		Limits   []limitAnswer `json:"limits"`
	}
	err = a.get(ctx, "/v1/clients/"+url.PathEscape(client)+"/limits", into(&answer))
	return answer.Limits, answer.Complete, err
}

// counterAnswer is a counter of a client.
type counterAnswer struct {
	Meter  string `json:"meter"`
	Usage  string `json:"usage"`
	Period struct {
		ID string `json:"id"`
	} `json:"period"`
}

// usageAnswer is all counters of a client, up to a position.
type usageAnswer struct {
	AsOf struct {
		Partition int32 `json:"partition"`
		Offset    int64 `json:"offset"`
	} `json:"as_of"`
	Complete bool            `json:"complete"`
	Counters []counterAnswer `json:"counters"`
}

// usage returns the counters of a client in a period, or in the newest ones
// where period is empty.
func (a *api) usage(ctx context.Context, client, period string) (usageAnswer, error) {
	path := "/v1/clients/" + url.PathEscape(client) + "/usage"
	if period != "" {
		path += "?period=" + url.QueryEscape(period)
	}
	var answer usageAnswer
	err := a.get(ctx, path, into(&answer))
	return answer, err
}

// positions returns the position of each partition that is counted.
func (a *api) positions(ctx context.Context) (map[int32]int64, error) {
	var answer struct {
		Instances []struct {
			Partitions []struct {
				Partition int32  `json:"partition"`
				State     string `json:"state"`
				Position  int64  `json:"position"`
			} `json:"partitions"`
		} `json:"instances"`
	}
	if err := a.get(ctx, "/v1/assignments", into(&answer)); err != nil {
		return nil, err
	}
	positions := map[int32]int64{}
	for _, instance := range answer.Instances {
		for _, p := range instance.Partitions {
			if p.State == "running" {
				positions[p.Partition] = p.Position
			}
		}
	}
	return positions, nil
}

// awaitRunning returns when all partitions are counted from where history ends,
// and meterd says that it is ready.
func (a *api) awaitRunning(ctx context.Context, boundaries map[int32]int64) error {
	return poll(ctx, func() (bool, error) {
		positions, err := a.positions(ctx)
		if err != nil {
			return false, err
		}
		if len(positions) < len(boundaries) {
			return false, nil
		}
		for p, boundary := range boundaries {
			if positions[p] != boundary { // a partition may be shown as running a moment before its position is
				return false, fmt.Errorf("partition %d stands at %d and not at %d: %w", p, positions[p], boundary, errLater)
			}
		}
		return true, a.get(ctx, "/readyz", func(io.Reader) error { return nil })
	})
}

// poll calls done until it says so, or fails with something else than errLater.
func poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, err := done()
		if err == nil && ok || err != nil && !errors.Is(err, errLater) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// metrics are the values of all series, by name with labels as they are
// written.
type metrics map[string]float64

func (a *api) metrics(ctx context.Context) (metrics, error) {
	m := metrics{}
	err := a.get(ctx, "/metrics", func(r io.Reader) error {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			text := lines.Text()
			at := strings.LastIndexByte(text, ' ')
			if at < 0 || strings.HasPrefix(text, "#") {
				continue
			}
			value, err := strconv.ParseFloat(text[at+1:], 64)
			if err != nil {
				return fmt.Errorf("metric %q: %w", text, err)
			}
			m[text[:at]] = value
		}
		return lines.Err()
	})
	return m, err
}

// sum adds up the series of a metric.
func (m metrics) sum(name string) int64 {
	total := 0.0
	for series, value := range m {
		if series == name || strings.HasPrefix(series, name+"{") {
			total += value
		}
	}
	return int64(total)
}

// records returns the usage records with this result.
func (m metrics) records(result string) int64 {
	return m.sum(`meterd_records_total{result="` + result + `"}`)
}
