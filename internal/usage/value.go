package usage

// ValueKind is what stands at a path of a record.
type ValueKind uint8

// The kinds of values.
const (
	NullValue    ValueKind = iota // nothing, or null
	TextValue                     // a string or the symbol of an enum, in UTF-8
	NumberValue                   // any number but NaN and the infinities
	BooleanValue                  // true or false
	UnfitValue                    // what no meter can use: an array, a record, bytes, NaN, text that is not UTF-8
)

// Value is what stands at a path of a record that meters look at. Text belongs
// to whoever decoded it, as all bytes of an Event do.
type Value struct {
	Kind   ValueKind
	True   bool    // of a boolean
	Number Decimal // of a number; where it is TooLarge, Float is what is left of it
	Float  float64
	Text   []byte
}

// Condition is what a meter's `when` says. Any number of goroutines may use
// it.
type Condition interface {
	// Holds tells whether it is true of an event's Fields. An error says that a
	// value is of a type that the condition has no meaning for.
	Holds(fields []Value) (bool, error)
	// String returns it as it was written.
	String() string
}

// Dimension is one of the fields by whose values a meter keeps totals apart.
type Dimension struct {
	Name  string // the last part of its path
	Field int    // index of its path in Catalog.Paths
}
