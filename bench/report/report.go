// Package report is what a benchmark has found: the figures of every run, the
// medians that stand for them, and both as a table and as JSON.
//
// A run whose result was wrong has no figures; it is kept with what was wrong.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Drain is one contender catching up with a filled topic.
type Drain struct {
	Load              string  `json:"load"`
	Contender         string  `json:"contender"`
	Round             int     `json:"round"`
	Events            int64   `json:"events"`
	Seconds           float64 `json:"seconds"`       // from the first work to the last commit
	StartSeconds      float64 `json:"start_seconds"` // before that
	EventsPerSecond   float64 `json:"events_per_second"`
	WarmPerSecond     float64 `json:"warm_per_second"` // of the last 70 % of the events
	ProgramMicros     float64 `json:"program_us"`      // CPU of an event
	WarmMicros        float64 `json:"warm_program_us"` // of the last 70 % of the events
	BrokerMicros      float64 `json:"broker_us"`       // CPU of an event
	ChangelogPerEvent float64 `json:"changelog_per_event"`
	PeakMiB           int64   `json:"peak_mib"`
	Counters          int     `json:"counters"`
	Crossings         int     `json:"crossings"`
	Noise
}

// Noise is what else went on during a run.
type Noise struct {
	OtherCores  float64 `json:"other_cores"`  // used by neither program nor broker
	StolenCores float64 `json:"stolen_cores"` // taken by the hypervisor
	SpeedMillis float64 `json:"speed_ms"`     // of a fixed work, just before
	Restless    bool    `json:"restless"`     // others still used the machine when the run began
}

// Latency is how long after the append of a usage event its limit event could
// be read, in milliseconds.
type Latency struct {
	Contender     string  `json:"contender"`
	Round         int     `json:"round"`
	Rate          int     `json:"rate"`
	Crossings     int     `json:"crossings"`
	P50           float64 `json:"p50_ms"`
	P99           float64 `json:"p99_ms"`
	P999          float64 `json:"p999_ms"`
	Max           float64 `json:"max_ms"`
	ProgramMicros float64 `json:"program_us"`
	BrokerMicros  float64 `json:"broker_us"`
	Noise
}

// Restore is how long a contender took from its start until it had committed
// new events.
type Restore struct {
	Contender string  `json:"contender"`
	Round     int     `json:"round"`
	Counters  int     `json:"counters"`
	Kept      bool    `json:"state_kept"`
	Seconds   float64 `json:"seconds"`
	PeakMiB   int64   `json:"peak_mib"`
	Noise
}

// Reads is how long HTTP answers took while the contender caught up, in
// milliseconds.
type Reads struct {
	Contender       string  `json:"contender"`
	Round           int     `json:"round"`
	Answers         int     `json:"answers"`
	PerSecond       float64 `json:"per_second"`
	P50             float64 `json:"p50_ms"`
	P99             float64 `json:"p99_ms"`
	Max             float64 `json:"max_ms"`
	EventsPerSecond float64 `json:"events_per_second"`
}

// Wrong is a run without figures.
type Wrong struct {
	Run     string   `json:"run"`
	Reasons []string `json:"reasons"`
}

// About says where and how the figures were taken.
type About struct {
	Date    time.Time `json:"date"`
	Commit  string    `json:"commit"`
	Machine string    `json:"machine"`
	Cores   string    `json:"cores"` // who ran where
	Kafka   string    `json:"kafka"`
	Go      string    `json:"go"`
	Java    string    `json:"java"`
	Command string    `json:"command"`
	Quick   bool      `json:"quick"`
}

// Results are all figures of a benchmark.
type Results struct {
	About    About     `json:"about"`
	Drains   []Drain   `json:"drains"`
	Latency  []Latency `json:"latency"`
	Restores []Restore `json:"restores"`
	Reads    []Reads   `json:"reads"`
	Wrong    []Wrong   `json:"wrong"`
}

// Names by which the headline finds what it compares.
const (
	Main       = "Zipf 1.1"
	Ours       = "meterd"
	Peer       = "Kafka Streams"
	PeerDedupe = "Kafka Streams, dedupe"
	// MainRate and MainCounters are of its latency and its restore.
	MainRate     = 20_000
	MainCounters = 1_000_000
)

// Headline is the few numbers that are looked at first, medians all of them.
// What was not measured is null.
type Headline struct {
	ThroughputRatio       *float64 `json:"throughput_ratio"`        // meterd's events/s over the peer's
	CPURatio              *float64 `json:"cpu_ratio"`               // the peer's CPU of an event over meterd's
	ThroughputRatioDedupe *float64 `json:"throughput_ratio_dedupe"` // the peer recognising repeated events, as meterd does
	CPURatioDedupe        *float64 `json:"cpu_ratio_dedupe"`
	EventsPerSecond       *float64 `json:"events_per_second"`
	AppMicros             *float64 `json:"app_us_per_event"`
	BrokerMicros          *float64 `json:"broker_us_per_event"`
	CrossingP50           *float64 `json:"crossing_p50_ms"`
	CrossingP99           *float64 `json:"crossing_p99_ms"`
	Restore               *float64 `json:"restore_s"`      // 1 M counters, state wiped
	RestoreKept           *float64 `json:"restore_kept_s"` // 1 M counters, state kept
	ReadP99               *float64 `json:"read_p99_ms"`
	Rounds                int      `json:"rounds"`
	Noise                 *float64 `json:"noise"` // cores used by others or stolen, the median of all runs
}

// Median returns the middle of the values, or nil if there are none.
func Median(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	m := sorted[middle]
	if len(sorted)%2 == 0 {
		m = (sorted[middle-1] + sorted[middle]) / 2
	}
	return &m
}

// Percentile returns the value that a share of the sorted values does not
// exceed, from 0 to 1: the smallest with that property.
func Percentile(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := int(math.Ceil(share * float64(len(sorted))))
	return sorted[min(max(at, 1), len(sorted))-1]
}

// each returns a figure of the elements that are wanted.
func each[T any](list []T, wanted func(T) bool, figure func(T) float64) (values []float64) {
	for _, x := range list {
		if wanted(x) {
			values = append(values, figure(x))
		}
	}
	return values
}

// Headline returns the medians.
func (r *Results) Headline() Headline {
	h := Headline{Rounds: len(r.of(Ours))}
	h.ThroughputRatio = Median(r.ratios(Peer, func(ours, peer Drain) float64 { return ours.EventsPerSecond / peer.EventsPerSecond }))
	h.CPURatio = Median(r.ratios(Peer, func(ours, peer Drain) float64 { return peer.ProgramMicros / ours.ProgramMicros }))
	h.ThroughputRatioDedupe = Median(r.ratios(PeerDedupe, func(ours, peer Drain) float64 { return ours.EventsPerSecond / peer.EventsPerSecond }))
	h.CPURatioDedupe = Median(r.ratios(PeerDedupe, func(ours, peer Drain) float64 { return peer.ProgramMicros / ours.ProgramMicros }))
	all := func(Drain) bool { return true }
	h.EventsPerSecond = Median(each(r.of(Ours), all, func(d Drain) float64 { return d.EventsPerSecond }))
	h.AppMicros = Median(each(r.of(Ours), all, func(d Drain) float64 { return d.ProgramMicros }))
	h.BrokerMicros = Median(each(r.of(Ours), all, func(d Drain) float64 { return d.BrokerMicros }))
	live := func(l Latency) bool { return l.Contender == Ours && l.Rate == MainRate }
	h.CrossingP50 = Median(each(r.Latency, live, func(l Latency) float64 { return l.P50 }))
	h.CrossingP99 = Median(each(r.Latency, live, func(l Latency) float64 { return l.P99 }))
	restored := func(kept bool) []float64 {
		return each(r.Restores, func(x Restore) bool {
			return x.Contender == Ours && x.Kept == kept && about(x.Counters, MainCounters)
		}, func(x Restore) float64 { return x.Seconds })
	}
	h.Restore, h.RestoreKept = Median(restored(false)), Median(restored(true))
	h.ReadP99 = Median(each(r.Reads, func(x Reads) bool { return x.Contender == Ours }, func(x Reads) float64 { return x.P99 }))
	h.Noise = Median(each(r.Drains, all, func(d Drain) float64 { return d.OtherCores + d.StolenCores }))
	return h
}

// about reports whether n is some nominal number, within a tenth.
func about(n, nominal int) bool { return n > nominal*9/10 && n < nominal*11/10 }

// of returns the runs of a contender on the main load.
func (r *Results) of(contender string) (list []Drain) {
	for _, d := range r.Drains {
		if d.Load == Main && d.Contender == contender {
			list = append(list, d)
		}
	}
	return list
}

// ratios compares meterd with another, round by round: the host's speed moves
// within a sitting, and neighbours have the same.
func (r *Results) ratios(other string, ratio func(ours, other Drain) float64) (values []float64) {
	for _, ours := range r.of(Ours) {
		for _, theirs := range r.of(other) {
			if ours.Round == theirs.Round {
				values = append(values, ratio(ours, theirs))
			}
		}
	}
	return values
}

// WriteJSON writes the headline, and below it every run.
func (r *Results) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(struct {
		Headline
		Results
	}{r.Headline(), *r}); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
