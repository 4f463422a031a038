package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/meterd/meterd/bench/contender"
	"github.com/meterd/meterd/bench/host"
	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/bench/report"
	"github.com/meterd/meterd/internal/schema"
)

// bench is a benchmark on its way.
type bench struct {
	options
	began    time.Time
	cluster  *cluster
	registry *schema.RegistryClient
	writer   *load.Writer
	core     int    // the programs'; below 0: any
	rest     string // cores of broker and harness
	runs     int    // so far: names of groups

	results report.Results
}

func open(ctx context.Context, o options) (*bench, error) {
	b := &bench{options: o, began: time.Now(), core: -1}
	if o.heap == 0 {
		b.heap = 3
		if host.Memory() < 7<<30 {
			b.heap = 1
		}
	}
	config := schema.DefaultRegistryConfig()
	config.URLs = []string{o.registry}
	var err error
	if b.registry, err = schema.NewRegistryClient(config); err != nil {
		return nil, err
	}
	if b.writer, err = load.NewWriter(ctx, o.brokers, b.registry); err != nil {
		return nil, err
	}
	if b.cluster, err = dial(o.brokers); err != nil {
		return nil, err
	}
	if err := b.place(ctx); err != nil {
		b.close()
		return nil, err
	}
	b.results.About = report.About{
		Date: b.began, Commit: o.commit, Command: o.command, Quick: o.quick, Cores: b.cores(), Go: runtime.Version(),
		Machine: fmt.Sprintf("%d × %s, %d GiB", runtime.NumCPU(), host.Model(), (host.Memory()+1<<29)>>30),
		Kafka:   b.cluster.version(ctx), Java: javaVersion(ctx, o.java),
	}
	return b, nil
}

func (b *bench) close() {
	b.cluster.close()
	b.registry.Close()
}

// place keeps broker and program apart. The harness is with the broker if there
// are two cores, and with neither if there are more.
func (b *bench) place(ctx context.Context) error {
	if !b.pin || runtime.NumCPU() < 2 {
		return nil
	}
	b.core, b.rest = 1, "0"
	if n := runtime.NumCPU(); n > 2 {
		b.rest = fmt.Sprintf("2-%d", n-1)
	}
	if b.broker > 0 {
		return pin(ctx, b.broker, "0")
	}
	return nil
}

func (b *bench) cores() string {
	if b.core < 0 {
		return "all on the same cores"
	}
	return fmt.Sprintf("broker on core 0, program on core %d, generator and reader on %s", b.core, b.rest)
}

// pin puts all threads of a process on some cores.
func pin(ctx context.Context, pid int, cores string) error {
	if out, err := exec.CommandContext(ctx, "taskset", "-a", "-c", "-p", cores, strconv.Itoa(pid)).CombinedOutput(); err != nil {
		return fmt.Errorf("taskset: %w: %s", err, out)
	}
	return nil
}

// aside puts the harness beside the broker while something is measured, and
// returns what lets it use all cores again.
func (b *bench) aside(ctx context.Context) (func(), error) {
	if b.core < 0 {
		return func() {}, nil
	}
	all := fmt.Sprintf("0-%d", b.core) // of two cores
	if strings.HasPrefix(b.rest, "2") {
		all = "0-" + b.rest[strings.Index(b.rest, "-")+1:]
	}
	return func() { _ = pin(context.WithoutCancel(ctx), os.Getpid(), all) }, pin(ctx, os.Getpid(), b.rest)
}

func javaVersion(ctx context.Context, java string) string {
	out, _ := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if _, rest, ok := strings.Cut(string(out), `"`); ok {
		version, _, _ := strings.Cut(rest, `"`)
		return version
	}
	return "unknown"
}

// create writes a file by fn.
func create[T any](path string, from T, fn func(T, io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fn(from, file), file.Close())
}

// filled is a load on a topic.
type filled struct {
	name             string
	ledger           *load.Ledger
	usage, contracts string
}

// say tells what is going on; the tables come at the end.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// topics makes the topics of a load, and writes its contracts.
func (b *bench) topics(ctx context.Context, name string, shape load.Shape) (*filled, error) {
	b.runs++
	f := &filled{name: name, usage: fmt.Sprintf("usage-%d", b.runs), contracts: fmt.Sprintf("contracts-%d", b.runs), ledger: load.NewLedger(shape)}
	if err := errors.Join(b.cluster.create(ctx, f.usage, shape.Partitions, false), b.cluster.create(ctx, f.contracts, 1, true)); err != nil {
		return nil, err
	}
	return f, b.writer.Contracts(ctx, f.ledger, f.contracts)
}

// fill fills a topic with a load.
func (b *bench) fill(ctx context.Context, name string, shape load.Shape) (*filled, error) {
	f, err := b.topics(ctx, name, shape)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	bytes, err := b.writer.Fill(ctx, f.ledger, f.usage)
	if err != nil {
		return nil, err
	}
	b.say("%s: filled %s with %d events of %d bytes in %s", name, f.usage, shape.Events, bytes/shape.Events, time.Since(began).Round(time.Millisecond))
	return f, nil
}

func (b *bench) drop(ctx context.Context, f *filled) error {
	return b.cluster.remove(ctx, f.usage, f.contracts)
}

// attempt is a contender at work on a load.
type attempt struct {
	*bench
	c       contender.Contender
	work    contender.Work
	load    *filled
	process *contender.Process
}

// attempt prepares a contender's work.
func (b *bench) attempt(ctx context.Context, c contender.Contender, f *filled) (*attempt, error) {
	b.runs++
	address, err := free(ctx)
	if err != nil {
		return nil, err
	}
	group := fmt.Sprintf("bench-%d", b.runs)
	a := &attempt{bench: b, c: c, load: f, work: contender.Work{
		Brokers: b.brokers, Registry: b.options.registry, SchemaID: b.writer.SchemaID, Usage: f.usage, Contracts: f.contracts,
		Partitions: f.ledger.Shape.Partitions, Meters: f.ledger.Shape.Meters, Group: group, Dir: filepath.Join(b.dir, group), HTTP: address, Core: b.core,
	}}
	return a, c.Prepare(ctx, a.work)
}

// free returns an address that nobody listens at.
func free(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start starts the contender.
func (a *attempt) start() (err error) {
	a.process, err = contender.Start(a.c, a.work)
	return err
}

// stop ends the contender, if it runs.
func (a *attempt) stop() error {
	if a.process == nil {
		return nil
	}
	p := a.process
	a.process = nil
	return p.Stop()
}

// remove takes away all that an attempt has left.
func (a *attempt) remove(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	err := errors.Join(a.stop(), a.cluster.remove(ctx, a.c.Topics(a.work).All()...), a.cluster.forget(ctx, a.work.Group))
	for _, suffix := range []string{".log", ".yaml"} {
		if a.keep {
			_ = exec.CommandContext(ctx, "cp", a.work.Dir+suffix, a.out).Run() // not all have both
		}
		err = errors.Join(err, os.RemoveAll(a.work.Dir+suffix))
	}
	return errors.Join(err, os.RemoveAll(a.work.Dir))
}
