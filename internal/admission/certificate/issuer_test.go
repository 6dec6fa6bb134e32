package certificate

import (
	"bytes"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

func TestIssuedCertificateStaysValid(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(scheme.New()).Build()
	time := clocktesting.NewFakePassiveClock(now)
	key := client.ObjectKey{Namespace: "kube-system", Name: "agents"}
	issuer := &Issuer{client: c, live: c, secret: key, subject: subject, clock: time, log: slog.New(slog.DiscardHandler)}
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
