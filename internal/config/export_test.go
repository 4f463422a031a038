package config

import "reflect"

// Keys returns the paths of all keys.
func Keys() []string { return keysOf(reflect.TypeFor[Config](), "") }
