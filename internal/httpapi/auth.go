package httpapi

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// tokens are the SHA-256 of all that open the door.
type tokens [][sha256.Size]byte

// errNoTokens is returned when a tokens file has none, which would lock
// everybody out.
var errNoTokens = errors.New("no token in it")

// readTokens reads one token a line. Empty lines and those that begin with #
// are left out.
func readTokens(name string) (tokens, error) {
	texts, err := tokenTexts(name)
	if err != nil {
		return nil, err
	}
	var list tokens
	for _, text := range texts {
		list = append(list, sha256.Sum256(text))
	}
	return list, nil
}

// firstToken returns a token that opens the doors of other instances. It is
// read for each use, and not kept.
func firstToken(name string) (string, error) {
	texts, err := tokenTexts(name)
	if err != nil {
		return "", err
	}
	return string(texts[0]), nil
}

// tokenTexts returns the tokens of a file, of which there is at least one.
func tokenTexts(name string) ([][]byte, error) {
	data, err := readFile(name)
	if err != nil {
		return nil, err
	}
	var list [][]byte
	n := 0
	for line := range bytes.Lines(data) {
		n++
		token := bytes.TrimSpace(line)
		if len(token) == 0 || token[0] == '#' {
			continue
		}
		if bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("%s: line %d is not a token: only visible ASCII, without spaces", name, n)
		}
		list = append(list, token)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: %w", name, errNoTokens)
	}
	return list, nil
}

// accept tells whether token is one of t, in a time that says nothing about
// which one, or how much of it is right.
func (t tokens) accept(token string) bool {
	sum := sha256.Sum256([]byte(token))
	found := 0
	for i := range t {
		found |= subtle.ConstantTimeCompare(sum[:], t[i][:])
	}
	return found == 1
}

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
		given, ok := bearer(r)
		switch {
		case !ok:
			w.Header().Set("WWW-Authenticate", `Bearer realm="meterd"`)
			s.refuse(w, r, refuse(errUnauthorized, "a bearer token is required"))
		case !s.tokens.get().accept(given):
			w.Header().Set("WWW-Authenticate", `Bearer realm="meterd", error="invalid_token"`)
			s.refuse(w, r, refuse(errUnauthorized, "the token is not valid"))
		default:
			next.ServeHTTP(w, r)
		}
	})
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
