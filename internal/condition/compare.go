package condition

import (
	"bytes"
	"cmp"
	"math"
	"math/bits"
	"regexp"

	"github.com/expr-lang/expr/ast"

	"github.com/meterd/meterd/internal/usage"
)

// sense is which way a comparison is meant.
type sense bool

const (
	plain   sense = true
	negated sense = false // as of "not in": true where plain would be false, but null is never either
)

// outcomes are the results of a three-way comparison for which an operator
// holds: a bit each.
type outcomes uint8

const (
	less outcomes = 1 << iota
	equal
	greater
)

// has tells whether the result of a three-way comparison is one of o.
func (o outcomes) has(result int) bool { return o>>(result+1)&1 != 0 }

// swapped returns the outcomes with the sides of the comparison exchanged.
func (o outcomes) swapped() outcomes { return o&equal | o&less<<2 | o&greater>>2 }

// comparison reads a comparison.
func (c *compiler) comparison(n *ast.BinaryNode, s sense) (build, error) {
	switch n.Operator {
	case "==":
		return c.equality(n, equal)
	case "!=":
		return c.equality(n, less|greater)
	case "<":
		return c.ordered(n, less)
	case "<=":
		return c.ordered(n, less|equal)
	case ">":
		return c.ordered(n, greater)
	case ">=":
		return c.ordered(n, greater|equal)
	case "in":
		return c.membership(n, s)
	case "contains":
		return c.texts(n, s, bytes.Contains)
	case "startsWith":
		return c.texts(n, s, bytes.HasPrefix)
	case "endsWith":
		return c.texts(n, s, bytes.HasSuffix)
	case "matches":
		return c.matches(n, s)
	}
	return nil, c.unknown(n)
}

// sides reads both sides of n.
func (c *compiler) sides(n *ast.BinaryNode) (left, right operand, err error) {
	if left, err = c.operand(n.Left); err != nil {
		return left, right, err
	}
	right, err = c.operand(n.Right)
	return left, right, err
}

func (c *compiler) equality(n *ast.BinaryNode, holds outcomes) (build, error) {
	left, right, err := c.sides(n)
	if err != nil {
		return nil, err
	}
	field, literal := left, right
	if left.null() {
		field, literal = right, left
	}
	switch {
	case !literal.null():
		return c.compared(n, left, right, holds)
	case field.name == nil:
		return nil, c.wrong(n, "only fields can be nil")
	}
	return func() (predicate, error) { return present(field.name.index, holds != equal), nil }, nil
}

func (c *compiler) ordered(n *ast.BinaryNode, holds outcomes) (build, error) {
	left, right, err := c.sides(n)
	switch {
	case err != nil:
		return nil, err
	case left.null() || right.null():
		return nil, c.wrong(n, "nil has no order: only == nil and != nil tell whether a field is there")
	}
	made, err := c.compared(n, left, right, holds)
	if err != nil {
		return nil, err
	}
	return func() (predicate, error) {
		if left.kind() == usage.BooleanValue {
			return nil, c.wrong(n, "booleans have no order")
		}
		return made()
	}, nil
}

// compared is a comparison of which neither side is nil.
func (c *compiler) compared(n ast.Node, left, right operand, holds outcomes) (build, error) {
	if err := c.unify(n, left, right); err != nil {
		return nil, err
	}
	switch {
	case left.name == nil && right.name == nil:
		return always(holds.has(compare(&left.literal, &right.literal))), nil
	case left.name == nil:
		left, right, holds = right, left, holds.swapped()
	case right.name != nil:
		return func() (predicate, error) { return fieldWithField(left.name, right.name, holds), nil }, nil
	}
	return func() (predicate, error) { return fieldWithLiteral(left.name, right.literal, holds), nil }, nil
}

// membership reads in and not in.
func (c *compiler) membership(n *ast.BinaryNode, s sense) (build, error) {
	list, ok := n.Right.(*ast.ArrayNode)
	switch {
	case !ok:
		return nil, c.wrong(n, "a list of literals must follow in, as [1, 2]")
	case len(list.Nodes) == 0:
		return nil, c.wrong(list, "an empty list has nothing in it")
	}
	left, err := c.operand(n.Left)
	switch {
	case err != nil:
		return nil, err
	case left.null():
		return nil, c.wrong(n.Left, "nil is in no list: only == nil and != nil tell whether a field is there")
	}
	values := make([]usage.Value, 0, len(list.Nodes))
	for _, node := range list.Nodes {
		item, err := c.operand(node)
		switch {
		case err != nil:
			return nil, err
		case item.name != nil:
			return nil, c.wrong(node, "a list has literals alone")
		case item.null():
			return nil, c.wrong(node, "nil is in no list: only == nil and != nil tell whether a field is there")
		}
		if err := c.unify(node, left, item); err != nil {
			return nil, err
		}
		values = append(values, item.literal)
	}
	if left.name == nil {
		return always(within(values)(&left.literal) == bool(s)), nil
	}
	return func() (predicate, error) { return inList(left.name, values, s), nil }, nil
}

// texts reads an operator between two texts.
func (c *compiler) texts(n *ast.BinaryNode, s sense, holds func(a, b []byte) bool) (build, error) {
	left, right, err := c.sides(n)
	if err != nil {
		return nil, err
	}
	for _, side := range []operand{left, right} {
		if err := c.want(side, usage.TextValue); err != nil {
			return nil, err
		}
	}
	return func() (predicate, error) {
		l, r := textOf(left), textOf(right)
		return func(fields []usage.Value) (bool, error) {
			a, ok, err := l.text(fields)
			if !ok || err != nil {
				return false, err
			}
			b, ok, err := r.text(fields)
			if !ok || err != nil {
				return false, err
			}
			return holds(a, b) == bool(s), nil
		}, nil
	}, nil
}

// matches reads the operator whose right side is a regular expression, in the
// syntax of package regexp, whose time is linear in the text.
func (c *compiler) matches(n *ast.BinaryNode, s sense) (build, error) {
	left, err := c.operand(n.Left)
	if err != nil {
		return nil, err
	}
	if err := c.want(left, usage.TextValue); err != nil {
		return nil, err
	}
	pattern, ok := n.Right.(*ast.StringNode)
	if !ok {
		return nil, c.wrong(n.Right, "a regular expression in quotation marks must follow matches")
	}
	compiled, err := regexp.Compile(pattern.Value)
	if err != nil {
		return nil, c.wrong(pattern, "%v", err)
	}
	return func() (predicate, error) {
		l := textOf(left)
		return func(fields []usage.Value) (bool, error) {
			a, ok, err := l.text(fields)
			if !ok || err != nil {
				return false, err
			}
			return compiled.Match(a) == bool(s), nil
		}, nil
	}, nil
}

// compare is the three-way comparison of two values of one kind that is not
// null.
func compare(a, b *usage.Value) int {
	switch a.Kind {
	case usage.TextValue:
		return bytes.Compare(a.Text, b.Text)
	case usage.NumberValue:
		return compareNumbers(a, b)
	}
	switch {
	case a.True == b.True:
		return 0
	case b.True:
		return -1
	}
	return 1
}

// pow10 are the factors between the scales of decimals.
var pow10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// compareNumbers is exact where a Decimal holds both numbers.
func compareNumbers(a, b *usage.Value) int {
	x, y := a.Number, b.Number
	switch {
	case x.TooLarge || y.TooLarge || int(max(x.Scale, y.Scale)) >= len(pow10):
		return cmp.Compare(a.Float, b.Float)
	case x.Scale == y.Scale:
		return cmp.Compare(x.Units, y.Units)
	case x.Units < 0 && y.Units < 0:
		return compareScaled(magnitude(y.Units), y.Scale, magnitude(x.Units), x.Scale)
	case x.Units < 0:
		return -1
	case y.Units < 0:
		return 1
	}
	return compareScaled(uint64(x.Units), x.Scale, uint64(y.Units), y.Scale)
}

// compareScaled compares x × 10^-xs with y × 10^-ys in 128 bits.
func compareScaled(x uint64, xs uint8, y uint64, ys uint8) int {
	scale := max(xs, ys)
	xHigh, xLow := bits.Mul64(x, pow10[scale-xs])
	yHigh, yLow := bits.Mul64(y, pow10[scale-ys])
	if xHigh != yHigh {
		return cmp.Compare(xHigh, yHigh)
	}
	return cmp.Compare(xLow, yLow)
}

func magnitude(n int64) uint64 {
	if n == math.MinInt64 {
		return 1 << 63
	}
	return uint64(-n)
}
