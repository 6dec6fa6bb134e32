package admission

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/lease"
)

// podZonePath is the path of the webhook that keeps pods in the zone of their fixed address.
const podZonePath = "/mutate-pod-zone"

// RegisterPodZones adds the webhook that keeps the pods of StatefulSets in the zone of their fixed addresses (fixedAddresses of a
// SpiderCloudNetwork). The Helm value cloud.enabled enables it. Its failure policy is Ignore: the ADD of a pod in another zone is refused. The
// manager's cache must have the index of blockindex.IndexBlocksByHolder.
func RegisterPodZones(mgr ctrl.Manager, log *slog.Logger) error {
	err := ctrl.NewWebhookManagedBy(mgr, &corev1.Pod{}).
		WithDefaulter(&podZones{reader: mgr.GetClient(), log: log}).
		WithDefaulterCustomPath(podZonePath).
		Complete()
	if err != nil {
		return fmt.Errorf("register the webhook for the zones of pods: %w", err)
	}
	return nil
}

type podZones struct {
	reader client.Reader
	log    *slog.Logger
}

// Default requires a node of the zone of the pod's fixed address. It refuses no pod, and reads only from the cache.
func (w *podZones) Default(ctx context.Context, pod *corev1.Pod) error {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != "StatefulSet" || owner.APIVersion != "apps/v1" || pod.Spec.HostNetwork || pod.Name == "" {
		return nil
	}
	zone, err := w.zoneOf(ctx, lease.PodKey{Namespace: pod.Namespace, Name: pod.Name})
	if err != nil {
		w.log.WarnContext(ctx, "a pod is not kept in the zone of its fixed address", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return nil
	}
	if zone != "" {
		requireZone(pod, zone)
	}
	return nil
}

// zoneOf returns the zone of the addresses that are fixed for a pod, "" for none.
func (w *podZones) zoneOf(ctx context.Context, key lease.PodKey) (string, error) {
	blocks, err := blockindex.BlocksOfHolder(ctx, w.reader, key)
	if err != nil {
		return "", fmt.Errorf("read the blocks of the pod: %w", err)
	}
	fixedFor := lease.Owner{Kind: lease.KindPod, Namespace: key.Namespace, Name: key.Name}.String()
	for i := range blocks {
		for _, l := range blocks[i].Spec.Leases {
			if l.FixedFor != fixedFor || l.State != v2beta1.LeaseInUse && l.State != v2beta1.LeaseRetained {
				continue
			}
			var pool v2beta1.SpiderIPPool
			if err := w.reader.Get(ctx, client.ObjectKey{Name: l.Pool}, &pool); client.IgnoreNotFound(err) != nil {
				return "", fmt.Errorf("read SpiderIPPool %s: %w", l.Pool, err)
			}
			if zone := pool.Labels[names.LabelCloudZone]; zone != "" {
				return zone, nil
			}
		}
	}
	return "", nil
}

// requireZone adds the zone to each of the alternatives that the pod requires of its node.
func requireZone(pod *corev1.Pod, zone string) {
	wanted := corev1.NodeSelectorRequirement{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := &pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if *required == nil {
		*required = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{wanted}}}}
	}
	for i := range (*required).NodeSelectorTerms {
		term := &(*required).NodeSelectorTerms[i]
		if len(term.MatchExpressions)+len(term.MatchFields) == 0 {
			continue // it matches no node, and with the zone it would match some
		}
		has := slices.ContainsFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == wanted.Key && r.Operator == wanted.Operator && slices.Equal(r.Values, wanted.Values)
		})
		if !has {
			term.MatchExpressions = append(term.MatchExpressions, wanted)
		}
	}
}
