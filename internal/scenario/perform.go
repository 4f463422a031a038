package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/ingest"
)

// cue is something that is to happen when a partition has been counted up to
// an offset and no further.
type cue struct {
	part  *part
	step  *Step
	after int64
}

// cues are those of a play, in the order of each partition.
type cues struct {
	mu      sync.Mutex // guards all below; who holds it may keep partitions waiting
	pending []*cue
	address string // of the daemon, once it listens
	stopped bool   // it is to die: no partition takes another step
}

var (
	errRestart = errors.New("the scenario says restart")
	errLate    = errors.New("the play did not come to its end in time")
)

// gap is longer than the least time between two commits of a partition: after
// it a commit is due with the record that was just folded, and only that.
const gap = 8 * time.Millisecond

// poll is the pause between two looks at what others do.
const poll = 5 * time.Millisecond

// perform runs the daemon until all is counted.
func (p *play) perform(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.stage.Patience)
	defer cancel()
	for {
		err := p.act(ctx)
		switch {
		case ctx.Err() != nil:
			return errors.Join(errLate, err)
		case errors.Is(err, errRestart):
			if err := p.catchUp(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// act runs one daemon, until it is told to die or has counted everything.
func (p *play) act(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p.cues.mu.Lock()
	p.cues.stopped = false
	p.cues.mu.Unlock()
	started := make(chan string, 1)
	ended := make(chan error, 1)
	p.cues.mu.Lock() // until the address is known
	go func() {
		ended <- app.Run(ctx, p.cfg, app.Options{
			Started: func(address string) { started <- address },
			Step:    func(at ingest.Step) error { return p.step(ctx, at) },
		}, p.stage.Log, prometheus.NewRegistry())
	}()
	select {
	case p.cues.address = <-started:
		p.cues.mu.Unlock()
	case err := <-ended:
		p.cues.mu.Unlock()
		return err
	}
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * poll):
		}
		done, err := p.done(ctx)
		if done {
			err = p.ask(ctx)
		}
		if err != nil || done {
			stop()
			return errors.Join(err, <-ended)
		}
	}
}

// step keeps a partition to one record a commit, and does what is due when it
// has come to it: nothing more is folded before that has happened.
func (p *play) step(ctx context.Context, at ingest.Step) error {
	switch at {
	case ingest.StepFolded:
		select {
		case <-ctx.Done():
		case <-time.After(gap):
		}
	case ingest.StepCommitted:
		p.cues.mu.Lock()
		defer p.cues.mu.Unlock()
		if p.cues.stopped {
			return errRestart
		}
		return p.due(ctx, true)
	}
	return nil
}

// due does what is due. The caller holds the lock.
func (p *play) due(ctx context.Context, running bool) error { //revive:disable-line:flag-parameter // whether there is a daemon to wait for
	if len(p.cues.pending) == 0 {
		return nil
	}
	positions, err := p.positions(ctx)
	if err != nil {
		return err
	}
	var later []*cue
	waits := map[*part]bool{} // a cue of it is yet to come
	for _, c := range p.cues.pending {
		if waits[c.part] || p.cues.stopped || positions[c.part.partition] < c.after {
			waits[c.part] = true
			later = append(later, c)
			continue
		}
		if c.step.kind == restartStep {
			p.cues.stopped = running
			continue
		}
		if err := p.sign(ctx, c); err != nil {
			return err
		}
		if running {
			if err := p.taken(ctx, c); err != nil {
				return err
			}
		}
	}
	if p.cues.pending = later; p.cues.stopped {
		return errRestart
	}
	return nil
}

// catchUp does what fell due while the daemon died.
func (p *play) catchUp(ctx context.Context) error {
	p.cues.mu.Lock()
	defer p.cues.mu.Unlock()
	p.cues.stopped = false
	return p.due(ctx, false)
}

// positions returns the committed position of each partition.
func (p *play) positions(ctx context.Context) (map[int32]int64, error) {
	for {
		offsets, err := p.admin.FetchOffsets(kadm.RequireStable(ctx), p.cfg.ApplicationID)
		if err == nil {
			err = offsets.Error()
		}
		if err == nil {
			list := map[int32]int64{}
			offsets.Each(func(o kadm.OffsetResponse) { list[o.Partition] = o.At })
			return list, nil
		}
		select { // transactions of other partitions are just ending
		case <-ctx.Done():
			return nil, fmt.Errorf("positions: %w", errors.Join(ctx.Err(), err))
		case <-time.After(poll):
		}
	}
}

// sign puts a contract on its topic.
func (p *play) sign(ctx context.Context, c *cue) error {
	t := c.part
	r := &kgo.Record{
		Topic: p.cfg.Contracts.Topic, Key: []byte(t.names.contract(c.step.contract)), Value: c.step.contractRecord(t.names),
	}
	if err := p.client.ProduceSync(ctx, r).FirstErr(); err != nil {
		return fmt.Errorf("contract: %w", err)
	}
	t.revisions[r.Offset] = int64(len(t.revisions))
	c.after = r.Offset
	return nil
}

// taken waits until the daemon has read the revision that c signed.
func (p *play) taken(ctx context.Context, c *cue) error {
	id := c.part.names.contract(c.step.contract)
	for {
		revision, known, err := p.revision(ctx, id)
		if err == nil && (c.step.terms == nil && !known || known && revision >= c.after) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("contract %s: %w", id, errors.Join(ctx.Err(), err))
		case <-time.After(poll):
		}
	}
}

// revision returns the newest revision of a contract in the daemon's list.
func (p *play) revision(ctx context.Context, id string) (revision int64, known bool, err error) {
	for after := ""; ; {
		var page struct {
			Contracts []struct {
				ID       string
				Revision int64
			}
			Next string
		}
		if err := p.get(ctx, "/v1/contracts?limit=1000&after="+url.QueryEscape(after), &page); err != nil {
			return 0, false, err
		}
		for _, c := range page.Contracts {
			if c.ID == id {
				revision, known = max(revision, c.Revision), true
			}
		}
		if after = page.Next; after == "" {
			return revision, known, nil
		}
	}
}

// get asks the daemon, with a body to be posted where there is one.
func (p *play) get(ctx context.Context, path string, into any, body ...byte) error {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+p.cues.address+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s: %s", errAnswer, path, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

var errAnswer = errors.New("the daemon refuses")

// ask takes the check steps that scenarios end with: what is asked before could
// only be asked while the partition waits.
func (p *play) ask(ctx context.Context) error {
	for _, t := range p.parts {
		for i := len(t.scenario.Steps) - 1; i >= 0 && !t.scenario.Steps[i].inTopic(); i-- {
			step := &t.scenario.Steps[i]
			if step.kind != checkStep {
				continue
			}
			words, err := p.check(ctx, t, step)
			if err != nil {
				return err
			}
			if why := compare(step, outcome{words: words}); why != "" {
				t.wrong = append(t.wrong, step.Text+": "+why)
			}
		}
	}
	return nil
}

func (p *play) check(ctx context.Context, t *part, step *Step) ([]string, error) {
	request := map[string]any{"client": t.names.client(step.client), "meter": step.query.meter, "dimensions": step.query.values}
	if step.query.quantity != "" {
		request["quantity"] = step.query.quantity
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Allowed bool
		Limits  []struct {
			LimitID   string `json:"limit_id"`
			Remaining string
			Blocked   bool
		}
	}
	if err := p.get(ctx, "/v1/check", &answer, body...); err != nil {
		return nil, err
	}
	words := []string{decision(answer.Allowed)}
	for _, l := range answer.Limits {
		words = append(words, leaves(l.LimitID, l.Remaining, l.Blocked))
	}
	return words, nil
}

// done tells whether every record is counted and every limit event that is
// wanted is there.
func (p *play) done(ctx context.Context) (bool, error) {
	positions, err := p.positions(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range p.parts {
		if positions[t.partition] < t.next {
			return false, nil
		}
	}
	p.cues.mu.Lock()
	pending := len(p.cues.pending)
	p.cues.mu.Unlock()
	if pending > 0 {
		return false, nil
	}
	if p.counted.IsZero() {
		p.counted = time.Now()
	}
	told, _, err := p.read(ctx, p.cfg.LimitEvents.Topic, kgo.ReadCommitted())
	if err != nil {
		return false, err
	}
	missing := 0
	for _, t := range p.parts {
		missing += max(0, len(t.want.Events)-len(told[t.partition]))
	}
	return missing == 0 || time.Since(p.counted) > patience, nil
}

// patience is how long limit events are waited for that may never come.
const patience = 10 * time.Second
