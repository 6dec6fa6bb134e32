//go:build kernel

package lb

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/nstest"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
	"spiderpool.dev/spiderpool/test/lab/internal/vpc"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

const (
	clientIPv4, clientIPv6 = "198.51.100.10", "2001:db8:100::10"
	podPort                = 80
	noAnswer               = 400 * time.Millisecond
)

// up builds the network with a load balancer for the guide's objects.
func up(t *testing.T, name string, s snapshot) *fake.Clientset {
	t.Helper()
	topo := loadTopology(t, name)
	actions := vpc.Actions(topo)
	t.Cleanup(func() {
		if err := action.Undo(context.Background(), actions); err != nil {
			t.Error(err)
		}
	})
	if err := action.Do(t.Context(), actions); err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset()
	for _, service := range s.services {
		create(t, client.Tracker().Add(service))
	}
	for _, ingress := range s.ingresses {
		create(t, client.Tracker().Add(ingress))
	}
	for _, slice := range s.slices {
		create(t, client.Tracker().Add(slice))
	}
	log := slog.New(slog.DiscardHandler)
	for _, process := range []func(context.Context) error{
		func(ctx context.Context) error { return vpc.ServeNeighbours(ctx, topo, log) },
		func(ctx context.Context) error { return run(ctx, client, Config{Topology: topo, Log: log}) },
	} {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- process(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	return client
}

func create(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pod serves HTTP at an additional address of a node's interface. It answers with its name and the client's address.
func pod(t *testing.T, node, name, addr string, port int) {
	t.Helper()
	parsed := netip.MustParseAddr(addr)
	if _, err := netns.Run(t.Context(), topology.HostNamespace(node), "",
		"ip", "addr", "add", netip.PrefixFrom(parsed, parsed.BitLen()).String(), "dev", "ens5", "nodad"); err != nil {
		t.Fatal(err)
	}
	listener, err := namespaceNetwork(topology.HostNamespace(node)).Listen(t.Context(), netip.AddrPortFrom(parsed, uint16(port)))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s from %s for %s", name, host, r.Header.Get("X-Forwarded-For"))
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// fetch gets a URL from a host's namespace.
func fetch(host, url string, timeout time.Duration) (string, error) {
	client := http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return namespaceNetwork(topology.HostNamespace(host)).Dial(ctx, netip.MustParseAddrPort(addr))
		},
	}}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// awaitFetch gets the URL until the answer is want.
func awaitFetch(t *testing.T, host, url, want string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, err := fetch(host, url, time.Second)
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s from %s: got %q (%v), want %q", url, host, got, err, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// one keeps a single endpoint per service, so that answers are deterministic.
func one(t *testing.T) snapshot {
	s := guideSnapshot(t)
	s.slices = []*discoveryv1.EndpointSlice{
		endpoints("nginx-svc-lb", podPort, "172.31.32.184"),
		endpoints("nginx-svc-ingress", podPort, "172.31.32.177"),
		endpoints("echoserver", 8080, "172.31.28.18"),
	}
	return s
}

func TestGuideIsReachableFromTheInternet(t *testing.T) {
	client := up(t, "aws", one(t))
	pod(t, "worker1", "nginx-lb", "172.31.32.184", podPort)
	pod(t, "worker1", "nginx-ingress", "172.31.32.177", podPort)
	pod(t, "master", "echoserver", "172.31.28.18", 8080)
	// The network load balancer preserves the client's address. The application load balancer sends it in a header.
	awaitFetch(t, "internet", "http://203.0.113.101:80/", "nginx-lb from "+clientIPv4+" for ")
	awaitFetch(t, "internet", "http://203.0.113.100:80/", "nginx-ingress from 172.31.0.100 for "+clientIPv4)
	awaitFetch(t, "internet", "http://203.0.113.100:80/echo", "echoserver from 172.31.0.100 for "+clientIPv4)
	// A node reaches the public address through the NAT gateway. The pod sees the gateway's address, as on AWS.
	awaitFetch(t, "master", "http://203.0.113.101:80/", "nginx-lb from 203.0.113.10 for ")
	awaitFetch(t, "peer", "http://172.31.0.101:80/", "nginx-lb from 10.50.1.10 for ")

	// After the pod turns unready, new connections go to its replacement.
	pod(t, "master", "second", "172.31.28.31", podPort)
	slice := endpoints("nginx-svc-lb", podPort, "172.31.32.184")
	ready, notReady := true, false
	slice.Endpoints[0].Conditions.Ready = &notReady
	slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
		Addresses: []string{"172.31.28.31"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
	})
	if _, err := client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitFetch(t, "internet", "http://203.0.113.101:80/", "second from "+clientIPv4+" for ")
}

func TestClientIsHiddenByDefault(t *testing.T) {
	s := one(t)
	delete(s.services[0].Annotations, nlbAttributes)
	up(t, "aws", s)
	pod(t, "worker1", "nginx-lb", "172.31.32.184", podPort)
	awaitFetch(t, "internet", "http://203.0.113.101:80/", "nginx-lb from 172.31.0.101 for ")
}

func TestDualStackServesIPv6(t *testing.T) {
	s := one(t)
	s.services[0].Annotations[nlbAddressType] = addressTypeDualStack
	s.ingresses[0].Annotations[albAddressType] = addressTypeDualStack
	client := up(t, "aws", s)
	pod(t, "worker1", "nginx-lb", "172.31.32.184", podPort)
	pod(t, "worker1", "nginx-lb6", "2406:da1e:c4:ed02:7a2e::d", podPort)
	pod(t, "worker1", "nginx-ingress", "172.31.32.177", podPort)
	const nlb, alb = "http://[2406:da1e:c4:ed00::101]:80/", "http://[2406:da1e:c4:ed00::100]:80/"
	// Without IPv6 endpoints, the load balancer relays IPv6 clients to IPv4.
	awaitFetch(t, "internet", nlb, "nginx-lb from 172.31.0.100 for ")
	awaitFetch(t, "internet", alb, "nginx-ingress from 172.31.0.100 for "+clientIPv6)
	slice := endpoints("nginx-svc-lb", podPort, "2406:da1e:c4:ed02:7a2e::d")
	if _, err := client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitFetch(t, "internet", nlb, "nginx-lb6 from "+clientIPv6+" for ")
}

func TestInternalLoadBalancerIsNotPublic(t *testing.T) {
	s := one(t)
	s.services[0].Annotations[nlbScheme] = schemeInternal
	s.services[0].Annotations[nlbAddressType] = addressTypeDualStack
	up(t, "aws", s)
	pod(t, "worker1", "nginx-lb", "172.31.32.184", podPort)
	awaitFetch(t, "master", "http://172.31.0.110:80/", "nginx-lb from 172.31.22.228 for ")
	awaitFetch(t, "master", "http://[2406:da1e:c4:ed00::110]:80/", "nginx-lb from 172.31.0.100 for ")
	for _, url := range []string{"http://172.31.0.110:80/", "http://[2406:da1e:c4:ed00::110]:80/"} {
		if got, err := fetch("internet", url, noAnswer); err == nil {
			t.Errorf("%s answered the internet: %q", url, got)
		}
	}
}

func TestLayer2GatewayBalances(t *testing.T) {
	s := one(t)
	s.slices = []*discoveryv1.EndpointSlice{
		endpoints("nginx-svc-lb", podPort, "10.6.128.1"),
		endpoints("nginx-svc-ingress", podPort, "10.6.128.2"),
		endpoints("echoserver", 8080, "10.6.128.3"),
	}
	up(t, "l2", s)
	pod(t, "worker1", "nginx-lb", "10.6.128.1", podPort)
	pod(t, "worker1", "nginx-ingress", "10.6.128.2", podPort)
	awaitFetch(t, "internet", "http://203.0.113.101:80/", "nginx-lb from "+clientIPv4+" for ")
	awaitFetch(t, "internet", "http://203.0.113.100:80/", "nginx-ingress from 10.6.0.1 for "+clientIPv4)
	// For a client on the same link, replies must pass the load balancer too.
	awaitFetch(t, "peer", "http://203.0.113.101:80/", "nginx-lb from 10.6.0.101 for ")
}

func TestRulesEndWithTheLoadBalancer(t *testing.T) {
	topo := loadTopology(t, "aws")
	actions := vpc.Actions(topo)
	t.Cleanup(func() { _ = action.Undo(context.Background(), actions) })
	if err := action.Do(t.Context(), actions); err != nil {
		t.Fatal(err)
	}
	s := one(t)
	client := fake.NewClientset(s.services[0], s.slices[0])
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- run(ctx, client, Config{Topology: topo, Log: slog.New(slog.DiscardHandler)}) }()
	rules := func() string {
		saved, err := netns.Run(t.Context(), vpc.BalancedNamespace(topo), "", "iptables-legacy-save", "-t", "nat")
		if err != nil {
			t.Fatal(err)
		}
		return saved
	}
	eventually(t, client, "nginx-svc-lb", func(service *corev1.Service) bool { return len(service.Status.LoadBalancer.Ingress) > 0 })
	if got := rules(); !strings.Contains(got, "--to-destination 172.31.32.184:80") {
		t.Errorf("rules:\n%s", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := rules(); strings.Contains(got, "--to-destination") {
		t.Errorf("remaining rules:\n%s", got)
	}
}
