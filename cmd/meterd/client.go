package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/config"
)

const (
	// apiTimeout is longer than meterd takes to refuse.
	apiTimeout = 40 * time.Second
	// maxReply bounds what is read of an answer.
	maxReply = 64 << 20
)

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
type api struct {
	base  string // without a path
	token string // empty: none
	http  *http.Client
}

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
	parsed, err := url.Parse(base)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return nil, exitError{exitUsage, fmt.Errorf("--url %s: must be http://HOST:PORT or https://HOST:PORT", base)}
	}
	a := &api{base: strings.TrimSuffix(base, "/"), http: &http.Client{Timeout: apiTimeout}}
	if flags.tokenFile != "" {
		if a.token, err = config.ReadSecret(flags.tokenFile); err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
	}
	if flags.caFile != "" {
		if a.http.Transport, err = trusting(flags.caFile); err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
	}
	return a, nil
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

// refusedError is an answer of meterd that is none.
type refusedError struct {
	Status int    `json:"-"`
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

func (e *refusedError) Error() string {
	return cmp.Or(e.Detail, e.Title, http.StatusText(e.Status), fmt.Sprintf("status %d", e.Status))
}

// request is what is put to a meterd. Path is percent-encoded.
type request struct {
	method string
	path   string
	query  url.Values
	header http.Header
	body   []byte
}

// do puts r and decodes the answer into v, unless it is nil or there is none. A
// status of 300 or more is a *refusedError.
func (a *api) do(ctx context.Context, r request, v any) error {
	target := a.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	put, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	maps.Copy(put.Header, r.header)
	if r.body != nil {
		put.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		put.Header.Set("Authorization", "Bearer "+a.token)
	}
	answer, err := a.http.Do(put)
	if err != nil {
		return fmt.Errorf("ask meterd: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxReply))
	if err != nil {
		return fmt.Errorf("read the answer of meterd: %w", err)
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		refused := &refusedError{}
		_ = json.Unmarshal(body, refused) // else the status has to do
		refused.Status = answer.StatusCode
		return refused
	}
	if v == nil || len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode the answer of meterd: %w", err)
	}
	return nil
}
