// Package admission refuses custom resources of Spiderpool that cannot work and
// completes those that can.
//
// What the API server can judge by itself stands in the schema (api/v2beta1);
// here are the rules that compare addresses or need other objects. They read
// caches, never the API server, so an answer takes no longer than the caches are
// old: two objects that are created at one moment can both get in. The
// reconcilers therefore check again and report what they find as a condition.
//
// The webhooks of Register are in the way of nothing but custom resources of
// Spiderpool; the one of RegisterPods is separate and off by default. Objects that are being deleted and
// changes that leave a specification as it is are always let through.
package admission

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Options say what admission needs to know of the installation.
type Options struct {
	// Pools is the compiled view of all pools.
	Pools *poolindex.Index
	// CoordinatorName is the SpiderCoordinator that cannot be deleted; empty
	// where the coordinator is switched off.
	CoordinatorName string
	// Cluster is the network of pods that name none.
	Cluster pool.ClusterNetwork
}

// Register registers the webhooks at the manager's server, at the paths of
// controller-runtime: /mutate- and /validate-, followed by
// spiderpool-spidernet-io-v2beta1- and the kind in lower case. The manager's
// cache must have the index of cached.IndexBlocksByPool.
func Register(mgr ctrl.Manager, options Options) error {
	reader := mgr.GetClient()
	for _, register := range []func() error{
		func() error {
			return handle(mgr, &v2beta1.SpiderIPPool{}, &pools{reader: reader, index: options.Pools})
		},
		func() error { return handle(mgr, &v2beta1.SpiderSubnet{}, &subnets{reader: reader}) },
		func() error { return handle(mgr, &v2beta1.SpiderReservedIP{}, &reservedIPs{}) },
		func() error {
			return handle(mgr, &v2beta1.SpiderMultusConfig{}, &multusConfigs{reader: reader, cluster: options.Cluster})
		},
		func() error {
			return handle(mgr, &v2beta1.SpiderCoordinator{}, &coordinators{protected: options.CoordinatorName})
		},
	} {
		if err := register(); err != nil {
			return err
		}
	}
	return nil
}

// webhooks are the two of one kind.
type webhooks[T runtime.Object] interface {
	admission.Defaulter[T]
	admission.Validator[T]
}

func handle[T client.Object](mgr ctrl.Manager, kind T, hooks webhooks[T]) error {
	if err := ctrl.NewWebhookManagedBy(mgr, kind).WithDefaulter(hooks).WithValidator(hooks).Complete(); err != nil {
		return fmt.Errorf("register the webhooks of %T: %w", kind, err)
	}
	return nil
}

// invalid is the error of an object with faults, and nil for one without.
func invalid(kind string, object client.Object, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(v2beta1.GroupVersion.WithKind(kind).GroupKind(), object.GetName(), errs)
}

// forbidden is the error of a deletion that has to wait.
func forbidden(resource string, object client.Object, format string, args ...any) error {
	return apierrors.NewForbidden(v2beta1.GroupVersion.WithResource(resource).GroupResource(), object.GetName(), fmt.Errorf(format, args...))
}

// always lets every deletion through.
type always[T runtime.Object] struct{}

func (always[T]) ValidateDelete(context.Context, T) (admission.Warnings, error) { return nil, nil }
