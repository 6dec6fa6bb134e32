// Package admission rejects custom resources of Spiderpool that cannot work and
// fills in defaults in the others.
//
// Rules about a single object are in the schema (api/v2beta1), where the API server
// checks them itself. This package has the rules that compare addresses or need
// other objects. It reads caches, never the API server, so it answers quickly but may
// miss a very recent object: two conflicting objects created at the same moment may
// both pass. The reconcilers therefore check again and report the result as a
// condition.
//
// The webhooks of Register concern Spiderpool's custom resources, and pods with an
// annotation for their bandwidth. RegisterPods adds a webhook that changes annotated
// pods, RegisterPodAddresses one that changes others, and RegisterPodZones one for pods of StatefulSets; all are off by default. Deleted objects and updates
// with an unchanged specification always pass, so a new rule never blocks the
// deletion of an old object.
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

// Options describe the installation.
type Options struct {
	// Pools has all pools in compiled form.
	Pools *poolindex.Index
	// CoordinatorName is the SpiderCoordinator that users cannot delete; empty if the
	// coordinator is disabled.
	CoordinatorName string
	// Cluster is the network of pods without a network annotation.
	Cluster pool.ClusterNetwork
}

// Register adds the webhooks to the manager's server at the paths of
// controller-runtime, e.g. /validate-spiderpool-spidernet-io-v2beta1-spiderippool.
// The manager's cache must have the index of blockindex.IndexBlocksByPool.
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
		func() error { return registerPodChecks(mgr, options.Cluster) },
	} {
		if err := register(); err != nil {
			return err
		}
	}
	return nil
}

// webhooks are the mutating and the validating webhook of one kind.
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

// invalid returns the error for an object with faults, or nil if there are none.
func invalid(kind string, object client.Object, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(v2beta1.GroupVersion.WithKind(kind).GroupKind(), object.GetName(), errs)
}

// forbidden returns the error for a rejected deletion.
func forbidden(resource string, object client.Object, format string, args ...any) error {
	return apierrors.NewForbidden(v2beta1.GroupVersion.WithResource(resource).GroupResource(), object.GetName(), fmt.Errorf(format, args...))
}

// deletable accepts every deletion.
type deletable[T runtime.Object] struct{}

func (deletable[T]) ValidateDelete(context.Context, T) (admission.Warnings, error) { return nil, nil }
