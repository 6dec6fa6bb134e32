//go:build kernel

package coordinator

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// shapedPod is a pod with limits on a network with a peer.
func shapedPod(t *testing.T, kind string, rates netplan.Rates) (p *plant) {
	t.Helper()
	p = newPlant(t)
	reply := guideReply()
	reply.Rates, reply.PodRates = map[string]netplan.Rates{"eth0": rates}, rates
	p.pod.socket = fakeAgent(t, reply)
	p.pod.attach(kind, "ens5", "eth0", net0, gw0)
	p.pod.must("ADD", "eth0", p.pod.result("eth0", net0, gw0), nil)
	return p
}

// Traffic of both families, in both directions, to a peer and to the node obeys the
// limit. A bound is wide, because a busy machine measures badly; the log has the rates.
func TestTrafficObeysBandwidth(t *testing.T) {
	const ingress, egress = 40e6, 20e6
	eachKind(t, func(t *testing.T, kind string) {
		p := shapedPod(t, kind, netplan.Rates{Ingress: ingress, Egress: egress})
		pod := p.pod.Machine
		for i := range peers0 {
			podAddr := bare(net0[i])
			for _, network := range []string{"tcp", "udp"} {
				for _, flow := range []linuxtest.Flow{
					{From: pod, To: p.peer0, Address: peers0[i]}, {From: p.peer0, To: pod, Address: podAddr},
					{From: pod, To: p.node, Address: nodes[i]}, {From: p.node, To: pod, Address: podAddr},
				} {
					limit := egress
					if flow.To == pod {
						limit = ingress
					}
					flow.Network, flow.For, flow.UDPRate = network, time.Second, 3*limit
					// On a busy machine, one second of the receiver may have the bytes of two.
					got, obeys := 0.0, false
					for try := 0; try < 5 && !obeys; try++ {
						got = flow.Measure(t)
						t.Logf("%s %s: %.1f Mbit/s of %.0f", flow, flow.Address, got/1e6, limit/1e6)
						obeys = got <= 1.5*limit && got >= limit/4
					}
					if !obeys {
						t.Errorf("%s: %.1f Mbit/s, limit %.0f", flow, got/1e6, limit/1e6)
					}
				}
			}
		}
	})
}

// What goes through the node and what goes directly share one limit.
func TestPathsShareBandwidth(t *testing.T) {
	const egress = 20e6
	p := shapedPod(t, "macvlan", netplan.Rates{Egress: egress})
	total := make(chan float64)
	for m, address := range map[*linuxtest.Machine]string{p.peer0: peers0[0], p.node: nodes[0]} {
		go func() {
			total <- linuxtest.Flow{From: p.pod.Machine, To: m, Network: "udp", Address: address, UDPRate: 3 * egress, For: time.Second}.Measure(t)
		}()
	}
	if got := <-total + <-total; got > 1.5*egress {
		t.Errorf("%.1f Mbit/s on both paths, limit %.0f", got/1e6, egress/1e6)
	}
}

// More than the limit fills the queue. Another packet then waits for a queue of 50 ms, not for seconds, in both directions
// and families.
func TestFullQueueDelaysBriefly(t *testing.T) {
	const limit = 10e6
	p := shapedPod(t, "macvlan", netplan.Rates{Ingress: limit, Egress: limit})
	pod := p.pod.Machine
	for i := range peers0 {
		for _, network := range []string{"tcp", "udp"} {
			for _, load := range []linuxtest.Flow{{From: pod, To: p.peer0, Address: peers0[i]}, {From: p.peer0, To: pod, Address: bare(net0[i])}} {
				load.Network, load.For, load.UDPRate = network, 2*time.Second, 2*limit
				_, trips := underLoad(t, load, pod, peers0[i])
				if len(trips) == 0 {
					t.Fatalf("%s %s: no answer under load", load, load.Address)
				}
				median := trips[len(trips)/2]
				t.Logf("%s %s: median of %d round trips: %s", load, load.Address, len(trips), median)
				if median > time.Second {
					t.Errorf("%s %s: a round trip takes %s", load, load.Address, median)
				}
			}
		}
	}
}

// underLoad returns the rate of the load, and the sorted durations of questions from one machine to the address meanwhile.
// Lost questions and answers do not count.
func underLoad(t testing.TB, load linuxtest.Flow, from *linuxtest.Machine, to string) (rate float64, trips []time.Duration) {
	t.Helper()
	const askers = 4 // a lost question takes its asker two seconds
	var mu sync.Mutex
	var asking sync.WaitGroup
	ended := make(chan struct{})
	for range askers {
		asking.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				began := time.Now()
				if _, err := from.Ask("udp", net.JoinHostPort(to, "8080"), 2*time.Second); err == nil {
					mu.Lock()
					trips = append(trips, time.Since(began))
					mu.Unlock()
				}
			}
		})
	}
	rate = load.Measure(t)
	close(ended)
	asking.Wait()
	slices.Sort(trips)
	return rate, trips
}

func TestUnlimitedPodHasNoShaper(t *testing.T) {
	p := shapedPod(t, "macvlan", netplan.Rates{})
	if out := p.pod.Must("", "tc", "qdisc", "show") + p.pod.Must("", "ip", "-br", "link"); strings.Contains(out, "clsact") || strings.Contains(out, "tbf") || strings.Contains(out, "in-") {
		t.Errorf("a pod without limits has\n%s", out)
	}
}

func TestBandwidthIsChecked(t *testing.T) {
	p := shapedPod(t, "macvlan", netplan.Rates{Ingress: 40e6, Egress: 20e6})
	result := p.pod.result("eth0", net0, gw0)
	p.pod.must("CHECK", "eth0", result, nil)
	for _, test := range []struct{ remove, want string }{
		{"tc filter del dev eth0 egress", "+ redirect eth0 egress to out-eth0"},
		{"tc qdisc del dev veth0 clsact", "+ redirect veth0 ingress to in-eth0"},
		{"tc qdisc del dev out-eth0 root", "+ shaper out-eth0 rate 20000000"},
		{"ip link del in-eth0", "+ link in-eth0 kind ifb"},
	} {
		p.pod.Must("", "sh", "-c", test.remove)
		if out, err := p.pod.call("CHECK", "eth0", result, nil); err == nil || !strings.Contains(out, test.want) {
			t.Errorf("after %q, CHECK does not say %q: %v\n%s", test.remove, test.want, err, out)
		}
		p.pod.must("ADD", "eth0", result, nil)
		p.pod.must("CHECK", "eth0", result, nil)
	}
}

// The capability sets the rates of an attachment; annotations come first.
func TestCapabilityLimitsInterface(t *testing.T) {
	p := shapedPod(t, "macvlan", netplan.Rates{Egress: 20e6})
	p.pod.attach("macvlan", "ens6", "net1", net1, gw1)
	runtime := func(ingress, egress int64) m {
		return m{"runtimeConfig": m{"bandwidth": m{"ingressRate": ingress, "ingressBurst": 1 << 31, "egressRate": egress, "egressBurst": 1 << 31}}}
	}
	// Multus passes the rates of the pod to every interface without a request of its own.
	p.pod.must("ADD", "net1", p.pod.result("net1", net1, gw1), runtime(0, 20e6))
	if out := p.pod.Must("", "ip", "-br", "link"); strings.Contains(out, "out-net1") {
		t.Errorf("net1 has the limit of eth0: %s", out)
	}
	p.pod.must("ADD", "net1", p.pod.result("net1", net1, gw1), runtime(8e6, 0))
	if out := p.pod.Must("", "tc", "qdisc", "show", "dev", "in-net1"); !strings.Contains(out, "tbf 5351: root") || !strings.Contains(out, "rate 8Mbit") {
		t.Errorf("ingress of net1: %s", out)
	}
	p.pod.must("ADD", "eth0", p.pod.result("eth0", net0, gw0), runtime(8e6, 9e6))
	for dev, want := range map[string]string{"in-eth0": "rate 8Mbit", "out-eth0": "rate 20Mbit"} {
		if out := p.pod.Must("", "tc", "qdisc", "show", "dev", dev); !strings.Contains(out, want) {
			t.Errorf("%s has not %q: %s", dev, want, out)
		}
	}
	if out, err := p.pod.call("ADD", "net1", p.pod.result("net1", net1, gw1), runtime(-5, 0)); err == nil || !strings.Contains(out, `runtimeConfig.bandwidth.ingressRate \"-5\"`) {
		t.Errorf("a negative rate: %v %s", err, out)
	}
	p.pod.must("DEL", "net1", p.pod.result("net1", net1, gw1), nil)
	if out := p.pod.Must("", "ip", "-br", "link"); strings.Contains(out, "in-net1") || !strings.Contains(out, "out-eth0") {
		t.Errorf("after DEL of net1: %s", out)
	}
}

func TestInvalidBandwidthFailsAddOnly(t *testing.T) {
	p := shapedPod(t, "macvlan", netplan.Rates{Egress: 20e6})
	reply := guideReply()
	reply.RatesFault = `annotation kubernetes.io/egress-bandwidth: "10 MB": is not a number`
	p.pod.socket = fakeAgent(t, reply)
	result := p.pod.result("eth0", net0, gw0)
	if out, err := p.pod.call("ADD", "eth0", result, nil); err == nil || !strings.Contains(out, `10 MB`) {
		t.Errorf("ADD: %v %s", err, out)
	}
	p.pod.must("CHECK", "eth0", result, nil)
}

// Without addresses, an interface is limited, too.
func TestInterfaceWithoutAddressesIsLimited(t *testing.T) {
	p := newPlant(t)
	reply := guideReply()
	reply.Rates = map[string]netplan.Rates{"net1": {Egress: 5e6}}
	p.pod.socket = fakeAgent(t, reply)
	p.pod.attach("macvlan", "ens6", "net1", nil, nil)
	p.pod.must("ADD", "net1", p.pod.result("net1", nil, nil), nil)
	if out := p.pod.Must("", "tc", "qdisc", "show", "dev", "out-net1"); !strings.Contains(out, "rate 5Mbit") {
		t.Errorf("egress of net1: %s", out)
	}
}

// limit gives the pod's eth0 rates.
func limit(b *testing.B, pod *linuxtest.Machine, rates netplan.Rates) {
	b.Helper()
	ns, err := linux.Open(pod.Path())
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	st, err := ns.ReadAll()
	if err != nil {
		b.Fatal(err)
	}
	if err := ns.Apply(netplan.Diff(nil, netplan.Limit{Dev: "eth0", Rates: rates}.Shape(st), nil), nil); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBandwidth compares the rate of traffic with the limit, as a ratio, and measures the round trips of other packets
// meanwhile.
func BenchmarkBandwidth(b *testing.B) {
	for _, rate := range []float64{1e6, 10e6, 100e6, 1e9, 5e9} {
		for _, network := range []string{"tcp", "udp"} {
			for _, direction := range []netplan.Direction{netplan.Egress, netplan.Ingress} {
				for _, family := range []string{"IPv4", "IPv6"} {
					b.Run(fmt.Sprintf("%s/%s/%s/%gMbit", network, family, direction, rate/1e6), func(b *testing.B) {
						benchmarkBandwidth(b, rate, network, family, direction)
					})
				}
			}
		}
	}
}

func benchmarkBandwidth(b *testing.B, rate float64, network, family string, direction netplan.Direction) {
	node, peer, pod := linuxtest.NewMachine(b, "node"), linuxtest.NewMachine(b, "peer"), linuxtest.NewMachine(b, "pod")
	linuxtest.Wire(node, "ens5", peer, "eth0")
	node.Sub("macvlan", "ens5", pod, "eth0")
	to, from := "172.31.16.50", "172.31.28.17"
	if family == "IPv6" {
		to, from = peers0[1], bare(net0[1])
	}
	peer.Addr("eth0", "172.31.16.50/20", peers0[1]+"/64")
	pod.Addr("eth0", net0...)
	peer.Serve(8080)
	limit(b, pod, netplan.Rates{Ingress: uint64(rate), Egress: uint64(rate)})
	flow := linuxtest.Flow{From: pod, To: peer, Network: network, Address: to, UDPRate: 1.3 * rate, For: 5 * time.Second}
	if direction == netplan.Ingress {
		flow.From, flow.To, flow.Address = peer, pod, from
	}
	for b.Loop() {
		got, trips := underLoad(b, flow, pod, to)
		b.ReportMetric(got/rate, "of-limit")
		if len(trips) == 0 {
			b.Fatal("no answer under load")
		}
		b.ReportMetric(float64(trips[len(trips)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(trips[len(trips)*99/100].Microseconds())/1000, "p99-ms")
	}
}
