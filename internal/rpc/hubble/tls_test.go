package hubble

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
)

// start runs a server on a listener until the test ends.
func start(t *testing.T, server *Server, listener net.Listener, creds credentials.TransportCredentials) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener, creds) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// authority signs certificates of the test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// issue writes tls.crt, tls.key and ca.crt into a new directory. Without an authority, it makes one.
func (a *authority) issue(t *testing.T, usage x509.ExtKeyUsage, names ...string) string {
	t.Helper()
	write := func(path, kind string, der []byte) {
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made := func(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	valid := x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: names[0]}}
	if a.certificate == nil {
		ca := valid
		ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
		if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		a.certificate = made(&ca, &ca, a.key, a.key)
	}
	leaf := valid
	leaf.DNSNames, leaf.KeyUsage, leaf.ExtKeyUsage = names, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{usage}
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "tls.crt"), "CERTIFICATE", made(&leaf, a.certificate, key, a.key).Raw)
	write(filepath.Join(dir, "tls.key"), "PRIVATE KEY", der)
	write(filepath.Join(dir, "ca.crt"), "CERTIFICATE", a.certificate.Raw)
	return dir
}

// trusted returns the credentials of a client that trusts the authority, with the certificate in a directory unless it is "".
func (a *authority) trusted(t *testing.T, server, dir string) credentials.TransportCredentials {
	t.Helper()
	config := &tls.Config{ServerName: server, RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	config.RootCAs.AddCert(a.certificate)
	if dir != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config)
}

// A pod without a certificate opens as many connections as the server serves. Another client is served nevertheless.
func TestStrangerLeavesPlacesToOthers(t *testing.T) {
	const name = "spiderpool-agent-flows.kube-system.svc"
	var ours authority
	servers := ours.issue(t, x509.ExtKeyUsageServerAuth, name)
	listener := listen(t, "tcp", "127.0.0.1:0")
	start(t, &Server{Observer: NewObserver(flow.NewRing(1), complete, About{Node: "n0"})}, listener, credentials.NewTLS(httpserver.NewKeyPair(servers).Mutual()))
	for range maxConnections {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(),
		grpc.WithTransportCredentials(ours.trusted(t, name, ours.issue(t, x509.ExtKeyUsageClientAuth, "relay"))),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return from.DialContext(ctx, "tcp", to) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // a stranger's handshake lasts 10 s
	defer cancel()
	if _, err := observerpb.NewObserverClient(conn).ServerStatus(ctx, &observerpb.ServerStatusRequest{}); err != nil {
		t.Error(err)
	}
}

// Only a client certificate of the same authority gives access: not that of an agent, nor one of another authority.
func TestStrangersReadNoFlows(t *testing.T) {
	const name = "spiderpool-agent-flows.kube-system.svc"
	var ours, foreign authority
	servers := ours.issue(t, x509.ExtKeyUsageServerAuth, name)
	foreign.issue(t, x509.ExtKeyUsageClientAuth, "other")
	ring := flow.NewRing(8)
	ring.Add(request(0))
	listener := listen(t, "tcp", "127.0.0.1:0")
	start(t, &Server{Observer: NewObserver(ring, complete, About{Node: "n0"})}, listener, credentials.NewTLS(httpserver.NewKeyPair(servers).Mutual()))
	with := func(dir string) credentials.TransportCredentials { return ours.trusted(t, name, dir) }
	for name, c := range map[string]struct {
		creds credentials.TransportCredentials
		want  codes.Code
	}{
		"client":            {with(ours.issue(t, x509.ExtKeyUsageClientAuth, "relay")), codes.OK},
		"no certificate":    {with(""), codes.Unavailable},
		"an agent":          {with(servers), codes.Unavailable},
		"another authority": {with(foreign.issue(t, x509.ExtKeyUsageClientAuth, "relay")), codes.Unavailable},
		"no TLS":            {insecure.NewCredentials(), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(c.creds))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = observerpb.NewObserverClient(conn).ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
			if status.Code(err) != c.want {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}
