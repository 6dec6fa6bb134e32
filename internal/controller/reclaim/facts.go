package reclaim

import (
	"context"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipset"
	"spiderpool.dev/spiderpool/internal/kube"
	"spiderpool.dev/spiderpool/internal/kube/cached"
	"spiderpool.dev/spiderpool/internal/lease"
	domain "spiderpool.dev/spiderpool/internal/reclaim"
)

// labelVirtualMachine is on the pods of a virtual machine (KubeVirt,
// kubevirt.io/api/core/v1).
const labelVirtualMachine = "vm.kubevirt.io/name"

// facts observes what reclaim judges by. What cannot be read is not known.
type facts struct {
	reader client.Reader
	// kubevirt: virtual machines are looked up. A cache would watch them, and most
	// clusters have none; without it they are taken to be gone, to be asked about.
	kubevirt bool
	// fixed returns the blocks with addresses that are fixed for the owner.
	fixed func(ctx context.Context, owner string) ([]v2beta1.SpiderIPBlock, error)
}

// cachedFacts asks the manager's cache.
func cachedFacts(c client.Client) facts {
	return facts{reader: c, fixed: func(ctx context.Context, owner string) ([]v2beta1.SpiderIPBlock, error) {
		_, namespace, name, _ := domain.ParseOwner(owner)
		return cached.BlocksOfHolder(ctx, c, namespace+"/"+name)
	}}
}

// liveFacts asks the API server.
func liveFacts(live client.Reader) facts {
	return facts{reader: live, kubevirt: true, fixed: func(ctx context.Context, owner string) ([]v2beta1.SpiderIPBlock, error) {
		var list v2beta1.SpiderIPBlockList
		err := live.List(ctx, &list, client.HasLabels{kube.BlockFixedLabel(owner)})
		return list.Items, err
	}}
}

// of returns the facts about a lease. Agents of living nodes judge by what only
// they can see, so pods of such nodes are not looked up.
func (f facts) of(ctx context.Context) func(lease.Lease) domain.Facts {
	return func(l lease.Lease) domain.Facts {
		out := domain.Facts{Owner: f.owner(ctx, l.FixedFor)}
		if l.State != lease.InUse {
			out.Replaced = l.State == lease.Retained && f.replaced(ctx, l)
			return out
		}
		out.Node = f.node(ctx, l.Node)
		if out.Node.Presence == domain.Gone || out.Node.OutOfService {
			out.Pod = f.pod(ctx, l.Pod)
		}
		return out
	}
}

// replaced says whether the owner of a retained address has another one in use in
// its place.
func (f facts) replaced(ctx context.Context, l lease.Lease) bool {
	blocks, err := f.fixed(ctx, l.FixedFor)
	if err != nil {
		return false
	}
	for i := range blocks {
		block, err := kube.BlockOf(&blocks[i])
		if err != nil {
			continue
		}
		for _, other := range block.Leases {
			if other.State == lease.InUse && other.FixedFor == l.FixedFor && other.Interface == l.Interface &&
				ipset.Version(other.Addr) == ipset.Version(l.Addr) {
				return true
			}
		}
	}
	return false
}

func (f facts) node(ctx context.Context, name string) domain.Node {
	var node corev1.Node
	err := f.reader.Get(ctx, client.ObjectKey{Name: name}, &node)
	switch {
	case name == "":
		return domain.Node{}
	case apierrors.IsNotFound(err):
		return domain.Node{Presence: domain.Gone}
	case err != nil:
		return domain.Node{}
	}
	return nodeOf(&node)
}

func nodeOf(node *corev1.Node) domain.Node {
	out := domain.Node{Presence: domain.Exists}
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeOutOfService {
			out.OutOfService = true
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			out.Ready = condition.Status == corev1.ConditionTrue
		}
	}
	return out
}

func (f facts) pod(ctx context.Context, key string) domain.Pod {
	namespace, name, found := strings.Cut(key, "/")
	if !found {
		return domain.Pod{}
	}
	var pod corev1.Pod
	err := f.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &pod)
	if apierrors.IsNotFound(err) {
		return domain.Pod{Presence: domain.Gone}
	}
	if err != nil {
		return domain.Pod{}
	}
	return domain.Pod{
		Presence: domain.Exists, UID: kube.PodUID(pod.UID, pod.Annotations), Phase: string(pod.Status.Phase),
		Deadline: deadline(pod.DeletionTimestamp), HasAddress: len(pod.Status.PodIPs) > 0,
	}
}

func (f facts) owner(ctx context.Context, fixedFor string) domain.Owner {
	kind, namespace, name, ok := domain.ParseOwner(fixedFor)
	switch {
	case !ok:
		return domain.OwnerUnknown
	case kind == domain.KindPod:
		return f.statefulSetPod(ctx, namespace, name)
	case !f.kubevirt:
		return domain.OwnerGone
	}
	return f.virtualMachine(ctx, namespace, name)
}

// statefulSetPod says whether a StatefulSet wants the pod.
func (f facts) statefulSetPod(ctx context.Context, namespace, pod string) domain.Owner {
	name, ordinal, ok := domain.StatefulSetOf(pod)
	if !ok {
		return domain.OwnerUnknown
	}
	var set appsv1.StatefulSet
	err := f.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &set)
	if apierrors.IsNotFound(err) {
		return domain.OwnerGone
	}
	if err != nil {
		return domain.OwnerUnknown
	}
	if first, end := ordinals(&set); ordinal < first || ordinal >= end {
		return domain.OwnerScaledDown
	}
	return domain.OwnerWanted
}

// virtualMachine says whether the machine, its instance or a pod of it exists.
func (f facts) virtualMachine(ctx context.Context, namespace, name string) domain.Owner {
	for _, kind := range []string{"VirtualMachine", "VirtualMachineInstance"} {
		object := &metav1.PartialObjectMetadata{}
		object.SetGroupVersionKind(schema.GroupVersionKind{Group: "kubevirt.io", Version: "v1", Kind: kind})
		err := f.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)
		if err == nil {
			return domain.OwnerWanted
		}
		if !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
			return domain.OwnerUnknown
		}
	}
	var pods corev1.PodList
	err := f.reader.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{labelVirtualMachine: name}, client.Limit(1))
	switch {
	case err != nil:
		return domain.OwnerUnknown
	case len(pods.Items) > 0:
		return domain.OwnerWanted
	}
	return domain.OwnerGone
}
