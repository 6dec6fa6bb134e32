package kubetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// EndpointsPerService is the number of endpoints of each of Services.
const EndpointsPerService = 10

// Services creates n services with their endpoints, for measurements of a large cluster,
// and returns their namespace.
func Services(tb testing.TB, c client.Client, n int) (namespace string) {
	tb.Helper()
	namespace, began := Namespace(tb, c), time.Now()
	Each(tb, n, func(ctx context.Context, i int) error {
		return errors.Join(c.Create(ctx, EndpointSlice(namespace, i)), c.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("service-%d", i), Labels: map[string]string{"app": "web"}},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
		}))
	})
	tb.Logf("%d services with %d endpoints created in %s", n, n*EndpointsPerService, time.Since(began).Round(time.Second))
	return namespace
}

// EndpointSlice is that of the i-th of Services.
func EndpointSlice(namespace string, i int) *discoveryv1.EndpointSlice {
	name := fmt.Sprintf("service-%d", i)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-x7k2p", Labels: map[string]string{
			discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io",
		}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080)}},
	}
	for k := range EndpointsPerService {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 6+i/6000, i/25%240, 1+i%25*EndpointsPerService+k)},
			NodeName:  ptr.To(fmt.Sprintf("node-%d", k)), Zone: ptr.To("zone-a"),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: fmt.Sprintf("%s-6d4cf56db6-%d", name, k), UID: "7b8a2f0e-6a5e-4b57-9d6e-0e8f3a1c2b4d"},
			Hints:      &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "zone-a"}}},
		})
	}
	return slice
}
