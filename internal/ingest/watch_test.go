package ingest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// A partition whose loop does not go round ends the instance; one that waits
// for a broker does not.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{StuckAfter: time.Minute}, Parts{}, zap.NewNop(), prometheus.NewRegistry())
		p := newTask(g, 7)
		g.tasks[7] = p
		ended := make(chan error, 1)
		go func() { ended <- g.Run(context.Background()) }()

		require.NoError(t, p.await(func() error {
			time.Sleep(time.Hour) //nolint:forbidigo // of the bubble's clock
			return nil
		}))
		time.Sleep(59 * time.Second) //nolint:forbidigo // as above
		synctest.Wait()
		select {
		case err := <-ended:
			require.Fail(t, "it ended too early", "%v", err)
		default:
		}
		p.beat()
		require.ErrorIs(t, <-ended, ErrStuck)
		p.abandon()
	})
}
