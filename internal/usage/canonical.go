package usage

import (
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// AppendCanonicalString appends s as a JSON string in the one form that
// RFC 8785 (JSON Canonicalization Scheme, section 3.2.2.2) allows. Bytes that
// are not UTF-8 become U+FFFD.
func AppendCanonicalString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	if plain(s) {
		return append(append(dst, s...), '"')
	}
	return append(appendEscaped(dst, s), '"')
}

// plain tells whether s, as nearly all ids are, is printable ASCII that stands
// for itself.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func appendEscaped(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\b':
			dst = append(dst, '\\', 'b')
		case r == '\t':
			dst = append(dst, '\\', 't')
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r == '\f':
			dst = append(dst, '\\', 'f')
		case r == '\r':
			dst = append(dst, '\\', 'r')
		case r < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

// AppendCanonicalMap appends m as a JSON object in the form of RFC 8785: keys
// ordered by their UTF-16 code units (section 3.2.3), no white space.
func AppendCanonicalMap(dst []byte, m map[string]string) []byte {
	if len(m) == 0 {
		return append(dst, '{', '}')
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
	})
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendCanonicalString(dst, k)
		dst = append(dst, ':')
		dst = AppendCanonicalString(dst, m[k])
	}
	return append(dst, '}')
}
