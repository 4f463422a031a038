package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// change is what a request wants to become of a contract.
type change struct {
	id       string
	value    []byte              // of the record; nil: removed
	contract *contracts.Contract // nil: removed
	when     precondition
}

// putContract writes a contract to its topic and answers with it once it is in
// force here. One that could not come into force is not written.
func (s *Server) putContract(w http.ResponseWriter, r *http.Request) error {
	c, dry, err := s.changeOf(r)
	if err != nil {
		return err
	}
	body, err := jsonBody(r)
	if err != nil {
		return err
	}
	if c.value = bytes.TrimSpace(body); !json.Valid(c.value) {
		return refuse(errBadRequest, "the body is not JSON")
	}
	c.contract, err = contracts.Parse([]byte(c.id), c.value, 0, s.parts.Catalog)
	switch {
	case errors.Is(err, contracts.ErrInvalid):
		return refuse(errInvalidContract, "%s", contracts.Reason(err))
	case err != nil:
		return err
	case dry:
		return s.dryRun(w, r, c)
	}
	revision, err := s.put(r.Context(), c)
	if err != nil {
		return err
	}
	return answerContract(w, r, contract{
		ID: c.id, State: c.contract.State(usage.TimeOf(s.parts.Now())), Revision: revision, Contract: c.contract.Raw,
	})
}

// deleteContract removes a contract, and what was rejected of it.
func (s *Server) deleteContract(w http.ResponseWriter, r *http.Request) error {
	c, dry, err := s.changeOf(r)
	if err != nil {
		return err
	}
	if dry {
		return s.dryRun(w, r, c)
	}
	if _, err := s.put(r.Context(), c); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// changeOf returns what PUT and DELETE have in common, and whether they are
// only to say what they would do.
func (s *Server) changeOf(r *http.Request) (c change, dry bool, err error) {
	values, err := query(r, "dry_run")
	if err != nil {
		return c, false, err
	}
	if dry, err = flag(values, "dry_run"); err != nil {
		return c, false, err
	}
	if c.id, err = pathID(r, "id"); err != nil {
		return c, false, err
	}
	c.when, err = preconditionOf(r)
	return c, dry, err
}

// allowed checks c against what is known of its contract.
func (c *change) allowed(e *contracts.Entry, known bool) error {
	if c.contract == nil && !known {
		return refuse(errNotFound, "there is no contract of this id")
	}
	return c.when.check(e)
}

// put writes c, and returns its revision once all partitions here judge by it.
//
// Another instance, or whoever else writes to the topic, may write between our
// look at the contract and our record. With a precondition we say so
// afterwards: our revision stands, and took the place of one that the client
// did not know of. Within an instance changes are made one after the other, so
// that there the precondition keeps what it promises.
func (s *Server) put(ctx context.Context, c change) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ContractTimeout)
	defer cancel()
	revision, err = s.appendRevision(ctx, c)
	if err != nil {
		return 0, err
	}
	// Asked for after the table has the revision, the version is that of its
	// change or a later one.
	version := s.parts.Contracts.Version()
	if !until(ctx, func() bool { return s.parts.Judges(version) && !s.parts.Holds(c.id) }) {
		return 0, refuse(errNotReady, "it is written, at revision %d, but not in force in all partitions here yet", revision)
	}
	return revision, nil
}

// appendRevision writes c and waits for the table to have it.
func (s *Server) appendRevision(ctx context.Context, c change) (revision int64, err error) {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return 0, refuse(errNotReady, "contracts before this one are being written; this one was not")
	}
	table := s.parts.Contracts
	version := table.Version()
	e, known := table.Entry(c.id)
	for again := table.Version(); again != version; again = table.Version() {
		version = again // the entry may be that of before or after
		e, known = table.Entry(c.id)
	}
	if err := c.allowed(&e, known); err != nil {
		return 0, err
	}
	revision, err = s.parts.Writer.Produce(ctx, []byte(c.id), c.value)
	if err != nil {
		return 0, refuse(errNotReady, "it may be written or not: the topic of contracts gives no answer").because(err)
	}
	if revision < 0 {
		return 0, refuse(errNotReady, "it is written, but the broker does not say at which revision")
	}
	if !until(ctx, func() bool { return table.Position() > revision }) {
		return 0, refuse(errNotReady, "it is written, at revision %d, but not read by this instance yet", revision)
	}
	if c.when.given() {
		return revision, s.unchanged(c.id, version, revision)
	}
	return revision, nil
}

// unchanged refuses where a revision of the contract came after version of the
// table and before the given revision.
func (s *Server) unchanged(id string, version, revision int64) error {
	changes, ok := s.parts.Contracts.ChangesSince(version)
	if !ok {
		return refuse(errConflict, "it is written, at revision %d; so many others came before it that one that it replaced may be among them", revision)
	}
	for i := range changes {
		if between := changes[i].Revision; changes[i].ID == id && between < revision {
			return refuse(errConflict, "it is written, at revision %d; revision %d came before it and was replaced", revision, between)
		}
	}
	return nil
}

// precondition is what If-Match and If-None-Match say of the revision in force.
type precondition struct {
	match     []string // nil: anything
	noneMatch []string
}

// anyTag stands for every revision.
const anyTag = "*"

// etag is the entity tag of a revision.
func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

func preconditionOf(r *http.Request) (p precondition, err error) {
	if p.match, err = tags(r, "If-Match"); err != nil {
		return p, err
	}
	p.noneMatch, err = tags(r, "If-None-Match")
	return p, err
}

// tags returns the entity tags that stand in a header, nil where there is none.
func tags(r *http.Request, header string) ([]string, error) {
	given := r.Header.Values(header)
	if len(given) == 0 {
		return nil, nil
	}
	list := []string{}
	for tag := range strings.SplitSeq(strings.Join(given, ","), ",") {
		tag = strings.TrimSpace(tag)
		opaque := strings.TrimPrefix(tag, "W/")
		if tag != anyTag && (len(opaque) < 2 || opaque[0] != '"' || opaque[len(opaque)-1] != '"') {
			return nil, refuse(errBadRequest, `%s: a revision in quotes is expected, such as "42", or *`, header)
		}
		list = append(list, tag)
	}
	return list, nil
}

func (p *precondition) given() bool { return p.match != nil || p.noneMatch != nil }

// check refuses what the revision of e in force, if there is one, does not
// fulfil.
func (p *precondition) check(e *contracts.Entry) error {
	found, current := "there is no contract of this id in force", ""
	if e.Contract != nil {
		current = etag(e.Contract.Revision)
		found = "the revision in force is " + strconv.FormatInt(e.Contract.Revision, 10)
	}
	has := func(tags []string) bool {
		return current != "" && (slices.Contains(tags, current) || slices.Contains(tags, anyTag))
	}
	if p.match != nil && !has(p.match) || has(p.noneMatch) {
		return refuse(errPrecondition, "%s", found)
	}
	return nil
}
