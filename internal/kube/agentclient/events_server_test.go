//go:build apiserver

package agentclient_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/observe"
)

func TestManyAgentsWriteOneEvent(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	long := strings.Repeat("a", 199) + "-" + strings.Repeat("b", 53)
	for _, about := range []*corev1.ObjectReference{
		{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: "web", UID: "u1"},
		{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice", Namespace: namespace, Name: long, UID: "u2"},
	} {
		for _, node := range []string{"once-1", "once-2"} {
			kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", node))
			if err != nil {
				t.Fatal(err)
			}
			events := agentclient.NewEvents(t.Context(), kubeClient, node)
			defer events.Close()
			for _, text := range []string{"spec.ports[0].protocol: QUIC", "spec.ports[1].protocol: QUIC"} {
				if err := events.Once(t.Context(), about, observe.InvalidService(text)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	var found corev1.EventList
	if err := c.List(t.Context(), &found, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range found.Items {
		count[e.InvolvedObject.Name+" "+e.Message]++
	}
	if len(found.Items) != 4 || len(count) != 4 {
		t.Errorf("events %v, want one for each object and text", count)
	}
}
