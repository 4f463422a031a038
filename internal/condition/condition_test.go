package condition_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/condition"
	"github.com/meterd/meterd/internal/usage"
)

// Kept here, the promise is checked when the tests are built.
var _ usage.Condition = (*condition.Condition)(nil)

// compile returns a condition and the paths that it names.
func compile(source string) (*condition.Condition, []string, error) {
	var paths []string
	c, err := condition.Compile(source, func(path string) (int, error) {
		paths = append(paths, path)
		return len(paths) - 1, nil
	})
	return c, paths, err
}

func text(s string) usage.Value { return usage.Value{Kind: usage.TextValue, Text: []byte(s)} }

func boolean(b bool) usage.Value { return usage.Value{Kind: usage.BooleanValue, True: b} }

// number is what a decoder makes of a number that is written so.
func number(t testing.TB, written string) usage.Value {
	t.Helper()
	d, err := usage.ParseDecimal(written)
	require.NoError(t, err)
	var f float64
	_, err = fmt.Sscan(written, &f)
	require.NoError(t, err)
	return usage.Value{Kind: usage.NumberValue, Number: d, Float: f}
}

var unfit = usage.Value{Kind: usage.UnfitValue}

// record is an event's values by path; what is not in it is null.
type record map[string]usage.Value

func (r record) fields(paths []string) []usage.Value {
	fields := make([]usage.Value, len(paths))
	for i, path := range paths {
		fields[i] = r[path]
	}
	return fields
}

// event is the record of most tests.
func event(t testing.TB) record {
	t.Helper()
	return record{
		"meter": text("api_calls"), "a.region": text("eu"), "a.b.c": text("deep"), "empty": text(""),
		"size": number(t, "10"), "half": number(t, "0.5"), "minus": number(t, "-1.25"), "big": number(t, "9007199254740993"), "huge": number(t, "1e30"),
		"on": boolean(true), "off": boolean(false), "odd": unfit,
		"user-id": text("u"), "x y": text("spaced"), "in": text("keyword"), "a.not": boolean(true), "länge": number(t, "3"),
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		source string
		want   bool
	}{
		"a text is equal":                        {`meter == "api_calls"`, true},
		"in single quotes":                       {`meter == 'api_calls'`, true},
		"or in back quotes":                      {"meter == `api_calls`", true},
		"the literal first":                      {`"eu" == a.region`, true},
		"a text is another":                      {`meter == "bytes"`, false},
		"a text is not another":                  {`meter != "bytes"`, true},
		"the example of the documentation":       {`meter == "api_calls" && a.region == "eu"`, true},
		"a deep path":                            {`a.b.c == "deep"`, true},
		"a path by keys":                         {`a["b"]["c"] == "deep"`, true},
		"a name that is none in the language":    {`$env["user-id"] == "u" && $env["x y"] == "spaced"`, true},
		"a key word as a name":                   {`$env["in"] == "keyword" && a.not`, true},
		"a name in other letters than English":   {`länge == 3`, true},
		"texts are ordered by their bytes":       {`meter < "b" && meter >= "api" && meter > "Z"`, true},
		"numbers are ordered":                    {`size > 9 && size >= 10 && size <= 10 && size < 11`, true},
		"the literal first turns the order":      {`9 < size && 10 <= size && 10 >= size && 11 > size`, true},
		"and not the other way":                  {`9 > size || 11 < size`, false},
		"a range":                                {`1 < size < 20`, true},
		"a range that is left":                   {`1 < size < 10`, false},
		"numbers of other scales":                {`half == 0.50 && half < 0.51 && half > 0.499999999`, true},
		"numbers below zero":                     {`minus == -1.25 && minus < -1.2 && minus > -2 && minus < 0.1 && -1 > minus`, true},
		"a plus sign":                            {`size == +10`, true},
		"numbers in other forms":                 {`size == 0xA && size == 1e1 && size == 10.0 && size == 1_0 && half == .5 && size == 10. && size == 0b1010`, true},
		"a number that no float is":              {`big == 9007199254740993 && big != 9007199254740992`, true},
		"nor with a point":                       {`big < 9007199254740993.5 && big > 9007199254740992.5`, true},
		"a number beyond decimals":               {`huge == 1e30 && huge > 1e29 && huge > big && huge > 1`, true},
		"a number finer than decimals":           {`half > 0.4999999999 && half < 0.5000000001`, true},
		"a boolean field for itself":             {`on`, true},
		"a boolean field that is false":          {`off`, false},
		"not":                                    {`!off && not off`, true},
		"a boolean with a literal":               {`on == true && off == false && on != false && true == on`, true},
		"in a list":                              {`a.region in ["us", "eu"]`, true},
		"in no list":                             {`a.region in ["us", "ap"]`, false},
		"not in a list":                          {`a.region not in ["us", "ap"]`, true},
		"not not in a list":                      {`a.region not in ["us", "eu"]`, false},
		"in a long list":                         {`a.region in ["a","b","c","d","e","f","g","h","i","eu"]`, true},
		"in no long list":                        {`a.region in ["a","b","c","d","e","f","g","h","i","j"]`, false},
		"a number in a list":                     {`size in [1, 10.0, -3] && minus in [-1.25] && size not in [1, 2]`, true},
		"a boolean in a list":                    {`on in [true]`, true},
		"a trailing comma":                       {`size in [10,]`, true},
		"contains":                               {`meter contains "_call"`, true},
		"does not contain":                       {`meter not contains "_call" || meter contains "xyz"`, false},
		"starts with":                            {`meter startsWith "api" && meter not startsWith "pi"`, true},
		"ends with":                              {`meter endsWith "calls" && meter not endsWith "call"`, true},
		"a literal first with a text operator":   {`"the eu" endsWith a.region`, true},
		"matches":                                {`meter matches "^api_.+s$" && meter matches "_" && meter not matches "^_"`, true},
		"everything contains the empty text":     {`empty == "" && empty contains "" && meter contains empty`, true},
		"two fields":                             {`a.region != meter && size > half && half < size && on != off`, true},
		"a field with itself":                    {`size == size && size <= size`, true},
		"and binds more than or":                 {`on || off && off`, true},
		"parentheses":                            {`(on || off) && off`, false},
		"the words":                              {`on and not (off or off)`, true},
		"a literal alone":                        {`true`, true},
		"literals among themselves":              {`1 == 1.0 && "a" < "b" && true != false && 2 in [1, 2] && 3 not in [1] && "abc" contains "b" && "abc" matches "c$"`, true},
		"comments":                               {"on // says it all\n/* or does it */ && true", true},
		"more than one line":                     {"meter == \"api_calls\"\n  && a.region == \"eu\"", true},
		"escapes":                                {`meter == "api\u005fcalls"`, true},
		"a missing field is nil":                 {`none == nil && a.none == nil && none == null`, true},
		"nil first":                              {`nil == none && nil != meter`, true},
		"what is there is not nil":               {`meter != nil && size != null && off != nil && empty != nil`, true},
		"what nothing can use is there":          {`odd != nil`, true},
		"null is equal to nothing":               {`none == "x"`, false},
		"null differs from nothing":              {`none != "x"`, false},
		"null has no order":                      {`none < 1 || none >= 1`, false},
		"null is in no list":                     {`none in ["x"]`, false},
		"null is not outside of a list either":   {`none not in ["x"]`, false},
		"null contains nothing":                  {`none contains "" || none startsWith "" || none endsWith "" || none matches "" || meter contains none`, false},
		"null lacks nothing":                     {`none not contains "x" || none not startsWith "x" || none not endsWith "x" || none not matches "x"`, false},
		"null as a boolean is false":             {`none`, false},
		"a null compared with a boolean":         {`none == false || none == true || none != true`, false},
		"null with null":                         {`none == other`, false},
		"null with a field of whatever type":     {`none == odd || odd != none`, false},
		"! turns whatever it is":                 {`!(none == "x") && !(none != "x") && !missing && !(none in ["x"]) && not (none in ["x"])`, true},
		"what and does not need is not read":     {`off && odd == 1`, false},
		"what or does not need is not read":      {`on || odd == 1`, true},
		"a field and the record around it":       {`a != nil || a.region == "eu"`, true},
		"fields of a type that others tell":      {`size > half && half == 0.5 && size == big || on`, true},
		"an outcome is not taken for its mirror": {`size < 10 || size > 10 || size != 10`, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c, paths, err := compile(tt.source)
			require.NoError(t, err)
			require.Equal(t, tt.source, c.String())
			got, err := c.Holds(event(t).fields(paths))
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestHoldsRefuses(t *testing.T) {
	t.Parallel()

	tests := map[string]struct{ source, want string }{
		"a text for a number":              {`meter > 10`, "meter is text, not a number"},
		"a number for a text":              {`size == "10"`, "size is a number, not text"},
		"a number in a list of texts":      {`size in ["10"]`, "size is a number, not text"},
		"a number that contains":           {`size contains "1"`, "size is a number, not text"},
		"a number that is contained":       {`meter contains size`, "size is a number, not text"},
		"a number that matches":            {`size matches "1"`, "size is a number, not text"},
		"a text for a boolean":             {`a.region`, "a.region is text, not a boolean"},
		"a boolean for a text":             {`on == "true"`, "on is a boolean, not text"},
		"what cannot be compared":          {`odd == "x"`, "odd is something that cannot be compared, not text"},
		"what cannot be compared, negated": {`!(odd == "x")`, "odd is something that cannot be compared, not text"},
		"not in":                           {`size not in ["x"]`, "size is a number, not text"},
		"two fields of two types":          {`meter == size`, "meter and size cannot be compared: they are of different types, or of one that is not compared so"},
		"two fields that have no order":    {`on < off`, "on and off cannot be compared: they are of different types, or of one that is not compared so"},
		"a field with itself":              {`odd == odd`, "odd and odd cannot be compared: they are of different types, or of one that is not compared so"},
		"a type that another field has":    {`meter == "api_calls" && size == meter`, "size is a number, not text"},
		"the other side":                   {`a.region == "eu" && a.region == size`, "size is a number, not text"},
		"behind and":                       {`on && size == "10"`, "size is a number, not text"},
		"before or":                        {`size == "10" || on`, "size is a number, not text"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c, paths, err := compile(tt.source)
			require.NoError(t, err)
			got, err := c.Holds(event(t).fields(paths))
			require.EqualError(t, err, tt.want)
			require.False(t, got)
		})
	}

	c, _, err := compile(`a == 1`)
	require.NoError(t, err)
	_, err = c.Holds(nil)
	require.ErrorContains(t, err, "too few fields")
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		source string
		want   string // and the place, if it has one
	}{
		"nothing":                     {" \n", "empty"},
		"not UTF-8":                   {"a == \"\xff\"", "not UTF-8"},
		"too long":                    {`a == "` + strings.Repeat("x", condition.MaxBytes) + `"`, "4103 bytes, more than 4096"},
		"too much":                    {strings.Repeat("!", 1001) + "a", "compilation failed: expression exceeds maximum allowed nodes"},
		"half a condition":            {`a == `, "unexpected token EOF (1:5)"},
		"an open parenthesis":         {`(a`, "unexpected token EOF (1:2)"},
		"an open text":                {`a == "eu`, "literal not terminated (1:9)"},
		"two conditions":              {`a b`, `unexpected token Identifier("b") (1:3)`},
		"one equals sign":             {`a = 1`, `unexpected token Operator("=") (1:3)`},
		"a literal of two types":      {`1 == "1"`, "a number is compared with text (1:3)"},
		"a list of two types":         {`a in [1, "1"]`, "a is used as a number and as text (1:1)"},
		"a literal in another list":   {`1 in ["1"]`, "a number is compared with text (1:7)"},
		"a field of two types":        {`a == "eu" && a > 3`, "a is used as text and as a number (1:14)"},
		"a bare field of two types":   {`a && a == 1`, "a is used as a boolean and as a number (1:6)"},
		"a type by way of another":    {`a == b && b == c && a == 1 && c == "x"`, "c is used as a number and as text (1:31)"},
		"two types that meet":         {`a == 1 && b == "x" && a == b`, "b is used as text and as a number (1:28)"},
		"a text operator":             {`a > 1 && a contains "x"`, "a is used as a number and as text (1:10)"},
		"a text operator on a number": {`a contains 1`, "must be text, not a number (1:12)"},
		"a text operator on nil":      {`a startsWith nil`, "must be text, not null (1:14)"},
		"a number":                    {`1`, "a number is neither true nor false (1:1)"},
		"a number with a sign":        {`-1`, "a number is neither true nor false (1:1)"},
		"a text":                      {`"a"`, "a text is neither true nor false (1:1)"},
		"nil alone":                   {`nil`, "nil is neither true nor false (1:1)"},
		"null alone":                  {`a || null`, "nil is neither true nor false (1:6)"},
		"a list alone":                {`[true]`, "a list is neither true nor false (1:1)"},
		"a text and a condition":      {`a && "b"`, "a text is neither true nor false (1:6)"},
		"not a number":                {`!1`, "a number is neither true nor false (1:2)"},
		"booleans in order":           {`a < true`, "booleans have no order (1:3)"},
		"literals in order":           {`true < false`, "booleans have no order (1:6)"},
		"booleans by way of another":  {`a < b && b`, "booleans have no order (1:3)"},
		"nil in order":                {`a > nil`, "nil has no order: only == nil and != nil tell whether a field is there (1:3)"},
		"nil with a literal":          {`nil == 1`, "only fields can be nil (1:5)"},
		"nil with nil":                {`nil == nil`, "only fields can be nil (1:5)"},
		"nil in a list":               {`a in ["x", nil]`, "nil is in no list: only == nil and != nil tell whether a field is there (1:12)"},
		"nil before in":               {`nil in ["x"]`, "nil is in no list: only == nil and != nil tell whether a field is there (1:1)"},
		"a field in a list":           {`a in ["x", b]`, "a list has literals alone (1:12)"},
		"a list that is empty":        {`a in []`, "an empty list has nothing in it (1:6)"},
		"no list":                     {`"a" in b`, "a list of literals must follow in, as [1, 2] (1:5)"},
		"a range of numbers":          {`a in 1..3`, "a list of literals must follow in, as [1, 2] (1:3)"},
		"a list where none can be":    {`a == [1]`, "a list can only follow in (1:6)"},
		"a list in a list":            {`a in [[1]]`, "a list can only follow in (1:7)"},
		"arithmetic":                  {`a + 1 > 2`, "+ is not taken here (1:3)"},
		"a hyphen in a name":          {`user-id == "u"`, "- is not taken here (1:5)"},
		"arithmetic alone":            {`a + b`, "+ is not taken here (1:3)"},
		"a sign before a field":       {`-a == 1`, "- is for numbers as they are written (1:1)"},
		"two signs":                   {`a == - -1`, "- is for numbers as they are written (1:6)"},
		"comparisons compared":        {`(a == 1) == (b == 1)`, "only fields and literals are compared: join conditions with && and || (1:4)"},
		"not in a comparison":         {`!a == true`, "only fields and literals are compared: write ! before a whole comparison in parentheses (1:1)"},
		"not before in":               {`not a in ["x"]`, "only fields and literals are compared: write not before a whole comparison in parentheses (1:1)"},
		"a function":                  {`len(a) > 3`, "functions are not taken (1:1)"},
		"a function of ours":          {`f(a)`, "functions are not taken (1:1)"},
		"a method":                    {`a.b() == 1`, "functions are not taken (1:3)"},
		"a predicate":                 {`any(a, # == 1)`, "functions are not taken (1:1)"},
		"a pipe":                      {`a | len() > 1`, "functions are not taken (1:5)"},
		"a choice":                    {`a ? b : c`, "?: is not taken: write && and || (1:9)"},
		"a default":                   {`(a ?? b) == 1`, "?? is not taken here (1:4)"},
		"an optional dot":             {`a?.b == 1`, "?. is not taken: write a dot, what is missing is null anyway (1:4)"},
		"an optional key":             {`a?.["b"] == 1`, "?. is not taken: write a dot, what is missing is null anyway (1:4)"},
		"bytes":                       {`a == b"x"`, "bytes are not taken (1:6)"},
		"a slice":                     {`a[1:2] == "x"`, "slices are not taken (1:2)"},
		"a map":                       {`a == {b: 1}`, "maps are not taken (1:6)"},
		"a variable":                  {`let x = 1; a == x`, "there must be one condition, without ; and let (1:5)"},
		"a sequence":                  {`a; b`, "there must be one condition, without ; and let (1:1)"},
		"an index":                    {`a[0] == 1`, "in [ ] must be a key in quotation marks (1:3)"},
		"an index that is a field":    {`a[b] == 1`, "in [ ] must be a key in quotation marks (1:3)"},
		"a key with a dot":            {`a["b.c"] == 1`, `a key with a dot in it, as "b.c", has no path: dots go into records and maps (1:3)`},
		"an empty key":                {`a[""] == 1`, "a key must not be empty (1:3)"},
		"all of the record":           {`$env == nil`, `$env is all of the record: a key must follow, as in $env["user-id"] (1:1)`},
		"a key of a text":             {`"a".b == 1`, "must be a name: only fields of the record have keys (1:1)"},
		"a pattern that is a field":   {`a matches b`, "a regular expression in quotation marks must follow matches (1:11)"},
		"a pattern that is none":      {`a matches "("`, "error parsing regexp: missing closing ): `(` (1:11)"},
		"a number that matches":       {`1 matches "1"`, "must be text, not a number (1:1)"},
		"in the second line":          {"a == 1 &&\n  b + 1 == 2", "+ is not taken here (2:5)"},
		"a number beyond all":         {`a == 99999999999999999999`, "invalid integer literal: strconv.ParseInt: parsing \"99999999999999999999\": value out of range (1:25)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c, _, err := compile(tt.source)
			require.Error(t, err)
			require.Nil(t, c)
			got, _, _ := strings.Cut(err.Error(), "\n")
			if name == "too much" {
				got = got[:strings.LastIndex(got, " (")]
			}
			require.Equal(t, tt.want, got)
		})
	}
}

// An error shows the place as people point at it.
func TestErrorsPoint(t *testing.T) {
	t.Parallel()

	_, _, err := compile("on &&\nregion == \"eu\" && region > 3")
	require.EqualError(t, err, "region is used as text and as a number (2:19)\n | region == \"eu\" && region > 3\n | ..................^")

	_, err = condition.Compile("a && b.c == 1", func(path string) (int, error) {
		if path == "b.c" {
			return 0, errors.New("no such path")
		}
		return 0, nil
	})
	require.EqualError(t, err, "no such path (1:8)\n | a && b.c == 1\n | .......^")
}

// Each path is asked for once, in the order of the text.
func TestPaths(t *testing.T) {
	t.Parallel()

	_, paths, err := compile(`b.c == "x" && a > 1 && b["c"] != "y" && ($env["a"] < 3 || $env.d)`)
	require.NoError(t, err)
	require.Equal(t, []string{"b.c", "a", "d"}, paths)

	c, _, err := compile(`a && b == "x" && (c == d && d == true) && e != nil && f == g`)
	require.NoError(t, err)
	require.Equal(t, []int{0, 2, 3}, c.Booleans())

	// An index is whatever it is said to be.
	c, err = condition.Compile("a", func(string) (int, error) { return 7, nil })
	require.NoError(t, err)
	_, err = c.Holds(make([]usage.Value, 7))
	require.Error(t, err)
	fields := make([]usage.Value, 8)
	fields[7] = boolean(true)
	got, err := c.Holds(fields)
	require.NoError(t, err)
	require.True(t, got)
}

func TestHoldsAllocatesNothing(t *testing.T) {
	for _, source := range []string{
		`meter == "api_calls" && a.region == "eu"`,
		`size > 9.5 && half in [0.25, 0.5] && !off`,
		`a.region in ["a","b","c","d","e","f","g","h","i","eu"] && meter not in ["x", "y"]`,
		`meter contains "_" && meter startsWith "api" && meter endsWith "s" && meter matches "^api_[a-z]+$"`,
		`none != nil || none == "x" || size == half || huge > 1e29`,
		`size == "10"`,
		`meter == size`,
	} {
		c, paths, err := compile(source)
		require.NoError(t, err)
		fields := event(t).fields(paths)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			_, _ = c.Holds(fields)
		}), source)
	}
}

func BenchmarkHolds(b *testing.B) {
	for _, source := range []string{`meter == "api_calls" && a.region == "eu"`, `size > 9.5 && half < 3`} {
		c, paths, err := compile(source)
		require.NoError(b, err)
		fields := event(b).fields(paths)
		b.Run(source, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if ok, err := c.Holds(fields); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
