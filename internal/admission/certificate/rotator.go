// Package certificate makes the certificate of the webhook server, renews it and
// tells the API server whom to trust (tls.method auto).
//
// The certificate is kept in a Secret that every replica serves from. Whichever
// replica finds it missing, unusable or two thirds through its life makes a new
// one; optimistic concurrency lets one of them win. The new authority is in the
// webhook configurations, beside the former one, before any replica serves the
// new certificate, so no request is refused for it.
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

// settle is how long API servers are given to see a new authority before a
// certificate of it is served in place of another one.
const settle = 10 * time.Second

// keyAuthorities is the key of the authorities in the Secret, beside those that
// the type kubernetes.io/tls prescribes.
const keyAuthorities = "ca.crt"

// Options say which certificate is kept, and for which webhooks.
type Options struct {
	Secret  client.ObjectKey
	Subject Subject
	// Mutating and Validating are the webhook configurations that get the authorities.
	Mutating, Validating string
}

// Rotator keeps the certificate valid.
type Rotator struct {
	client  client.Client
	options Options
	clock   clock.PassiveClock
	log     *slog.Logger
	serving atomic.Pointer[tls.Certificate]
	// authorities vouch for what is served; the Secret may be lost.
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
	// The first certificate is made where there is no object to watch yet.
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

// GetCertificate is for tls.Config.
func (r *Rotator) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if certificate := r.serving.Load(); certificate != nil {
		return certificate, nil
	}
	return nil, errors.New("the webhook certificate is not there yet")
}

// Check is a readiness check: it fails until there is a certificate to serve and
// the webhook configurations trust it.
func (r *Rotator) Check(*http.Request) error {
	_, err := r.GetCertificate(nil)
	return err
}

// Reconcile brings Secret, webhook configurations and what is served up to date.
func (r *Rotator) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	now := r.clock.Now()
	// 1. There is a certificate that is good for a while.
	secret := &corev1.Secret{}
	err := r.client.Get(ctx, r.options.Secret, secret)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("read Secret %s: %w", r.options.Secret, err)
	}
	missing := err != nil
	pair := Pair{Certificate: secret.Data[corev1.TLSCertKey], Key: secret.Data[corev1.TLSPrivateKeyKey], Authorities: secret.Data[keyAuthorities]}
	found, unusable := inspect(pair, r.options.Subject, now)
	if missing || unusable != nil || !now.Before(found.renew) {
		former := pair.Authorities
		if r.serving.Load() != nil {
			former = r.authorities
		}
		return ctrl.Result{}, r.renew(ctx, secret, missing, unusable, former)
	}
	// 2. The API server trusts it.
	if err := r.trust(ctx, pair.Authorities); err != nil {
		return ctrl.Result{}, err
	}
	// 3. It is served, once every API server can know that.
	if current := r.serving.Load(); !same(current, found.certificate) {
		if wait := found.issued.Add(settle).Sub(now); current != nil && wait > 0 {
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		r.serving.Store(found.certificate)
		r.authorities = pair.Authorities
		r.log.InfoContext(ctx, "webhook certificate in use", "secret", r.options.Secret.String(), "until", found.certificate.Leaf.NotAfter)
	}
	return ctrl.Result{RequeueAfter: found.renew.Sub(now)}, nil
}

// renew makes a new certificate. The watch of the Secret brings it back here.
func (r *Rotator) renew(ctx context.Context, secret *corev1.Secret, missing bool, why error, former []byte) error {
	pair, err := issue(r.options.Subject, r.clock.Now(), former)
	if err != nil {
		return err
	}
	secret = secret.DeepCopy()
	secret.Data = map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.Key, keyAuthorities: pair.Authorities}
	if missing {
		secret.Namespace, secret.Name, secret.Type = r.options.Secret.Namespace, r.options.Secret.Name, corev1.SecretTypeTLS
		err = r.client.Create(ctx, secret)
	} else {
		err = r.client.Update(ctx, secret)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		// Another replica was faster; what it wrote is on its way into the cache.
		return nil
	}
	if err != nil {
		return fmt.Errorf("write Secret %s: %w", r.options.Secret, err)
	}
	reason := "two thirds of its life have passed"
	if missing {
		reason = "there was none"
	} else if why != nil {
		reason = why.Error()
	}
	r.log.InfoContext(ctx, "webhook certificate made", "secret", r.options.Secret.String(), "reason", reason)
	return nil
}

// trust writes the authorities into the webhook configurations. One that does
// not exist has no webhook to be called.
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
