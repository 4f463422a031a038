package schema_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

func asJSON(m schema.Mapping) schema.DecoderConfig {
	config := schema.DefaultDecoderConfig()
	config.Format, config.Mapping = schema.JSON, m
	return config
}

func TestJSONReads(t *testing.T) {
	t.Parallel()

	mapping := schema.Mapping{ID: "id", Client: "who.c", Quantity: "q", Time: "t", Void: "v"}
	one := decoded{client: "acme", count: "1", time: recordTime}
	quantity := func(text string) decoded { d := one; d.count = text; return d }
	at := func(ms usage.Time) decoded { d := one; d.time = ms; return d }

	tests := map[string]struct {
		text string
		want decoded
	}{
		"only the client":                {`{"who":{"c":"acme"}}`, one},
		"white space":                    {" \t\r\n{ \"who\" : { \"c\" :\n\"acme\" } , \"x\" : [ ] } \n", one},
		"an integer":                     {`{"who":{"c":"acme"},"q":12}`, quantity("12")},
		"no float comes between":         {`{"who":{"c":"acme"},"q":9007199254740993}`, quantity("9007199254740993")},
		"a fraction is exact":            {`{"who":{"c":"acme"},"q":-0.300000001}`, quantity("-0.300000001")},
		"an exponent":                    {`{"who":{"c":"acme"},"q":1.5E+3}`, quantity("1500")},
		"a decimal string":               {`{"who":{"c":"acme"},"q":"0.50"}`, quantity("0.5")},
		"a decimal string with escapes":  {`{"who":{"c":"acme"},"q":"\u0035"}`, quantity("5")},
		"more than any meter holds":      {`{"who":{"c":"acme"},"q":1e300}`, quantity("(too large)")},
		"longer than anybody looks at":   {`{"who":{"c":"acme"},"q":` + strings.Repeat("9", 100) + `}`, quantity("(too large)")},
		"null is none":                   {`{"id":null,"who":{"c":"acme"},"q":null,"t":null,"v":null}`, one},
		"milliseconds":                   {`{"who":{"c":"acme"},"t":1763787600123}`, at(1763787600123)},
		"a fraction is rounded down":     {`{"who":{"c":"acme"},"t":1763787600123.999999999999}`, at(1763787600123)},
		"also before 1970":               {`{"who":{"c":"acme"},"t":-0.5}`, at(-1)},
		"but not without need":           {`{"who":{"c":"acme"},"t":-3.000}`, at(-3)},
		"milliseconds with an exponent":  {`{"who":{"c":"acme"},"t":1.7637876001239e12}`, at(1763787600123)},
		"also those are rounded down":    {`{"who":{"c":"acme"},"t":-15e-1}`, at(-2)},
		"RFC 3339":                       {`{"who":{"c":"acme"},"t":"2025-11-22T05:00:00.1239Z"}`, at(1763787600123)},
		"escapes":                        {`{"who":{"c":"\u0061\u0063me"}}`, one},
		"escaped names":                  {`{"\u0077ho":{"\u0063":"acme"}}`, one},
		"all escapes":                    {`{"who":{"c":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}}`, decoded{client: "\"\\/\b\f\n\r\té😀", count: "1", time: recordTime}},
		"the last of equal names":        {`{"who":{"c":"initech"},"who":{"c":"x","c":"acme"},"q":1,"q":2}`, quantity("2")},
		"what others have is no concern": {`{"a":[1,-2.5e-3,true,false,null,"x",{"c":"no"},[[]]],"who":{"x":{"c":"no"},"c":"acme"},"c":"no"}`, one},
		"a path through what is none":    {`{"who":{"c":"acme"},"who.c":"no"}`, one},
		"a void":                         {`{"who":{"c":"acme"},"v":true,"id":"e","q":3,"t":4}`, decoded{id: "e", client: "acme", count: "3", time: 4, void: true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			h := decoder(t, asJSON(mapping), "")
			got, detail := decode(t, h, []byte(tt.text))
			require.Empty(t, detail)
			require.Equal(t, tt.want, got)
			whole := len(strings.TrimRight(tt.text, " \n"))
			for cut := range whole {
				got, _ := decode(t, h, []byte(tt.text[:cut]))
				require.Equal(t, usage.Undecodable, got.reason, "cut at %d", cut)
			}
		})
	}
}

func TestJSONRefuses(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		text   string
		reason usage.Reason
		detail string
	}{
		"a later object without client":    {`{"c":{"x":"acme"},"c":{}}`, usage.MissingField, "client"},
		"an empty client":                  {`{"c":{"x":""}}`, usage.MissingField, "client"},
		"a path through a number":          {`{"c":5}`, usage.MissingField, "client"},
		"a void without quantity":          {`{"c":{"x":"acme"},"v":true,"id":"e","t":4}`, usage.MissingField, "quantity"},
		"a void with a null time":          {`{"c":{"x":"acme"},"v":true,"id":"e","q":4,"t":null}`, usage.MissingField, "time"},
		"a client that is a number":        {`{"c":{"x":7}}`, usage.BadField, "client: a number is no string"},
		"a client that is an object":       {`{"c":{"x":{}}}`, usage.BadField, "client: an object is no string"},
		"a client that is an array":        {`{"c":{"x":["acme"]}}`, usage.BadField, "client: an array is no string"},
		"half a surrogate pair":            {`{"c":{"x":"\ud800"}}`, usage.BadField, "not UTF-8"},
		"the wrong half":                   {`{"c":{"x":"\udc00\ud800"}}`, usage.BadField, "not UTF-8"},
		"a half and a letter":              {`{"c":{"x":"\ud800\u0041"}}`, usage.BadField, "not UTF-8"},
		"bytes that are not UTF-8":         {"{\"c\":{\"x\":\"\xff\"}}", usage.BadField, "not UTF-8"},
		"a long client, of escapes":        {`{"c":{"x":"` + strings.Repeat(`\u0061`, 257) + `"}}`, usage.BadField, "257 bytes"},
		"a quantity that is a boolean":     {`{"c":{"x":"acme"},"q":true}`, usage.BadField, "quantity: a boolean is no number"},
		"a quantity that is no number":     {`{"c":{"x":"acme"},"q":"12 "}`, usage.BadField, "quantity"},
		"a quantity that is half a pair":   {`{"c":{"x":"acme"},"q":"\ud800"}`, usage.BadField, "quantity"},
		"a time that is no RFC 3339":       {`{"c":{"x":"acme"},"t":"2026-11-22 05:00:00"}`, usage.BadField, "time: not RFC 3339"},
		"a time that is half a pair":       {`{"c":{"x":"acme"},"t":"\ud800"}`, usage.BadField, "time"},
		"a time that is no int64":          {`{"c":{"x":"acme"},"t":9223372036854775808}`, usage.BadField, "time"},
		"a time that is far too large":     {`{"c":{"x":"acme"},"t":1e99}`, usage.BadField, "time"},
		"a time that is a boolean":         {`{"c":{"x":"acme"},"t":false}`, usage.BadField, "time: a boolean is no time"},
		"a void that is a number":          {`{"c":{"x":"acme"},"v":1}`, usage.BadField, "void: a number is no boolean"},
		"an array":                         {`[{"c":{"x":"acme"}}]`, usage.Undecodable, "not a JSON object"},
		"text behind":                      {`{"c":{"x":"acme"}} 1`, usage.Undecodable, "after the end"},
		"a comma too many":                 {`{"c":{"x":"acme"},}`, usage.Undecodable, "member"},
		"a comma too many in an array":     {`{"a":[1,],"c":{"x":"acme"}}`, usage.Undecodable, "value"},
		"no comma":                         {`{"c":{"x":"acme"} "q":1}`, usage.Undecodable, "member"},
		"no colon":                         {`{"c" {"x":"acme"}}`, usage.Undecodable, "member"},
		"no quotes":                        {`{c:{"x":"acme"}}`, usage.Undecodable, "member"},
		"a word that is none":              {`{"c":{"x":"acme"},"v":treu}`, usage.Undecodable, "value"},
		"a leading zero":                   {`{"c":{"x":"acme"},"q":01}`, usage.Undecodable, "value"},
		"a leading plus":                   {`{"c":{"x":"acme"},"q":+1}`, usage.Undecodable, "value"},
		"a point without digits":           {`{"c":{"x":"acme"},"q":1.}`, usage.Undecodable, "value"},
		"an exponent without digits":       {`{"c":{"x":"acme"},"q":1e}`, usage.Undecodable, "value"},
		"only a minus":                     {`{"c":{"x":"acme"},"q":-}`, usage.Undecodable, "value"},
		"NaN":                              {`{"c":{"x":"acme"},"q":NaN}`, usage.Undecodable, "value"},
		"a control character in a string":  {"{\"c\":{\"x\":\"a\ncme\"}}", usage.Undecodable, "string"},
		"an escape that is none":           {`{"c":{"x":"\x61"}}`, usage.Undecodable, "string"},
		"an escape of three digits":        {`{"c":{"x":"\u06g1"}}`, usage.Undecodable, "string"},
		"a byte order mark":                {"\ufeff{}", usage.Undecodable, "not a JSON object"},
		"nested without end":               {strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), usage.Undecodable, "nested too deeply"},
		"arrays nested without end":        {`{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}", usage.Undecodable, "nested too deeply"},
		"brackets that do not match":       {`{"a":[}]`, usage.Undecodable, "value"},
		"an item without comma":            {`{"a":[1 2]}`, usage.Undecodable, "item"},
		"nothing but white space":          {"  ", usage.Undecodable, "not a JSON object"},
		"a value that is not there at all": {`{"c":`, usage.Undecodable, "value"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			m := schema.Mapping{ID: "id", Client: "c.x", Quantity: "q", Time: "t", Void: "v"}
			got, detail := decode(t, decoder(t, asJSON(m), ""), []byte(tt.text))
			require.Equal(t, tt.reason, got.reason, detail)
			require.Contains(t, detail, tt.detail)
		})
	}
}

// FuzzJSONEvent compares with encoding/json: what one takes for an object, the
// other does, and both find the same in it.
func FuzzJSONEvent(f *testing.F) {
	f.Add([]byte(`{"id":"e","who":{"c":"acme","m":"calls"},"q":1.5e1,"t":1763787600123.5,"v":false}`))
	f.Add([]byte(`{"id":"\ud83d\ude00","who":{"c":"\u0061","m":"x"},"q":"7","t":"2025-11-22T05:00:00Z","v":true,"a":[{},null,-0.1E-2]}`))
	f.Add([]byte(`{"who":{"c":"a","m":"x"},"a":{"b":"\u00e9"},"a":{"b":12345678901234567890.5e-3},"q":0.1}`))
	f.Add([]byte("{\"who\":{\"c\":\"a\",\"m\":\"x\"},\"a\":\"\xff\",\"t\":-9223372036854775808}"))
	f.Add([]byte(`{"who":{"c":"a","c":"b","m":"x"},"who":{}} `))
	f.Add([]byte(`[1,{"":{"a":[]}}]`))
	m := schema.Mapping{ID: "id", Client: "who.c", Meter: "who.m", Quantity: "q", Time: "t", Void: "v"}
	m.Fields = []string{"q", "who.m", "a", "a.b", "who", "id", "t", "v", "who.c.x"}
	h := decoder(f, asJSON(m), "")
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) == 0 {
			return
		}
		got, detail := decode(t, h, text)
		if strings.Contains(detail, "nested too deeply") {
			require.Greater(t, len(text), 512)
			return
		}
		tree, err := readJSON(text)
		if err != nil {
			require.Equal(t, usage.Undecodable, got.reason, "encoding/json: %s", err)
			return
		}
		require.NotEqual(t, usage.Undecodable, got.reason, detail)
		want := jsonOracle(m, tree)
		if strings.Contains(want.client+want.id+want.meter, "\ufffd") {
			return // encoding/json replaces what is not UTF-8
		}
		for i, v := range want.fields {
			if bytes.Contains(v.Text, []byte("\ufffd")) && got.reason == "" && got.fields[i].Kind == usage.UnfitValue {
				want.fields[i] = usage.Value{Kind: usage.UnfitValue}
			}
		}
		if want.reason == "" && got.reason == usage.BadField && strings.HasPrefix(detail, "time: not RFC 3339") {
			return // time.Parse takes more than RFC 3339 has
		}
		require.Equal(t, want, got, detail)
	})
}

// readJSON reads one object with encoding/json.
func readJSON(text []byte) (map[string]any, error) {
	if !json.Valid(text) {
		return nil, errors.New("not valid")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	tree, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return tree, nil
}

// jsonOracle maps what encoding/json read, with math/big for its numbers.
func jsonOracle(m schema.Mapping, tree map[string]any) decoded {
	at := func(path string) any {
		var v any = tree
		for part := range strings.SplitSeq(path, ".") {
			inner, _ := v.(map[string]any)
			v = inner[part]
		}
		return v
	}
	id, client, meter, quantity, when, void := at(m.ID), at(m.Client), at(m.Meter), at(m.Quantity), at(m.Time), at(m.Void)
	isVoid, voidGood := void.(bool)
	empty := func(v any) bool { return v == nil || v == "" }
	if empty(client) || empty(meter) || isVoid && (empty(id) || quantity == nil || when == nil) {
		return decoded{reason: usage.MissingField}
	}
	d := decoded{void: isVoid, count: "1", time: recordTime}
	good := voidGood || void == nil
	text := func(v any, bound int) string {
		s, ok := v.(string)
		good = good && (ok || v == nil) && len(s) <= bound
		return s
	}
	d.id, d.client, d.meter = text(id, 256), text(client, 256), text(meter, 1<<30)
	switch q := quantity.(type) {
	case nil:
	case json.Number:
		d.count = "(too large)"
		if parsed, err := usage.ParseDecimal(string(q)); err == nil {
			d.count = parsed.String()
		}
	case string:
		parsed, err := usage.ParseDecimal(q)
		d.count = parsed.String()
		good = good && err == nil
	default:
		good = false
	}
	switch w := when.(type) {
	case nil:
	case json.Number:
		ms, ok := floor(string(w))
		d.time = ms
		good = good && ok
	case string:
		std, err := time.Parse(time.RFC3339Nano, w)
		d.time = usage.TimeOf(std)
		good = good && err == nil && d.time >= -62135596800000
	default:
		good = false
	}
	if !good {
		return decoded{reason: usage.BadField}
	}
	for _, path := range m.Fields {
		d.fields = append(d.fields, jsonValue(at(path)))
	}
	return d
}

// jsonValue is what meters see of a value.
func jsonValue(v any) usage.Value {
	switch v := v.(type) {
	case nil:
		return usage.Value{}
	case bool:
		return usage.Value{Kind: usage.BooleanValue, True: v}
	case string:
		return usage.Value{Kind: usage.TextValue, Text: append([]byte{}, v...)}
	case json.Number:
		d, err := usage.ParseDecimal(string(v))
		if err != nil || d.TooLarge {
			d = usage.Decimal{TooLarge: true}
		}
		f, _ := strconv.ParseFloat(string(v), 64)
		return usage.Value{Kind: usage.NumberValue, Number: d, Float: f}
	default:
		return usage.Value{Kind: usage.UnfitValue}
	}
}

// floor rounds a JSON number down. With an exponent, only what a Decimal holds
// is a time.
func floor(s string) (usage.Time, bool) {
	if strings.ContainsAny(s, "eE") {
		if d, err := usage.ParseDecimal(s); err != nil || d.TooLarge {
			return 0, false
		}
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return 0, false
	}
	n := new(big.Int).Div(r.Num(), r.Denom()) // Euclidean: down, for a positive denominator
	if !n.IsInt64() || n.Int64() < -62135596800000 {
		return 0, false
	}
	return min(usage.Time(n.Int64()), usage.MaxTime-1), true
}
