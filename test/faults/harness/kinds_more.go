package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fence takes the transactional id of a partition away, as a newer owner does.
func fence(r *rand.Rand) (string, act) {
	partition := r.IntN(partitions)
	id := fmt.Sprintf("%s-%s-%d", application, usageTopic, partition)
	return id, func(ctx context.Context, w *World) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		c, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Brokers()...))
		if err != nil {
			return false, err
		}
		defer c.Close()
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = &id, 3000, -1, -1
		resp, err := req.RequestWith(ctx, c)
		return err == nil && resp.ErrorCode == 0, nil //nolint:nilerr // then the brokers were down, and nothing was met
	}
}

// joinAndLeave has another member come and go, so that partitions move.
func joinAndLeave(r *rand.Rand) (string, act) {
	stay, clean := between(r, 500*time.Millisecond, 5*time.Second), r.IntN(2) == 0
	return fmt.Sprintf("for %s, clean %v", stay, clean), func(ctx context.Context, w *World) (bool, error) {
		w.guest.Lock()
		defer w.guest.Unlock()
		i, err := w.newInstance(ctx, "guest")
		if err != nil {
			return false, err
		}
		defer i.stopped()
		defer os.RemoveAll(i.disk) //nolint:errcheck // the next guest begins anew, or goes on with it
		if err := i.Start(); err != nil {
			return false, err
		}
		pause(ctx, stay)
		if !clean {
			i.Down()
			return true, nil
		}
		// One that has not begun yet may end with the reason for that.
		if err := i.Stop(); err != nil && !slices.ContainsFunc(excuses(), func(s string) bool { return strings.Contains(err.Error(), s) }) && !strings.Contains(err.Error(), "signal: terminated") {
			return true, err
		}
		return true, nil
	}
}

// damage breaks what is on disk while the process is down.
func damage(r *rand.Rand) (string, act) {
	how, seed := pick(r, []string{"flip", "flip", "truncate", "remove", "empty", "all removed", "older"}), r.Uint64()
	who, do := on(r, func(_ context.Context, i *Instance) (bool, error) {
		if how == "older" { // a directory of the past comes back, as of a backup
			return i.turnBack()
		}
		i.Down()
		err := breakDir(i.dir, how, rand.New(rand.NewPCG(seed, 0)))
		return err == nil, errors.Join(err, i.Start())
	})
	return fmt.Sprintf("%s: %s", who, how), do
}

// turnBack keeps a copy of the disk, lets the process count on, and gives it
// the copy.
func (i *Instance) turnBack() (bool, error) {
	i.Down()
	old := i.dir + ".old"
	err := os.CopyFS(old, os.DirFS(i.dir))
	if err := errors.Join(err, i.Start()); err != nil {
		return false, err
	}
	time.Sleep(1500 * time.Millisecond)
	i.Down()
	err = errors.Join(os.RemoveAll(i.dir), os.Rename(old, i.dir))
	return err == nil, errors.Join(err, i.Start())
}

// breakDir breaks one file of a directory of Badger.
func breakDir(dir, how string, r *rand.Rand) error {
	if how == "all removed" {
		return os.RemoveAll(dir)
	}
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "LOCK" {
			files = append(files, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || len(files) == 0 {
		return nil // it is as empty as can be
	}
	if err != nil {
		return err
	}
	slices.Sort(files)
	file := pick(r, files)
	switch how {
	case "remove":
		return os.Remove(file)
	case "empty":
		return os.Truncate(file, 0)
	}
	used, err := usedBytes(file)
	if err != nil || used == 0 {
		return err
	}
	if how == "truncate" {
		return os.Truncate(file, r.Int64N(used))
	}
	return flip(file, r.Int64N(used))
}

// usedBytes is how much of a file is not the zeros that it was made with.
func usedBytes(path string) (int64, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return int64(len(strings.TrimRight(string(content), "\x00"))), nil
}

func flip(path string, at int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // the write says it
	var b [1]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = file.WriteAt(b[:], at)
	return err
}

// sameDirectory starts a second process on the directory of a running one,
// which has to end by itself and say why.
func sameDirectory(r *rand.Rand) (string, act) {
	return on(r, func(ctx context.Context, i *Instance) (bool, error) {
		if i.Get(ctx, "/livez", nil) != nil {
			return false, nil // it does not run just now
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, i.w.opts.Binary, "run", "--config", i.w.direct, "--set", "state.dir="+i.dir, "--set", "http.listen=127.0.0.1:0")
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			if i.Get(context.WithoutCancel(ctx), "/livez", nil) != nil {
				return false, nil // the first had died, and the second is its heir
			}
			return true, fmt.Errorf("a second process runs on the directory of %s: %s", i.name, out)
		}
		if err == nil || !strings.Contains(string(out), "state.dir") && !slices.ContainsFunc(excuses(), func(s string) bool { return strings.Contains(string(out), s) }) {
			return true, fmt.Errorf("a second process on the directory of %s ended with %w: %s", i.name, err, out)
		}
		return true, nil
	})
}

// poison writes records that cannot be counted, and the ledger that says so.
func poison(r *rand.Rand) (string, act) {
	partition := int32(r.IntN(partitions))
	values := [][]byte{
		{},
		{0},
		{0, 0, 0, 0, 1},
		{0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3},
		[]byte("not avro"),
		append([]byte{0, 0, 0, 0, 1}, slices.Repeat([]byte{0xff}, 64)...),                     // a length without end
		append([]byte{0, 0, 0, 0, 1}, 0xfe, 0xff, 0xff, 0xff, 0x0f, 'x'),                      // 2^31 bytes
		append([]byte{0, 0, 0, 0, 1}, 0x01, 0x02),                                             // a negative length
		append([]byte{0, 0, 0, 0, 1}, make([]byte, 2<<20)...),                                 // larger than max_record_bytes
		append([]byte{0, 0, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x20}, make([]byte, 256<<10)...), // compresses to nothing
	}
	r.Shuffle(len(values), func(a, b int) { values[a], values[b] = values[b], values[a] })
	values = values[:1+r.IntN(len(values))]
	name := fmt.Sprintf("poison-%d", r.Uint64())
	return fmt.Sprintf("%d records on partition %d", len(values), partition), func(ctx context.Context, w *World) (bool, error) {
		c, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ProducerBatchCompression(kgo.GzipCompression()), kgo.ProducerBatchMaxBytes(8<<20))
		if err != nil {
			return false, err
		}
		defer c.Close()
		written := 0
		for _, v := range values {
			// one at a time: what is not acknowledged may be there
			if err := c.ProduceSync(ctx, &kgo.Record{Topic: usageTopic, Partition: partition, Key: []byte("poison"), Value: v}).FirstErr(); err != nil {
				return false, fmt.Errorf("write poison: %w", err)
			}
			written++
		}
		return true, w.addLedger(name, partition, written)
	}
}

// addLedger writes a ledger of records of one partition that are no events.
func (w *World) addLedger(name string, partition int32, undecodable int) error {
	path := filepath.Join(w.dir, "ledger-"+name)
	head, _ := json.Marshal(map[string]any{"ledger": 1, "complete": true, "seed": 0, "first": 0, "events": undecodable})
	line, _ := json.Marshal(map[string]any{"partition": partition, "records": undecodable, "undecodable": undecodable})
	if err := os.WriteFile(path, append(append(append(head, '\n'), line...), '\n'), 0o600); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ledgers = append(w.ledgers, path)
	return nil
}

// hangingTransaction writes to the usage topic in a transaction that is not
// ended for a while, and then aborted: readers wait, and nothing of it counts.
func hangingTransaction(r *rand.Rand) (string, act) {
	d, id := between(r, 500*time.Millisecond, 6*time.Second), fmt.Sprintf("foreign-%d", r.Uint64())
	partition := int32(r.IntN(partitions))
	return fmt.Sprintf("on partition %d for %s", partition, d), func(ctx context.Context, w *World) (bool, error) {
		if w.withHistory() && w.cluster.Units() == 1 {
			return false, nil // see docs/reliability.md: what is aborted may be read there
		}
		c, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.TransactionalID(id), kgo.TransactionTimeout(8*time.Second))
		if err != nil {
			return false, err
		}
		defer c.Close()
		if err := c.BeginTransaction(); err != nil {
			return false, nil //nolint:nilerr // the brokers are down just now
		}
		event := kgo.Record{Topic: usageTopic, Partition: partition, Key: []byte("nobody"), Value: []byte("never to be seen")}
		err = c.ProduceSync(ctx, &event).FirstErr()
		pause(ctx, d)
		_ = c.EndTransaction(ctx, kgo.TryAbort) // or the broker does it when its time is over
		return err == nil, nil
	}
}

// contractsChange writes contracts anew, with other limits, and takes some away.
func contractsChange(r *rand.Rand) (string, act) {
	type change struct {
		client int
		limit  int64
	}
	var changes []change
	for range 5 + r.IntN(20) {
		c := change{client: r.IntN(clients / 4), limit: 1 + r.Int64N(100_000)}
		if r.IntN(5) == 0 {
			c.limit = 0
		}
		changes = append(changes, c)
	}
	return fmt.Sprintf("%d", len(changes)), func(ctx context.Context, w *World) (bool, error) {
		c, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Brokers()...))
		if err != nil {
			return false, err
		}
		defer c.Close()
		var records []*kgo.Record
		for _, change := range changes {
			client := clientName(change.client)
			record := &kgo.Record{Topic: application + ".contracts", Key: []byte("more-" + client)}
			if change.limit > 0 {
				record.Value = fmt.Appendf(nil, `{"id":"more-%[1]s","client":%[1]q,"starts_at":"2020-01-01T00:00:00Z","limits":[
					{"id":"bytes","meter":"bytes_out","limit":"%[2]d","thresholds":["50%%","80%%","100%%"]},
					{"id":"calls","meter":"api_calls","period":"lifetime","limit":"%[3]d","thresholds":["10%%","100%%"]}]}`,
					client, change.limit, 1+change.limit/1000)
			}
			records = append(records, record)
		}
		return c.ProduceSync(ctx, records...).FirstErr() == nil, nil
	}
}
