package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func TestServerAndClientTrustEachOther(t *testing.T) {
	t.Parallel()
	ca, err := NewAuthority("ca", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server := issue(t, ca, Subject{Name: "server", DNSNames: []string{"kubernetes.default"}})
	client := issue(t, ca, Subject{Name: "system:node:a", Groups: []string{"system:nodes"}})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)

	a, b := net.Pipe()
	serverConn := tls.Server(a, &tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert})
	clientConn := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{client}, RootCAs: roots, ServerName: "kubernetes.default"})
	failed := make(chan error, 1)
	go func() { failed <- serverConn.Handshake() }()
	if err := clientConn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	user := serverConn.ConnectionState().PeerCertificates[0].Subject
	if user.CommonName != "system:node:a" || len(user.Organization) != 1 || user.Organization[0] != "system:nodes" {
		t.Errorf("the server sees %s", user)
	}
}

func TestClientCertificateIsNoServerCertificate(t *testing.T) {
	t.Parallel()
	ca, err := NewAuthority("ca", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair := issue(t, ca, Subject{Name: "admin"})
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("it is valid for a server")
	}
}

func TestKubeconfigHasServerAndPair(t *testing.T) {
	t.Parallel()
	ca, err := NewAuthority("ca", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(Subject{Name: "admin"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := ca.Kubeconfig("https://127.0.0.1:6443", "admin", pair)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://127.0.0.1:6443" || string(config.CertData) != string(pair.Cert) || string(config.CAData) != string(ca.Cert) {
		t.Errorf("config of %s", config.Host)
	}
}

func issue(t *testing.T, ca *Authority, subject Subject) tls.Certificate {
	t.Helper()
	pair, err := ca.Issue(subject, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
