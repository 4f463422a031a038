package schema

import (
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// object walks a JSON text that must be one object, and captures what is
// wanted of it. As with Avro, all of the text is walked before any of it is
// believed. Numbers stay text: they are never made floats.
func (w *walker) object(text []byte, l *layout) error {
	w.begin(text, l, nil)
	pos := w.space(0)
	if pos >= len(text) || text[pos] != '{' {
		return errors.New("not a JSON object")
	}
	if pos = w.members(pos+1, 0, l.root); pos >= 0 {
		if pos = w.space(pos); pos < len(text) {
			pos = w.damaged("text after the end of the object", pos)
		}
	}
	if pos < 0 {
		return fmt.Errorf("%s, at byte %d", w.problem, w.where)
	}
	return nil
}

// What is wrong with JSON that is none.
const (
	badValue  = "not a JSON value"
	badString = "not a JSON string"
	badMember = "not a member of a JSON object"
	badItem   = "not an item of a JSON array"
)

// space returns where the white space at pos ends.
func (w *walker) space(pos int) int {
	for pos < len(w.record) {
		switch w.record[pos] {
		case ' ', '\t', '\n', '\r':
			pos++
		default:
			return pos
		}
	}
	return pos
}

// next returns the byte after the white space at pos, or 0 at the end.
func (w *walker) next(pos int) (byte, int) {
	if pos = w.space(pos); pos < len(w.record) {
		return w.record[pos], pos
	}
	return 0, pos
}

// members walks an object from behind its brace on. Of a name that is there
// twice, the last counts.
func (w *walker) members(pos, depth int, in *want) int {
	c, pos := w.next(pos)
	if c == '}' {
		return pos + 1
	}
	for {
		if c != '"' {
			return w.damaged(badMember, pos)
		}
		start, end, escapes := w.quoted(pos)
		if end < 0 {
			return -1
		}
		if c, pos = w.next(end + 1); c != ':' {
			return w.damaged(badMember, pos)
		}
		inner := w.named(in, start, end, escapes)
		if inner != nil {
			w.drop(inner.below)
		}
		if pos = w.json(pos+1, depth+1, inner); pos < 0 {
			return -1
		}
		switch c, pos = w.next(pos); c {
		case '}':
			return pos + 1
		case ',':
			c, pos = w.next(pos + 1)
		default:
			return w.damaged(badMember, pos)
		}
	}
}

// named returns what is wanted under the name from start to end.
func (w *walker) named(in *want, start, end int, escapes bool) *want {
	name := w.record[start:end]
	if in != nil && escapes {
		begin := len(w.scratch)
		defer func() { w.scratch = w.scratch[:begin] }()
		var ok bool
		if w.scratch, ok = unescape(w.scratch, name); !ok {
			return nil
		}
		name = w.scratch[begin:]
	}
	return in.find(name)
}

// elements walks an array from behind its bracket on.
func (w *walker) elements(pos, depth int) int {
	c, pos := w.next(pos)
	if c == ']' {
		return pos + 1
	}
	for {
		if pos = w.json(pos, depth+1, nil); pos < 0 {
			return -1
		}
		switch c, pos = w.next(pos); c {
		case ']':
			return pos + 1
		case ',':
			pos++
		default:
			return w.damaged(badItem, pos)
		}
	}
}

// json walks one value.
func (w *walker) json(pos, depth int, want *want) int {
	if depth > maxDepth {
		return w.damaged(tooNested, pos)
	}
	c, pos := w.next(pos)
	var v capture
	var end int
	switch c {
	case '{':
		v.kind, v.n = other, anObject
		end = w.members(pos+1, depth, want)
	case '[':
		v.kind, v.n = other, anArray
		end = w.elements(pos+1, depth)
	case '"':
		start, after, escapes := w.quoted(pos)
		if after < 0 {
			return -1
		}
		v.kind, v.start, v.end, end = text, int32(start), int32(after), after+1
		if escapes {
			v.kind = escaped
		}
	case 't':
		v.kind, v.n = boolean, 1
		end = w.word(pos, "true")
	case 'f':
		v.kind = boolean
		end = w.word(pos, "false")
	case 'n':
		v.kind = null
		end = w.word(pos, "null")
	default:
		end = w.number(pos)
		v.kind, v.start, v.end = number, int32(pos), int32(end)
	}
	if end >= 0 && want.taken() {
		w.captures[want.slot] = v
	}
	return end
}

// word walks a literal.
func (w *walker) word(pos int, word string) int {
	if end := pos + len(word); end <= len(w.record) && string(w.record[pos:end]) == word {
		return end
	}
	return w.damaged(badValue, pos)
}

// number walks a number.
func (w *walker) number(pos int) int {
	b, start := w.record, pos
	if pos < len(b) && b[pos] == '-' {
		pos++
	}
	whole := pos
	if pos = w.digits(pos); pos == whole || b[whole] == '0' && pos > whole+1 {
		return w.damaged(badValue, start)
	}
	if pos < len(b) && b[pos] == '.' {
		fraction := pos + 1
		if pos = w.digits(fraction); pos == fraction {
			return w.damaged(badValue, start)
		}
	}
	if pos < len(b) && b[pos]|0x20 == 'e' {
		pos++
		if pos < len(b) && (b[pos] == '+' || b[pos] == '-') {
			pos++
		}
		exponent := pos
		if pos = w.digits(exponent); pos == exponent {
			return w.damaged(badValue, start)
		}
	}
	return pos
}

// digits returns where the digits at pos end.
func (w *walker) digits(pos int) int {
	for pos < len(w.record) && '0' <= w.record[pos] && w.record[pos] <= '9' {
		pos++
	}
	return pos
}

// quoted walks the string whose quote is at pos. It returns where its text
// begins and where its closing quote is, or an end of -1.
func (w *walker) quoted(pos int) (start, end int, escapes bool) {
	b := w.record
	start = pos + 1
	for end = start; end < len(b); end++ {
		switch c := b[end]; {
		case c == '"':
			return start, end, escapes
		case c < 0x20:
			return 0, w.damaged(badString, end), false
		case c != '\\':
			continue
		}
		escapes = true
		end++
		switch {
		case end >= len(b):
		case b[end] == 'u' && end+4 < len(b) && hex4(b[end+1:]) >= 0:
			end += 4
			continue
		case plainEscape(b[end]) != 0:
			continue
		}
		return 0, w.damaged(badString, end), false
	}
	return 0, w.damaged(badString, end), false
}

// plainEscape returns what a backslash and c stand for, or 0.
func plainEscape(c byte) byte {
	switch c {
	case '"', '\\', '/':
		return c
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return 0
	}
}

// hex4 returns the number that four hexadecimal digits are, or -1.
func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return r
}

// unescape appends what the text of a JSON string stands for. s was walked by
// quoted. It is false for half of a surrogate pair, which no UTF-8 has.
func unescape(dst, s []byte) ([]byte, bool) {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			dst = append(dst, s[i])
			continue
		}
		i++
		if s[i] != 'u' {
			dst = append(dst, plainEscape(s[i]))
			continue
		}
		r := hex4(s[i+1:])
		i += 4
		if utf16.IsSurrogate(r) {
			if i+6 >= len(s) || s[i+1] != '\\' || s[i+2] != 'u' {
				return dst, false
			}
			if r = utf16.DecodeRune(r, hex4(s[i+3:])); r == utf8.RuneError {
				return dst, false
			}
			i += 6
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst, true
}
