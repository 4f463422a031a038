package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/client"
	"github.com/meterd/meterd/internal/config"
)

// apiTimeout is longer than meterd takes to refuse.
const apiTimeout = 40 * time.Second

// apiFlags are how a running meterd is reached.
type apiFlags struct {
	url       string
	tokenFile string
	caFile    string
}

// addAPIFlags gives cmd the flags to reach a running meterd.
func (e *environment) addAPIFlags(cmd *cobra.Command) *apiFlags {
	var flags apiFlags
	f := cmd.PersistentFlags()
	f.StringVar(&flags.url, "url", e.getenv(urlVariable), "`URL` of a running meterd ("+urlVariable+"); by default where the configuration has it listen")
	f.StringVar(&flags.tokenFile, "token-file", "", "`file` with the bearer token")
	f.StringVar(&flags.caFile, "ca-file", "", "`file` with the certificates (PEM) that meterd's is checked by; by default the system's")
	return &flags
}

// api is a running meterd.
type api struct{ *client.Client }

// api returns the meterd that flags or the configuration name.
func (e *environment) api(flags *apiFlags) (*api, error) {
	base := flags.url
	if base == "" {
		cfg, err := e.readConfig()
		if err != nil {
			return nil, err
		}
		if base, err = listening(&cfg.HTTP); err != nil {
			return nil, exitError{exitUsage, err}
		}
	}
	h := &http.Client{Timeout: apiTimeout}
	token, err := "", error(nil)
	if flags.tokenFile != "" {
		if token, err = config.ReadSecret(flags.tokenFile); err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
	}
	if flags.caFile != "" {
		if h.Transport, err = trusting(flags.caFile); err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
	}
	c, err := client.New(base, token, h)
	if err != nil {
		return nil, exitError{exitUsage, fmt.Errorf("--url %w", err)}
	}
	return &api{c}, nil
}

// listening returns where a meterd of this configuration is reached.
func listening(cfg *config.HTTP) (string, error) {
	host, port, err := net.SplitHostPort(cmp.Or(cfg.Advertise, cfg.Listen))
	if err != nil || port == "0" {
		return "", fmt.Errorf("--url: is needed, for http.listen %q does not tell where meterd is", cfg.Listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port), nil
}

func trusting(caFile string) (*http.Transport, error) {
	data, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s has no certificate", caFile)
	}
	return &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}}, nil
}
