package certificate

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// installation is a cluster in memory with the webhook configurations of the chart.
type installation struct {
	*testing.T
	client.WithWatch
	options Options
	clock   *clocktesting.FakePassiveClock
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	const name = "spiderpool"
	c := fake.NewClientBuilder().WithScheme(scheme.New()).Build()
	kubetest.Webhooks(t, c, name, 443)
	return &installation{t, c, Options{
		Secret: client.ObjectKey{Namespace: "kube-system", Name: "tls"}, Subject: subject, Mutating: name, Validating: name,
	}, clocktesting.NewFakePassiveClock(now)}
}

// replica returns a rotator of the installation with the client c.
func (i *installation) replica(c client.Client) *Rotator {
	return &Rotator{client: c, options: i.options, clock: i.clock, log: slog.New(slog.DiscardHandler)}
}

// reconcile runs a rotator once and checks when it wants to run again.
func (i *installation) reconcile(r *Rotator, again time.Duration) {
	i.Helper()
	result, err := r.Reconcile(i.Context(), ctrl.Request{})
	if err != nil || result.RequeueAfter != again {
		i.Errorf("at %s: requeue after %s, %v; want %s", i.clock.Now().Sub(now), result.RequeueAfter, err, again)
	}
}

// kept returns the content of the Secret.
func (i *installation) kept() Pair {
	i.Helper()
	secret := &corev1.Secret{}
	if err := i.Get(i.Context(), i.options.Secret, secret); err != nil {
		i.Fatal(err)
	}
	return Pair{Certificate: secret.Data[corev1.TLSCertKey], Key: secret.Data[corev1.TLSPrivateKeyKey], Authorities: secret.Data[keyAuthorities]}
}

// serves checks that a rotator serves the certificate of the pair.
func (i *installation) serves(r *Rotator, want Pair) {
	i.Helper()
	wanted, err := inspect(want, subject, i.clock.Now())
	if err != nil {
		i.Fatal(err)
	}
	got, err := r.GetCertificate(nil)
	if err != nil || !same(got, wanted.certificate) || r.Check(nil) != nil {
		i.Errorf("at %s: serves the wrong certificate, %v, %v", i.clock.Now().Sub(now), err, r.Check(nil))
	}
}

// trusted checks the authorities in all webhook configurations.
func (i *installation) trusted(want []byte) {
	i.Helper()
	mutating, validating := &admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}
	for name, object := range map[string]client.Object{i.options.Mutating: mutating, i.options.Validating: validating} {
		if err := i.Get(i.Context(), client.ObjectKey{Name: name}, object); err != nil {
			i.Fatal(err)
		}
	}
	var bundles [][]byte
	for _, hook := range mutating.Webhooks {
		bundles = append(bundles, hook.ClientConfig.CABundle)
	}
	for _, hook := range validating.Webhooks {
		bundles = append(bundles, hook.ClientConfig.CABundle)
	}
	for n, bundle := range bundles {
		if !bytes.Equal(bundle, want) {
			i.Errorf("at %s: webhook %d of %d trusts %d authorities, want %d, those of the Secret", i.clock.Now().Sub(now), n, len(bundles), count(bundle), count(want))
		}
	}
}

const day = 24 * time.Hour

func TestTrustComesBeforeServing(t *testing.T) {
	i := newInstallation(t)
	rotator, other := i.replica(i), i.replica(i)
	i.reconcile(rotator, 0)
	first := i.kept()
	if err := rotator.Check(nil); err == nil {
		t.Error("ready with an untrusted certificate")
	}
	i.reconcile(rotator, 60*day)
	i.trusted(first.Authorities)
	i.serves(rotator, first)
	i.reconcile(other, 60*day)
	i.serves(other, first)

	i.clock.SetTime(now.Add(60*day - time.Second))
	i.reconcile(rotator, time.Second)
	if !bytes.Equal(i.kept().Certificate, first.Certificate) {
		t.Fatal("renewed before its time")
	}
	i.clock.SetTime(now.Add(60 * day))
	i.reconcile(rotator, 0)
	second := i.kept()
	if bytes.Equal(second.Certificate, first.Certificate) || count(second.Authorities) != 2 || !bytes.HasSuffix(second.Authorities, first.Authorities) {
		t.Fatalf("the Secret holds %d authorities; want a new certificate, its authority and the former one", count(second.Authorities))
	}
	i.serves(rotator, first)

	// The API servers get time to see the new authority.
	i.reconcile(rotator, settle)
	i.trusted(second.Authorities)
	i.serves(rotator, first)
	i.clock.SetTime(now.Add(60*day + settle - time.Second))
	i.reconcile(rotator, time.Second)
	i.serves(rotator, first)
	i.reconcile(other, time.Second)
	i.serves(other, first)

	i.clock.SetTime(now.Add(60*day + settle))
	for _, replica := range []*Rotator{rotator, other} {
		i.reconcile(replica, 60*day-settle)
		i.serves(replica, second)
	}
	i.trusted(second.Authorities)
	if !bytes.Equal(i.kept().Certificate, second.Certificate) {
		t.Error("the second replica issued another certificate")
	}
}

func TestFreshReplicaServesNewCertificateImmediately(t *testing.T) {
	i := newInstallation(t)
	rotator := i.replica(i)
	i.reconcile(rotator, 0)
	i.reconcile(rotator, 60*day)
	i.clock.SetTime(now.Add(60 * day))
	i.reconcile(rotator, 0)
	fresh := i.replica(i)
	i.reconcile(fresh, 60*day)
	i.serves(fresh, i.kept())
}

// Two replicas renew at the same time.
func TestLosingReplicaServesWinnersCertificate(t *testing.T) {
	for name, late := range map[string]bool{"the first certificate": false, "a later one": true} {
		t.Run(name, func(t *testing.T) {
			i := newInstallation(t)
			winner := i.replica(i)
			loser := i.replica(interceptor.NewClient(i, interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
					i.reconcile(winner, 0)
					return c.Create(ctx, object, options...)
				},
				Update: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
					i.reconcile(winner, 0)
					return c.Update(ctx, object, options...)
				},
			}))
			if late {
				i.reconcile(winner, 0)
				i.reconcile(winner, 60*day)
				i.clock.SetTime(now.Add(60 * day))
			}
			i.reconcile(loser, 0)
			i.reconcile(loser, 60*day)
			i.serves(loser, i.kept())
			i.trusted(i.kept().Authorities)
		})
	}
}

func TestLostSecretKeepsServedCertificateTrusted(t *testing.T) {
	i := newInstallation(t)
	rotator := i.replica(i)
	i.reconcile(rotator, 0)
	i.reconcile(rotator, 60*day)
	first := i.kept()
	kubetest.Remove(t, i, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: i.options.Secret.Namespace, Name: i.options.Secret.Name}})

	i.clock.SetTime(now.Add(day))
	i.reconcile(rotator, 0)
	second := i.kept()
	i.reconcile(rotator, settle)
	if !bytes.HasSuffix(second.Authorities, first.Authorities) {
		t.Error("the authority of the served certificate is not trusted any more")
	}
	i.trusted(second.Authorities)
	i.serves(rotator, first)
	i.clock.SetTime(now.Add(day + settle))
	i.reconcile(rotator, 60*day-settle)
	i.serves(rotator, second)
}

func TestLostAuthoritiesAreWrittenAgain(t *testing.T) {
	i := newInstallation(t)
	rotator := i.replica(i)
	i.reconcile(rotator, 0)
	i.reconcile(rotator, 60*day)
	validating := &admissionv1.ValidatingWebhookConfiguration{}
	if err := i.Get(t.Context(), client.ObjectKey{Name: i.options.Validating}, validating); err != nil {
		t.Fatal(err)
	}
	for n := range validating.Webhooks {
		validating.Webhooks[n].ClientConfig.CABundle = nil
	}
	if err := i.Update(t.Context(), validating); err != nil {
		t.Fatal(err)
	}
	i.reconcile(rotator, 60*day)
	i.trusted(i.kept().Authorities)
}
