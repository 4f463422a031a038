package main

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/kafka"
)

func newTopicsCommand(env *environment) *cobra.Command {
	cmd := newGroupCommand("topics", "Make and check the topics that meterd needs")
	cmd.AddCommand(newTopicsCreateCommand(env), newTopicsCheckCommand(env))
	return cmd
}

func newTopicsCreateCommand(env *environment) *cobra.Command {
	var replication int16
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make the topics that are missing, but the usage topic; those that are there stay as they are",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().Int16Var(&replication, "replication", 0, "`copies` of each partition; 0: the broker's default")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if replication < 0 {
			return exitError{exitUsage, fmt.Errorf("--replication %d: must not be negative", replication)}
		}
		return env.withTopics(cmd, func(cluster *kafka.Cluster, specs []kafka.TopicSpec) error {
			for i := range specs {
				specs[i].Replication = replication
			}
			if err := cluster.CreateTopics(cmd.Context(), specs); err != nil {
				return fmt.Errorf("create topics: %w", err)
			}
			problems, err := cluster.CheckTopics(cmd.Context(), specs)
			if err != nil {
				return fmt.Errorf("check topics: %w", err)
			}
			for _, p := range problems {
				fmt.Fprintln(env.stderr, "meterd:", p)
			}
			if len(problems) > 0 {
				return exitError{code: exitFailed}
			}
			for _, s := range specs {
				fmt.Fprintf(env.stdout, "%s: %d partitions\n", s.Name, s.Partitions)
			}
			return nil
		})
	}
	return cmd
}

// topicStatus is a line of topics check as JSON.
type topicStatus struct {
	Topic   string `json:"topic"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
}

func newTopicsCheckCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say which topics are missing or not as they must be; exit status 3 if any is",
		Args:  cobra.NoArgs,
	}
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		err := env.withTopics(cmd, func(cluster *kafka.Cluster, specs []kafka.TopicSpec) error {
			problems, err := cluster.CheckTopics(cmd.Context(), specs)
			if err != nil {
				return fmt.Errorf("check topics: %w", err)
			}
			return env.printTopics(specs, problems, format.value)
		})
		if errors.Is(err, kafka.ErrNoTopic) { // the usage topic: what the others need is not known
			return exitError{exitWrong, err}
		}
		return err
	}
	return cmd
}

func (e *environment) printTopics(specs []kafka.TopicSpec, problems []kafka.TopicProblem, format string) error {
	list := []topicStatus{}
	for _, s := range specs {
		before := len(list)
		for _, p := range problems {
			if p.Topic == s.Name {
				list = append(list, topicStatus{Topic: s.Name, Problem: p.Problem, Remedy: p.Remedy})
			}
		}
		if len(list) == before {
			list = append(list, topicStatus{Topic: s.Name, OK: true})
		}
	}
	if format == outputJSON {
		if err := e.writeJSON(list); err != nil {
			return err
		}
	} else {
		rows := [][]string{{"TOPIC", "STATUS", "WHAT TO DO"}}
		for _, s := range list {
			if s.OK {
				s.Problem = "ok"
			}
			rows = append(rows, []string{s.Topic, s.Problem, s.Remedy})
		}
		if err := e.writeTable(rows...); err != nil {
			return err
		}
	}
	if len(problems) > 0 {
		return exitError{code: exitWrong}
	}
	return nil
}

// withTopics calls f with the cluster and the topics that meterd needs there.
func (e *environment) withTopics(cmd *cobra.Command, f func(*kafka.Cluster, []kafka.TopicSpec) error) error {
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	return e.withCluster(cmd, cfg, func(cluster *kafka.Cluster) error {
		partitions, err := app.UsagePartitions(cmd.Context(), cluster, cfg)
		if err != nil {
			return err
		}
		return f(cluster, app.Topics(cfg, partitions))
	})
}

// withCluster calls f with a connection to the configured Kafka.
func (e *environment) withCluster(cmd *cobra.Command, cfg *config.Config, f func(*kafka.Cluster) error) error {
	cluster, err := app.Dial(cmd.Context(), cfg, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		return err
	}
	return errors.Join(f(cluster), cluster.Close())
}
