package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/client"
	"github.com/meterd/meterd/internal/config"
)

func newTopologyCommand(env *environment) *cobra.Command {
	over := time.Duration(0)
	cmd := &cobra.Command{
		Use:   "topology",
		Short: "Show the way of the data: topics, meters, history, state; of a running meterd also its partitions",
		Long: `Show the way of the data as it is configured: from which topics, on which meters,
to which topics. Nothing is connected to, unless --url or METERD_URL names a
running meterd: then its partitions are shown too, and how fast they are counted.`,
		Args: cobra.NoArgs,
	}
	flags := env.addAPIFlags(cmd)
	cmd.Flags().DurationVar(&over, "over", time.Second, "`time` over which a running meterd's rates are taken; 0: none are")
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if over < 0 {
			return exitError{exitUsage, fmt.Errorf("--over %s: must not be negative", over)}
		}
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		t := newTopology(cfg)
		if flags.url != "" {
			a, err := env.api(flags)
			if err != nil {
				return err
			}
			if t.Partitions, err = watchPartitions(cmd.Context(), a, over); err != nil {
				return err
			}
		}
		if format.value == outputJSON {
			return env.writeJSON(t)
		}
		return env.printTopology(t)
	}
	return cmd
}

// topology is what is configured, and what runs of it.
type topology struct {
	ApplicationID    string            `json:"application_id"`
	Group            string            `json:"group"`
	TransactionalIDs string            `json:"transactional_ids"` // with PARTITION in place of the number
	Inputs           []topologyTopic   `json:"inputs"`
	History          *topologyHistory  `json:"history"` // nil: none
	Meters           []topologyMeter   `json:"meters"`
	Schedule         topologySchedule  `json:"schedule"`
	Outputs          []topologyTopic   `json:"outputs"`
	StateDir         string            `json:"state_dir"`
	Partitions       []livingPartition `json:"partitions,omitempty"`
}

type topologyTopic struct {
	Topic   string `json:"topic"`
	Format  string `json:"format"`
	Cleanup string `json:"cleanup,omitempty"` // of meterd's own
	Holds   string `json:"holds"`
}

type topologyHistory struct {
	Druid      string `json:"druid"`
	Datasource string `json:"datasource"`
}

type topologyMeter struct {
	Name        string   `json:"name"`
	Aggregation string   `json:"aggregation"`
	GroupBy     []string `json:"group_by"`
	When        string   `json:"when,omitempty"`
	Value       string   `json:"value,omitempty"`
}

type topologySchedule struct {
	Period   string `json:"period"`
	Timezone string `json:"timezone"`
}

func newTopology(cfg *config.Config) *topology {
	t := &topology{
		ApplicationID: cfg.ApplicationID, Group: cfg.ApplicationID,
		TransactionalIDs: cfg.ApplicationID + "-" + cfg.Usage.Topic + "-PARTITION",
		Inputs: []topologyTopic{
			{Topic: cfg.Usage.Topic, Format: cfg.Usage.Format, Holds: "usage events, keyed by client"},
			{Topic: cfg.Contracts.Topic, Format: "json", Cleanup: "compact", Holds: "contracts, keyed by id"},
		},
		Meters:   []topologyMeter{},
		Schedule: topologySchedule{Period: cfg.Schedule.Period, Timezone: cfg.Schedule.Timezone},
		Outputs: []topologyTopic{
			{Topic: cfg.ChangelogTopic, Format: "avro", Cleanup: "compact", Holds: "counters and positions"},
			{Topic: cfg.LimitEvents.Topic, Format: cfg.LimitEvents.Format, Cleanup: "delete", Holds: "limit events, keyed by client"},
			{Topic: cfg.LimitEvents.StateTopic, Format: cfg.LimitEvents.Format, Cleanup: "compact", Holds: "what stands now, by limit"},
			{Topic: cfg.DeadLetterTopic, Format: "as " + cfg.Usage.Topic, Cleanup: "delete", Holds: "what could not be counted"},
		},
		StateDir: cfg.State.Dir,
	}
	if d := cfg.History.Druid; d != nil {
		t.History = &topologyHistory{Druid: d.URL, Datasource: d.Datasource}
	}
	for i := range cfg.Meters {
		m := &cfg.Meters[i]
		t.Meters = append(t.Meters, topologyMeter{
			Name: m.Name, Aggregation: m.Aggregation, GroupBy: append([]string{}, m.GroupBy...), When: m.When, Value: m.Value,
		})
	}
	return t
}

// livingPartition is a partition of a running meterd.
type livingPartition struct {
	assignedPartition
	Instance string `json:"instance"`
	// Rate is how many offsets a second it went on by; nil: that is not known.
	Rate *float64 `json:"rate"`
}

// watchPartitions asks a running meterd twice.
func watchPartitions(ctx context.Context, a *api, over time.Duration) ([]livingPartition, error) {
	ask := func() (list assignments, at time.Time, err error) {
		err = a.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/assignments"}, &list)
		return list, time.Now(), err
	}
	before, began, err := ask()
	if err != nil || over == 0 {
		return rates(&before, &before, 0), err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(over):
	}
	after, ended, err := ask()
	return rates(&before, &after, ended.Sub(began)), err
}

// rates returns the partitions of after, and how fast those went on since
// before that are where they were.
func rates(before, after *assignments, took time.Duration) []livingPartition {
	type place struct {
		instance  string
		partition int32
	}
	was := map[place]int64{}
	for _, i := range before.Instances {
		for _, p := range i.Partitions {
			was[place{i.ID, p.Partition}] = p.Position
		}
	}
	list := []livingPartition{}
	for _, i := range after.Instances {
		for _, p := range i.Partitions {
			living := livingPartition{assignedPartition: p, Instance: i.ID}
			if from, ok := was[place{i.ID, p.Partition}]; ok && took > 0 {
				living.Rate = new(float64(p.Position-from) / took.Seconds())
			}
			list = append(list, living)
		}
	}
	return list
}

func (e *environment) printTopology(t *topology) error {
	fmt.Fprintf(e.stdout, "application %s: consumer group %s, transactional ids %s\n\n", t.ApplicationID, t.Group, t.TransactionalIDs)
	rows := [][]string{}
	for _, in := range t.Inputs {
		rows = append(rows, []string{in.Topic, "─▶", in.Format, in.Holds})
	}
	if h := t.History; h != nil {
		rows = append(rows, []string{"druid " + h.Datasource, "─▶", h.Druid, "what was used before"})
	}
	for i := range t.Meters {
		rows = append(rows, []string{"", "meter", t.Meters[i].Name, t.Meters[i].text(t.Schedule)})
	}
	for _, out := range t.Outputs {
		rows = append(rows, []string{"", "─▶", out.Topic, out.Format + ", " + out.Cleanup + ": " + out.Holds})
	}
	rows = append(rows, []string{"", "─▶", t.StateDir, "a copy of the changelog"})
	if err := e.writeTable(rows...); err != nil || t.Partitions == nil {
		return err
	}
	fmt.Fprintln(e.stdout)
	rows = [][]string{{"PARTITION", "INSTANCE", "STATE", "POSITION", "LAG", "RATE"}}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		rate := "-"
		if p.Rate != nil {
			rate = fmt.Sprintf("%.0f/s", *p.Rate)
		}
		rows = append(rows, []string{fmt.Sprint(p.Partition), p.Instance, p.State, fmt.Sprint(p.Position), fmt.Sprint(p.Lag), rate})
	}
	return e.writeTable(rows...)
}

func (m *topologyMeter) text(s topologySchedule) string {
	text := m.Aggregation
	if m.Value != "" {
		text += " of " + m.Value
	}
	text += fmt.Sprintf(" for each client and %s (%s)", s.Period, s.Timezone)
	if len(m.GroupBy) > 0 {
		text += ", and by " + strings.Join(m.GroupBy, ", ")
	}
	if m.When != "" {
		text += ", where " + m.When
	}
	return text
}
