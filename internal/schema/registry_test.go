package schema_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// client returns a client of the registry at url; change may be nil.
func client(t *testing.T, url string, change func(*schema.RegistryConfig)) *schema.RegistryClient {
	t.Helper()
	config := schema.DefaultRegistryConfig()
	config.URLs = []string{url}
	if change != nil {
		change(&config)
	}
	c, err := schema.NewRegistryClient(config)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// registry returns an in-memory registry.
func registry(t *testing.T, options ...srfake.Option) *srfake.Registry {
	t.Helper()
	r := srfake.New(options...)
	t.Cleanup(r.Close)
	return r
}

func TestSchemaByID(t *testing.T) {
	t.Parallel()

	fake := registry(t)
	fake.SeedSchema("usage-value", 1, 7, sr.Schema{Schema: schema.UsageEventSchema})
	fake.SeedSchema("proto-value", 1, 8, sr.Schema{Schema: `message M {}`, Type: sr.TypeProtobuf})
	c := client(t, fake.URL(), nil)

	got, err := c.SchemaByID(t.Context(), 7)
	require.NoError(t, err)
	require.Equal(t, "AVRO", got.Type)
	require.JSONEq(t, schema.UsageEventSchema, got.Text)
	require.Empty(t, got.References)

	got, err = c.SchemaByID(t.Context(), 8)
	require.NoError(t, err)
	require.Equal(t, "PROTOBUF", got.Type)

	_, err = c.SchemaByID(t.Context(), 9)
	require.ErrorIs(t, err, schema.ErrUnknownSchema)
	_, err = c.SchemaByID(t.Context(), 1<<31)
	require.ErrorIs(t, err, schema.ErrUnknownSchema, "no registry has a negative id")
}

func TestReferencesComeAfterWhatTheyNeed(t *testing.T) {
	t.Parallel()

	fake := registry(t)
	ref := func(subject string) sr.SchemaReference {
		return sr.SchemaReference{Name: subject, Subject: subject, Version: 1}
	}
	fake.SeedSchema("tier", 1, 1, sr.Schema{Schema: `{"type":"enum","name":"x.Tier","symbols":["free"]}`})
	fake.SeedSchema("who", 1, 2, sr.Schema{
		Schema:     `{"type":"record","name":"x.Who","fields":[{"name":"tier","type":"x.Tier"},{"name":"c","type":"string"}]}`,
		References: []sr.SchemaReference{ref("tier")},
	})
	fake.SeedSchema("usage-value", 1, 3, sr.Schema{
		Schema:     `{"type":"record","name":"x.Usage","fields":[{"name":"tier","type":"x.Tier"},{"name":"who","type":"x.Who"}]}`,
		References: []sr.SchemaReference{ref("who"), ref("tier")},
	})
	c := client(t, fake.URL(), nil)

	got, err := c.SchemaByID(t.Context(), 3)
	require.NoError(t, err)
	require.Len(t, got.References, 2)
	require.Contains(t, got.References[0], `x.Tier","symbols"`)
	plan, err := schema.NewPlan(got, schema.Mapping{Client: "who.c"})
	require.NoError(t, err)
	require.NotNil(t, plan)

	fake.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		gone := strings.HasPrefix(r.URL.Path, "/subjects/tier/")
		if gone {
			http.Error(w, `{"error_code":40402,"message":"version not found"}`, http.StatusNotFound)
		}
		return gone
	})
	_, err = c.SchemaByID(t.Context(), 3)
	require.ErrorIs(t, err, schema.ErrUnknownSchema)
	require.ErrorContains(t, err, `"tier"`)
}

func TestReferencesWithoutEnd(t *testing.T) {
	t.Parallel()

	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Every subject refers to one whose name is longer.
		name := "x" + strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/subjects/"), "/versions/1")
		name = strings.ReplaceAll(name, "/", "x")
		fmt.Fprintf(w, `{"schema":"\"int\"","references":[{"name":%q,"subject":%q,"version":1}]}`, name, name)
	}))
	t.Cleanup(served.Close)
	_, err := client(t, served.URL, nil).SchemaByID(t.Context(), 7)
	require.ErrorIs(t, err, schema.ErrBadSchema)
	require.ErrorContains(t, err, "nested too deeply")
}

// Whatever a server answers that is not the registry's own "no" leaves the
// question open.
func TestAnswersThatSettleNothing(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		status int
		body   string
	}{
		"an internal error":           {500, `{"error_code":50001,"message":"store"}`},
		"too many requests":           {429, ``},
		"a gateway without a backend": {502, `<html>bad gateway</html>`},
		"no password":                 {401, `{"error_code":401,"message":"unauthorized"}`},
		"not for us":                  {403, `{"error_code":40301,"message":"denied"}`},
		"another server's 404":        {404, `<html>not found</html>`},
		"a wrong path's 404":          {404, `{"error_code":404,"message":"HTTP 404 Not Found"}`},
		"no JSON":                     {200, `hello`},
		"JSON that is cut off":        {200, `{"schema":"`},
		"a conflict":                  {409, `{"error_code":409,"message":"?"}`},
		"a long error":                {500, strings.Repeat("x", 1<<20)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			}))
			t.Cleanup(served.Close)
			c := client(t, served.URL, nil)
			_, err := c.SchemaByID(t.Context(), 7)
			require.ErrorIs(t, err, schema.ErrRegistryDown)
			require.NotErrorIs(t, err, schema.ErrUnknownSchema)
			require.Less(t, len(err.Error()), 500)
			require.ErrorIs(t, c.Check(t.Context()), schema.ErrRegistryDown)
		})
	}
}

func TestRegistryThatIsAway(t *testing.T) {
	t.Parallel()

	served := httptest.NewServer(http.NotFoundHandler())
	served.Close()
	_, err := client(t, served.URL, nil).SchemaByID(t.Context(), 7)
	require.ErrorIs(t, err, schema.ErrRegistryDown)
	_, err = client(t, served.URL, nil).Register(t.Context(), "s", `"int"`)
	require.ErrorIs(t, err, schema.ErrRegistryDown)
	require.ErrorIs(t, client(t, served.URL, nil).Check(t.Context()), schema.ErrRegistryDown)

	fake := registry(t)
	fake.SeedSchema("usage-value", 1, 7, sr.Schema{Schema: schema.UsageEventSchema})
	second := client(t, served.URL, func(c *schema.RegistryConfig) { c.URLs = append(c.URLs, fake.URL()) })
	_, err = second.SchemaByID(t.Context(), 7)
	require.NoError(t, err, "the second URL")
	require.NoError(t, second.Check(t.Context()))
}

// A request that takes too long is a registry that is down; a caller that gives
// up is not.
func TestRegistryThatIsSlow(t *testing.T) {
	t.Parallel()

	release := make(chan struct{})
	served := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(served.Close)
	t.Cleanup(func() { close(release) })

	_, err := client(t, served.URL, func(c *schema.RegistryConfig) { c.Timeout = 20 * time.Millisecond }).SchemaByID(t.Context(), 7)
	require.ErrorIs(t, err, schema.ErrRegistryDown)
	require.NotErrorIs(t, err, context.DeadlineExceeded, "that would be the caller's own")

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = client(t, served.URL, nil).SchemaByID(ctx, 7)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, schema.ErrRegistryDown)
}

func TestAnswerThatIsTooLarge(t *testing.T) {
	t.Parallel()

	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"schema":"`)
		block := []byte(strings.Repeat(" ", 1<<16))
		for range 200 {
			if _, err := w.Write(block); err != nil {
				return // the client has hung up
			}
		}
		fmt.Fprint(w, `"}`)
	}))
	t.Cleanup(served.Close)
	_, err := client(t, served.URL, nil).SchemaByID(t.Context(), 7)
	require.ErrorIs(t, err, schema.ErrBadSchema)
}

func TestRegistryWithPassword(t *testing.T) {
	t.Parallel()

	fake := registry(t, srfake.WithAuth("Basic bWV0ZXJkOnNlY3JldA=="))
	fake.SeedSchema("usage-value", 1, 7, sr.Schema{Schema: schema.UsageEventSchema})
	_, err := client(t, fake.URL(), nil).SchemaByID(t.Context(), 7)
	require.ErrorIs(t, err, schema.ErrRegistryDown)

	c := client(t, fake.URL(), func(c *schema.RegistryConfig) { c.Username, c.Password = "meterd", "secret" })
	_, err = c.SchemaByID(t.Context(), 7)
	require.NoError(t, err)
}

func TestRegistryWithTLS(t *testing.T) {
	t.Parallel()

	fake := srfake.NewRegistry()
	fake.SeedSchema("usage-value", 1, 7, sr.Schema{Schema: schema.UsageEventSchema})
	served := httptest.NewUnstartedServer(fake.Handler())
	served.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that fails
	served.StartTLS()
	t.Cleanup(served.Close)
	roots := x509.NewCertPool()
	roots.AddCert(served.Certificate())

	_, err := client(t, served.URL, nil).SchemaByID(t.Context(), 7)
	require.ErrorIs(t, err, schema.ErrRegistryDown, "nobody it trusts has signed the certificate")
	c := client(t, served.URL, func(c *schema.RegistryConfig) { c.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} })
	_, err = c.SchemaByID(t.Context(), 7)
	require.NoError(t, err)
}

func TestRegister(t *testing.T) {
	t.Parallel()

	fake := registry(t)
	c := client(t, fake.URL(), nil)
	id, err := c.Register(t.Context(), "limits-value", schema.LimitEventSchema)
	require.NoError(t, err)
	found, ok := fake.GetSchema("limits-value", 1)
	require.True(t, ok)
	require.Equal(t, int(id), found.ID)

	fake.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		readOnly := r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/versions")
		if readOnly {
			http.Error(w, `{"error_code":42205,"message":"read-only mode"}`, http.StatusUnprocessableEntity)
		}
		return readOnly
	})
	again, err := c.Register(t.Context(), "limits-value", schema.LimitEventSchema)
	require.NoError(t, err, "what is there needs no writing")
	require.Equal(t, id, again)

	_, err = c.Register(t.Context(), "other-value", schema.LimitEventSchema)
	require.ErrorContains(t, err, "read-only mode")
	require.NotErrorIs(t, err, schema.ErrRegistryDown, "asking again would not help")
}

func TestRegistryConfig(t *testing.T) {
	t.Parallel()

	good := schema.DefaultRegistryConfig()
	good.URLs = []string{"https://registry:8081/path"}
	require.NoError(t, good.Validate())
	for name, change := range map[string]func(*schema.RegistryConfig){
		"no URL":              func(c *schema.RegistryConfig) { c.URLs = nil },
		"no scheme":           func(c *schema.RegistryConfig) { c.URLs = []string{"registry:8081"} },
		"another scheme":      func(c *schema.RegistryConfig) { c.URLs = []string{"ftp://registry"} },
		"a password in it":    func(c *schema.RegistryConfig) { c.URLs = []string{"http://user:secret@registry"} },
		"no timeout":          func(c *schema.RegistryConfig) { c.Timeout = 0 },
		"a control character": func(c *schema.RegistryConfig) { c.URLs = []string{"http://user:secret@re\x7fgistry"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			config := good
			change(&config)
			_, err := schema.NewRegistryClient(config)
			require.ErrorContains(t, err, "schema_registry: ")
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

// From the registry to the event, with the client and the decoder together.
func TestDecoderWithRegistry(t *testing.T) {
	t.Parallel()

	fake := registry(t)
	fake.SeedSchema("usage-value", 1, 7, sr.Schema{Schema: schema.UsageEventSchema})
	config := schema.DefaultDecoderConfig()
	config.UnknownPause = time.Millisecond
	d, err := schema.NewDecoder(config, client(t, fake.URL(), nil), zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	h := d.Handle()

	got, _ := decode(t, h, usageEvent(t))
	require.Equal(t, decoded{
		id: "01JD8Q6R7WZJ5M3K9T2V4X6Y8A", client: "client-0001234", meter: "api_calls", count: "1234", time: 1763787600123,
	}, got)
	got, _ = decode(t, h, append(schema.AppendHeader(nil, 9), 1))
	require.Equal(t, usage.UnknownSchema, got.reason)

	fake.Close()
	got, _ = decode(t, h, usageEvent(t))
	require.Empty(t, got.reason)
	err = h.Prepare(t.Context(), slices.Values([][]byte{append(schema.AppendHeader(nil, 10), 1)}))
	require.ErrorIs(t, err, schema.ErrRegistryDown)
}
