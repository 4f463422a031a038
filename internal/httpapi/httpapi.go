// Package httpapi answers questions about usage, limits and contracts over
// HTTP, takes contracts in, and tells probes and Prometheus how meterd is.
//
// It changes nothing but contracts, and those by writing to their topic alone.
// A number in an answer was committed, and either it is all there is to count
// or the answer says that it is not; what cannot be known is refused with an
// error, never answered with a guess. A client whose partition another instance
// runs is asked for there, at most once.
//
// New binds the listener, Run serves until its context ends. All errors that
// leave the package towards a client have the form of RFC 9457 and tell nothing
// of their causes, which are logged.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// Config says where and for whom the API is. Begin with Default.
type Config struct {
	Listen        string // host:port; port 0 takes a free one
	ApplicationID string // of which the ids of limit events are made
	Topic         string // of usage, as answers name it
	TokensFile    string // bearer tokens, one a line; empty: nobody has to show one
	TLS           TLS
	// ForwardTimeout bounds a question to another instance.
	ForwardTimeout time.Duration
	// ContractTimeout bounds how long a contract may take to be written and to
	// come into force here.
	ContractTimeout time.Duration
	// MaxConnections bounds how many clients are connected at once; more have
	// to wait.
	MaxConnections int
	// MaxStreams bounds how many of them follow events at once.
	MaxStreams int
}

// TLS turns encryption on, for clients and between instances, where CertFile
// is set. The files are read again when they change. Other instances'
// certificates are checked by CAFile, if set, else by the system's roots.
type TLS struct {
	CertFile string
	KeyFile  string
	CAFile   string
}

// Default is a Config that lacks only ApplicationID and Topic.
func Default() Config {
	return Config{
		Listen: "127.0.0.1:8080", ForwardTimeout: 5 * time.Second, ContractTimeout: 10 * time.Second,
		MaxConnections: 8192, MaxStreams: 4096,
	}
}

// Validate names the first key that is wrong, as it is in the configuration.
func (c Config) Validate() error {
	host, _, err := net.SplitHostPort(c.Listen)
	switch {
	case err != nil:
		return fmt.Errorf("http.listen: %q is not host:port", c.Listen)
	case c.TokensFile == "" && !loopback(host):
		return fmt.Errorf("http.listen: %q is not a loopback address; that takes http.tokens_file", c.Listen)
	case (c.TLS.CertFile == "") != (c.TLS.KeyFile == ""):
		return errors.New("http.tls: cert_file and key_file go together")
	case c.TLS.CAFile != "" && c.TLS.CertFile == "":
		return errors.New("http.tls: ca_file is of no use without cert_file")
	case c.ForwardTimeout < 10*time.Millisecond || c.ForwardTimeout > writeTimeout/2:
		return fmt.Errorf("http.forward_timeout: %s is not between 10ms and %s", c.ForwardTimeout, writeTimeout/2)
	case c.ContractTimeout < 10*time.Millisecond || c.ContractTimeout > writeTimeout/2:
		return fmt.Errorf("http.contract_timeout: %s is not between 10ms and %s", c.ContractTimeout, writeTimeout/2)
	case c.MaxConnections < 1 || c.MaxConnections > 1_000_000:
		return fmt.Errorf("http.max_connections: %d is not between 1 and 1000000", c.MaxConnections)
	case c.MaxStreams < 0 || c.MaxStreams > 1_000_000:
		return fmt.Errorf("http.max_streams: %d is not between 0 and 1000000", c.MaxStreams)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Parts is what a Server asks. All of them are required, and any goroutine may
// call any of them at any time.
type Parts struct {
	Partitions Partitions
	Cluster    Cluster
	Contracts  Contracts
	Catalog    *usage.Catalog // by which contracts are checked
	Writer     ContractWriter
	// LimitEvents are those that are committed.
	LimitEvents LimitEvents
	// Costly has metrics that take their time, for /metrics alone; may be nil.
	Costly prometheus.Gatherer
	// Judges tells whether every partition of this instance judges its next
	// batch by this version of the contracts' table, or a later one.
	Judges func(version int64) bool
	// Holds tells whether a partition of this instance has taken the contract in
	// and waits for what other partitions have told of it.
	Holds func(contract string) bool
	// HandOver returns what a partition that runs here has told of contracts
	// that have come to other ones, without those of which that is not final. It
	// returns false where the partition does not run here.
	HandOver func(partition int32, asked []aggregate.Held) ([]aggregate.Handover, bool)
	// LookUp has history asked for a client of whom the partition, which runs
	// here, knows nothing. It does not wait for the answer.
	LookUp func(partition int32, client string)
	// Checks are what readiness depends on, at this moment.
	Checks func() []Check
	Now    func() time.Time
}

// Partitions are those of the usage topic.
type Partitions interface {
	// Of returns the partition on which producers put client.
	Of(client string) int32
	// Running returns a partition that this instance runs. It returns false for
	// one that is yet to be restored or is not here, and for every one while
	// another instance may have been given it: when the session with the
	// group's coordinator may have ended.
	Running(partition int32) (Reader, bool)
	// Here returns the partitions that this instance was given, running or not.
	Here() []PartitionStatus
}

// Reader is a running partition. Its methods but Lag are those of
// aggregate.State.
type Reader interface {
	View(client string, sel aggregate.Selection) aggregate.View
	Clients(after string, limit int) []string
	// Lag returns how many records are yet to be counted.
	Lag() int64
	// Preview returns the limit events that a change of the contract id would
	// cause for client now: next takes its place, at revision, or where next is
	// nil or another client's, it is gone. Nothing changes.
	Preview(client, id string, next *contracts.Contract, revision int64, now usage.Time) (aggregate.Preview, error)
}

// PartitionState is what an instance does with a partition that it was given.
type PartitionState string

// The states of a partition, in the order in which it passes through them.
const (
	Fencing   PartitionState = "fencing"
	Restoring PartitionState = "restoring"
	Running   PartitionState = "running"
)

// PartitionStatus is how far a partition is. Position is the next offset to be
// counted, as committed, and End the offset after the last record that may be
// read.
type PartitionStatus struct {
	Topic     string
	Partition int32
	State     PartitionState
	Position  int64
	End       int64
}

// Cluster is all instances of this meterd, as the group last told.
type Cluster interface {
	// Self returns this instance's id, and "" while it has none.
	Self() string
	// Instances returns all instances, this one too.
	Instances() []Instance
	// Partitions returns how many the usage topic has, and 0 while that is not
	// known.
	Partitions() int32
}

// Instance is a member of the group. Address is the host:port of its HTTP API.
type Instance struct {
	ID         string
	Address    string
	Partitions []int32
}

// Contracts is the table of all contracts. Its methods are those of
// contracts.Table.
type Contracts interface {
	Entry(id string) (contracts.Entry, bool)
	Entries() []contracts.Entry
	Of(client string) []*contracts.Contract
	Position() int64
	Version() int64
	ChangesSince(version int64) ([]contracts.Change, bool)
}

// ContractWriter appends to the topic of contracts.
type ContractWriter interface {
	// Produce appends a record, of which a nil value removes, and returns its
	// offset once it cannot be lost; a negative one where that is not known.
	// After an error it may be written or not.
	Produce(ctx context.Context, key, value []byte) (offset int64, err error)
}

// Check is one thing that readiness depends on. Detail is shown to whoever
// asks; it holds no secrets.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Registry takes the package's metrics in, and has all that /metrics shows.
type Registry interface {
	prometheus.Registerer
	prometheus.Gatherer
}
