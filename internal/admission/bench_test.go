package admission

import (
	"context"
	"fmt"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
)

// benchPool is one of many, of 16 addresses.
func benchPool(i int) *v2beta1.SpiderIPPool {
	subnet := fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)
	return &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pool-%d", i)},
		Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: subnet, IPs: []string{fmt.Sprintf("10.%d.%d.16-10.%d.%d.31", i>>8, i&255, i>>8, i&255)}}},
	}
}

// BenchmarkPoolIsCreated judges a pool beside others, whose subnets it is compared
// with: some 20 ns each.
func BenchmarkPoolIsCreated(b *testing.B) {
	for _, others := range []int{10, 5000} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			index := poolindex.New()
			for i := range others {
				index.SetPool(benchPool(i))
			}
			w := &pools{index: index}
			next := benchPool(others)
			for b.Loop() {
				if err := w.Default(b.Context(), next); err != nil {
					b.Fatal(err)
				}
				if _, err := w.ValidateCreate(b.Context(), next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// cache returns its objects without copies, like the controller's cache.
type cache struct {
	client.Reader
	pods       []corev1.Pod
	attachment nadv1.NetworkAttachmentDefinition
}

func (c *cache) Get(_ context.Context, _ client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	if out, ok := o.(*nadv1.NetworkAttachmentDefinition); ok {
		*out = c.attachment
	}
	return nil
}

func (c *cache) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	if out, ok := list.(*corev1.PodList); ok {
		out.Items = c.pods
	}
	return nil
}

// BenchmarkAttachmentIsDeleted looks for a user of it among all pods.
func BenchmarkAttachmentIsDeleted(b *testing.B) {
	config := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "unused", UID: "u"}}
	c := &cache{attachment: nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "unused",
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(config, v2beta1.GroupVersion.WithKind("SpiderMultusConfig"))}}}}
	for i := range 20000 {
		c.pods = append(c.pods, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint(i), Annotations: map[string]string{
			names.AnnotationMultusDefaultNetwork: "kube-system/ipvlan-ens5", names.AnnotationMultusNetworks: "kube-system/macvlan-ens6,kube-system/macvlan-ens7",
		}}})
	}
	w := &multusConfigs{reader: c}
	for b.Loop() {
		if _, err := w.ValidateDelete(b.Context(), config); err != nil {
			b.Fatal(err)
		}
	}
}
