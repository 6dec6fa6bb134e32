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

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
)

// cleanupPage is the page size of list requests.
const cleanupPage = 500

// kinds are the kinds of our API group.
var kinds = []string{
	"SpiderIPPool", "SpiderSubnet", "SpiderReservedIP", "SpiderEndpoint",
	"SpiderMultusConfig", "SpiderCoordinator", "SpiderIPBlock",
}

// Leftovers names the objects of an installation outside its Helm release. Helm
// leaves them behind. An empty name stands for no object.
type Leftovers struct {
	Namespace string
	// Secrets hold the certificates issued by the controller.
	Secrets []string
	// Job is the Job of the last installation.
	Job string
	// Lease is that of the controller's leader election.
	Lease string
}

// Cleanup runs after the removal of our programs, so that no later deletion hangs:
//
//  1. It deletes the objects created by Install, i.e. the SpiderCoordinator and the
//     NetworkAttachmentDefinitions without a configuration, and the leftovers.
//  2. It removes our finalizer from all our custom resources, because only our
//     controller would remove it.
//
// The administrator's objects and the leases stay, so that a later installation can
// continue with them. Cleanup skips kinds that the API server does not serve.
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
		log.Info("removed finalizers", "kind", kind, "objects", count)
	}
	log.Info("pools and the records of addresses stay for the next installation, and sysctls of the nodes until their next start; "+
		"to delete the records too, see Uninstall in docs/guides/install.md", "kinds", kinds)
	return nil
}

// removeFinalizers removes our finalizer from all objects of the kind and returns their number.
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
	list := []client.Object{marker(l.Namespace)}
	for _, name := range l.Secrets {
		list = append(list, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: name}})
	}
	if l.Job != "" {
		list = append(list, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Job}})
	}
	if l.Lease != "" {
		list = append(list, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Lease}})
	}
	return list
}

// installedObjects returns the objects created by Install, except attachments with a
// configuration or an owner by now.
func installedObjects(ctx context.Context, c client.Client) ([]client.Object, error) {
	ours := client.MatchingLabels{names.LabelManagedBy: names.ManagedByInit}
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
