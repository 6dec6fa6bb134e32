//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/tokenauth"
	"spiderpool.dev/spiderpool/internal/rpc"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// world is the cluster of one test: objects on the shared API server.
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
		if err := c.DeleteAllOf(context.Background(), &v2beta1.SpiderReservedIP{}); err != nil {
			t.Error(err)
		}
	})
	kubetest.BlockPolicies(t)
	return w
}

// name returns a name unique to the test.
func (w *world) name(base string) string { return w.namespace + "-" + base }

func (w *world) node(name string) string {
	name = w.name(name)
	if !w.nodes[name] {
		w.nodes[name] = true
		kubetest.Create(w, w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": "a"}}})
	}
	return name
}

// pool creates a pool with the labels that the controller would add.
func (w *world) pool(name string, change func(*v2beta1.SpiderIPPool)) string {
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: w.name(name)}}
	change(pool)
	if pool.Labels == nil {
		pool.Labels = map[string]string{names.LabelPoolUnbound: "true"}
		if len(pool.Spec.NodeName) == 1 {
			pool.Labels = map[string]string{names.LabelPoolNode: pool.Spec.NodeName[0]}
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

// kill removes a pod at once, because no kubelet terminates it.
func (w *world) kill(pod *corev1.Pod) {
	if err := w.Delete(w.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		w.Fatal(err)
	}
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

// agent runs an agent for the node until the test ends or stop is called, and
// waits until it serves.
func (w *world) agent(node string, change ...func(*config.Agent)) *running {
	w.Helper()
	return w.agentAt(kubetest.Role(w, "spiderpool-agent", "kube-system", node), node, change...)
}

func (w *world) agentAt(server *rest.Config, node string, change ...func(*config.Agent)) *running {
	w.Helper()
	r := w.start(server, node, change...)
	kubetest.Eventually(w, func(ctx context.Context) error { return r.Status(ctx) })
	return r
}

// start runs an agent and does not wait.
func (w *world) start(server *rest.Config, node string, change ...func(*config.Agent)) *running {
	w.Helper()
	dir := w.TempDir()
	cfg, err := config.Default().Agent(func(name string) string {
		return map[string]string{config.EnvNodeName: node, config.EnvPodName: "agent", config.EnvPodNamespace: "kube-system"}[name]
	})
	if err != nil {
		w.Fatal(err)
	}
	cfg.SocketPath, cfg.StateDir = filepath.Join(dir, "s"), filepath.Join(dir, "state")
	cfg.HealthPort, cfg.CRISockets = 0, nil
	for _, f := range change {
		f(&cfg)
	}
	kubeClient, err := agentclient.NewClient(server)
	if err != nil {
		w.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("SPIDERPOOL_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", node)
	}
	ctx, cancel := context.WithCancel(context.Background())
	// The runtimes of tests list a sandbox before it is used.
	protect := func(next http.Handler) (http.Handler, error) { return tokenauth.New(server, "/metrics", next, log) }
	a, err := newAgent(ctx, cfg, options{bindAddress: "127.0.0.1", minLeaseAge: time.Nanosecond, protect: protect}, kubeClient, log)
	if err != nil {
		w.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	r := &running{Client: rpc.Client{Socket: cfg.SocketPath}, agent: a}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("agent of node %s: %v", node, err)
		}
	})
	w.Cleanup(r.stop)
	return r
}

// attachment creates a NetworkAttachmentDefinition in the namespace of the test.
func (w *world) attachment(name, config string) {
	nad := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}}
	nad.Spec.Config = config
	kubetest.Create(w, w, nad)
}

// breaker is a proxy between an agent and the API server. Opening it causes an outage.
type breaker struct {
	broken atomic.Bool
	mu     sync.Mutex
	conns  []net.Conn
}

func newSwitch(*testing.T) *breaker { return &breaker{} }

// config reaches the API server through the breaker.
func (b *breaker) config(t *testing.T, node string) *rest.Config {
	server := kubetest.Role(t, "spiderpool-agent", "kube-system", node)
	server.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if b.broken.Load() {
			return nil, errors.New("connection refused by the test")
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.conns = append(b.conns, conn)
		}
		return conn, err
	}
	return server
}

func (b *breaker) off() {
	b.broken.Store(true)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range b.conns {
		_ = conn.Close()
	}
	b.conns = nil
}

func (b *breaker) on() { b.broken.Store(false) }

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

// leases returns the leases in use, as "ip pod interface container".
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
