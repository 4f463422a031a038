package httpapi

import (
	"context"
	"net/http"
	"strings"
)

// authorize lets nobody past without a token, but probes; not even to learn
// which routes there are.
func (s *Server) authorize(next http.Handler) http.Handler {
	if s.tokens == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if open := r.URL.Path == pathLivez || r.URL.Path == pathReadyz; open {
			next.ServeHTTP(w, r)
			return
		}
		granted, err := s.granted(r)
		if err != nil {
			challenge := `Bearer realm="meterd"`
			if _, given := bearer(r); given {
				challenge += `, error="invalid_token"`
			}
			w.Header().Set("WWW-Authenticate", challenge)
			s.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), grantKey{}, granted)))
	})
}

// granted returns what the token of a request allows, which is everything where
// nobody has to show one.
func (s *Server) granted(r *http.Request) (grant, error) {
	if s.tokens == nil {
		return grant{admin: true}, nil
	}
	given, ok := bearer(r)
	if !ok {
		return grant{}, refuse(errUnauthorized, "a bearer token is required")
	}
	g, ok := s.tokens.get().accept(given)
	if !ok {
		return grant{}, refuse(errUnauthorized, "the token is not valid")
	}
	return g, nil
}

// grantKey is that of a request's grant in its context.
type grantKey struct{}

// grantOf returns what whoever asks may do, which is everything where nobody
// has to show a token.
func (s *Server) grantOf(r *http.Request) grant {
	if s.tokens == nil {
		return grant{admin: true}
	}
	granted, _ := r.Context().Value(grantKey{}).(grant) // else nothing is granted
	return granted
}

// need refuses a request that a grant does not allow.
type need func(grant, *http.Request) error

// admins may change contracts.
func admins(g grant, _ *http.Request) error { return g.allows(g.admin) }

// readers may see all clients.
func readers(g grant, _ *http.Request) error { return g.allows(g.reads()) }

// thatClient may see the client in the path, and readers all of them.
func thatClient(g grant, r *http.Request) error {
	if g.reads() {
		return nil
	}
	client, err := pathID(r, "client")
	if err != nil {
		return err
	}
	return g.allows(g.sees(client))
}

// anyToken is enough where there is nothing to hide, or where the handler asks
// for more by itself.
func anyToken(grant, *http.Request) error { return nil }

// only is handle for those whom needed lets past.
func (s *Server) only(needed need, fn func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		if err := needed(s.grantOf(r), r); err != nil {
			return err
		}
		return fn(w, r)
	})
}

// ownClient returns the client that a request is about: the one that it names,
// or for who may see but one client, that. An empty one is all of them.
func (s *Server) ownClient(r *http.Request, named string) (string, error) {
	g := s.grantOf(r)
	switch {
	case g.reads():
		return named, nil
	case named == "" && len(g.clients) == 1:
		return g.clients[0], nil
	}
	return named, g.allows(named != "" && g.sees(named))
}

func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}
