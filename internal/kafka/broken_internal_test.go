package kafka

import (
	"fmt"
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
)

// An answer to another request than the last says that the connection is of no
// use any more; data that cannot be decoded says that the data is not.
func TestAnswerToAnotherRequest(t *testing.T) {
	t.Parallel()
	late := sarama.PacketDecodingError{Info: "correlation ID didn't match, wanted 2, got 0"}
	require.True(t, broken(fmt.Errorf("fetch: %w", late)))
	require.False(t, broken(fmt.Errorf("fetch: %w", sarama.PacketDecodingError{Info: "invalid array length"})))
}
