package condition

import (
	"fmt"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/meterd/meterd/internal/usage"
)

// name is a path of a record that a condition names.
type name struct {
	path  string
	node  ast.Node        // where it is named first
	index int             // in the fields
	kind  usage.ValueKind // NullValue: not known
	same  *name           // another name that is compared with it and has its kind
}

// root returns the name that has the kind of n.
func (n *name) root() *name {
	for n.same != nil {
		n = n.same
	}
	return n
}

// operand is one side of a comparison: a name or, if that is nil, a literal.
type operand struct {
	node    ast.Node
	name    *name
	literal usage.Value
}

// null tells whether o is the literal nil.
func (o operand) null() bool { return o.name == nil && o.literal.Kind == usage.NullValue }

// kind returns the type of o, and NullValue where it is not known.
func (o operand) kind() usage.ValueKind {
	if o.name == nil {
		return o.literal.Kind
	}
	return o.name.root().kind
}

// operand reads a node that must be a field or a literal.
func (c *compiler) operand(node ast.Node) (operand, error) {
	o := operand{node: node}
	switch n := node.(type) {
	case *ast.NilNode:
		return o, nil
	case *ast.BoolNode:
		o.literal = usage.Value{Kind: usage.BooleanValue, True: n.Value}
		return o, nil
	case *ast.StringNode:
		o.literal = usage.Value{Kind: usage.TextValue, Text: []byte(n.Value)}
		return o, nil
	case *ast.IntegerNode, *ast.FloatNode:
		o.literal = c.number(node)
		return o, nil
	case *ast.UnaryNode:
		return c.signed(n)
	case *ast.BinaryNode:
		return o, c.notOperand(n)
	case *ast.ArrayNode:
		return o, c.wrong(node, "a list can only follow in")
	case *ast.IdentifierNode:
		if n.Value == "null" { // as records and this project call nil
			return o, nil
		}
	case *ast.MemberNode:
	default:
		return o, c.unknown(node)
	}
	parts, err := c.path(node, nil)
	if err != nil {
		return o, err
	}
	o.name = c.named(node, strings.Join(parts, "."))
	return o, nil
}

func (c *compiler) named(node ast.Node, path string) *name {
	n, ok := c.names[path]
	if !ok {
		n = &name{path: path, node: node}
		c.names[path] = n
		c.order = append(c.order, n)
	}
	return n
}

// notOperand says why the operator of n gives nothing that can be compared.
func (c *compiler) notOperand(n *ast.BinaryNode) error {
	switch n.Operator {
	case "&&", "||", "and", "or", "==", "!=", "<", "<=", ">", ">=", "in", "contains", "startsWith", "endsWith", "matches":
		return c.wrong(n, "only fields and literals are compared: join conditions with && and ||")
	}
	return c.unknown(n)
}

// signed reads a number with a sign.
func (c *compiler) signed(n *ast.UnaryNode) (operand, error) {
	switch n.Operator {
	case "-", "+":
		o, err := c.operand(n.Node)
		if err != nil {
			return o, err
		}
		if _, twice := n.Node.(*ast.UnaryNode); twice || o.name != nil || o.literal.Kind != usage.NumberValue {
			return o, c.wrong(n, "%s is for numbers as they are written", n.Operator)
		}
		o.node = n
		if n.Operator == "-" {
			o.literal.Float = -o.literal.Float
			o.literal.Number.Units = -o.literal.Number.Units
		}
		return o, nil
	}
	return operand{}, c.wrong(n, "only fields and literals are compared: write %s before a whole comparison in parentheses", n.Operator)
}

// number returns a literal as it is written: what the parser made a float of
// is read from the source again.
func (c *compiler) number(node ast.Node) usage.Value {
	v := usage.Value{Kind: usage.NumberValue}
	if n, ok := node.(*ast.IntegerNode); ok {
		v.Number, v.Float = usage.DecimalOf(int64(n.Value)), float64(n.Value)
		return v
	}
	v.Float = node.(*ast.FloatNode).Value
	at := node.Location()
	written := string([]rune(c.source.String())[at.From:at.To])
	written = strings.ReplaceAll(written, "_", "")
	if strings.HasPrefix(written, ".") {
		written = "0" + written
	}
	var err error
	if v.Number, err = usage.ParseDecimal(strings.Replace(strings.TrimSuffix(written, "."), ".e", "e", 1)); err == nil {
		return v
	}
	if v.Number, err = usage.DecimalOfFloat(v.Float, 64); err != nil {
		v.Number.TooLarge = true
	}
	return v
}

// path returns the parts of a path before those in rest, which lie within it.
func (c *compiler) path(node ast.Node, rest []string) ([]string, error) {
	switch n := node.(type) {
	case *ast.IdentifierNode:
		if n.Value == "$env" {
			if len(rest) == 0 {
				return nil, c.wrong(node, `$env is all of the record: a key must follow, as in $env["user-id"]`)
			}
			return rest, nil
		}
		return append([]string{n.Value}, rest...), nil
	case *ast.MemberNode:
		if n.Optional {
			return nil, c.wrong(node, "?. is not taken: write a dot, what is missing is null anyway")
		}
		key, ok := n.Property.(*ast.StringNode)
		switch {
		case !ok:
			return nil, c.wrong(n.Property, "in [ ] must be a key in quotation marks")
		case key.Value == "":
			return nil, c.wrong(key, "a key must not be empty")
		case strings.Contains(key.Value, "."):
			return nil, c.wrong(key, "a key with a dot in it, as %q, has no path: dots go into records and maps", key.Value)
		}
		return c.path(n.Node, append([]string{key.Value}, rest...))
	}
	return nil, c.wrong(node, "must be a name: only fields of the record have keys")
}

// want makes kind the type of o, or says that it is another.
func (c *compiler) want(o operand, kind usage.ValueKind) error {
	switch known := o.kind(); {
	case known == kind:
		return nil
	case o.name == nil:
		return c.wrong(o.node, "must be %s, not %s", kindName(kind), kindName(known))
	case known == usage.NullValue:
		o.name.root().kind = kind
		return nil
	default:
		return c.twoTypes(o, known, kind)
	}
}

func (c *compiler) twoTypes(o operand, known, kind usage.ValueKind) error {
	return c.wrong(o.node, "%s is used as %s and as %s", o.name.path, kindName(known), kindName(kind))
}

// unify gives both sides of a comparison one type.
func (c *compiler) unify(n ast.Node, left, right operand) error {
	switch {
	case left.name == nil && right.name == nil:
		if left.literal.Kind != right.literal.Kind {
			return c.wrong(n, "%s is compared with %s", kindName(left.literal.Kind), kindName(right.literal.Kind))
		}
		return nil
	case left.name == nil:
		return c.want(right, left.literal.Kind)
	case right.name == nil:
		return c.want(left, right.literal.Kind)
	}
	from, to := left.name.root(), right.name.root()
	switch {
	case from == to:
	case from.kind == usage.NullValue:
		from.same = to
	case to.kind == usage.NullValue || to.kind == from.kind:
		to.same = from
	default:
		return c.twoTypes(right, to.kind, from.kind)
	}
	return nil
}

// kindName is how people call what stands at a path.
func kindName(k usage.ValueKind) string {
	switch k {
	case usage.NullValue:
		return "null"
	case usage.TextValue:
		return "text"
	case usage.NumberValue:
		return "a number"
	case usage.BooleanValue:
		return "a boolean"
	}
	return "something that cannot be compared"
}

// kinds is how many kinds of values there are.
const kinds = int(usage.UnfitValue) + 1

// mismatches are the errors of a field by the kind of value that it has where
// the condition means another. They are made once, not for each event.
type mismatches [kinds]error

func mismatch(n *name, want usage.ValueKind) *mismatches {
	var m mismatches
	for k := range m {
		m[k] = fmt.Errorf("%s is %s, not %s", n.path, kindName(usage.ValueKind(k)), kindName(want))
	}
	return &m
}

// of returns the error for a value of kind k, whatever a decoder calls it.
func (m *mismatches) of(k usage.ValueKind) error { return m[min(int(k), kinds-1)] }
