package proxy_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/meterd/meterd/test/faults/proxy"
)

// network is brokers behind a proxy.
func network(t *testing.T, brokers int) (*proxy.Proxy, *kfake.Cluster) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(brokers), kfake.SeedTopics(1, "in"))
	require.NoError(t, err)
	p, err := proxy.Listen(t.Context(), cluster.ListenAddrs())
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cluster.Close()
		stop()
		require.NoError(t, <-done)
	})
	return p, cluster
}

// client is a connection that speaks Kafka.
type client struct {
	t *testing.T
	net.Conn
}

func connect(t *testing.T, p *proxy.Proxy) *client {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.Addresses()[0])
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return &client{t: t, Conn: conn}
}

func (c *client) send(req kmsg.Request) {
	c.t.Helper()
	_, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, 7))
	require.NoError(c.t, err)
}

func (c *client) receive(req kmsg.Request) (kmsg.Response, error) {
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, frame); err != nil {
		return nil, err
	}
	require.Equal(c.t, uint32(7), binary.BigEndian.Uint32(frame))
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	frame = frame[4:]
	if resp.IsFlexible() {
		frame = frame[1:]
	}
	return resp, resp.ReadFrom(frame)
}

// create is a request that leaves a trace.
func create(topic string) kmsg.Request {
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, 1, 1
	req.Topics = append(req.Topics, t)
	req.SetVersion(5)
	return req
}

const createTopics = 19

func TestFailuresOfARequest(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		shot           *proxy.Shot
		answer, traced bool
	}{
		"none":         {shot: &proxy.Shot{Key: proxy.EndTxn, What: proxy.LoseReply}, answer: true, traced: true},
		"a later one":  {shot: &proxy.Shot{Key: createTopics, Skip: 1, What: proxy.LoseReply}, answer: true, traced: true},
		"reply lost":   {shot: &proxy.Shot{Key: createTopics, What: proxy.LoseReply}, traced: true},
		"reply late":   {shot: &proxy.Shot{Key: createTopics, What: proxy.DelayReply, Delay: time.Millisecond}, answer: true, traced: true},
		"request lost": {shot: &proxy.Shot{Key: createTopics, What: proxy.LoseRequest}},
		"request late": {shot: &proxy.Shot{Key: createTopics, What: proxy.LateRequest, Delay: time.Millisecond}, traced: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, cluster := network(t, 1)
			c := connect(t, p)
			p.Fire(tt.shot)
			req := create("made")
			c.send(req)
			resp, err := c.receive(req)
			if tt.answer {
				require.NoError(t, err)
				require.Zero(t, resp.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode)
			} else {
				require.Error(t, err)
			}
			if tt.traced {
				require.Eventually(t, func() bool { return cluster.TopicInfo("made") != nil }, 20*time.Second, time.Millisecond)
			} else {
				require.Nil(t, cluster.TopicInfo("made"))
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	p, _ := network(t, 1)
	c := connect(t, p)
	id := "me"
	init := kmsg.NewPtrInitProducerIDRequest()
	init.SetVersion(4)
	init.TransactionalID, init.TransactionTimeoutMillis, init.ProducerID, init.ProducerEpoch = &id, 1000, -1, -1
	shot := &proxy.Shot{Key: proxy.InitProducerID, What: proxy.Refuse, Code: 51, Times: 2}
	p.Fire(shot)
	for _, want := range []int16{51, 51, 0} {
		c.send(init)
		resp, err := c.receive(init)
		require.NoError(t, err)
		require.Equal(t, want, resp.(*kmsg.InitProducerIDResponse).ErrorCode)
	}
	<-shot.Hit()

	add := kmsg.NewPtrAddPartitionsToTxnRequest()
	add.SetVersion(3)
	add.TransactionalID = id
	add.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "in", Partitions: []int32{0}}}
	p.Fire(&proxy.Shot{Key: proxy.AddPartitionsToTxn, What: proxy.Refuse, Code: 90})
	c.send(add)
	resp, err := c.receive(add)
	require.NoError(t, err)
	require.Equal(t, int16(90), resp.(*kmsg.AddPartitionsToTxnResponse).Topics[0].Partitions[0].ErrorCode)

	withdrawn := &proxy.Shot{Key: proxy.InitProducerID, What: proxy.LoseRequest}
	p.Fire(withdrawn)
	p.Withdraw(withdrawn)
	c.send(init)
	_, err = c.receive(init)
	require.NoError(t, err)
}

// Whatever brokers tell about each other leads through the proxy.
func TestBrokersAreFoundBehindTheProxy(t *testing.T) {
	t.Parallel()
	p, _ := network(t, 2)
	c := connect(t, p)
	for _, version := range []int16{1, 9} {
		meta := kmsg.NewPtrMetadataRequest()
		meta.SetVersion(version)
		c.send(meta)
		resp, err := c.receive(meta)
		require.NoError(t, err)
		var told []string
		for _, b := range resp.(*kmsg.MetadataResponse).Brokers {
			told = append(told, net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))))
		}
		require.ElementsMatch(t, p.Addresses(), told)
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.SetVersion(3)
	find.CoordinatorKey = "group"
	c.send(find)
	resp, err := c.receive(find)
	require.NoError(t, err)
	found := resp.(*kmsg.FindCoordinatorResponse)
	require.Contains(t, p.Addresses(), net.JoinHostPort(found.Host, strconv.Itoa(int(found.Port))))
}

// What is sent while the network is cut arrives when it is healed, also when
// its sender has gone.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, way := range []proxy.Direction{proxy.ToBroker, proxy.ToClient} {
		p, cluster := network(t, 1)
		c := connect(t, p)
		p.Cut(way)
		c.send(create("made"))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, err := c.Read(make([]byte, 1))
		require.ErrorContains(t, err, "timeout")
		if way == proxy.ToBroker {
			require.Nil(t, cluster.TopicInfo("made"))
		}
		require.NoError(t, c.Close())
		p.Heal()
		require.Eventually(t, func() bool { return cluster.TopicInfo("made") != nil }, 20*time.Second, time.Millisecond)
	}
	p, _ := network(t, 1)
	p.Slow(proxy.Link{Latency: time.Millisecond, Rate: 1 << 20, Slice: 1})
	c := connect(t, p)
	req := create("slowly")
	c.send(req)
	_, err := c.receive(req)
	require.NoError(t, err)
	p.Reset()
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}
