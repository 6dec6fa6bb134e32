//go:build apiserver

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/journal"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestDualStackPodFromAddToDelete(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	p4, p6 := w.pool("v4", v4("10.1.0.10-10.1.0.20")), w.pool("v6", v6("fd00:1::10-fd00:1::20"))
	a := w.agent(node)
	pod := w.pod("a", node, annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q],"ipv6":[%q]}`, p4, p6)))

	req := wire.AddRequest{Attachment: attachment(pod, "c1", "eth0")}
	reply, err := a.Add(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.Addresses) != 2 || reply.Addresses[0].Pool != p4 || reply.Addresses[1].Pool != p6 {
		t.Fatalf("got %+v", reply)
	}
	if a4 := reply.Addresses[0]; a4.Prefix.Bits() != 16 || a4.Gateway != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("got %+v", a4)
	}
	if want := []inet.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.0.1")}}; !slices.Equal(reply.Routes, want) {
		t.Errorf("routes %v, want %v", reply.Routes, want)
	}
	again, err := a.Add(t.Context(), req)
	if err != nil || !slices.Equal(addrs(again), addrs(reply)) {
		t.Errorf("repeated ADD: %v, %v; want %v", addrs(again), err, addrs(reply))
	}

	key := client.ObjectKey{Namespace: w.namespace, Name: "a"}
	kubetest.Eventually(t, func(ctx context.Context) error {
		var endpoint v2beta1.SpiderEndpoint
		if err := w.Get(ctx, key, &endpoint); err != nil {
			return err
		}
		ips := endpoint.Status.Current.IPs
		if len(ips) != 1 || *ips[0].IPv4 != reply.Addresses[0].Prefix.String() || *ips[0].IPv6Pool != p6 || endpoint.Status.Current.UID != string(pod.UID) ||
			endpoint.Status.OwnerControllerType != "Pod" {
			return fmt.Errorf("endpoint shows %+v", endpoint.Status)
		}
		return nil
	})
	if err := a.Check(t.Context(), wire.CheckRequest{Attachment: req.Attachment, Addresses: []netip.Addr{reply.Addresses[0].Prefix.Addr(), reply.Addresses[1].Prefix.Addr()}}); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	wantCode(t, a.Check(t.Context(), wire.CheckRequest{Attachment: req.Attachment}), wire.CodeConflict, "eth0")

	if err := a.Delete(t.Context(), wire.DeleteRequest{Attachment: req.Attachment}); err != nil {
		t.Fatal(err)
	}
	if got := w.leases(); len(got) != 0 {
		t.Errorf("still leased after DEL: %v", got)
	}
	if err := a.Delete(t.Context(), wire.DeleteRequest{Attachment: req.Attachment}); err != nil {
		t.Errorf("second DEL: %v", err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := w.Get(ctx, key, &v2beta1.SpiderEndpoint{}); client.IgnoreNotFound(err) != nil || err == nil {
			return fmt.Errorf("the endpoint is still there: %v", err)
		}
		return nil
	})
}

func TestErrorAndEventNameEveryPool(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	other := w.pool("other", func(p *v2beta1.SpiderIPPool) { v4("10.1.1.0-10.1.1.9")(p); p.Spec.NodeName = []string{"elsewhere"} })
	off := w.pool("off", func(p *v2beta1.SpiderIPPool) { v4("10.1.2.0-10.1.2.9")(p); p.Spec.Disable = new(true) })
	a := w.agent(node)
	pod := w.pod("a", node, annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q,%q]}`, other, off)))
	_, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, "c1", "eth0")})
	wantCode(t, err, wire.CodeNoAddress, other+": spec.nodeName [elsewhere] does not include the pod's node", off+": spec.disable is true")
	kubetest.Eventually(t, func(ctx context.Context) error {
		var events corev1.EventList
		if err := w.List(ctx, &events, client.InNamespace(w.namespace)); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.InvolvedObject.UID == pod.UID && strings.Contains(e.Message, off+": spec.disable is true") {
				return nil
			}
		}
		return fmt.Errorf("no event about the pod: %v", events.Items)
	})

	// The agent also finds a new pool that the controller has not labelled yet.
	fresh := w.pool("fresh", func(p *v2beta1.SpiderIPPool) {
		v4("10.1.3.1-10.1.3.9")(p)
		p.Labels = map[string]string{}
		p.Spec.Default = new(true)
	})
	late := w.pod("b", node)
	reply, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(late, "c2", "eth0")})
	if err != nil || reply.Addresses[0].Pool != fresh {
		t.Errorf("got %+v, %v", reply, err)
	}
}

func TestPodOfAnotherNodeIsRejected(t *testing.T) {
	w := newWorld(t)
	a := w.agent(w.node("n1"))
	pod := w.pod("a", w.node("n2"))
	_, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, "c1", "eth0")})
	wantCode(t, err, wire.CodeRefused, "does not run on node")
	gone := attachment(pod, "c1", "eth0")
	gone.PodName = "nobody"
	_, err = a.Add(t.Context(), wire.AddRequest{Attachment: gone})
	wantCode(t, err, wire.CodeRefused, "nobody")
	replaced := attachment(w.pod("b", w.node("n1")), "c1", "eth0")
	replaced.PodUID = "another"
	_, err = a.Add(t.Context(), wire.AddRequest{Attachment: replaced})
	wantCode(t, err, wire.CodeRefused, "replaced")
}

func TestReleaseSurvivesOutageAndRestart(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	w.pool("v4", func(p *v2beta1.SpiderIPPool) {
		v4("10.1.0.10-10.1.0.20")(p)
		p.Spec.Default, p.Spec.NodeName = new(true), []string{node}
	})
	state := t.TempDir()
	keep := func(c *config.Agent) { c.StateDir = state }
	away := newSwitch(t)
	a := w.agentAt(away.config(t, node), node, keep)
	pod := w.pod("a", node)
	at := attachment(pod, "c1", "eth0")
	if _, err := a.Add(t.Context(), wire.AddRequest{Attachment: at}); err != nil {
		t.Fatal(err)
	}
	away.off()
	if err := a.Delete(t.Context(), wire.DeleteRequest{Attachment: at}); err != nil {
		t.Fatalf("DEL with the API server away: %v", err)
	}
	_, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, "c2", "eth0")})
	wantCode(t, err, wire.CodeTryAgainLater)
	if got := w.leases(); len(got) != 1 {
		t.Fatalf("leases %v, want the one that could not be released", got)
	}
	a.stop()

	// The next agent starts without the API server and accepts another DEL.
	b := w.start(away.config(t, node), node, keep)
	never := at
	never.ContainerID = "c3"
	kubetest.Eventually(t, func(ctx context.Context) error { return b.Delete(ctx, wire.DeleteRequest{Attachment: never}) })
	if got := b.journal.Len(); got != 2 {
		t.Errorf("%d releases on disk, want 2", got)
	}
	away.on()
	kubetest.Eventually(t, func(context.Context) error {
		if got, left := w.leases(), b.journal.Len(); len(got) != 0 || left != 0 {
			return fmt.Errorf("still leased: %v; %d releases on disk", got, left)
		}
		return nil
	})
}

// The CNI plugin stores a release itself while no agent answers, also next to an agent
// that runs again by then.
func TestRunningAgentTakesReleaseOfPlugin(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	w.pool("v4", func(p *v2beta1.SpiderIPPool) {
		v4("10.1.0.10-10.1.0.20")(p)
		p.Spec.Default, p.Spec.NodeName = new(true), []string{node}
	})
	state := t.TempDir()
	a := w.agent(node, func(c *config.Agent) { c.StateDir = state })
	gone, alive := attachment(w.pod("a", node), "c1", "eth0"), attachment(w.pod("b", node), "c2", "eth0")
	for _, at := range []wire.Attachment{gone, alive} {
		if _, err := a.Add(t.Context(), wire.AddRequest{Attachment: at}); err != nil {
			t.Fatal(err)
		}
	}
	former := alive
	former.ContainerID = "c0" // the DEL of a former sandbox must not free the address
	for _, at := range []wire.Attachment{gone, former} {
		if err := journal.In(state).Begin(at)(true); err != nil {
			t.Fatal(err)
		}
	}
	kubetest.Eventually(t, func(context.Context) error {
		if got, left := w.leases(), journal.In(state).Len(); len(got) != 1 || left != 0 {
			return fmt.Errorf("still leased: %v; %d releases on disk", got, left)
		}
		return nil
	})
	if got := w.leases(); !strings.HasSuffix(got[0], " c2") {
		t.Errorf("the lease of the living sandbox c2 is %v", got)
	}
}

func TestPodGetsAllInterfacesOrNone(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	p4 := w.pool("v4", v4("10.1.0.10-10.1.0.12"))
	w.attachment("net", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"macvlan","master":"eth1","ipam":{"type":"spiderpool","default_ipv4_ippool":["`+p4+`"]}}]}`)
	w.attachment("other", `{"cniVersion":"1.0.0","name":"other","type":"macvlan","ipam":{"type":"host-local"}}`)
	a := w.agent(node)
	networks := annotated(names.AnnotationMultusNetworks, "net,other,net")

	pod := w.pod("a", node, networks)
	req := wire.AddRequest{Attachment: attachment(pod, "c1", "eth0"), DefaultIPv4Pools: []string{p4}}
	if _, err := a.Add(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	// The ADD of eth0 also allocates the addresses of net1 and net3.
	if got := w.leases(); len(got) != 3 || !strings.Contains(strings.Join(got, "\n"), "net3") {
		t.Fatalf("leases %v, want eth0, net1, net3", got)
	}
	req.Attachment.Interface = "net3"
	reply, err := a.Add(t.Context(), req)
	if err != nil || len(reply.Addresses) != 1 {
		t.Errorf("net3: %+v, %v", reply, err)
	}

	second := w.pod("b", node, networks)
	_, err = a.Add(t.Context(), wire.AddRequest{Attachment: attachment(second, "c2", "eth0"), DefaultIPv4Pools: []string{p4}})
	wantCode(t, err, wire.CodeNoAddress, p4)
	if got := w.leases(); len(got) != 3 {
		t.Errorf("leases %v after a refused pod, want those of the first", got)
	}
	for _, ifname := range []string{"net3", "net1", "eth0"} {
		if err := a.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment(pod, "c1", ifname)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.leases(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestStatefulSetAddressesFollowPodToNode(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("n1"), w.node("n2")
	p4 := w.pool("v4", v4("10.1.0.10-10.1.0.40"))
	a, b := w.agent(n1), w.agent(n2)
	web := map[string]string{"app": "web"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "web"}, Spec: appsv1.StatefulSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: web},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	kubetest.Create(t, w, set)
	owned := func(p *corev1.Pod) {
		annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, p4))(p)
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: set.UID, Controller: new(true)}}
	}
	pod := w.pod("web-0", n1, owned)
	at := attachment(pod, "c1", "eth0")
	first, err := a.Add(t.Context(), wire.AddRequest{Attachment: at})
	if err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		return w.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: "web-0"}, &v2beta1.SpiderEndpoint{})
	})
	if err := a.Delete(t.Context(), wire.DeleteRequest{Attachment: at}); err != nil {
		t.Fatal(err)
	}
	w.kill(pod)
	// Other pods take all free addresses.
	for i := range 5 {
		other := w.pod(fmt.Sprintf("other-%d", i), n2, annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, p4)))
		reply, err := b.Add(t.Context(), wire.AddRequest{Attachment: attachment(other, fmt.Sprintf("o%d", i), "eth0")})
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(addrs(reply), addrs(first)) {
			t.Fatalf("%v was given away", addrs(first))
		}
	}
	back := w.pod("web-0", n2, owned)
	second, err := b.Add(t.Context(), wire.AddRequest{Attachment: attachment(back, "c2", "eth0")})
	if err != nil || !slices.Equal(addrs(second), addrs(first)) {
		t.Errorf("got %v, %v; want %v", addrs(second), err, addrs(first))
	}
}

func TestRestartWritesMissingEndpoint(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	p4 := w.pool("v4", v4("10.1.0.10-10.1.0.40"))
	a := w.agent(node)
	pod := w.pod("a", node, annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, p4)))
	if _, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, "c1", "eth0")}); err != nil {
		t.Fatal(err)
	}
	endpoint := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "a"}}
	key := client.ObjectKeyFromObject(endpoint)
	kubetest.Eventually(t, func(ctx context.Context) error { return w.Get(ctx, key, endpoint) })
	a.stop()
	kubetest.Remove(t, w, endpoint)
	w.agent(node)
	kubetest.Eventually(t, func(ctx context.Context) error { return w.Get(ctx, key, endpoint) })
}
