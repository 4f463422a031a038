package httpapi

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"slices"
)

// grant is what a token allows.
type grant struct {
	admin   bool     // everything
	read    bool     // to see everything
	check   bool     // to have uses of any client checked
	clients []string // to see these clients, and to have their uses checked
}

func (g *grant) reads() bool { return g.admin || g.read }

func (g *grant) sees(client string) bool { return g.reads() || slices.Contains(g.clients, client) }

func (g *grant) checks(client string) bool { return g.check || g.sees(client) }

// allows refuses what is not allowed.
func (g *grant) allows(allowed bool) error { //revive:disable-line:flag-parameter // it is the question
	if allowed {
		return nil
	}
	return refuse(errForbidden, "the token does not allow this")
}

// token is the SHA-256 of one that opens the door, and how far.
type token struct {
	sum     [sha256.Size]byte
	granted grant
}

type tokens []token

// errNoTokens is returned when a tokens file has none, which would lock
// everybody out.
var errNoTokens = errors.New("no token in it")

// tokenLine is a line of a tokens file.
type tokenLine struct {
	text    []byte
	granted grant
}

// readTokens reads one token a line.
func readTokens(name string) (tokens, error) {
	lines, err := tokenLines(name)
	if err != nil {
		return nil, err
	}
	var list tokens
	for _, line := range lines {
		list = append(list, token{sum: sha256.Sum256(line.text), granted: line.granted})
	}
	return list, nil
}

// adminToken returns a token that opens the doors of other instances. It is
// read for each use, and not kept.
func adminToken(name string) (string, error) {
	lines, err := tokenLines(name)
	if err != nil {
		return "", err
	}
	for _, line := range lines {
		if line.granted.admin {
			return string(line.text), nil
		}
	}
	return "", fmt.Errorf("%s: no token with the scope admin, by which instances ask one another", name)
}

// tokenLines returns the tokens of a file, of which there is at least one. Empty
// lines and those that begin with # are left out. What is wrong is told by the
// line's number: its text may be a secret.
func tokenLines(name string) ([]tokenLine, error) {
	data, err := readFile(name)
	if err != nil {
		return nil, err
	}
	var list []tokenLine
	n := 0
	for text := range bytes.Lines(data) {
		n++
		words := bytes.Fields(text)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		if bytes.ContainsFunc(words[0], func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("%s: line %d is not a token: only visible ASCII, without spaces", name, n)
		}
		if slices.ContainsFunc(list, func(l tokenLine) bool { return bytes.Equal(l.text, words[0]) }) {
			return nil, fmt.Errorf("%s: line %d has a token of an earlier line", name, n)
		}
		granted, ok := scopes(words[1:])
		if !ok {
			return nil, fmt.Errorf("%s: line %d: behind the token only admin, read, check and client=ID are expected, parted by spaces", name, n)
		}
		list = append(list, tokenLine{text: words[0], granted: granted})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: %w", name, errNoTokens)
	}
	return list, nil
}

// scopes reads what stands behind a token; nothing is admin. The id of a client
// is percent-encoded where it has spaces or percent signs in it.
func scopes(words [][]byte) (g grant, ok bool) {
	if len(words) == 0 {
		return grant{admin: true}, true
	}
	for _, word := range words {
		switch string(word) {
		case "admin":
			g.admin = true
			continue
		case "read":
			g.read = true
			continue
		case "check":
			g.check = true
			continue
		}
		encoded, is := bytes.CutPrefix(word, []byte("client="))
		client, err := url.PathUnescape(string(encoded))
		if !is || err != nil || client == "" || checkID("client", client) != nil {
			return g, false
		}
		g.clients = append(g.clients, client)
	}
	return g, true
}

// accept returns what a token allows, and false where it is none of t, in a time
// that says nothing about which one, or how much of it is right.
func (t tokens) accept(text string) (grant, bool) {
	sum := sha256.Sum256([]byte(text))
	found := -1
	for i := range t {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], t[i].sum[:]), i, found)
	}
	if found < 0 {
		return grant{}, false
	}
	return t[found].granted, true
}
