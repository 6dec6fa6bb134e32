package httpserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certutil "k8s.io/client-go/util/cert"

	"spiderpool.dev/spiderpool/internal/process/httpserver"
)

// mounted writes a new certificate for the name into dir, and returns it.
func mounted(t *testing.T, dir, name string, changed time.Time) *x509.CertPool {
	t.Helper()
	certificate, key, err := certutil.GenerateSelfSignedCertKey(name, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{"tls.crt": certificate, "tls.key": key} {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(certificate) {
		t.Fatal("no certificate")
	}
	return pool
}

// fetch gets the answer of the server, whose certificate must be for the name.
func fetch(address, name string, trusted *x509.CertPool) (string, error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: name}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Get("https://" + address)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.Proto + " " + string(body), err
}

func TestChangedCertificateIsServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	address := serve(t, httpserver.Server{Certificate: httpserver.NewKeyPair(dir).Certificate})
	if _, err := fetch(address, "first", x509.NewCertPool()); err == nil {
		t.Error("the server answers without a certificate")
	}
	begin := time.Unix(1_700_000_000, 0)
	for i, name := range []string{"first", "second"} {
		trusted := mounted(t, dir, name, begin.Add(time.Duration(i)*time.Second))
		for range 2 { // read, then remembered
			if got, err := fetch(address, name, trusted); err != nil || got != "HTTP/1.1 ok" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	}
	if err := os.Remove(filepath.Join(dir, "tls.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := httpserver.NewKeyPair(dir).Certificate(nil); err == nil || !strings.Contains(err.Error(), "tls.key") {
		t.Errorf("a certificate without a key: %v", err)
	}
}

func TestSilentTLSConnectionIsClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mounted(t, dir, "server", time.Unix(1_700_000_000, 0))
	address := serve(t, httpserver.Server{Certificate: httpserver.NewKeyPair(dir).Certificate, Idle: 50 * time.Millisecond})
	if err := untilClosed(dial(t, address)); err != nil {
		t.Error(err)
	}
}
