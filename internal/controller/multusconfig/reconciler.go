// Package multusconfig creates a NetworkAttachmentDefinition for each
// SpiderMultusConfig and keeps it equal to the specification.
//
// The SpiderMultusConfig owns the attachment, so Kubernetes' garbage collector
// deletes it. The reconciler adopts an attachment without an owner: the
// installation creates an empty one for the SpiderMultusConfig to fill. It does
// not touch an attachment with another owner; the condition Ready then names the
// owner.
package multusconfig

import (
	"context"
	"fmt"
	"log/slog"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/internal/observe"
)

// fieldManager owns the fields of an attachment. Server-side apply then removes an
// annotation from the attachment once it is gone from the SpiderMultusConfig.
const fieldManager = "spiderpool-controller"

// indexAttachment is the index of SpiderMultusConfigs by the name of their attachment.
const indexAttachment = "attachment"

// Reconciler keeps NetworkAttachmentDefinitions equal to their SpiderMultusConfigs.
type Reconciler struct {
	client client.Client
	status status.Writer
	log    *slog.Logger
}

// New returns a reconciler; w writes the conditions and the events.
func New(w status.Writer, log *slog.Logger) *Reconciler {
	return &Reconciler{client: w.Client, status: w, log: log}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "multusconfig" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(context.Background(), &v2beta1.SpiderMultusConfig{}, indexAttachment, func(o client.Object) []string {
		return []string{compile.AttachmentName(o.(*v2beta1.SpiderMultusConfig))}
	})
	if err != nil {
		return fmt.Errorf("index SpiderMultusConfigs by attachment: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&v2beta1.SpiderMultusConfig{}).
		Watches(&nadv1.NetworkAttachmentDefinition{}, handler.EnqueueRequestsFromMapFunc(r.configsOf)).
		Complete(r)
}

// configsOf returns the SpiderMultusConfigs that name or own the attachment.
func (r *Reconciler) configsOf(ctx context.Context, attachment client.Object) []reconcile.Request {
	var configs v2beta1.SpiderMultusConfigList
	err := r.client.List(ctx, &configs, client.InNamespace(attachment.GetNamespace()), client.MatchingFields{indexAttachment: attachment.GetName()})
	if err != nil {
		r.log.ErrorContext(ctx, "cannot list the SpiderMultusConfigs of an attachment", "attachment", client.ObjectKeyFromObject(attachment).String(), "err", err)
		return nil
	}
	var requests []reconcile.Request
	for i := range configs.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&configs.Items[i])})
	}
	if owner := metav1.GetControllerOf(attachment); isMultusConfig(owner) {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: attachment.GetNamespace(), Name: owner.Name}})
	}
	return requests
}

func isMultusConfig(owner *metav1.OwnerReference) bool {
	return owner != nil && owner.Kind == "SpiderMultusConfig" && owner.APIVersion == v2beta1.GroupVersion.String()
}

// Reconcile writes the attachment of one SpiderMultusConfig.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	config := &v2beta1.SpiderMultusConfig{}
	if err := r.client.Get(ctx, request.NamespacedName, config); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if config.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	// 1. Compile the specification.
	want, errs := compile.Attachment(config)
	if len(errs) > 0 {
		return ctrl.Result{}, r.report(ctx, config, status.Condition{Reason: "Invalid", Message: errs.ToAggregate().Error()})
	}
	if want.Unsupported != "" {
		return ctrl.Result{}, r.report(ctx, config, status.Condition{Reason: "Unsupported", Message: want.Unsupported})
	}
	// 2. Stop if an existing attachment belongs to another owner.
	is := &nadv1.NetworkAttachmentDefinition{}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: want.Namespace, Name: want.Name}, is)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("read the attachment: %w", err)
	}
	found := err == nil
	if found {
		if reason := foreign(is, config); reason != "" {
			return ctrl.Result{}, r.report(ctx, config, status.Condition{Reason: "AttachmentNotOwned", Message: reason})
		}
	}
	// 3. Write the attachment.
	if err := r.apply(ctx, config, want, is.ResourceVersion); apierrors.IsConflict(err) {
		return ctrl.Result{}, nil // the cache was stale; the watch queues the config again
	} else if err != nil {
		return ctrl.Result{}, err
	}
	r.announce(config, is, found, want)
	// 4. Delete attachments of former names, now that the new one exists.
	if err := r.deleteFormer(ctx, config, want.Name); err != nil {
		return ctrl.Result{}, err
	}
	message := fmt.Sprintf("NetworkAttachmentDefinition %s/%s matches the specification", want.Namespace, want.Name)
	if want.Ignored != "" {
		message += "; " + want.Ignored
	}
	return ctrl.Result{}, r.report(ctx, config, status.Condition{OK: true, Reason: "AttachmentUpToDate", Message: message})
}

// foreign returns the reason why the reconciler must not write the attachment, or ""
// if it may.
func foreign(is *nadv1.NetworkAttachmentDefinition, config *v2beta1.SpiderMultusConfig) string {
	name := is.Namespace + "/" + is.Name
	if is.DeletionTimestamp != nil {
		return fmt.Sprintf("NetworkAttachmentDefinition %s is being deleted; it is created again afterwards", name)
	}
	if len(is.OwnerReferences) == 0 || metav1.IsControlledBy(is, config) {
		return ""
	}
	owner := metav1.GetControllerOf(is)
	if owner == nil {
		owner = &is.OwnerReferences[0]
	}
	return fmt.Sprintf("NetworkAttachmentDefinition %s belongs to %s %s; choose another name with the annotation %s, or delete that owner",
		name, owner.Kind, owner.Name, names.AnnotationMultusConfigCRName)
}

// apply writes the attachment by server-side apply, which does nothing if the
// attachment already matches. version is the resource version of the attachment that the
// reconciler looked at; the API server answers with a conflict if it is no longer the same,
// so that another owner is never overwritten, and each change has its event.
func (r *Reconciler) apply(ctx context.Context, config *v2beta1.SpiderMultusConfig, want compile.NAD, version string) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nadv1.SchemeGroupVersion.String(),
		"kind":       "NetworkAttachmentDefinition",
		"metadata": map[string]any{
			"namespace": want.Namespace,
			"name":      want.Name,
		},
		"spec": map[string]any{"config": want.Config},
	}}
	// The API server does not store an empty map, so applying one would change the
	// object every time.
	if len(want.Annotations) > 0 {
		object.SetAnnotations(want.Annotations)
	}
	object.SetResourceVersion(version)
	object.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(config, v2beta1.GroupVersion.WithKind("SpiderMultusConfig"))})
	err := r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(fieldManager), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("write the attachment: %w", err)
	}
	return nil
}

// announce records an event if apply changed the attachment.
func (r *Reconciler) announce(config *v2beta1.SpiderMultusConfig, is *nadv1.NetworkAttachmentDefinition, found bool, want compile.NAD) {
	name := want.Namespace + "/" + want.Name
	switch {
	case !found:
		r.status.Recorder.Record(config, nil, observe.AttachmentCreated(name))
	case !metav1.IsControlledBy(is, config):
		r.status.Recorder.Record(config, is, observe.AttachmentAdopted(name))
	case is.Spec.Config != want.Config:
		r.status.Recorder.Record(config, is, observe.AttachmentUpdated(name))
	}
}

// deleteFormer deletes the attachments of the SpiderMultusConfig with names other
// than name.
func (r *Reconciler) deleteFormer(ctx context.Context, config *v2beta1.SpiderMultusConfig, name string) error {
	var attachments nadv1.NetworkAttachmentDefinitionList
	if err := r.client.List(ctx, &attachments, client.InNamespace(config.Namespace)); err != nil {
		return fmt.Errorf("list attachments: %w", err)
	}
	for i := range attachments.Items {
		former := &attachments.Items[i]
		if former.Name == name || !metav1.IsControlledBy(former, config) || former.DeletionTimestamp != nil {
			continue
		}
		err := r.client.Delete(ctx, former, client.Preconditions{UID: &former.UID})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete the attachment of the former name %s: %w", former.Name, err)
		}
		r.status.Recorder.Record(config, former, observe.AttachmentDeleted(former.Namespace+"/"+former.Name, names.AnnotationMultusConfigCRName, name))
	}
	return nil
}

// report writes the condition if it changed.
func (r *Reconciler) report(ctx context.Context, config *v2beta1.SpiderMultusConfig, ready status.Condition) error {
	_, err := r.status.Update(ctx, config, config.DeepCopy(), ready)
	return err
}
