// Package certificate creates and renews the certificate of the webhook server
// (tls.method auto), and publishes its authority to the API server.
//
// All replicas serve the certificate of one Secret. A replica issues a new one if the
// certificate is missing, unusable or past two thirds of its life. If several replicas
// do so, optimistic concurrency lets one win. The webhook configurations trust the new
// authority beside the former one before a replica serves the new certificate, so no
// API server rejects it.
//
// We do not use open-policy-agent/cert-controller: docs/adr/0013-webhook-certificates.md
// says why.
package certificate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// settle is how long to wait, after publishing a new authority, before serving a
// certificate signed by it in place of another one.
const settle = 10 * time.Second

// keyAuthorities is the key of the authorities in the Secret, besides the two keys of
// the type kubernetes.io/tls.
const keyAuthorities = "ca.crt"

// Options describe the certificate and the webhooks.
type Options struct {
	Secret  client.ObjectKey
	Subject Subject
	// Mutating and Validating are the names of the webhook configurations.
	Mutating, Validating string
}

// Rotator keeps the certificate valid.
type Rotator struct {
	client  client.Client
	options Options
	clock   clock.PassiveClock
	log     *slog.Logger
	serving atomic.Pointer[tls.Certificate]
	// authorities are those of the served certificate. The Secret may be lost or newer.
	authorities []byte
}

// New returns a rotator without a certificate.
func New(options Options, log *slog.Logger) *Rotator {
	return &Rotator{options: options, clock: clock.RealClock{}, log: log}
}

// Name is the name of the controller in logs and metrics.
func (*Rotator) Name() string { return "webhook-certificate" }

// Register adds the rotator to the manager; it works on every replica.
func (r *Rotator) Register(mgr ctrl.Manager) error {
	r.client = mgr.GetClient()
	named := func(names ...string) builder.WatchesOption {
		return builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return slices.Contains(names, o.GetName())
		}))
	}
	secret := r.options.Secret
	enqueue := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: secret}}
	})
	// At the first start there is no object to watch, so queue one request.
	start := make(chan event.GenericEvent, 1)
	start <- event.GenericEvent{Object: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: secret.Namespace, Name: secret.Name}}}
	err := ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		Watches(&corev1.Secret{}, enqueue, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return client.ObjectKeyFromObject(o) == secret
		}))).
		Watches(&admissionv1.MutatingWebhookConfiguration{}, enqueue, named(r.options.Mutating)).
		Watches(&admissionv1.ValidatingWebhookConfiguration{}, enqueue, named(r.options.Validating)).
		WatchesRawSource(source.Channel(start, enqueue)).
		WithOptions(controller.Options{NeedLeaderElection: new(false)}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the webhook certificate: %w", err)
	}
	return nil
}

// GetCertificate returns the current certificate; it has the form of
// tls.Config.GetCertificate.
func (r *Rotator) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if certificate := r.serving.Load(); certificate != nil {
		return certificate, nil
	}
	return nil, errors.New("the webhook certificate is not ready yet")
}

// Check is a readiness check. It fails until the rotator serves a certificate that the
// webhook configurations trust.
func (r *Rotator) Check(*http.Request) error {
	_, err := r.GetCertificate(nil)
	return err
}

// Reconcile updates the Secret, the webhook configurations and the served certificate.
func (r *Rotator) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	now := r.clock.Now()
	// 1. Issue a certificate if there is none or it must be renewed.
	secret := &corev1.Secret{}
	err := r.client.Get(ctx, r.options.Secret, secret)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("read Secret %s: %w", r.options.Secret, err)
	}
	missing := err != nil
	pair := pairOf(secret)
	found, unusable := inspect(pair, r.options.Subject, now)
	if missing || unusable != nil || !now.Before(found.renew) {
		former := pair.Authorities
		if r.serving.Load() != nil {
			former = r.authorities
		}
		return ctrl.Result{}, r.renew(ctx, secret, missing, unusable, former)
	}
	// 2. Publish its authority.
	if err := r.trust(ctx, pair.Authorities); err != nil {
		return ctrl.Result{}, err
	}
	// 3. Serve it, after every API server had time to see the authority.
	if current := r.serving.Load(); !same(current, found.certificate) {
		if wait := found.issued.Add(settle).Sub(now); current != nil && wait > 0 {
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		r.serving.Store(found.certificate)
		r.authorities = pair.Authorities
		r.log.InfoContext(ctx, "serving a webhook certificate", "secret", r.options.Secret.String(), "until", found.certificate.Leaf.NotAfter)
	}
	return ctrl.Result{RequeueAfter: found.renew.Sub(now)}, nil
}

// renew issues a new certificate. The watch of the Secret then queues another
// reconcile.
func (r *Rotator) renew(ctx context.Context, secret *corev1.Secret, missing bool, why error, former []byte) error {
	pair, err := issue(r.options.Subject, r.clock.Now(), former)
	if err != nil {
		return err
	}
	if written, err := write(ctx, r.client, r.options.Secret, secret, missing, pair); err != nil || !written {
		return err
	}
	reason := "past two thirds of its life"
	if missing {
		reason = "missing"
	} else if why != nil {
		reason = why.Error()
	}
	r.log.InfoContext(ctx, "issued a webhook certificate", "secret", r.options.Secret.String(), "reason", reason)
	return nil
}

// write creates or updates the Secret. written is false if another replica was faster.
func write(ctx context.Context, c client.Client, key client.ObjectKey, secret *corev1.Secret, missing bool, pair Pair) (written bool, err error) {
	secret = secret.DeepCopy()
	secret.Data = map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.Key, keyAuthorities: pair.Authorities}
	if missing {
		secret.Namespace, secret.Name, secret.Type = key.Namespace, key.Name, corev1.SecretTypeTLS
		err = c.Create(ctx, secret)
	} else {
		err = c.Update(ctx, secret)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write Secret %s: %w", key, err)
	}
	return true, nil
}

func pairOf(secret *corev1.Secret) Pair {
	return Pair{Certificate: secret.Data[corev1.TLSCertKey], Key: secret.Data[corev1.TLSPrivateKeyKey], Authorities: secret.Data[keyAuthorities]}
}

// trust writes the authorities into the webhook configurations. It skips a missing
// configuration: the API server then calls no webhook.
func (r *Rotator) trust(ctx context.Context, authorities []byte) error {
	mutating := &admissionv1.MutatingWebhookConfiguration{}
	err := r.patch(ctx, r.options.Mutating, mutating, func() []*admissionv1.WebhookClientConfig {
		var configs []*admissionv1.WebhookClientConfig
		for i := range mutating.Webhooks {
			configs = append(configs, &mutating.Webhooks[i].ClientConfig)
		}
		return configs
	}, authorities)
	if err != nil {
		return err
	}
	validating := &admissionv1.ValidatingWebhookConfiguration{}
	return r.patch(ctx, r.options.Validating, validating, func() []*admissionv1.WebhookClientConfig {
		var configs []*admissionv1.WebhookClientConfig
		for i := range validating.Webhooks {
			configs = append(configs, &validating.Webhooks[i].ClientConfig)
		}
		return configs
	}, authorities)
}

func (r *Rotator) patch(ctx context.Context, name string, object client.Object, configs func() []*admissionv1.WebhookClientConfig, authorities []byte) error {
	if err := r.client.Get(ctx, client.ObjectKey{Name: name}, object); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("read %T %s: %w", object, name, err)
	}
	before := object.DeepCopyObject().(client.Object)
	changed := false
	for _, config := range configs() {
		if string(config.CABundle) != string(authorities) {
			config.CABundle = authorities
			changed = true
		}
	}
	if !changed {
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, object, patch); err != nil {
		return fmt.Errorf("write the authorities into %T %s: %w", object, name, err)
	}
	return nil
}
