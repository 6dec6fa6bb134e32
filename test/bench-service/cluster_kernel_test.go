//go:build kernel

package benchservice

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/service"
)

// cluster is an API server with services, and the eBPF programs with their entries.
type cluster struct {
	tb         testing.TB
	client     client.Client
	server     string // host:port of the API server, on this machine's loopback
	kubeconfig string

	table    *service.Table
	programs *bpf.Programs
	group    string // the control group with the programs
	services int
}

func newCluster(tb testing.TB) *cluster {
	tb.Helper()
	environment, err := kubetest.Start()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			tb.Error(err)
		}
	})
	environment.Config.QPS = -1
	c := &cluster{tb: tb, kubeconfig: filepath.Join(tb.TempDir(), "kubeconfig")}
	if c.client, err = client.New(environment.Config, client.Options{Scheme: environment.Scheme}); err != nil {
		tb.Fatal(err)
	}
	user, err := environment.AddUser(envtest.User{Name: "kube-proxy", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	text, err := user.KubeConfig()
	if err == nil {
		err = os.WriteFile(c.kubeconfig, text, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
	c.server = environment.Config.Host
	if u, err := url.Parse(environment.Config.Host); err == nil && u.Host != "" {
		c.server = u.Host
	}
	c.load()
	return c
}

// load attaches the programs to a control group of their own.
func (c *cluster) load() {
	c.tb.Helper()
	group, err := os.MkdirTemp(c.mount("cgroup2"), "spiderpool-bench-")
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() { _ = os.Remove(group) })
	c.group = group
	c.table = service.NewTable(service.Node{Name: "none"}, nil)
	if c.programs, err = bpf.Load(filepath.Join(c.mount("bpf"), "spiderpool"), group); err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() { _ = c.programs.Close() })
	if err := c.programs.Attach(); err != nil {
		c.tb.Fatal(err)
	}
}

func (c *cluster) mount(kind string) string {
	c.tb.Helper()
	dir := c.tb.TempDir()
	if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
		c.tb.Fatalf("mount a %s (root is needed): %v", kind, err)
	}
	c.tb.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// kubeProxy runs kube-proxy on the node until the end of the test.
func (c *cluster) kubeProxy(node *linuxtest.Machine, addr, mode string) {
	c.tb.Helper()
	ctx := c.tb.Context()
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}
	if err := c.client.Create(ctx, object); err != nil {
		c.tb.Fatal(err)
	}
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}
	if err := c.client.Status().Update(ctx, object); err != nil {
		c.tb.Fatal(err)
	}
	forward(c.tb, node, c.server)
	log, err := os.Create(filepath.Join(c.tb.TempDir(), "kube-proxy.log"))
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); err == nil && c.tb.Failed() {
			c.tb.Logf("kube-proxy %s:\n%s", mode, text[max(0, len(text)-4000):])
		}
	})
	cmd := exec.Command(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kube-proxy"), "--proxy-mode="+mode, "--kubeconfig="+c.kubeconfig,
		"--hostname-override="+node.Name, "--conntrack-max-per-core=0")
	cmd.Stdout, cmd.Stderr = log, log
	start(c.tb, node, cmd)
}

// forward makes the API server reachable in the machine, at its own address.
func forward(tb testing.TB, m *linuxtest.Machine, address string) {
	tb.Helper()
	var l net.Listener
	err := m.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				in.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					defer pair[0].Close()
					_, _ = io.Copy(pair[0], pair[1])
				}()
			}
		}
	}()
}

// add creates a service with one endpoint, and returns the cluster IP.
func (c *cluster) add(ctx context.Context, name, endpoint string) (netip.Addr, error) {
	one, port, tcp, ready := "", int32(serverPort), corev1.ProtocolTCP, true
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: tcp}}},
	}
	if err := c.client.Create(ctx, s); err != nil {
		return netip.Addr{}, err
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &one, Port: &port, Protocol: &tcp}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{endpoint}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
	if err := c.client.Create(ctx, slice); err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(s.Spec.ClusterIP)
}

// must is add for a service under test.
func (c *cluster) must(name, endpoint string) netip.Addr {
	c.tb.Helper()
	c.services++
	ip, err := c.add(c.tb.Context(), name, endpoint)
	if err != nil {
		c.tb.Fatal(err)
	}
	return ip
}

// grow adds services until there are n, all with one endpoint.
func (c *cluster) grow(n int) {
	c.tb.Helper()
	group, ctx := errgroup.WithContext(c.tb.Context())
	group.SetLimit(16)
	for ; c.services < n; c.services++ {
		i := c.services
		group.Go(func() error {
			_, err := c.add(ctx, fmt.Sprintf("filler-%05d", i), fmt.Sprintf("172.16.%d.%d", 100+i/250, 1+i%250))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		c.tb.Fatal(err)
	}
}

// sync writes all services of the API server to the programs' maps.
func (c *cluster) sync() {
	c.tb.Helper()
	var services corev1.ServiceList
	var slices discoveryv1.EndpointSliceList
	for _, list := range []client.ObjectList{&services, &slices} {
		if err := c.client.List(c.tb.Context(), list, client.InNamespace("default")); err != nil {
			c.tb.Fatal(err)
		}
	}
	for i := range services.Items {
		s, reason, errs := compile.Service(&services.Items[i])
		if len(errs) > 0 {
			c.tb.Fatal(errs.ToAggregate())
		}
		if reason == "" {
			c.table.SetService(s)
		}
	}
	for i := range slices.Items {
		s, errs := compile.EndpointSlice(&slices.Items[i])
		if len(errs) > 0 {
			c.tb.Fatal(errs.ToAggregate())
		}
		c.table.SetSlice(s)
	}
	if err := c.programs.Replace(c.table.All()); err != nil {
		c.tb.Fatal(err)
	}
}

// awaitProxies waits until clients reach a new service through kube-proxy. kube-proxy
// writes all services before it together.
func (c *cluster) awaitProxies(endpoint string, clients []*linuxtest.Machine) {
	c.tb.Helper()
	at, ctx := netip.AddrPortFrom(c.must(fmt.Sprintf("marker-%d", c.services), endpoint), 80).String(), c.tb.Context()
	for _, pod := range clients {
		for deadline := time.Now().Add(10 * time.Minute); ; {
			err := pod.Do(func() error {
				conn, err := net.DialTimeout("tcp", at, time.Second)
				if err == nil {
					conn.Close()
				}
				return err
			})
			if err == nil {
				break
			}
			if ctx.Err() != nil || time.Now().After(deadline) {
				c.tb.Fatalf("pod %s does not reach %s: %v", pod.Name, at, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}
