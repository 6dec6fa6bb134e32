//go:build apiserver

package agentclient_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/service"
)

// entries is a ServiceSink that keeps the entries as text.
type entries struct {
	mu    sync.Mutex
	lines map[string]bool
}

func (e *entries) Replace(all service.Diff) error {
	e.mu.Lock()
	e.lines = map[string]bool{}
	e.mu.Unlock()
	return e.Change(all)
}

func (e *entries) Change(d service.Diff) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for line := range strings.Lines(d.String()) {
		sign, entry := line[0], strings.TrimSpace(line[2:])
		key, _, _ := strings.Cut(entry, " ")
		if key == "set" {
			continue
		}
		for old := range e.lines {
			if strings.HasPrefix(old, key+" ") {
				delete(e.lines, old)
			}
		}
		if sign == '+' {
			// The number of the set depends on the other services.
			_, count, _ := strings.Cut(entry, "count")
			e.lines[key+" "+strings.TrimSpace("count"+count)] = true
		}
	}
	return nil
}

func (e *entries) Applied(agentclient.EventAge) {}

func (e *entries) has(line string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lines[line]
}

func (e *entries) eventually(t *testing.T, step, line string, want bool) {
	t.Helper()
	kubetest.Eventually(t, func(context.Context) error {
		if e.has(line) == want {
			return nil
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		return fmt.Errorf("%s: entry %q is %t, want %t, in %v", step, line, !want, want, e.lines)
	})
}

func webService(namespace string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func webSlice(namespace, name string, addresses ...string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](8080)}},
	}
	for _, a := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return slice
}

func TestServicesAreFollowed(t *testing.T) {
	c := kubetest.Client(t)
	namespace, node := kubetest.Namespace(t, c), "services-node"
	web := webService(namespace)
	kubetest.Create(t, c, web, webSlice(namespace, "web-1", "10.6.0.1", "10.6.0.2"))
	clusterIP, nodePort := web.Spec.ClusterIP+":80/TCP ", fmt.Sprintf("192.0.2.77:%d/TCP ", web.Spec.Ports[0].NodePort)

	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", node))
	if err != nil {
		t.Fatal(err)
	}
	sink := &entries{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		agentclient.NewServiceSync(kubeClient, node, nil, sink, nil, slog.New(slog.DiscardHandler)).Run(ctx)
		close(done)
	}()
	defer func() {
		cancel()
		<-done
	}()
	sink.eventually(t, "first list", clusterIP+"count 2", true)

	object := &corev1.Node{} // kubetest.Role created it
	if err := c.Get(t.Context(), client.ObjectKey{Name: node}, object); err != nil {
		t.Fatal(err)
	}
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.77"}}
	if err := c.Status().Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	sink.eventually(t, "the node has an address", nodePort+"count 2", true)
	kubetest.Create(t, c, webSlice(namespace, "web-2", "10.6.0.3"))
	sink.eventually(t, "another slice", nodePort+"count 3", true)

	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"service.kubernetes.io/service-proxy-name":"mesh"}}}`))
	if err := c.Patch(t.Context(), web, patch); err != nil {
		t.Fatal(err)
	}
	sink.eventually(t, "another proxy", clusterIP+"count 3", false)
	patch = client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"service.kubernetes.io/service-proxy-name":null}}}`))
	if err := c.Patch(t.Context(), web, patch); err != nil {
		t.Fatal(err)
	}
	sink.eventually(t, "our proxy again", clusterIP+"count 3", true)
	kubetest.Remove(t, c, web)
	sink.eventually(t, "deleted", clusterIP+"count 3", false)
}

func TestServicesAreRead(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	kubetest.Create(t, c, webService(namespace), webSlice(namespace, "web-1", "10.6.0.1"), webSlice(namespace, "web-2", "10.6.0.2"))
	podIn(t, c, namespace, "client", corev1.PodStatus{})

	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", "read-node"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	if err := kubeClient.EachService(t.Context(), func(s *corev1.Service) { found[s.Namespace+"/"+s.Name] = true }); err != nil {
		t.Fatal(err)
	}
	if !found[namespace+"/web"] || !found["default/kubernetes"] {
		t.Errorf("services: %v", found)
	}
	slices := 0
	if err := kubeClient.EachEndpointSlice(t.Context(), service.Name{Namespace: namespace, Name: "web"}, func(*discoveryv1.EndpointSlice) { slices++ }); err != nil || slices != 2 {
		t.Errorf("%d slices of the service, %v", slices, err)
	}
	if err := kubeClient.EachEndpointSlice(t.Context(), service.Name{}, func(*discoveryv1.EndpointSlice) { slices++ }); err != nil || slices < 5 {
		t.Errorf("%d slices of all services, %v", slices-2, err)
	}
	if node, err := kubeClient.ReadNode(t.Context(), "read-node"); err != nil || node.Name != "read-node" {
		t.Errorf("node %v, %v", node, err)
	}
	if _, err := kubeClient.ReadNode(t.Context(), "no-node"); err == nil || !strings.Contains(err.Error(), "read node no-node: ") {
		t.Errorf("got %v", err)
	}
	if pod, err := kubeClient.ReadPod(t.Context(), namespace, "client"); err != nil || pod.Spec.Containers[0].Name != "c" {
		t.Errorf("pod %v, %v", pod, err)
	}
	if _, err := kubeClient.ReadPod(t.Context(), namespace, "no-pod"); err == nil || !strings.Contains(err.Error(), "read pod "+namespace+"/no-pod: ") {
		t.Errorf("got %v", err)
	}
}
