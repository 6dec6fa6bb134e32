package admission

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// podAddressesPath is the path of the webhook that requests addresses for pods.
const podAddressesPath = "/mutate-pod-addresses"

// RegisterPodAddresses adds the webhook that requests addresses for pods, so that the
// scheduler counts them (package nodeaddress). The Helm value addressResource.enabled enables
// it. Its failure policy is Ignore: a pod without a request starts as it does without the webhook.
func RegisterPodAddresses(ctx context.Context, mgr ctrl.Manager, cluster pool.ClusterNetwork, log *slog.Logger) error {
	if err := indexOffers(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	err := ctrl.NewWebhookManagedBy(mgr, &corev1.Pod{}).
		WithDefaulter(&podAddresses{reader: mgr.GetClient(), cluster: cluster, log: log}).
		WithDefaulterCustomPath(podAddressesPath).
		Complete()
	if err != nil {
		return fmt.Errorf("register the webhook for the addresses of pods: %w", err)
	}
	return nil
}

// indexOffer is the index of nodes by the address resources that they offer.
const indexOffer = "offer"

// indexOffers adds the index for keepOffered to a cache. Call it before the cache starts.
func indexOffers(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &corev1.Node{}, indexOffer, func(o client.Object) []string {
		var offers []string
		for name := range compile.AddressResources(o.(*corev1.Node).Status.Allocatable) {
			offers = append(offers, string(name))
		}
		return offers
	})
	if err != nil {
		return fmt.Errorf("index nodes by the addresses that they offer: %w", err)
	}
	return nil
}

type podAddresses struct {
	reader  client.Reader
	cluster pool.ClusterNetwork
	log     *slog.Logger
}

// Default requests one address resource for each interface of the pod that takes addresses
// of default pools. It requests no resource that no node offers: such a pod would never
// start. It refuses no pod.
func (w *podAddresses) Default(ctx context.Context, pod *corev1.Pod) error {
	counts := w.counts(pod)
	err := w.keepOffered(ctx, counts)
	if err == nil && len(counts) > 0 {
		var named bool
		if named, err = w.namespaceNamesPools(ctx, pod.Namespace); err == nil && !named {
			addResources(pod, counts)
		}
	}
	if err != nil {
		w.log.WarnContext(ctx, "a pod gets no request of addresses, so the scheduler does not count it", "pod", pod.Namespace+"/"+pod.Name+pod.GenerateName, "err", err)
	}
	return nil
}

// counts returns the resources of the pod's interfaces, none if the pod chooses its pools.
func (w *podAddresses) counts(pod *corev1.Pod) map[corev1.ResourceName]int64 {
	if pod.Spec.HostNetwork || pool.ChoosesPools(pod.Annotations) {
		return nil
	}
	// Multus reports invalid annotations for its networks.
	interfaces, _ := pool.Interfaces(pod.Namespace, pod.Annotations, w.cluster)
	counts := map[corev1.ResourceName]int64{}
	for _, i := range interfaces {
		if name := corev1.ResourceName(i.Attachment.Resource()); i.Attachment != (pool.NetworkAttachment{}) && !requests(pod, name) {
			counts[name]++
		}
	}
	return counts
}

// keepOffered removes the resources that no node offers.
func (w *podAddresses) keepOffered(ctx context.Context, counts map[corev1.ResourceName]int64) error {
	for name := range counts {
		var nodes corev1.NodeList
		if err := w.reader.List(ctx, &nodes, client.MatchingFields{indexOffer: string(name)}, client.Limit(1), client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		if len(nodes.Items) == 0 {
			delete(counts, name)
		}
	}
	return nil
}

// namespaceNamesPools reports whether an annotation of the namespace names pools.
func (w *podAddresses) namespaceNamesPools(ctx context.Context, name string) (bool, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := w.reader.Get(ctx, client.ObjectKey{Name: name}, namespace); err != nil {
		return false, fmt.Errorf("read namespace %s: %w", name, err)
	}
	return pool.NamespaceChoosesPools(namespace.Annotations), nil
}

// addResources adds extended resources to the requests and limits of the first container.
func addResources(pod *corev1.Pod, counts map[corev1.ResourceName]int64) {
	if len(counts) == 0 || len(pod.Spec.Containers) == 0 {
		return
	}
	resources := &pod.Spec.Containers[0].Resources
	for _, list := range []*corev1.ResourceList{&resources.Requests, &resources.Limits} {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		for name, n := range counts {
			(*list)[name] = *resource.NewQuantity(n, resource.DecimalSI)
		}
	}
}
