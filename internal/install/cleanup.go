package install

import (
	"context"
	"fmt"
	"log/slog"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientretry "k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// cleanupPage bounds the objects of one list request.
const cleanupPage = 500

// kinds are the kinds of our API group.
var kinds = []string{
	"SpiderIPPool", "SpiderSubnet", "SpiderReservedIP", "SpiderEndpoint",
	"SpiderMultusConfig", "SpiderCoordinator", "SpiderIPBlock",
}

// Leftovers are objects of an installation that are not part of its Helm
// release; Helm would leave them behind. A name that is empty is none.
type Leftovers struct {
	Namespace string
	// Secret has the certificate that the controller made.
	Secret string
	// Job is the Job of the last installation.
	Job string
	// Lease is the one by which the replicas of the controller elected their leader.
	Lease string
}

// Cleanup leaves a cluster without our programs in a state where nothing hangs:
// it removes our finalizer, which nobody else would, from all our custom
// resources, and deletes what Install created and nobody has filled since (the
// SpiderCoordinator and empty NetworkAttachmentDefinitions), and the leftovers.
// What an administrator wrote and which addresses are in use stays, for a later
// installation to go on with. Kinds that are not served are passed over.
func Cleanup(ctx context.Context, log *slog.Logger, c client.Client, leftovers Leftovers) error {
	installed, err := installedObjects(ctx, c)
	if err != nil {
		return err
	}
	for _, object := range append(installed, leftovers.objects()...) {
		err := c.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete %s: %w", describe(object), err)
		}
		log.Info("deleted", "object", describe(object))
	}
	for _, kind := range kinds {
		count, err := removeFinalizers(ctx, c, kind)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove the finalizer from every %s: %w", kind, err)
		}
		log.Info("finalizers are removed", "kind", kind, "objects", count)
	}
	return nil
}

// removeFinalizers returns from how many objects of the kind it removed ours.
func removeFinalizers(ctx context.Context, c client.Client, kind string) (int, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v2beta1.GroupVersion.WithKind(kind + "List"))
	count := 0
	for {
		if err := c.List(ctx, list, client.Limit(cleanupPage), client.Continue(list.Continue)); err != nil {
			return count, err
		}
		for i := range list.Items {
			object := &list.Items[i]
			if !controllerutil.ContainsFinalizer(object, v2beta1.Finalizer) {
				continue
			}
			object.SetGroupVersionKind(v2beta1.GroupVersion.WithKind(kind))
			if err := removeFinalizer(ctx, c, object); err != nil {
				return count, err
			}
			count++
		}
		if list.Continue == "" {
			return count, nil
		}
	}
}

func removeFinalizer(ctx context.Context, c client.Client, object *metav1.PartialObjectMetadata) error {
	err := clientretry.RetryOnConflict(clientretry.DefaultBackoff, func() error {
		before := object.DeepCopy()
		controllerutil.RemoveFinalizer(object, v2beta1.Finalizer)
		err := c.Patch(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if apierrors.IsConflict(err) {
			if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
				return err
			}
		}
		return err
	})
	return client.IgnoreNotFound(err)
}

func (l Leftovers) objects() []client.Object {
	var list []client.Object
	if l.Secret != "" {
		list = append(list, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Secret}})
	}
	if l.Job != "" {
		list = append(list, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Job}})
	}
	if l.Lease != "" {
		list = append(list, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Lease}})
	}
	return list
}

// installedObjects are what Install created, as long as it is as it was.
func installedObjects(ctx context.Context, c client.Client) ([]client.Object, error) {
	ours := client.MatchingLabels{v2beta1.LabelManagedBy: v2beta1.ManagedByInit}
	var list []client.Object

	attachments := &nadv1.NetworkAttachmentDefinitionList{}
	if err := c.List(ctx, attachments, ours); err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("list NetworkAttachmentDefinitions: %w", err)
	}
	for i := range attachments.Items {
		if a := &attachments.Items[i]; a.Spec.Config == "" && len(a.OwnerReferences) == 0 {
			list = append(list, a)
		}
	}
	coordinators := &v2beta1.SpiderCoordinatorList{}
	if err := c.List(ctx, coordinators, ours); err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("list SpiderCoordinators: %w", err)
	}
	for i := range coordinators.Items {
		list = append(list, &coordinators.Items[i])
	}
	return list, nil
}
