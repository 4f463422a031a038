package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// CheckFiles reads the files that the configuration names and returns an error
// for each that cannot be used, with its key: one that is not there, a secret
// that is empty, a certificate that is none or not its key's. Validate does not
// call it, for not every command needs them.
func (c *Config) CheckFiles() error {
	var p problems
	c.Kafka.TLS.checkFiles(&p, "kafka.tls")
	if c.Kafka.SASL != nil {
		p.secret("kafka.sasl.password_file", c.Kafka.SASL.PasswordFile)
	}
	p.secret("schema_registry.password_file", c.SchemaRegistry.PasswordFile)
	c.SchemaRegistry.TLS.checkFiles(&p, "schema_registry.tls")
	if c.History.Druid != nil {
		p.secret("history.druid.password_file", c.History.Druid.PasswordFile)
	}
	p.secret("http.tokens_file", c.HTTP.TokensFile)
	if c.HTTP.TLS != nil {
		p.keyPair("http.tls", c.HTTP.TLS.CertFile, c.HTTP.TLS.KeyFile)
	}
	return errors.Join(p...)
}

func (t *TLS) checkFiles(p *problems, key string) {
	if t == nil {
		return
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		switch {
		case err != nil:
			p.add(key+".ca_file", "%v", err)
		case !x509.NewCertPool().AppendCertsFromPEM(pem):
			p.add(key+".ca_file", "no certificate in %s", t.CAFile)
		}
	}
	p.keyPair(key, t.CertFile, t.KeyFile)
}

// keyPair complains about a certificate and its key. Those that are empty are
// left to Validate.
func (p *problems) keyPair(key, certFile, keyFile string) {
	if certFile == "" || keyFile == "" {
		return
	}
	before := len(*p)
	for _, file := range []struct{ key, path string }{{"cert_file", certFile}, {"key_file", keyFile}} {
		if _, err := os.ReadFile(file.path); err != nil {
			p.add(join(key, file.key), "%v", err)
		}
	}
	if len(*p) > before {
		return
	}
	if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		p.add(join(key, "cert_file"), "%v", fmt.Errorf("%s with %s: %w", certFile, keyFile, err))
	}
}

func (p *problems) secret(key, path string) {
	if path == "" {
		return
	}
	if _, err := ReadSecret(path); err != nil {
		p.add(key, "%v", err)
	}
}
