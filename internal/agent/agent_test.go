//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/rpc"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// world is a cluster of one test: objects on the shared API server.
type world struct {
	*testing.T
	client.Client
	namespace string
	nodes     map[string]bool
}

func newWorld(t *testing.T) *world {
	c := kubetest.Client(t)
	w := &world{T: t, Client: c, namespace: kubetest.Namespace(t, c), nodes: map[string]bool{}}
	t.Cleanup(func() {
		for _, of := range []client.Object{&v2beta1.SpiderIPBlock{}, &v2beta1.SpiderReservedIP{}} {
			if err := c.DeleteAllOf(context.Background(), of); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// name makes a name that no other test uses.
func (w *world) name(base string) string { return w.namespace + "-" + base }

func (w *world) node(name string) string {
	name = w.name(name)
	if !w.nodes[name] {
		w.nodes[name] = true
		kubetest.Create(w, w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": "a"}}})
	}
	return name
}

// pool makes a pool as the controller would label it.
func (w *world) pool(name string, change func(*v2beta1.SpiderIPPool)) string {
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: w.name(name)}}
	change(pool)
	if pool.Labels == nil {
		pool.Labels = map[string]string{v2beta1.LabelPoolUnbound: "true"}
		if len(pool.Spec.NodeName) == 1 {
			pool.Labels = map[string]string{v2beta1.LabelPoolNode: pool.Spec.NodeName[0]}
		}
	}
	kubetest.Create(w, w, pool)
	return pool.Name
}

func v4(ips ...string) func(*v2beta1.SpiderIPPool) {
	return func(p *v2beta1.SpiderIPPool) {
		p.Spec.Subnet, p.Spec.IPs, p.Spec.Gateway = "10.1.0.0/16", ips, new("10.1.0.1")
	}
}

func v6(ips ...string) func(*v2beta1.SpiderIPPool) {
	return func(p *v2beta1.SpiderIPPool) { p.Spec.Subnet, p.Spec.IPs = "fd00:1::/64", ips }
}

func (w *world) pod(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, f := range change {
		f(pod)
	}
	kubetest.Create(w, w, pod)
	return pod
}

func annotated(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			p.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

// running is an agent of a node.
type running struct {
	rpc.Client
	*agent
	stop func()
}

// agent runs an agent for the node until the test ends or stop is called.
func (w *world) agent(node string, change ...func(*config.Agent)) *running {
	w.Helper()
	dir := w.TempDir()
	file := config.Default()
	cfg, err := file.Agent(func(name string) string {
		return map[string]string{config.EnvNodeName: node, config.EnvPodName: "agent", config.EnvPodNamespace: "kube-system"}[name]
	})
	if err != nil {
		w.Fatal(err)
	}
	cfg.SocketPath, cfg.StateDir = filepath.Join(dir, "s"), filepath.Join(dir, "state")
	cfg.HealthPort, cfg.Metrics.Enabled = 0, false
	cfg.IPAM.EnableStatefulSet = true
	for _, f := range change {
		f(&cfg)
	}
	kubeClient, err := kube.NewClient(kubetest.Config(w))
	if err != nil {
		w.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("SPIDERPOOL_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := assemble(ctx, cfg, kubeClient, log)
	if err != nil {
		w.Fatal(err)
	}
	a.bind = "127.0.0.1"
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	stopped := false
	r := &running{Client: rpc.Client{Socket: cfg.SocketPath}, agent: a}
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.Errorf("agent of node %s: %v", node, err)
		}
	}
	w.Cleanup(r.stop)
	kubetest.Eventually(w, func(ctx context.Context) error { return r.Status(ctx) })
	return r
}

func attachment(pod *corev1.Pod, container, ifname string) wire.Attachment {
	return wire.Attachment{ContainerID: container, Interface: ifname, NetNS: "/run/netns/x",
		PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: string(pod.UID)}
}

// addrs returns the addresses of a reply, as text, sorted.
func addrs(reply wire.AddReply) []string {
	texts := []string{}
	for _, a := range reply.Addresses {
		texts = append(texts, a.Prefix.Addr().String())
	}
	slices.Sort(texts)
	return texts
}

// leases returns who holds which address, as "ip pod interface container".
func (w *world) leases() []string {
	var list v2beta1.SpiderIPBlockList
	if err := w.List(w.Context(), &list); err != nil {
		w.Fatal(err)
	}
	texts := []string{}
	for _, b := range list.Items {
		for _, l := range b.Spec.Leases {
			if l.State == v2beta1.LeaseInUse {
				texts = append(texts, fmt.Sprintf("%s %s %s %s", l.IP, l.Pod, l.Interface, l.ContainerID))
			}
		}
	}
	slices.Sort(texts)
	return texts
}

func wantCode(t *testing.T, err error, code uint, parts ...string) {
	t.Helper()
	var failure *wire.Error
	if !errors.As(err, &failure) || failure.Code != code {
		t.Fatalf("got %v, want code %d", err, code)
	}
	for _, part := range parts {
		if !strings.Contains(failure.Error(), part) {
			t.Errorf("%q is not in %q", part, failure)
		}
	}
}

func TestDualStackPodFromAddToDelete(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	p4, p6 := w.pool("v4", v4("10.1.0.10-10.1.0.20")), w.pool("v6", v6("fd00:1::10-fd00:1::20"))
	a := w.agent(node)
	pod := w.pod("a", node, annotated(v2beta1.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q],"ipv6":[%q]}`, p4, p6)))

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
	if want := []wire.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gw: netip.MustParseAddr("10.1.0.1")}}; !slices.Equal(reply.Routes, want) {
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

func TestFailureNamesEveryPoolInTheErrorAndInAnEvent(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	other := w.pool("other", func(p *v2beta1.SpiderIPPool) { v4("10.1.1.0-10.1.1.9")(p); p.Spec.NodeName = []string{"elsewhere"} })
	off := w.pool("off", func(p *v2beta1.SpiderIPPool) { v4("10.1.2.0-10.1.2.9")(p); p.Spec.Disable = new(true) })
	a := w.agent(node)
	pod := w.pod("a", node, annotated(v2beta1.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q,%q]}`, other, off)))
	_, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, "c1", "eth0")})
	wantCode(t, err, wire.CodeNoAddress, other+": spec.nodeName [elsewhere] does not include this pod's node", off+": spec.disable is true")
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

	// A pool that the controller has not labelled yet, made now, lets the pod start.
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

func TestPodOfAnotherNodeIsRefused(t *testing.T) {
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
