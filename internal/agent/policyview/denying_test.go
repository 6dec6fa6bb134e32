package policyview

import (
	"net/netip"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

func TestDenyingNamesPolicies(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		web := from("web", "app=web", "app=client")
		both := from("both", "app=web", "app=client")
		both.Egress.Isolates = true
		c.sink.SetPolicy(web)
		c.sink.SetPolicy(both)
		c.synced()
		// Both replicas have equal sets, and so share a decision.
		first, second := podOf("web", "app=web"), podOf("web-2", "app=web")
		at := []policy.Interface{{Name: "eth0", Default: true, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.8")}}}
		v.Decide(first, at)
		tcp := func(from, to string) policy.Packet {
			return policy.Packet{From: netip.MustParseAddr(from), To: netip.MustParseAddr(to), Protocol: service.TCP, Port: 80}
		}
		expectDenying := func(pod, dev string, way policy.Direction, p policy.Packet, want ...policy.Name) {
			t.Helper()
			key := first.PodKey
			key.Name = pod
			if got := v.Denying(key, dev, way, p); !slices.Equal(got, want) {
				t.Errorf("%s %s of %s from %s: %v, want %v", way, dev, pod, p.From, got, want)
			}
		}
		stranger := tcp("10.0.0.9", "10.0.0.8")
		expectDenying("web", "eth0", policy.Ingress, stranger) // the peers are unknown
		c.groups()
		c.send(groupOf(web), 0, 1, "10.0.0.1")
		v.Decide(first, at)
		v.Decide(second, []policy.Interface{{Name: "eth0", Default: true, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}})
		expectDenying("web", "eth0", policy.Ingress, stranger, both.Name, web.Name)
		expectDenying("web", "eth0", policy.Ingress, tcp("10.0.0.1", "10.0.0.8"))
		expectDenying("web", "eth0", policy.Egress, tcp("10.0.0.8", "10.0.0.1"), both.Name)
		expectDenying("web-2", "eth0", policy.Ingress, tcp("10.0.0.8", "10.0.0.9"), both.Name, web.Name)
		expectDenying("web", "net1", policy.Ingress, stranger)
		expectDenying("gone", "eth0", policy.Ingress, stranger)

		// A rule of a ClusterNetworkPolicy denies by itself.
		c.namespaces["shop"] = map[string]string{}
		c.sink.SetClusterPolicy(&policy.ClusterPolicy{
			Name: policy.Name{Name: "no-strangers"}, Ingress: []policy.TierRule{{Rule: policy.Rule{
				AnyPort: true, Peers: []policy.Peer{{Block: &policy.Block{Prefix: netip.MustParsePrefix("10.0.0.9/32")}}},
			}, Action: policy.Deny}},
		})
		expectDenying("web", "eth0", policy.Ingress, stranger) // not decided again
		v.Decide(first, at)
		expectDenying("web", "eth0", policy.Ingress, stranger, policy.Name{Name: "no-strangers"})
		expectDenying("web", "eth0", policy.Ingress, tcp("10.0.0.7", "10.0.0.8"), both.Name, web.Name)
	})
}
