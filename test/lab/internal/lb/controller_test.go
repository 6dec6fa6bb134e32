package lb

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// recorded is a plane that records its calls.
type recorded chan []placed

func (r recorded) apply(ctx context.Context, all []placed) error {
	select {
	case r <- all:
	case <-ctx.Done():
	}
	return nil
}

// eventually waits until the condition holds for the Service.
func eventually(t *testing.T, client *fake.Clientset, name string, holds func(*corev1.Service) bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		service, err := client.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && holds(service) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("service %s is %+v (%v)", name, service, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestStatusFollowsTheLoadBalancer(t *testing.T) {
	s := guideSnapshot(t)
	client := fake.NewClientset(s.services[0], s.services[1], s.services[2], s.ingresses[0], s.slices[0], s.slices[1], s.slices[2])
	plane, events := make(recorded, 100), record.NewFakeRecorder(10)
	c := newController(client, loadTopology(t, "aws").LoadBalancer.Frontends, plane, slog.New(slog.DiscardHandler), events)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.run(ctx) }()

	eventually(t, client, "nginx-svc-lb", func(service *corev1.Service) bool {
		status := service.Status.LoadBalancer.Ingress
		return len(status) == 1 && status[0].IP == "203.0.113.101" && *status[0].IPMode == corev1.LoadBalancerIPModeProxy
	})
	ingress, err := client.NetworkingV1().Ingresses("default").Get(ctx, "k8s-app-ingress", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for len(ingress.Status.LoadBalancer.Ingress) == 0 && err == nil {
		ingress, err = client.NetworkingV1().Ingresses("default").Get(ctx, "k8s-app-ingress", metav1.GetOptions{})
	}
	if got := ingress.Status.LoadBalancer.Ingress[0].IP; got != "203.0.113.100" {
		t.Errorf("the ingress has address %s", got)
	}

	// An unsupported target type removes the load balancer and sends an event.
	service, err := client.CoreV1().Services("default").Get(ctx, "nginx-svc-lb", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	service.Annotations[nlbTargetType] = "instance"
	if _, err := client.CoreV1().Services("default").Update(ctx, service, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, client, "nginx-svc-lb", func(service *corev1.Service) bool { return len(service.Status.LoadBalancer.Ingress) == 0 })
	if event := <-events.Events; !strings.Contains(event, `LoadBalancerNotReady annotation `+nlbTargetType) {
		t.Errorf("event %s", event)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
