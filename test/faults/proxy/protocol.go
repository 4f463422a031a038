package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Keys of the requests that failures are made for.
const (
	Produce            int16 = 0
	Fetch              int16 = 1
	ListOffsets        int16 = 2
	Metadata           int16 = 3
	OffsetFetch        int16 = 9
	FindCoordinator    int16 = 10
	JoinGroup          int16 = 11
	Heartbeat          int16 = 12
	SyncGroup          int16 = 14
	apiVersions        int16 = 18
	InitProducerID     int16 = 22
	AddPartitionsToTxn int16 = 24
	AddOffsetsToTxn    int16 = 25
	EndTxn             int16 = 26
	TxnOffsetCommit    int16 = 28
)

var errMalformed = errors.New("malformed")

// body returns what is behind the header of a request.
func body(req kmsg.Request, frame []byte) ([]byte, error) {
	rest := frame[header:]
	if len(rest) < 2 {
		return nil, errMalformed
	}
	client := int16(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if client > 0 {
		if len(rest) < int(client) {
			return nil, errMalformed
		}
		rest = rest[client:]
	}
	if req.IsFlexible() {
		if len(rest) < 1 || rest[0] != 0 {
			return nil, fmt.Errorf("%w: tags in the header", errMalformed)
		}
		rest = rest[1:]
	}
	return rest, nil
}

// reply puts the header before a reply.
func reply(r request, resp kmsg.Response) []byte {
	frame := binary.BigEndian.AppendUint32(nil, uint32(r.correlation))
	if resp.IsFlexible() && r.key != apiVersions {
		frame = append(frame, 0)
	}
	return resp.AppendTo(frame)
}

// refusal is the reply that refuses a request with code.
func refusal(r request, frame []byte, code int16) ([]byte, error) {
	req := kmsg.RequestForKey(r.key)
	if req == nil {
		return nil, fmt.Errorf("request %d: %w", r.key, errMalformed)
	}
	req.SetVersion(r.version)
	content, err := body(req, frame)
	if err != nil {
		return nil, fmt.Errorf("request %d: %w", r.key, err)
	}
	if err := req.ReadFrom(content); err != nil {
		return nil, fmt.Errorf("request %d: %w", r.key, err)
	}
	resp, err := refused(req, code)
	if err != nil {
		return nil, err
	}
	resp.SetVersion(r.version)
	return reply(r, resp), nil
}

func refused(req kmsg.Request, code int16) (kmsg.Response, error) {
	switch req := req.(type) {
	case *kmsg.ProduceRequest:
		return refusedProduce(req, code), nil
	case *kmsg.AddPartitionsToTxnRequest:
		return refusedPartitions(req, code), nil
	case *kmsg.TxnOffsetCommitRequest:
		return refusedOffsets(req, code), nil
	}
	switch resp := req.ResponseKind().(type) {
	case *kmsg.InitProducerIDResponse:
		resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = code, -1, -1
		return resp, nil
	case *kmsg.AddOffsetsToTxnResponse:
		resp.ErrorCode = code
		return resp, nil
	case *kmsg.EndTxnResponse:
		resp.ErrorCode = code
		return resp, nil
	case *kmsg.HeartbeatResponse:
		resp.ErrorCode = code
		return resp, nil
	case *kmsg.JoinGroupResponse:
		resp.ErrorCode = code
		return resp, nil
	case *kmsg.SyncGroupResponse:
		resp.ErrorCode = code
		return resp, nil
	case *kmsg.OffsetFetchResponse:
		resp.ErrorCode = code
		return resp, nil
	case *kmsg.FetchResponse:
		resp.ErrorCode = code
		return resp, nil
	}
	return nil, fmt.Errorf("request %d cannot be refused", req.Key())
}

func refusedProduce(req *kmsg.ProduceRequest, code int16) kmsg.Response {
	resp := kmsg.NewPtrProduceResponse()
	for i := range req.Topics {
		t := kmsg.NewProduceResponseTopic()
		t.Topic = req.Topics[i].Topic
		for k := range req.Topics[i].Partitions {
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition, p.ErrorCode, p.BaseOffset = req.Topics[i].Partitions[k].Partition, code, -1
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

func refusedPartitions(req *kmsg.AddPartitionsToTxnRequest, code int16) kmsg.Response {
	resp := kmsg.NewPtrAddPartitionsToTxnResponse()
	for i := range req.Topics {
		t := kmsg.NewAddPartitionsToTxnResponseTopic()
		t.Topic = req.Topics[i].Topic
		for _, number := range req.Topics[i].Partitions {
			p := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			p.Partition, p.ErrorCode = number, code
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

func refusedOffsets(req *kmsg.TxnOffsetCommitRequest, code int16) kmsg.Response {
	resp := kmsg.NewPtrTxnOffsetCommitResponse()
	for i := range req.Topics {
		t := kmsg.NewTxnOffsetCommitResponseTopic()
		t.Topic = req.Topics[i].Topic
		for k := range req.Topics[i].Partitions {
			p := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			p.Partition, p.ErrorCode = req.Topics[i].Partitions[k].Partition, code
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

// rewrite puts the addresses of the proxy into a reply that leads to brokers.
func (p *Proxy) rewrite(r request, frame []byte) ([]byte, error) {
	if r.key != Metadata && r.key != FindCoordinator {
		return frame, nil
	}
	resp := kmsg.ResponseForKey(r.key)
	resp.SetVersion(r.version)
	content := frame[4:]
	if resp.IsFlexible() {
		if len(content) < 1 || content[0] != 0 {
			return nil, fmt.Errorf("reply %d: %w: tags in the header", r.key, errMalformed)
		}
		content = content[1:]
	}
	if err := resp.ReadFrom(content); err != nil {
		return nil, fmt.Errorf("reply %d: %w", r.key, err)
	}
	switch resp := resp.(type) {
	case *kmsg.MetadataResponse:
		for i := range resp.Brokers {
			p.move(&resp.Brokers[i].Host, &resp.Brokers[i].Port)
		}
	case *kmsg.FindCoordinatorResponse:
		p.move(&resp.Host, &resp.Port)
		for i := range resp.Coordinators {
			p.move(&resp.Coordinators[i].Host, &resp.Coordinators[i].Port)
		}
	}
	return reply(r, resp), nil
}

func (p *Proxy) move(host *string, port *int32) {
	if to, ok := p.front[broker{*host, *port}]; ok {
		*host, *port = to.host, to.port
	}
}

// hurry puts the proxy's own rebalance timeout into a JoinGroup.
func (p *Proxy) hurry(r request, frame []byte) ([]byte, error) {
	if r.key != JoinGroup || p.rebalance == 0 {
		return frame, nil
	}
	req := kmsg.NewPtrJoinGroupRequest()
	req.SetVersion(r.version)
	content, err := body(req, frame)
	if err != nil {
		return nil, err
	}
	if err := req.ReadFrom(content); err != nil {
		return nil, fmt.Errorf("JoinGroup: %w", err)
	}
	req.RebalanceTimeoutMillis = int32(p.rebalance.Milliseconds())
	return req.AppendTo(frame[: len(frame)-len(content) : len(frame)-len(content)]), nil
}
