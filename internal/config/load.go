package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Load returns what the file at path, the environment and overrides make of the
// defaults, in rising order of precedence. An empty path means no file. It does
// not call Validate.
//
// In environ ("NAME=value", as of os.Environ) a variable METERD_KAFKA_BROKERS
// stands for the key kafka.brokers; an empty one counts as not set, and one that
// stands for no key is an error. Overrides have the keys themselves. In both a
// list of texts is separated by commas, and what is more than a list or a single
// value is YAML.
//
// The error has a line for each problem: Unwrap() []error of it gives them.
func Load(path string, environ []string, overrides map[string]string) (*Config, error) {
	c := base()
	var problems []error
	if path != "" {
		source, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		problems = decode(path, source, c)
	}
	keys := keysOf(reflect.TypeFor[Config](), "")
	problems = append(problems, c.setFromEnvironment(environ, keys)...)
	for _, key := range slices.Sorted(maps.Keys(overrides)) {
		if err := c.set(key, overrides[key], keys); err != nil {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	c.deriveNames()
	return c, nil
}

// ReadSecret returns what is in a password_file, without the white space around
// it. Its errors name the file and never what is in it.
func ReadSecret(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimSpace(string(content))
	if secret == "" {
		return "", fmt.Errorf("read secret: %s is empty", path)
	}
	return secret, nil
}

// envPrefix begins the name of every variable that is meant for meterd.
const envPrefix = "METERD_"

func (c *Config) setFromEnvironment(environ []string, keys []string) []error {
	names := map[string]string{} // key by variable, without the prefix
	for _, key := range keys {
		names[strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = key
	}
	var problems []error
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		variable, value, _ := strings.Cut(variable, "=")
		name, ours := strings.CutPrefix(variable, envPrefix)
		key, known := names[name]
		switch {
		case !ours || value == "":
		case known:
			if err := c.set(key, value, keys); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", variable, err))
			}
		case !foreign(name):
			hint := ""
			if near := nearest(name, slices.Collect(maps.Keys(names))); near != "" {
				hint = ", did you mean " + envPrefix + near + "?"
			}
			problems = append(problems, fmt.Errorf("%s stands for no key%s", variable, hint))
		}
	}
	return problems
}

// foreign tells whether METERD_name, which has no key, is meant for something else:
// the flag --config, the tests and their tools; and what Kubernetes gives every
// container in the namespace of a Service called meterd or meterd-something.
func foreign(name string) bool {
	return regexp.MustCompile(`^(CONFIG|CACHE|TEST.*` +
		`|(\w+_)?SERVICE_(HOST|PORT(_\w+)?)` +
		`|(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`).MatchString(name)
}
