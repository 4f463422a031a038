package schema

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
)

// RegistryConfig says where the schema registry is.
type RegistryConfig struct {
	URLs     []string // tried in order where one cannot be reached
	Username string   // of basic authentication; empty: none
	Password string
	TLS      *tls.Config   // nil: the system's defaults, for https
	Timeout  time.Duration // of one request, its answer included
}

// DefaultRegistryConfig is without a URL.
func DefaultRegistryConfig() RegistryConfig {
	return RegistryConfig{Timeout: 5 * time.Second}
}

// Validate returns an error that names the key and what it may be.
func (c RegistryConfig) Validate() error {
	if len(c.URLs) == 0 {
		return errors.New("url: is required")
	}
	for _, text := range c.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("url: is not an http or https URL")
		}
		if u.User != nil { // it would be in every error and log
			return errors.New("url: must not have a password in it, use username and password_file")
		}
	}
	if c.Timeout <= 0 {
		return fmt.Errorf("timeout: %s is not above 0", c.Timeout)
	}
	return nil
}

// RegistryClient speaks to a schema registry with Confluent's API. Any number
// of goroutines may use it.
type RegistryClient struct {
	client *sr.Client
	http   *http.Client
}

// NewRegistryClient returns a client; it connects when it is used.
func NewRegistryClient(config RegistryConfig) (*RegistryClient, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("schema_registry: %w", err)
	}
	client := &http.Client{
		Timeout: config.Timeout,
		Transport: bounded{&http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: config.Timeout}).DialContext,
			TLSClientConfig:     config.TLS,
			TLSHandshakeTimeout: config.Timeout,
			ForceAttemptHTTP2:   true,
			IdleConnTimeout:     time.Minute,
			MaxIdleConnsPerHost: parallelLookups,
		}},
	}
	options := []sr.ClientOpt{sr.URLs(config.URLs...), sr.HTTPClient(client), sr.UserAgent("meterd")}
	if config.Username != "" {
		options = append(options, sr.BasicAuth(config.Username, config.Password))
	}
	c, err := sr.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("schema_registry: %w", err)
	}
	return &RegistryClient{client: c, http: client}, nil
}

// Close closes idle connections. Requests under way are not ended: their
// contexts are for that.
func (c *RegistryClient) Close() { c.http.CloseIdleConnections() }

// SchemaByID returns the schema with all that it refers to. It returns
// ErrUnknownSchema when the registry says that it has none with this id or
// lacks what it refers to, ErrBadSchema when its references have no end, the
// error of ctx, and ErrRegistryDown for everything else.
func (c *RegistryClient) SchemaByID(ctx context.Context, id uint32) (Schema, error) {
	// Ids are positive in 32 bits. Of others a registry says no more than that
	// there is no such page, which cannot be told from a wrong URL.
	if id > math.MaxInt32 {
		return Schema{}, ErrUnknownSchema
	}
	found, err := c.client.SchemaByID(ctx, int(id))
	if err != nil {
		return Schema{}, classify(ctx, err)
	}
	s := Schema{Type: found.Type.String(), Text: found.Schema}
	g := gatherer{client: c.client, seen: map[string]bool{}, into: &s}
	if err := g.gather(ctx, found.References, 0); err != nil {
		return Schema{}, err
	}
	return s, nil
}

// Check asks the registry for a schema that nobody has. It returns the error of
// ctx, and ErrRegistryDown where what answers is not a registry that lets us read.
func (c *RegistryClient) Check(ctx context.Context) error {
	_, err := c.client.SchemaByID(ctx, math.MaxInt32)
	if err == nil {
		return nil
	}
	if err = classify(ctx, err); errors.Is(err, ErrUnknownSchema) {
		return nil
	}
	return err
}

// Bounds of references.
const (
	maxReferenceDepth = 16
	maxReferences     = 256
)

// gatherer collects what a schema refers to, each after what it needs itself.
type gatherer struct {
	client *sr.Client
	seen   map[string]bool // by subject and version
	bytes  int
	into   *Schema
}

func (g *gatherer) gather(ctx context.Context, references []sr.SchemaReference, depth int) error {
	if depth > maxReferenceDepth {
		return fmt.Errorf("%w: its references are nested too deeply", ErrBadSchema)
	}
	for _, r := range references {
		key := fmt.Sprintf("%d %s", r.Version, r.Subject)
		if g.seen[key] {
			continue
		}
		g.seen[key] = true
		if len(g.seen) > maxReferences {
			return fmt.Errorf("%w: it refers to more than %d others", ErrBadSchema, maxReferences)
		}
		// A version that was deleted since is still part of the schema.
		found, err := g.client.SchemaByVersion(sr.WithParams(ctx, sr.ShowDeleted), r.Subject, r.Version)
		if err != nil {
			return fmt.Errorf("it refers to version %d of %.100q: %w", r.Version, r.Subject, classify(ctx, err))
		}
		if g.bytes += len(found.Schema.Schema); g.bytes > MaxSchemaBytes {
			return fmt.Errorf("%w: it refers to more than %d bytes of text", ErrBadSchema, MaxSchemaBytes)
		}
		if err := g.gather(ctx, found.References, depth+1); err != nil {
			return err
		}
		g.into.References = append(g.into.References, found.Schema.Schema)
	}
	return nil
}

// Register makes sure that subject has the Avro schema text and returns its
// id. Where it is there already, nothing is written, so that a registry may be
// read-only for meterd. It returns the error of ctx, ErrRegistryDown, or what
// the registry has against the schema.
func (c *RegistryClient) Register(ctx context.Context, subject, text string) (uint32, error) {
	s := sr.Schema{Schema: text, Type: sr.TypeAvro}
	id := 0
	found, err := c.client.LookupSchema(ctx, subject, s)
	if err == nil {
		id = found.ID
	} else if err = classify(ctx, err); errors.Is(err, ErrUnknownSchema) {
		if id, err = c.client.RegisterSchema(ctx, subject, s, -1, -1); err != nil {
			err = refused(err, classify(ctx, err))
		}
	}
	if err != nil {
		return 0, fmt.Errorf("register schema of subject %q: %w", subject, err)
	}
	if id < 0 || id > math.MaxInt32 {
		return 0, fmt.Errorf("register schema of subject %q: %w: it gave the id %d", subject, ErrRegistryDown, id)
	}
	return uint32(id), nil
}

// classify tells a registry's "no" from no answer. A 404 is a "no" only with
// one of the registry's own codes: another server, or another path, says 404
// too.
func classify(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, errLargeAnswer) {
		return fmt.Errorf("%w: its text is far too large", ErrBadSchema)
	}
	var answer *sr.ResponseError
	if !errors.As(err, &answer) {
		return fmt.Errorf("%w: %w", ErrRegistryDown, hideContext{err})
	}
	if answer.StatusCode == http.StatusNotFound && sr.IsNotFoundError(answer.ErrorCode) {
		return ErrUnknownSchema
	}
	return fmt.Errorf("%w: it answers %d: %.200s", ErrRegistryDown, answer.StatusCode, answer.Error())
}

// refused returns what the registry has against a new schema, where that is
// what err says, else classified.
func refused(err, classified error) error {
	var answer *sr.ResponseError
	if errors.As(err, &answer) && (answer.StatusCode == http.StatusConflict || answer.StatusCode == http.StatusUnprocessableEntity) {
		return fmt.Errorf("registry refuses it: %.200s", answer.Error())
	}
	return classified
}

// hideContext keeps the text of an error but not what it wraps: the timeout of
// a request is not that of its caller.
type hideContext struct{ error }

// maxResponseBytes bounds an answer: a schema as a JSON string has up to six
// bytes for each of its own.
const maxResponseBytes = 6*MaxSchemaBytes + 64<<10

const maxErrorBytes = 64 << 10

var errLargeAnswer = errors.New("answer is too large")

// bounded is a transport whose answers end with an error when they are larger
// than any that is good.
type bounded struct{ *http.Transport }

func (t bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.Transport.RoundTrip(r)
	if err == nil && answer.StatusCode == http.StatusOK {
		answer.Body = &boundedBody{ReadCloser: answer.Body, left: maxResponseBytes}
	}
	if err == nil && answer.StatusCode != http.StatusOK { // of an error, the beginning is enough
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, maxErrorBytes), answer.Body}
	}
	return answer, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errLargeAnswer
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
