package proxy

import (
	"fmt"
	"sync"
	"time"
)

// Failure is what becomes of a request.
type Failure string

// The failures of a single request.
const (
	LoseReply   Failure = "lose reply"   // it is carried out, then the connection breaks
	Silence     Failure = "silence"      // it is carried out, and no reply ever comes
	DelayReply  Failure = "delay reply"  // by Shot.Delay
	LoseRequest Failure = "lose request" // the connection breaks before the broker has it
	LateRequest Failure = "late request" // the connection breaks, and the broker gets it after Shot.Delay all the same
	Refuse      Failure = "refuse"       // it is answered with Shot.Code, and the broker never has it
)

// Shot is a failure of one request. Fire puts it into a Proxy.
type Shot struct {
	Key   int16 // of the API
	Skip  int   // how many of them pass before
	Times int   // how many fail; 0 is 1
	What  Failure
	Delay time.Duration
	Code  int16

	once sync.Once
	hit  chan struct{}
}

func (s *Shot) String() string {
	text := fmt.Sprintf("%s of request %d after %d", s.What, s.Key, s.Skip)
	if s.Times > 1 {
		text += fmt.Sprintf(", %d times", s.Times)
	}
	if s.Delay > 0 {
		text += ", " + s.Delay.String()
	}
	if s.What == Refuse {
		text += fmt.Sprintf(", code %d", s.Code)
	}
	return text
}

// Hit is closed when the first request has failed: of a lost or late reply,
// when the broker has sent it; of the others, when the request has come.
func (s *Shot) Hit() <-chan struct{} { return s.hit }

func (s *Shot) met() { s.once.Do(func() { close(s.hit) }) }

// Fire makes the next requests fail as s says. A Shot is fired once.
func (p *Proxy) Fire(s *Shot) {
	s.hit = make(chan struct{})
	s.Times = max(1, s.Times)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shots = append(p.shots, s)
}

// Withdraw takes a Shot back.
func (p *Proxy) Withdraw(s *Shot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(s)
}

// CeaseFire takes all shots back.
func (p *Proxy) CeaseFire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shots = nil
}

func (p *Proxy) remove(s *Shot) {
	for i, other := range p.shots {
		if other == s {
			p.shots = append(p.shots[:i], p.shots[i+1:]...)
			return
		}
	}
}

// struck returns the shot that meets a request, if any.
func (p *Proxy) struck(key int16) *Shot {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.shots {
		if s.Key != key {
			continue
		}
		if s.Skip > 0 {
			s.Skip--
			continue
		}
		if s.Times--; s.Times == 0 {
			p.remove(s)
		}
		return s
	}
	return nil
}
