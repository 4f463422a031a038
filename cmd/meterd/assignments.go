package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/client"
)

func newAssignmentsCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "assignments",
		Short: "Show which instance has which partitions, and how far each is counted",
		Args:  cobra.NoArgs,
	}
	flags := env.addAPIFlags(cmd)
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		a, err := env.api(flags)
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := a.Do(cmd.Context(), client.Request{Method: http.MethodGet, Path: "/v1/assignments"}, &raw); err != nil {
			return err
		}
		if format.value == outputJSON {
			return env.writeJSON(raw)
		}
		var list assignments
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("decode the answer of meterd: %w", err)
		}
		return env.writeTable(list.rows()...)
	}
	return cmd
}

// assignments is what is printed of an answer.
type assignments struct {
	Instances []struct {
		ID         string              `json:"id"`
		Address    string              `json:"address"`
		Partitions []assignedPartition `json:"partitions"`
	} `json:"instances"`
}

type assignedPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	State     string `json:"state"`
	Position  int64  `json:"position"`
	End       int64  `json:"end"`
	Lag       int64  `json:"lag"`
}

// rows has a line for each partition, and one for an instance without any.
func (a *assignments) rows() [][]string {
	rows := [][]string{{"INSTANCE", "ADDRESS", "TOPIC", "PARTITION", "STATE", "POSITION", "END", "LAG"}}
	decimal := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, i := range a.Instances {
		if len(i.Partitions) == 0 {
			rows = append(rows, []string{i.ID, i.Address, "-", "-", "idle", "-", "-", "-"})
		}
		for _, p := range i.Partitions {
			rows = append(rows, []string{i.ID, i.Address, p.Topic, decimal(int64(p.Partition)), p.State, decimal(p.Position), decimal(p.End), decimal(p.Lag)})
		}
	}
	return rows
}
