package model_test

import (
	"errors"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/model"
	"github.com/meterd/meterd/internal/usage"
)

// world is a configuration, and the values that records have at its paths.
type world struct {
	catalog     *usage.Catalog
	meterMapped bool
	values      [][]usage.Value
	cfg         aggregate.Config
}

// only holds for records with a text at a path.
type only struct {
	field int
	text  string
}

var errNotText = errors.New("not a text")

func (o only) Holds(fields []usage.Value) (bool, error) {
	switch v := &fields[o.field]; v.Kind {
	case usage.NullValue:
		return false, nil
	case usage.TextValue:
		return string(v.Text) == o.text, nil
	default:
		return false, errNotText
	}
}

func text(s string) usage.Value { return usage.Value{Kind: usage.TextValue, Text: []byte(s)} }

// What records have at the paths region, endpoint and user.
var (
	regions = []usage.Value{
		text("eu"), text("eu"), text("us"), text("ap"),
		{},
		text("eu"), text("us"), text(usage.OverflowValue),
		{Kind: usage.NumberValue, Number: usage.DecimalOf(7), Float: 7},
		{Kind: usage.BooleanValue, True: true},
		{Kind: usage.UnfitValue},
		{Kind: usage.NumberValue, Number: usage.Decimal{TooLarge: true}, Float: 1e300},
		text(strings.Repeat("x", usage.MaxIDBytes+1)), text(strings.Repeat("y", usage.MaxIDBytes)),
	}
	endpoints = []usage.Value{text("eu"), text("us"), {}, text("/c"), text(usage.OverflowValue)}
	users     = []usage.Value{
		text("u"), text("v"),
		{},
		text(""),
		{Kind: usage.NumberValue, Number: usage.Decimal{Units: 15, Scale: 1}},
		{Kind: usage.BooleanValue},
		text("1.5"),
		{Kind: usage.UnfitValue},
		text(strings.Repeat("z", usage.MaxIDBytes+1)),
	}
)

var (
	region   = usage.Dimension{Name: "region", Field: 0}
	endpoint = usage.Dimension{Name: "endpoint", Field: 1}
)

// worlds are catalogs without their schedule.
var worlds = []world{
	{meterMapped: true, catalog: &usage.Catalog{Meters: []usage.Meter{
		{Name: "bytes", Aggregation: usage.Sum},
		{Name: "calls", Aggregation: usage.Count},
		{Name: "hours", Aggregation: usage.Sum, Decimals: 2},
	}}},
	{meterMapped: true, values: [][]usage.Value{regions, endpoints}, catalog: &usage.Catalog{Meters: []usage.Meter{
		{Name: "flow", Aggregation: usage.Sum, Dimensions: []usage.Dimension{region}, MaxCombinations: 2},
		{Name: "reqs", Aggregation: usage.Count, Decimals: 1, Dimensions: []usage.Dimension{endpoint, region}, MaxCombinations: 3},
		{Name: "bytes", Aggregation: usage.Sum},
	}, Paths: []string{"region", "endpoint"}}},
	{meterMapped: true, values: [][]usage.Value{regions, endpoints, users}, catalog: &usage.Catalog{Meters: []usage.Meter{
		{Name: "peak", Aggregation: usage.Max},
		{Name: "low", Aggregation: usage.Min, Dimensions: []usage.Dimension{region}, MaxCombinations: 3},
		{Name: "last", Aggregation: usage.Latest, Decimals: 2},
		{Name: "users", Aggregation: usage.Unique, Decimals: 1, Value: 2, Dimensions: []usage.Dimension{endpoint}, MaxCombinations: 2},
		{Name: "europe", Aggregation: usage.Count, When: only{0, "eu"}},
	}, Paths: []string{"region", "endpoint", "user"}}},
	{values: [][]usage.Value{regions[:8], endpoints}, catalog: &usage.Catalog{Meters: []usage.Meter{
		{Name: "bytes", Aggregation: usage.Sum},
		{Name: "flow", Aggregation: usage.Sum, Dimensions: []usage.Dimension{region}, MaxCombinations: 3},
		{Name: "europe", Aggregation: usage.Sum, Decimals: 2, When: only{0, "eu"}},
	}, Paths: []string{"region", "endpoint"}}},
}

func (h *history) setUp() {
	w := worlds[h.draw("world", len(worlds)-1)]
	catalog := *w.catalog
	w.catalog = &catalog
	kind := usage.Hour
	if h.unit = time.Hour; h.draw("days", 1) == 1 {
		kind, h.unit = usage.Day, 24*time.Hour
	}
	schedule, err := usage.NewSchedule(kind, of(h, "zone", []string{"UTC", "UTC", "Asia/Kolkata"}))
	if err != nil {
		h.Fatal(err)
	}
	catalog.Schedule = schedule
	w.cfg = aggregate.Config{
		ApplicationID: "meterd", Topic: "usage", Partition: 3, ContractsTopic: "contracts", Catalog: &catalog, MeterMapped: w.meterMapped,
		DedupeWindow: h.unit * 2 / 3, MaxFuture: h.unit / 3, AllowedLateness: h.unit * 3 / 2, UnknownMeter: aggregate.IgnoreUnknown,
		KeepPeriods: h.draw("keep", 2),
	}
	if h.rarely("no window", 10) {
		w.cfg.DedupeWindow = 0
	}
	if h.draw("history", 2) == 2 {
		w.cfg.History, w.cfg.MarkSeeded, w.cfg.Bounded = true, h.draw("mark", 1) == 1, h.rarely("bounded", 4)
	}
	if h.rarely("long lateness", 4) {
		w.cfg.AllowedLateness = 20 * h.unit
	}
	if h.draw("unknown meters", 1) == 1 {
		w.cfg.UnknownMeter = aggregate.DeadLetterUnknown
	}
	h.world, h.clock = &w, start
}

// boundary is where counting begins.
const boundary = 1000

func (w *world) model(began usage.Time) model.Config {
	c := &w.cfg
	return model.Config{
		ApplicationID: c.ApplicationID, Topic: c.Topic, Partition: c.Partition, ContractsTopic: c.ContractsTopic, Catalog: c.Catalog,
		MeterMapped: c.MeterMapped, DedupeWindow: c.DedupeWindow, MaxFuture: c.MaxFuture, AllowedLateness: c.AllowedLateness,
		DeadLetterUnknown: c.UnknownMeter == aggregate.DeadLetterUnknown, KeepPeriods: c.KeepPeriods,
		History: c.History, Bounded: c.Bounded, MarkSeeded: c.MarkSeeded, Boundary: boundary, BoundaryTime: began,
	}
}

func (o only) String() string { return o.text }
