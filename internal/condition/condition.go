// Package condition makes a meter's `when` into something that can be asked of
// every event.
//
// A condition is written in a part of the language of expr-lang: comparisons
// (== != < <= > >=, in [...], contains, startsWith, endsWith, matches "regexp"),
// joined by && || ! and parentheses. Names are paths of a record, dots and
// ["key"] go into records and maps, and $env["key"] is a name that is none in
// the language. Everything else is refused when it is compiled, as is a field
// that is used as two types.
//
// A field that is missing is null, and a comparison with null is false, != and
// "not in" too; only == nil and != nil tell whether a field is there. So
// `!(region == "eu")` is true where there is no region, and `region != "eu"` is
// not. A bare field is a boolean, and false where it is null. Numbers compare
// exactly, as far as a usage.Decimal holds them, and as floats beyond; texts
// compare by their bytes.
//
// Holds allocates nothing and a Condition never changes: any number of
// goroutines may use it.
package condition

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	"github.com/meterd/meterd/internal/usage"
)

// MaxBytes bounds the text of a condition.
const MaxBytes = 4096

// maxNodes bounds its names, literals and operators.
const maxNodes = 1000

// Condition is a compiled condition. It is a usage.Condition.
type Condition struct {
	source string
	holds  predicate
	fields int // how many fields there must be

	booleans []int
}

// predicate is a condition, or a part of one, that can be asked.
type predicate func(fields []usage.Value) (bool, error)

// Compile returns the condition that source says. field is asked once for each
// path that the condition names, parts joined by dots, and returns its index in
// the fields that Holds will be given, or why there is none.
//
// An error tells what cannot be, and where it has a place in source it has that
// too: line and column, and on two more lines the text with a mark below it.
func Compile(source string, field func(path string) (int, error)) (*Condition, error) {
	switch {
	case len(source) > MaxBytes:
		return nil, fmt.Errorf("%d bytes, more than %d", len(source), MaxBytes)
	case !utf8.ValidString(source):
		return nil, errors.New("not UTF-8")
	case strings.TrimSpace(source) == "":
		return nil, errors.New("empty")
	}
	tree, err := parse(source)
	if err != nil {
		return nil, err
	}
	c := compiler{source: tree.Source, names: map[string]*name{}}
	top, err := c.condition(tree.Node)
	if err != nil {
		return nil, err
	}
	fields, err := c.resolve(field)
	if err != nil {
		return nil, err
	}
	holds, err := top()
	if err != nil {
		return nil, err
	}
	made := &Condition{source: source, holds: holds, fields: fields}
	for _, n := range c.order {
		if n.root().kind == usage.BooleanValue {
			made.booleans = append(made.booleans, n.index)
		}
	}
	return made, nil
}

func parse(source string) (tree *parser.Tree, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("not a condition: %v", r) // the parser's trouble, not ours
		}
	}()
	config := conf.CreateNew()
	config.MaxNodes = maxNodes
	config.DisableIfOperator = true // so that they are names like any other
	return parser.ParseWithConfig(source, config)
}

// errFields is returned where an event was not decoded for this condition.
var errFields = errors.New("the event has too few fields for the condition")

// Holds tells whether the condition is true of fields. An error says which
// field has a value of a type that the condition has no meaning for; fields
// that do not matter for the answer are not looked at.
func (c *Condition) Holds(fields []usage.Value) (bool, error) {
	if len(fields) < c.fields {
		return false, errFields
	}
	return c.holds(fields)
}

// Booleans returns the indexes of the fields that must be booleans: elsewhere
// than in Kafka, booleans are often kept as something else.
func (c *Condition) Booleans() []int { return slices.Clone(c.booleans) }

// String returns the condition as it was written.
func (c *Condition) String() string { return c.source }

// compiler turns the nodes of a condition into predicates: first all of it is
// read, by which the types of names become known, then it is built.
type compiler struct {
	source file.Source
	names  map[string]*name
	order  []*name // as they come in source
}

// build makes a predicate once the types of all names are known.
type build func() (predicate, error)

// wrong returns an error that shows the place of node.
func (c *compiler) wrong(node ast.Node, format string, args ...any) error {
	e := &file.Error{Location: node.Location(), Message: fmt.Sprintf(format, args...)}
	return e.Bind(c.source)
}

// resolve asks for the indexes of all names. It returns how many fields there
// must be.
func (c *compiler) resolve(field func(path string) (int, error)) (int, error) {
	fields := 0
	for _, n := range c.order {
		var err error
		if n.index, err = field(n.path); err != nil {
			return 0, c.wrong(n.node, "%v", err)
		}
		fields = max(fields, n.index+1)
	}
	return fields, nil
}

// condition reads a node that must be true or false.
func (c *compiler) condition(node ast.Node) (build, error) {
	switch n := node.(type) {
	case *ast.BoolNode:
		return always(n.Value), nil
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.IdentifierNode, *ast.MemberNode:
		o, err := c.operand(node)
		if err != nil {
			return nil, err
		}
		if o.null() {
			return nil, c.wrong(node, "nil is neither true nor false")
		}
		if err := c.want(o, usage.BooleanValue); err != nil {
			return nil, err
		}
		return func() (predicate, error) { return bare(o.name), nil }, nil
	case *ast.IntegerNode, *ast.FloatNode:
		return nil, c.wrong(node, "a number is neither true nor false")
	case *ast.StringNode:
		return nil, c.wrong(node, "a text is neither true nor false")
	case *ast.NilNode:
		return nil, c.wrong(node, "nil is neither true nor false")
	case *ast.ArrayNode:
		return nil, c.wrong(node, "a list is neither true nor false")
	}
	return nil, c.unknown(node)
}

// unary reads ! and not.
func (c *compiler) unary(n *ast.UnaryNode) (build, error) {
	if n.Operator != "!" && n.Operator != "not" {
		return nil, c.wrong(n, "a number is neither true nor false")
	}
	// The parser makes `not (a in b)` of `a not in b`, and leaves both where the
	// operator stands.
	if b, ok := n.Node.(*ast.BinaryNode); ok && b.Location() == n.Location() {
		return c.comparison(b, negated)
	}
	inner, err := c.condition(n.Node)
	if err != nil {
		return nil, err
	}
	return func() (predicate, error) {
		holds, err := inner()
		return not(holds), err
	}, nil
}

func (c *compiler) binary(n *ast.BinaryNode) (build, error) {
	var join func(left, right predicate) predicate
	switch n.Operator {
	case "&&", "and":
		join = and
	case "||", "or":
		join = or
	default:
		return c.comparison(n, plain)
	}
	left, err := c.condition(n.Left)
	if err != nil {
		return nil, err
	}
	right, err := c.condition(n.Right)
	if err != nil {
		return nil, err
	}
	return func() (predicate, error) {
		l, err := left()
		if err != nil {
			return nil, err
		}
		r, err := right()
		return join(l, r), err
	}, nil
}

// unknown says what of the language is not taken here.
func (c *compiler) unknown(node ast.Node) error {
	switch n := node.(type) {
	case *ast.BuiltinNode, *ast.CallNode:
		return c.wrong(node, "functions are not taken")
	case *ast.ConditionalNode:
		return c.wrong(node, "?: is not taken: write && and ||")
	case *ast.ChainNode:
		return c.wrong(node, "?. is not taken: write a dot, what is missing is null anyway")
	case *ast.BytesNode:
		return c.wrong(node, "bytes are not taken")
	case *ast.SliceNode:
		return c.wrong(node, "slices are not taken")
	case *ast.MapNode:
		return c.wrong(node, "maps are not taken")
	case *ast.SequenceNode, *ast.VariableDeclaratorNode:
		return c.wrong(node, "there must be one condition, without ; and let")
	case *ast.BinaryNode:
		return c.wrong(node, "%s is not taken here", n.Operator)
	}
	return c.wrong(node, "must be a condition, a field or a literal")
}
