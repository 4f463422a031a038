package httpapi

import "net/http"

type healthAnswer struct {
	Status string  `json:"status"`
	Checks []Check `json:"checks,omitempty"`
}

// livez tells that the process serves HTTP. It depends on nothing, and never
// refuses, for who asks it restarts what does not answer.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, healthAnswer{Status: "ok"})
}

// readyz tells whether all checks hold, and with ?verbose which do.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	checks := s.parts.Checks()
	failed := 0
	for _, c := range checks {
		if !c.OK {
			failed++
		}
	}
	shown := checks
	if !r.URL.Query().Has("verbose") {
		shown = nil
	}
	if failed > 0 {
		refused := refuse(errNotReady, "%d of %d checks failed", failed, len(checks))
		refused.checks = shown
		return refused
	}
	return answer(w, healthAnswer{Status: "ok", Checks: shown})
}
