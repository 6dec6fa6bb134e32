package certificate

import (
	"bytes"
	"crypto/x509"
	"errors"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

func TestIssuedCertificateStaysValid(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(scheme.New()).Build()
	time := clocktesting.NewFakePassiveClock(now)
	key := client.ObjectKey{Namespace: "kube-system", Name: "agents"}
	issuer := &Issuer{client: c, live: c, wanted: []Wanted{{key, subject}}, clock: time, log: slog.New(slog.DiscardHandler)}
	kept := func() Pair {
		t.Helper()
		if err := issuer.ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		secret := &corev1.Secret{}
		if err := c.Get(t.Context(), key, secret); err != nil {
			t.Fatal(err)
		}
		if secret.Type != corev1.SecretTypeTLS {
			t.Errorf("type %s", secret.Type)
		}
		if _, err := inspect(pairOf(secret), subject, time.Now()); err != nil {
			t.Error(err)
		}
		return pairOf(secret)
	}
	first := kept()
	if again := kept(); !bytes.Equal(again.Certificate, first.Certificate) {
		t.Error("renewed a valid certificate")
	}
	time.SetTime(now.Add(60 * day))
	second := kept()
	if bytes.Equal(second.Certificate, first.Certificate) {
		t.Error("kept a certificate past two thirds of its life")
	}
	// Clients of an agent that still serves the former certificate.
	if _, err := inspect(Pair{first.Certificate, first.Key, second.Authorities}, subject, time.Now()); err != nil {
		t.Errorf("the former certificate: %v", err)
	}
	broken := &corev1.Secret{}
	if err := c.Get(t.Context(), key, broken); err != nil {
		t.Fatal(err)
	}
	broken.Data[corev1.TLSPrivateKeyKey] = first.Key
	if err := c.Update(t.Context(), broken); err != nil {
		t.Fatal(err)
	}
	kept() // it is usable again
}

// A client's certificate has the authority of the server, and is replaced together with it.
func TestClientSharesAuthority(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(scheme.New()).Build()
	time := clocktesting.NewFakePassiveClock(now)
	server, user := client.ObjectKey{Namespace: "kube-system", Name: "server"}, client.ObjectKey{Namespace: "kube-system", Name: "user"}
	ofClient := Subject{DNSNames: []string{"reader"}, CALifetime: subject.CALifetime, CertLifetime: subject.CertLifetime, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	issuer := &Issuer{client: c, live: c, wanted: []Wanted{{server, subject}, {user, ofClient}}, clock: time, log: slog.New(slog.DiscardHandler)}
	kept := func() (ofServer, ofUser Pair) {
		t.Helper()
		if err := issuer.ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		a, b := &corev1.Secret{}, &corev1.Secret{}
		if err := errors.Join(c.Get(t.Context(), server, a), c.Get(t.Context(), user, b)); err != nil {
			t.Fatal(err)
		}
		ofServer, ofUser = pairOf(a), pairOf(b)
		if !bytes.Equal(ofServer.Authorities, ofUser.Authorities) {
			t.Error("the authorities differ")
		}
		if _, err := inspect(ofUser, ofClient, time.Now()); err != nil {
			t.Error(err)
		}
		asServer := ofClient
		asServer.Usages = nil
		if _, err := inspect(ofUser, asServer, time.Now()); err == nil {
			t.Error("a client can pose as a server")
		}
		return ofServer, ofUser
	}
	first, reader := kept()
	if again, same := kept(); !bytes.Equal(again.Certificate, first.Certificate) || !bytes.Equal(same.Certificate, reader.Certificate) {
		t.Error("renewed valid certificates")
	}
	lost := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: user.Namespace, Name: user.Name}}
	if err := c.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	second, next := kept()
	if bytes.Equal(second.Certificate, first.Certificate) || bytes.Equal(next.Certificate, reader.Certificate) {
		t.Error("the authority's key is gone, so both need new certificates")
	}
	if _, err := inspect(Pair{reader.Certificate, reader.Key, second.Authorities}, ofClient, time.Now()); err != nil {
		t.Errorf("the former client is not trusted any more: %v", err)
	}
}
