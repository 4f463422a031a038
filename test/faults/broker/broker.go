// Package broker is an in-memory Kafka in a process of its own, which keeps
// what it has on disk, so that it can be killed and started again.
package broker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Serve runs a cluster with a broker at each of ports, and its data in dir,
// until in ends. It writes "ready" to out, and does what the lines of in say,
// each answered by a line: "shuffle" gives every partition another leader,
// "rehash" every group and transaction another coordinator.
func Serve(ctx context.Context, ports []int, dir string, in io.Reader, out io.Writer) error {
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(len(ports)), kfake.Ports(ports...), kfake.DataDir(dir), kfake.ClusterID("faults"),
		kfake.GroupMinSessionTimeout(0), kfake.BrokerConfigs(map[string]string{"message.max.bytes": "67108864"}),
	)
	if err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	defer cluster.Close()
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for ctx.Err() == nil && lines.Scan() {
		answer := "ok"
		switch line := strings.TrimSpace(lines.Text()); line {
		case "shuffle":
			cluster.ShufflePartitionLeaders()
		case "rehash":
			cluster.RehashCoordinators()
		default:
			answer = fmt.Sprintf("unknown: %q", line)
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
	return lines.Err()
}
