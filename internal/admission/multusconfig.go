package admission

import (
	"context"
	"fmt"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// namespaceDeleters are the users that delete the objects of a deleted namespace: the
// namespace controller, with an account of its own or with that of the controller
// manager. A refusal would leave the namespace terminating for ever. Running pods keep
// their interfaces, because Multus keeps the configuration of each attachment.
var namespaceDeleters = []string{"system:serviceaccount:kube-system:namespace-controller", "system:kube-controller-manager"}

type multusConfigs struct {
	reader  client.Reader
	cluster pool.ClusterNetwork
}

func (w *multusConfigs) Default(_ context.Context, in *v2beta1.SpiderMultusConfig) error {
	if in.DeletionTimestamp == nil && in.Spec.CNIType != nil && *in.Spec.CNIType == v2beta1.CNICustom {
		in.Spec.EnableCoordinator = new(false)
	}
	return nil
}

func (w *multusConfigs) ValidateCreate(ctx context.Context, in *v2beta1.SpiderMultusConfig) (admission.Warnings, error) {
	attachment, errs := compile.Attachment(in)
	if len(errs) > 0 {
		return nil, invalid("SpiderMultusConfig", in, errs)
	}
	owned, err := w.owned(ctx, in, attachment.Name)
	if err != nil {
		return nil, err
	}
	var warnings admission.Warnings
	for _, warning := range []string{attachment.Unsupported, attachment.Ignored} {
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings, invalid("SpiderMultusConfig", in, owned)
}

func (w *multusConfigs) ValidateUpdate(ctx context.Context, before, in *v2beta1.SpiderMultusConfig) (admission.Warnings, error) {
	completed := before.DeepCopy()
	if err := w.Default(ctx, completed); err != nil {
		return nil, err
	}
	if in.DeletionTimestamp != nil || equality.Semantic.DeepEqual(completed.Spec, in.Spec) && compile.SameAttachmentAnnotations(before, in) {
		return nil, nil
	}
	warnings, err := w.ValidateCreate(ctx, in)
	if err != nil || compile.AttachmentName(before) == compile.AttachmentName(in) {
		return warnings, err
	}
	// The reconciler deletes the attachment of the former name once the new one exists.
	reason, err := w.needed(ctx, before)
	if err != nil || reason == "" {
		return warnings, err
	}
	path := field.NewPath("metadata", "annotations").Key(names.AnnotationMultusConfigCRName)
	return warnings, invalid("SpiderMultusConfig", in, field.ErrorList{field.Invalid(path, in.Annotations[names.AnnotationMultusConfigCRName],
		fmt.Sprintf("would delete NetworkAttachmentDefinition %s, but %s", compile.AttachmentName(before), reason))})
}

// owned returns a fault if the attachment belongs to another owner.
func (w *multusConfigs) owned(ctx context.Context, in *v2beta1.SpiderMultusConfig, attachment string) (field.ErrorList, error) {
	path := field.NewPath("metadata", "annotations").Key(names.AnnotationMultusConfigCRName)
	var configs v2beta1.SpiderMultusConfigList
	if err := w.reader.List(ctx, &configs, client.InNamespace(in.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list SpiderMultusConfigs: %w", err)
	}
	for i := range configs.Items {
		if other := &configs.Items[i]; other.Name != in.Name && compile.AttachmentName(other) == attachment {
			return field.ErrorList{field.Invalid(path, attachment,
				fmt.Sprintf("is the NetworkAttachmentDefinition of SpiderMultusConfig %s; choose another name", other.Name))}, nil
		}
	}
	var existing nadv1.NetworkAttachmentDefinition
	err := w.reader.Get(ctx, client.ObjectKey{Namespace: in.Namespace, Name: attachment}, &existing)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read NetworkAttachmentDefinition %s/%s: %w", in.Namespace, attachment, err)
	}
	owner := metav1.GetControllerOf(&existing)
	if owner == nil && len(existing.OwnerReferences) > 0 {
		owner = &existing.OwnerReferences[0]
	}
	// An owner of the same name may be a former object; Kubernetes then deletes the
	// attachment soon.
	if owner == nil || owner.Kind == "SpiderMultusConfig" && owner.Name == in.Name {
		return nil, nil
	}
	return field.ErrorList{field.Invalid(path, attachment,
		fmt.Sprintf("is a NetworkAttachmentDefinition of %s %s; choose another name", owner.Kind, owner.Name))}, nil
}

func (w *multusConfigs) ValidateDelete(ctx context.Context, in *v2beta1.SpiderMultusConfig) (admission.Warnings, error) {
	reason, err := w.needed(ctx, in)
	if err != nil || reason == "" {
		return nil, err
	}
	if request, err := admission.RequestFromContext(ctx); err == nil && slices.Contains(namespaceDeleters, request.UserInfo.Username) {
		return admission.Warnings{"namespace " + in.Namespace + " is being deleted, but " + reason}, nil
	}
	return nil, forbidden("spidermultusconfigs", in, "%s", reason)
}

// needed returns the pool or the pod that needs the attachment of the
// SpiderMultusConfig, with the way out. It returns "" if there is none.
func (w *multusConfigs) needed(ctx context.Context, in *v2beta1.SpiderMultusConfig) (string, error) {
	attachment := pool.NetworkAttachment{Namespace: in.Namespace, Name: compile.AttachmentName(in)}
	var existing nadv1.NetworkAttachmentDefinition
	err := w.reader.Get(ctx, client.ObjectKey{Namespace: attachment.Namespace, Name: attachment.Name}, &existing)
	if client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("read NetworkAttachmentDefinition %s: %w", attachment, err)
	}
	if err != nil || !metav1.IsControlledBy(&existing, in) {
		// The attachment stays, whatever happens to the SpiderMultusConfig.
		return "", nil
	}
	var list v2beta1.SpiderIPPoolList
	if err := w.reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return "", fmt.Errorf("list SpiderIPPools: %w", err)
	}
	for i := range list.Items {
		for _, name := range list.Items[i].Spec.MultusName {
			if name == attachment.Name || name == attachment.String() {
				return fmt.Sprintf("SpiderIPPool %s names it in spec.multusName; remove %q there first", list.Items[i].Name, name), nil
			}
		}
	}
	cluster := w.cluster
	if cluster.Default == (pool.NetworkAttachment{}) && existing.Labels[names.LabelManagedBy] == names.ManagedByInit {
		// The configuration names no default network. The installation found the
		// network of a node and created this attachment from it.
		cluster.Default = attachment
	}
	user, err := w.user(ctx, attachment, cluster)
	if err != nil || user == "" {
		return "", err
	}
	return fmt.Sprintf("pod %s has an interface of NetworkAttachmentDefinition %s; delete the pods that use it first", user, attachment), nil
}

// user returns a pod ("namespace/name") with an interface of the attachment, or "" if
// there is none.
func (w *multusConfigs) user(ctx context.Context, attachment pool.NetworkAttachment, cluster pool.ClusterNetwork) (string, error) {
	var pods corev1.PodList
	if err := w.reader.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return "", fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Spec.HostNetwork || compile.HasEnded(pod) {
			continue
		}
		interfaces, err := pool.Interfaces(pod.Namespace, pod.Annotations, cluster)
		if err != nil {
			// Multus rejects such annotations, so the pod has no interface.
			continue
		}
		for _, made := range interfaces {
			if made.Attachment == attachment {
				return pod.Namespace + "/" + pod.Name, nil
			}
		}
	}
	return "", nil
}
