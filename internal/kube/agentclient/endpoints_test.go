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

// endpointOf returns the endpoint of a pod with one address per interface.
func endpointOf(name, uid string, interfaces ...string) ipam.Endpoint {
	e := ipam.Endpoint{Namespace: "default", Name: name, Pod: name, PodUID: uid, Node: "n1"}
	for i, ifname := range interfaces {
		e.Interfaces = append(e.Interfaces, ipam.EndpointInterface{Interface: ifname, Addresses: []ipam.EndpointAddress{
			{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+1)), Pool: "p"},
		}})
	}
	return e
}

// shown returns the stored endpoint, e.g. "u1 eth0 net1", or "none".
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

// Changes that arrive before the first one is written must not undo each other.
func TestPendingChangesOfOneEndpoint(t *testing.T) {
	kubeClient, err := agentclient.NewClient(kubetest.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	const now = 0
	for _, name := range []string{"late", "early", "old"} {
		kubetest.Create(t, c, &corev1.Pod{
			// The API server chooses the UID of a pod, but this annotation replaces it.
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "u2"}},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
	}
	for name, tc := range map[string]struct {
		before ipam.Endpoint
		change func(e *agentclient.Endpoints, name string)
		want   string
	}{
		"late removal keeps next pod": {endpointOf("late", "u1", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Set(endpointOf(name, "u2", "eth0"))
			e.Remove("default", name, "u1")
		}, "u2 eth0"},
		"late write keeps next pod": {endpointOf("old", "u2", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Set(endpointOf(name, "u1", "eth0", "net1"))
		}, "u2 eth0"},
		"late write after pod's end": {endpointOf("ended", "u2", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Set(endpointOf(name, "u1", "eth0", "net1"))
		}, "u2 eth0"},
		"two removed interfaces": {endpointOf("two", "u1", "eth0", "net1", "net2"), func(e *agentclient.Endpoints, name string) {
			e.Without("default", name, "u1", "net1", now)
			e.Without("default", name, "u1", "net2", now)
		}, "u1 eth0"},
		"removed before written": {endpointOf("early", "u1", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Set(endpointOf(name, "u2", "eth0", "net1"))
			e.Without("default", name, "u2", "net1", now)
			e.Without("default", name, "u1", "eth0", now)
		}, "u2 eth0"},
		"removal of two pods": {endpointOf("hidden", "u1", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Remove("default", name, "u1")
			e.Remove("default", name, "u0")
		}, "none"},
		"removal wins over interface": {endpointOf("all", "u1", "eth0", "net1"), func(e *agentclient.Endpoints, name string) {
			e.Without("default", name, "u1", "net1", now)
			e.Remove("default", name, "u1")
			e.Without("default", name, "u1", "eth0", now)
		}, "none"},
		"interface of another pod": {endpointOf("other", "u1", "eth0"), func(e *agentclient.Endpoints, name string) {
			e.Without("default", name, "u0", "eth0", now)
		}, "u1 eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			e := agentclient.NewEndpoints(kubeClient, slog.New(slog.DiscardHandler))
			kubetest.Create(t, c, agentclient.EndpointObject(tc.before))
			tc.change(e, tc.before.Name)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); e.Run(ctx) }()
			defer func() { cancel(); <-done }()
			kubetest.Eventually(t, func(ctx context.Context) error {
				if n := e.Pending(); n > 0 {
					return fmt.Errorf("%d endpoints are still pending", n)
				}
				return nil
			})
			if got, err := shown(t.Context(), c, tc.before.Name); err != nil || got != tc.want {
				t.Errorf("stored %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}
