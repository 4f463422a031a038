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
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if replication < 0 {
			return exitError{exitUsage, fmt.Errorf("--replication %d: must not be negative", replication)}
		}
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		return env.withTopics(cmd, cfg, func(cluster *kafka.Cluster, specs []kafka.TopicSpec) error {
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
			return env.printCreated(specs, format.value)
		})
	}
	return cmd
}

// createdTopic is a line of topics create as JSON.
type createdTopic struct {
	Topic      string `json:"topic"`
	Partitions int32  `json:"partitions"`
}

func (e *environment) printCreated(specs []kafka.TopicSpec, format string) error {
	list := []createdTopic{}
	for _, s := range specs {
		list = append(list, createdTopic{Topic: s.Name, Partitions: s.Partitions})
	}
	if format == outputJSON {
		return e.writeJSON(list)
	}
	for _, t := range list {
		fmt.Fprintf(e.stdout, "%s: %d partitions\n", t.Topic, t.Partitions)
	}
	return nil
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
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		err = env.withTopics(cmd, cfg, func(cluster *kafka.Cluster, specs []kafka.TopicSpec) error {
			problems, err := cluster.CheckTopics(cmd.Context(), specs)
			if err != nil {
				return fmt.Errorf("check topics: %w", err)
			}
			return env.printTopics(specs, problems, format.value)
		})
		if !errors.Is(err, kafka.ErrNoTopic) {
			return err
		}
		// The usage topic: what the others need is not known.
		if format.value != outputJSON {
			return exitError{exitWrong, err}
		}
		missing := topicStatus{Topic: cfg.Usage.Topic, Problem: "it does not exist", Remedy: "create it, with as many partitions as it is ever to have"}
		if err := env.writeJSON([]topicStatus{missing}); err != nil {
			return err
		}
		return exitError{code: exitWrong}
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
func (e *environment) withTopics(cmd *cobra.Command, cfg *config.Config, f func(*kafka.Cluster, []kafka.TopicSpec) error) error {
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
