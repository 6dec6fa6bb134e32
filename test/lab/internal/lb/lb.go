// Package lb simulates load balancers with IP targets, like those of the AWS Load Balancer Controller. It supports the
// Service and the Ingress of the AWS guide and is for tests only.
//
// A Service of type LoadBalancer gets a network load balancer. Connections to its address are redirected to a ready
// endpoint at the forwarding namespace (netfilter, DNAT). With preserve_client_ip.enabled=true the client's address is
// kept. A client whose address family has no target is relayed, as on AWS. An Ingress of class alb gets an application
// load balancer: an HTTP proxy with host and path rules that sends the client's address in X-Forwarded-For.
//
// Supported: schemes internal and internet-facing, ip-address-type ipv4 and dualstack, source ranges, Ingress groups.
// Not supported: target-type instance, TLS, health checks, and every other setting; the object then gets an event.
//
// Each load balancer takes one entry of the topology's loadBalancer.frontends and writes its addresses to the object's
// status.
package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"

	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
	"spiderpool.dev/spiderpool/test/lab/internal/vpc"
)

// Config is the configuration of Run.
type Config struct {
	// Kubeconfig is a file. Run connects to the API server from the namespace of the topology's load balancer.
	Kubeconfig string
	// Topology is the running network.
	Topology *topology.Topology
	Log      *slog.Logger
}

// Run follows the cluster until the end of ctx and then returns nil. Any network namespace with access to netns.Dir
// will do; Run enters the topology's namespaces itself. At the end it removes its rules.
func Run(ctx context.Context, cfg Config) error {
	namespace := namespaceNetwork(topology.HostNamespace(cfg.Topology.LoadBalancer.Host))
	rest, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		return fmt.Errorf("load balancer: %w", err)
	}
	rest.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
		server, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, fmt.Errorf("the API server in %s must be a literal address: %w", cfg.Kubeconfig, err)
		}
		return namespace.Dial(ctx, server)
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return fmt.Errorf("load balancer: %w", err)
	}
	return run(ctx, client, cfg)
}

func run(ctx context.Context, client kubernetes.Interface, cfg Config) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events("")})
	defer broadcaster.Shutdown()
	plane := &dataPlane{
		fabric:    newFabric(cfg.Topology),
		namespace: vpc.BalancedNamespace(cfg.Topology),
		loaded:    map[netfilter.Family]string{},
		listeners: listeners{
			network: namespaceNetwork(topology.HostNamespace(cfg.Topology.LoadBalancer.Host)),
			log:     cfg.Log, open: map[netip.AddrPort]*listener{},
		},
	}
	c := newController(client, cfg.Topology.LoadBalancer.Frontends, plane, cfg.Log,
		broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "lab-load-balancer"}))
	err := c.run(ctx)
	plane.listeners.close()
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return errors.Join(err, plane.load(cleanup, nil))
}

const cleanupTimeout = 10 * time.Second

// dataPlane applies load balancers to the network.
type dataPlane struct {
	fabric    fabric
	namespace string // the namespace that redirects connections
	loaded    map[netfilter.Family]string
	listeners listeners
}

func (d *dataPlane) apply(ctx context.Context, all []placed) error {
	return errors.Join(d.load(ctx, all), d.listeners.set(ctx, d.fabric.services(all)))
}

// load loads the changed rules.
func (d *dataPlane) load(ctx context.Context, all []placed) error {
	for _, family := range netfilter.Families {
		rules := d.fabric.natRules(all, family)
		if before, known := d.loaded[family]; known && before == rules {
			continue
		}
		if err := netfilter.ReplaceChains(ctx, d.namespace, family, "nat", rules,
			netfilter.Jump{From: "PREROUTING", To: chainRedirect}, netfilter.Jump{From: "POSTROUTING", To: chainSource}); err != nil {
			return err
		}
		d.loaded[family] = rules
	}
	return nil
}

// namespaceNetwork is the network in the namespace of that name.
type namespaceNetwork string

// Listen listens in the namespace. The caller may be in any namespace.
func (n namespaceNetwork) Listen(ctx context.Context, addr netip.AddrPort) (listener net.Listener, err error) {
	err = netns.Do(string(n), func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", addr.String())
		return err
	})
	return listener, err
}

// Dial connects from the namespace.
func (n namespaceNetwork) Dial(ctx context.Context, addr netip.AddrPort) (conn net.Conn, err error) {
	err = netns.Do(string(n), func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr.String())
		return err
	})
	return conn, err
}
