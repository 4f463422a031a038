package kafka_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/kafka"
)

func TestPermanentIsWhatAskingAgainDoesNotMend(t *testing.T) {
	t.Parallel()
	for code, want := range map[error]bool{
		sarama.ErrMessageSizeTooLarge:         true,
		sarama.ErrTopicAuthorizationFailed:    true,
		sarama.ErrInvalidRecord:               true,
		sarama.ErrNotEnoughReplicas:           false,
		sarama.ErrNotLeaderForPartition:       false,
		sarama.ErrOutOfOrderSequenceNumber:    false,
		errors.New("connection reset"):        false,
		fmt.Errorf("a: %w", kafka.ErrNoTopic): false,
	} {
		require.Equal(t, want, kafka.Permanent(fmt.Errorf("commit: %w", code)), "%v", code)
	}
}
