package httpserver

import (
	"crypto/tls"
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
