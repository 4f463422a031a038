package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
)

// weakTag is the entity tag of numbers, whatever they stand on: two answers
// that have it in common differ in nothing but their as_of.
func weakTag(body []byte) string {
	sum := sha256.Sum256(body)
	return `W/"` + hex.EncodeToString(sum[:16]) + `"`
}

// unmodified tells whether the client of a GET has what tag stands for.
func unmodified(r *http.Request, tag string) (bool, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false, nil
	}
	given, err := tags(r, "If-None-Match")
	if err != nil {
		return false, err
	}
	opaque := strings.TrimPrefix(tag, "W/")
	return slices.ContainsFunc(given, func(t string) bool { return t == anyTag || strings.TrimPrefix(t, "W/") == opaque }), nil
}

// answerTagged writes body, or only says that the client has it.
func answerTagged(w http.ResponseWriter, r *http.Request, tag string, body []byte) error {
	same, err := unmodified(r, tag)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", tag)
	if same {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	write(w, "application/json", http.StatusOK, body)
	return nil
}
