package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	maxBodyBytes      = 1 << 20
	// shutdownTimeout is how long requests may take to end when Run is to.
	shutdownTimeout = 5 * time.Second
	// reloadEvery is how old what was read of a file may be when it is used.
	reloadEvery = 2 * time.Second
)

// Server is the API on its listener.
type Server struct {
	cfg      Config
	parts    Parts
	log      *zap.Logger
	metrics  metrics
	tokens   *reloaded[tokens] // nil: nobody has to show one
	peers    *peers
	streams  *streams
	writing  chan struct{} // has a value while a contract is being written
	listener net.Listener
	http     *http.Server

	overviews overviews
	pulse     pulse
	nearest   nearest
}

// New reads the files that cfg names and binds the listener; Run serves it. A
// Server that is not run must be closed.
func New(cfg Config, parts Parts, log *zap.Logger, reg Registry) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, parts: parts, log: log, writing: make(chan struct{}, 1)}
	var err error
	if cfg.TokensFile != "" {
		if s.tokens, err = newReloaded(func() (tokens, error) { return readTokens(cfg.TokensFile) }, parts.Now, s.kept("http.tokens_file")); err != nil {
			return nil, fmt.Errorf("http.tokens_file: %w", err)
		}
	}
	serverTLS, clientTLS, err := s.encryption()
	if err != nil {
		return nil, fmt.Errorf("http.tls: %w", err)
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	s.streams = newStreams(cfg.MaxStreams)
	s.pulse.metrics = reg
	s.metrics = newMetrics(reg, s.streams)
	s.listener = capConnections(listener, cfg.MaxConnections)
	s.peers = newPeers(parts.Cluster, clientTLS, cfg.ForwardTimeout)
	s.http = &http.Server{
		Handler:           s.router(reg),
		TLSConfig:         serverTLS,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	// What net/http tells there is what clients do wrong with their connections.
	if s.http.ErrorLog, err = zap.NewStdLogAt(log, zapcore.DebugLevel); err != nil {
		return nil, errors.Join(fmt.Errorf("make a log for connections: %w", err), listener.Close())
	}
	return s, nil
}

// kept returns what is to be done when a file cannot be read again: what it
// had before goes on to count.
func (s *Server) kept(key string) func(error) {
	return func(err error) {
		s.log.Error("file not readable, using what it had before", zap.String("key", key), zap.Error(err))
	}
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close gives the listener back. It is for a Server that will not be run, and
// harmless after Run.
func (s *Server) Close() error {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close http listener: %w", err)
	}
	return nil
}

// Run serves until ctx ends, and then until the requests at hand are answered
// or five seconds have passed. It runs once.
func (s *Server) Run(ctx context.Context) error {
	defer s.peers.close()
	served := make(chan error, 1)
	encrypted := s.cfg.TLS.CertFile != "" // http.Server gives itself a TLSConfig in any case
	go func() {
		if encrypted {
			served <- s.http.ServeTLS(s.listener, "", "")
			return
		}
		served <- s.http.Serve(s.listener)
	}()
	s.log.Info("http listening", zap.Stringer("address", s.Addr()), zap.Bool("tls", encrypted), zap.Bool("tokens", s.tokens != nil))
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serve http: %w", err), s.http.Close())
	case <-ctx.Done():
	}
	s.streams.end()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := s.http.Shutdown(grace); err != nil {
		s.log.Warn("http requests cut off", zap.Error(err))
		_ = s.http.Close() // that is what it is to do
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http: %w", err)
	}
	return nil
}

// Encryption returns how others may serve beside this Server, with the same
// certificate; nil where it is off.
func (s *Server) Encryption() *tls.Config {
	if s.cfg.TLS.CertFile == "" {
		return nil
	}
	return s.http.TLSConfig.Clone()
}

// encryption returns how to serve and how to ask other instances, nil and nil
// where it is off.
func (s *Server) encryption() (server, client *tls.Config, err error) {
	files := s.cfg.TLS
	if files.CertFile == "" {
		return nil, nil, nil
	}
	pair, err := newReloaded(func() (*tls.Certificate, error) {
		certificate, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
		return &certificate, err
	}, s.parts.Now, s.kept("http.tls"))
	if err != nil {
		return nil, nil, err
	}
	server = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get(), nil },
	}
	client = &tls.Config{MinVersion: tls.VersionTLS12}
	if files.CAFile != "" {
		if client.RootCAs, err = readRoots(files.CAFile); err != nil {
			return nil, nil, err
		}
	}
	return server, client, nil
}
