package httpserver

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// KeyPair is the certificate in the files tls.crt and tls.key of a directory, e.g. of a
// mounted Secret. They may appear and change at any time.
type KeyPair struct {
	dir string
	mu  struct {
		sync.Mutex
		pair    *tls.Certificate
		changed time.Time // of tls.crt, when pair was read
	}
}

// NewKeyPair returns the key pair in dir. It reads no file.
func NewKeyPair(dir string) *KeyPair { return &KeyPair{dir: dir} }

// Certificate returns the present certificate; it has the form of
// tls.Config.GetCertificate. It reads the files again after a change of tls.crt.
func (k *KeyPair) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	certificate, key := filepath.Join(k.dir, "tls.crt"), filepath.Join(k.dir, "tls.key")
	info, err := os.Stat(certificate)
	if err != nil {
		return nil, fmt.Errorf("no certificate to serve yet: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.pair != nil && info.ModTime().Equal(k.mu.changed) {
		return k.mu.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate to serve: %w", err)
	}
	k.mu.pair, k.mu.changed = &pair, info.ModTime()
	return k.mu.pair, nil
}

// Mutual returns the configuration of a gRPC server with the key pair, for clients with a
// certificate of an authority in ca.crt of the directory. It reads the files again for new
// connections. A certificate for servers only is no client's.
func (k *KeyPair) Mutual() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pair, err := k.Certificate(nil)
		if err != nil {
			return nil, err
		}
		raw, err := os.ReadFile(filepath.Join(k.dir, "ca.crt"))
		if err != nil {
			return nil, fmt.Errorf("read the authorities of clients: %w", err)
		}
		authorities := x509.NewCertPool()
		if !authorities.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("%s has no certificate", filepath.Join(k.dir, "ca.crt"))
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
			Certificates: []tls.Certificate{*pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authorities,
		}, nil
	}}
}
