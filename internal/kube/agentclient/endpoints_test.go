//go:build apiserver

package agentclient_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// endpointOf is the endpoint of a pod with an address for each interface.
func endpointOf(name, uid string, interfaces ...string) ipam.Endpoint {
	e := ipam.Endpoint{Namespace: "default", Name: name, Pod: name, PodUID: uid, Node: "n1"}
	for i, ifname := range interfaces {
		e.Interfaces = append(e.Interfaces, ipam.EndpointInterface{Interface: ifname, Addresses: []ipam.EndpointAddress{
			{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+1)), Pool: "p"},
		}})
	}
	return e
}

// shown is what the API server has: "uid interface interface", or "none".
func shown(ctx context.Context, c client.Client, name string) (string, error) {
	var object v2beta1.SpiderEndpoint
	err := c.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, &object)
	if apierrors.IsNotFound(err) {
		return "none", nil
	}
	words := []string{object.Status.Current.UID}
	for _, i := range object.Status.Current.IPs {
		words = append(words, i.Interface)
	}
	return strings.Join(words, " "), err
}

// Intentions that arrive before the first is carried out must not undo each other.
func TestIntentionsAboutOneEndpoint(t *testing.T) {
	kubeClient, err := agentclient.NewClient(kubetest.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	const now = 0
	for _, name := range []string{"late", "early", "old"} {
		kubetest.Create(t, c, &corev1.Pod{
			// A pod is known by the UID of this annotation, which a test can choose.
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "u2"}},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
	}
	for name, tc := range map[string]struct {
		before ipam.Endpoint
		intend func(e *agentclient.Endpoints, name string)
		want   string
	}{
		"a late removal keeps the new pod's": {endpointOf("late", "u1", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Set(endpointOf(name, "u2", "eth0"))
			e.Remove("default", name, "u1")
		}, "u2 eth0"},
		"a late write leaves the new pod's": {endpointOf("old", "u2", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Set(endpointOf(name, "u1", "eth0", "net1"))
		}, "u2 eth0"},
		"a late write after the pod's end": {endpointOf("ended", "u2", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Set(endpointOf(name, "u1", "eth0", "net1"))
		}, "u2 eth0"},
		"two interfaces go": {endpointOf("two", "u1", "eth0", "net1", "net2"), func(e *agentclient.Endpoints, name string) {
			e.Without("default", name, "u1", "net1", now)
			e.Without("default", name, "u1", "net2", now)
		}, "u1 eth0"},
		"an interface goes before it was written": {endpointOf("early", "u1", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Set(endpointOf(name, "u2", "eth0", "net1"))
			e.Without("default", name, "u2", "net1", now)
			e.Without("default", name, "u1", "eth0", now)
		}, "u2 eth0"},
		"the removal of another pod hides none": {endpointOf("hidden", "u1", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Remove("default", name, "u1")
			e.Remove("default", name, "u0")
		}, "none"},
		"a removal counts for more than an interface": {endpointOf("all", "u1", "eth0", "net1"), func(e *agentclient.Endpoints, name string) {
			e.Without("default", name, "u1", "net1", now)
			e.Remove("default", name, "u1")
			e.Without("default", name, "u1", "eth0", now)
		}, "none"},
		"another pod's interface is nobody's": {endpointOf("other", "u1", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Without("default", name, "u0", "eth0", now)
		}, "u1 eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			e := agentclient.NewEndpoints(kubeClient, slog.New(slog.DiscardHandler))
			kubetest.Create(t, c, agentclient.EndpointObject(tc.before))
			tc.intend(e, tc.before.Name)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); e.Run(ctx) }()
			defer func() { cancel(); <-done }()
			kubetest.Eventually(t, func(ctx context.Context) error {
				if n := e.Pending(); n > 0 {
					return fmt.Errorf("%d endpoints are pending", n)
				}
				return nil
			})
			if got, err := shown(t.Context(), c, tc.before.Name); err != nil || got != tc.want {
				t.Errorf("shows %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}
