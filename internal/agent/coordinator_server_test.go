//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/wire"
)

// coordinator makes a SpiderCoordinator with the status.
func (w *world) coordinator(spec v2beta1.CoordinatorSpec, status v2beta1.SpiderCoordinatorStatus) *v2beta1.SpiderCoordinator {
	object := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: w.name("coordinator")}, Spec: spec}
	kubetest.Create(w, w, object)
	object.Status = status
	if err := w.Status().Update(w.Context(), object); err != nil {
		w.Fatal(err)
	}
	return object
}

var synced = v2beta1.SpiderCoordinatorStatus{
	Phase: v2beta1.CoordinatorSynced, OverlayPodCIDR: []string{"10.244.0.0/16"}, ServiceCIDR: []string{"10.96.0.0/12"},
}

func TestCoordinatorIsCachedAndSurvivesOutage(t *testing.T) {
	w := newWorld(t)
	server := newSwitch(t)
	kubeClient, err := agentclient.NewClient(server.config(t, "coordinator-node"))
	if err != nil {
		t.Fatal(err)
	}
	c := newCoordinator(kubeClient, nil, nil, config.Agent{CoordinatorName: w.name("coordinator")})
	now := time.Now()
	c.objects.Now = func() time.Time { return now }
	expire := func() { now = now.Add(coordinatorTTL) }
	mtu := func(want int) {
		t.Helper()
		object, err := c.current(t.Context())
		if err != nil || object.Spec.VethMTU == nil || *object.Spec.VethMTU != want {
			t.Errorf("got %+v, %v; want the one with vethMTU %d", object, err, want)
		}
	}
	refused := func(part string) {
		t.Helper()
		_, err := c.current(t.Context())
		wantCode(t, CNIError(err), wire.CodeTryAgainLater, part)
	}
	change := func(object *v2beta1.SpiderCoordinator, mtu int, phase v2beta1.CoordinatorPhase, reason string) {
		t.Helper()
		object.Spec.VethMTU = &mtu
		if err := w.Update(t.Context(), object); err != nil {
			t.Fatal(err)
		}
		object.Status.Phase, object.Status.Reason = phase, reason
		if err := w.Status().Update(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}

	server.off()
	refused("spiderpool-agent cannot read SpiderCoordinator " + c.cfg.CoordinatorName)
	server.on()
	refused("there is no SpiderCoordinator " + c.cfg.CoordinatorName + "; the installation creates it")
	object := w.coordinator(v2beta1.CoordinatorSpec{VethMTU: new(1401)}, v2beta1.SpiderCoordinatorStatus{})
	refused(`does not know the networks of services and pods yet (phase "")`)

	change(object, 1402, v2beta1.CoordinatorSynced, "")
	mtu(1402)
	change(object, 1403, v2beta1.CoordinatorSynced, "")
	mtu(1402)
	expire()
	mtu(1403)

	server.off()
	expire()
	mtu(1403)
	server.on()
	change(object, 1404, v2beta1.CoordinatorNotReady, "serviceCIDR: found in none of: x")
	expire()
	refused(`does not know the networks of services and pods yet (phase "NotReady"): serviceCIDR: found in none of: x`)

	change(object, 1405, v2beta1.CoordinatorSynced, "")
	mtu(1405)
	kubetest.Remove(t, w, object)
	expire()
	refused("there is no SpiderCoordinator")
	server.off()
	refused("cannot read SpiderCoordinator")
}

func TestDisabledCoordinatorNeedsNoNetworks(t *testing.T) {
	w := newWorld(t)
	object := w.coordinator(v2beta1.CoordinatorSpec{Mode: new(v2beta1.ModeDisabled)}, v2beta1.SpiderCoordinatorStatus{Phase: v2beta1.CoordinatorNotReady})
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", "coordinator-node"))
	if err != nil {
		t.Fatal(err)
	}
	c := newCoordinator(kubeClient, nil, nil, config.Agent{CoordinatorName: object.Name})
	if got, err := c.current(t.Context()); err != nil || !isMode(got, v2beta1.ModeDisabled) {
		t.Errorf("got %+v, %v", got, err)
	}
	if table, ok := c.hostRuleTable(t.Context()); ok {
		t.Errorf("table %d is kept for pods that get no routes", table)
	}
}

func TestHostRuleTableDefaultsTo500(t *testing.T) {
	w := newWorld(t)
	object := w.coordinator(v2beta1.CoordinatorSpec{}, synced)
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", "coordinator-node"))
	if err != nil {
		t.Fatal(err)
	}
	c := newCoordinator(kubeClient, nil, nil, config.Agent{CoordinatorName: object.Name})
	if table, ok := c.hostRuleTable(t.Context()); !ok || table != 500 {
		t.Errorf("table %d, %t, want 500", table, ok)
	}
	object.Spec.HostRuleTable = new(501)
	if err := w.Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	c.objects.Forget(object.Name)
	if table, ok := c.hostRuleTable(t.Context()); !ok || table != 501 {
		t.Errorf("table %d, %t, want 501", table, ok)
	}
	c.cfg.CoordinatorName = w.name("missing")
	if table, ok := c.hostRuleTable(t.Context()); ok {
		t.Errorf("table %d, though the configuration is not known", table)
	}
}

func TestPluginGetsNetworksAndAnnotations(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	object := w.coordinator(v2beta1.CoordinatorSpec{Mode: new(v2beta1.ModeUnderlay)}, synced)
	agent := w.agent(node, func(cfg *config.Agent) { cfg.CoordinatorName = object.Name })
	ask := func(pod *corev1.Pod) wire.CoordinatorReply {
		t.Helper()
		reply, err := agent.Coordinator(t.Context(), wire.CoordinatorRequest{Attachment: attachment(pod, "c1", "eth0")})
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}

	pod := w.pod("several", node, annotated(names.AnnotationMultusNetworks, "a,b@fast,c", names.AnnotationPodDefaultRouteNIC, "net1"))
	reply := ask(pod)
	if !slices.Equal(reply.PodInterfaces, []string{"eth0", "net1", "fast", "net3"}) || reply.PodDefaultRouteNIC != "net1" {
		t.Errorf("got %+v", reply)
	}
	if !slices.Equal(reply.Config.OverlayPodCIDR, networks("10.244.0.0/16")) || !slices.Equal(reply.Config.ServiceCIDR, networks("10.96.0.0/12")) || reply.Config.Mode != "underlay" {
		t.Errorf("got %+v", reply.Config)
	}
	if reply = ask(w.pod("plain", node)); !slices.Equal(reply.PodInterfaces, []string{"eth0"}) || reply.PodDefaultRouteNIC != "" {
		t.Errorf("a pod without annotations: %+v", reply)
	}
	// Multus complains of the annotation, and the coordinator does without.
	if reply = ask(w.pod("faulty", node, annotated(names.AnnotationMultusNetworks, "[{"))); reply.PodInterfaces != nil {
		t.Errorf("interfaces of an annotation that cannot be read: %v", reply.PodInterfaces)
	}
}

func TestPluginGetsReasonForNoPlan(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	object := w.coordinator(v2beta1.CoordinatorSpec{}, v2beta1.SpiderCoordinatorStatus{Phase: v2beta1.CoordinatorSynced, ServiceCIDR: []string{"services"}})
	server := newSwitch(t)
	a := w.agentAt(server.config(t, node), node, func(cfg *config.Agent) { cfg.CoordinatorName = object.Name })
	pod, elsewhere := w.pod("here", node), w.pod("elsewhere", w.node("n2"))
	plan := func(at wire.Attachment) error {
		_, err := a.Coordinator(t.Context(), wire.CoordinatorRequest{Attachment: at})
		return err
	}
	nobody := attachment(pod, "c1", "eth0")
	nobody.PodName, nobody.PodUID = "nobody", ""

	wantCode(t, plan(attachment(elsewhere, "c1", "eth0")), wire.CodeRefused, "spiderpool-agent cannot find pod "+w.namespace+"/elsewhere")
	wantCode(t, plan(nobody), wire.CodeRefused, "spiderpool-agent cannot find pod "+w.namespace+"/nobody")
	wantCode(t, plan(attachment(pod, "c1", "eth0")), wire.CodeInvalidConfig, object.Name+" is invalid", `status.serviceCIDR[0]: Invalid value: "services"`)
	kubetest.Remove(t, w, object)
	kubetest.Eventually(t, func(context.Context) error {
		err := plan(attachment(pod, "c1", "eth0"))
		var failure *wire.Error
		if !errors.As(err, &failure) || failure.Code != wire.CodeTryAgainLater || !strings.Contains(failure.Msg, "there is no SpiderCoordinator") {
			return fmt.Errorf("got %v, want to be told that there is no SpiderCoordinator", err)
		}
		return nil
	})
	server.off()
	wantCode(t, plan(nobody), wire.CodeTryAgainLater, "spiderpool-agent cannot find pod "+w.namespace+"/nobody")
}
