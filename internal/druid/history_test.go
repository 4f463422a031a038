package druid_test

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// question is what a fake finds in a query.
type question struct {
	partition, boundary int64
	clients             []string
	at                  time.Time
}

// history is a complete Druid in which every client used 7 of one meter,
// unless fault says otherwise. It keeps the questions.
type history struct {
	*fake
	fault func(n int, q question, w http.ResponseWriter, r *http.Request) bool // true: it has answered

	mu        sync.Mutex
	questions []question
	now, most atomic.Int32 // questions under way
}

func newHistory(t *testing.T) *history {
	h := &history{}
	h.fake = &fake{t: t, groupBy: h.answer}
	return h
}

func (h *history) answer(w http.ResponseWriter, r *http.Request) {
	now := h.now.Add(1)
	defer h.now.Add(-1)
	for most := h.most.Load(); now > most && !h.most.CompareAndSwap(most, now); most = h.most.Load() {
	}
	query, _ := r.Context().Value(queryKey{}).(map[string]any)
	q := parse(query)
	h.mu.Lock()
	h.questions = append(h.questions, q)
	n := len(h.questions)
	h.mu.Unlock()
	if h.fault != nil && h.fault(n, q, w, r) {
		return
	}
	_, _ = io.WriteString(w, whole(q))
}

func (h *history) all() []question {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]question(nil), h.questions...)
}

func parse(query map[string]any) question {
	var q struct {
		Filter struct {
			Fields []struct{ MatchValue, Upper int64 }
		}
		Dimensions []struct{ Values []string }
	}
	text, err := json.Marshal(query)
	if err != nil || json.Unmarshal(text, &q) != nil {
		return question{}
	}
	return question{partition: q.Filter.Fields[0].MatchValue, boundary: q.Filter.Fields[1].Upper, clients: q.Dimensions[0].Values, at: time.Now()}
}

// whole is a complete answer: the clients have a row each, at the offsets from
// 0, and other clients the rest.
func whole(q question) string {
	rows := []any{}
	for i, c := range q.clients {
		rows = append(rows, []any{c, "m", 1, i, i, i, 1, 5, 5, 0, 7, 7.0, 7, 7})
	}
	if n, b := int64(len(q.clients)), q.boundary; n < b {
		rows = append(rows, []any{nil, "m", b - n, n, b - 1, b*(b-1)/2 - n*(n-1)/2, b - n, 5, 5, 0, 7, 7.0, 7, 7})
	}
	text, _ := json.Marshal(rows) // of numbers and strings: cannot fail
	return string(text)
}
