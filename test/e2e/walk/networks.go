package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
)

// The claims use two more networks, VXLANs between the lab's machines: storage, on the
// nodes' ens6, and video, on ens7. The host gateway routes between them and the LAN. Like
// a router with strict reverse path filtering, it drops packets from networks without an
// address of its own: so a reply is lost if it leaves by another interface than its
// request arrived on. The host peer is a client behind that router. The host registry is
// a second router on LAN and storage, and the only one to know two networks behind it.
var (
	farClient = []netip.Addr{netip.MustParseAddr("10.9.0.50"), netip.MustParseAddr("2001:db8:9::50")}

	plugs = []struct{ host, uplink, link, number, addresses string }{
		{"master", "ens5", "ens6", "7", ""},
		{"worker1", "ens5", "ens6", "7", ""},
		{"gateway", "eth0", "storage", "7", "10.7.0.1/24 2001:db8:7::1/64"},
		{"registry", "eth0", "storage", "7", "10.7.0.20/24 2001:db8:7::20/64"},
		{"master", "ens5", "ens7", "8", ""},
		{"worker1", "ens5", "ens7", "8", ""},
		{"gateway", "eth0", "video", "8", "10.8.0.1/24 2001:db8:8::1/64"},
		{"gateway", "eth0", "far", "9", "10.9.0.1/24 2001:db8:9::1/64"},
		{"peer", "eth0", "far", "9", "10.9.0.50/24 2001:db8:9::50/64"},
	}

	hostCommands = []struct{ host, command string }{
		{"gateway", `nft -f - <<-END
			table inet claims
			delete table inet claims
			table inet claims {
				chain strict {
					type filter hook prerouting priority filter
					ip saddr 10.0.0.0/8 fib saddr . iif oif missing drop
					ip6 saddr 2001:db8::/32 fib saddr . iif oif missing drop
				}
			}
			END`},
		{"peer", `for net in 10.6.128.0/17 10.7.0.0/24 10.8.0.0/24; do ip route replace $net via 10.9.0.1 src 10.9.0.50 || exit 1; done
			for net in 2001:db8:6::8000:0/113 2001:db8:7::/64 2001:db8:8::/64; do ip route replace $net via 2001:db8:9::1 src 2001:db8:9::50 || exit 1; done`},
		{"registry", `for address in 10.60.1.1 10.60.2.1 2001:db8:60:1::1 2001:db8:60:2::1; do ip address replace $address dev lo || exit 1; done`},
		// Drop packets between the overlay networks of the nodes.
		{"master", `ip route replace 10.244.1.0/24 via 10.6.0.11 && ip route replace fd00:10:244:1::/64 via 2001:db8:6::11`},
		{"worker1", `ip route replace 10.244.0.0/24 via 10.6.0.10 && ip route replace fd00:10:244::/64 via 2001:db8:6::10`},
	}
)

func (g *guide) prepareClaims(ctx context.Context) error {
	for _, p := range plugs {
		command := fmt.Sprintf(`ip link show %[1]s >/dev/null 2>&1 || ip link add %[1]s type vxlan id %[2]s dev %[3]s group 239.6.0.%[2]s dstport 4789 && ip link set %[1]s up &&
			for address in %[4]s; do ip address replace $address dev %[1]s nodad || exit 1; done`, p.link, p.number, p.uplink, p.addresses)
		if _, err := g.Exec(ctx, p.host, command); err != nil {
			return err
		}
	}
	for _, c := range hostCommands {
		if _, err := g.Exec(ctx, c.host, c.command); err != nil {
			return err
		}
	}
	for _, command := range []string{
		// A pod gets an address of every IP version with a default pool. These pods name
		// their pools instead.
		`kubectl patch spiderippool lan-v4 lan-v6 --type=merge -p '{"spec":{"default":false}}'`,
		"kubectl apply -f " + g.claimManifest("networks.yaml"),
		"kubectl wait spiderippool --all --for=condition=Ready --timeout=60s",
		"kubectl wait spidermultusconfig --all -A --for=condition=Ready --timeout=60s",
		"CGO_ENABLED=0 go build -trimpath -o dist/e2e/cast ./test/e2e/cast",
		g.Binary + " image build --tag example.org/cast:v1 --add dist/e2e/cast:/cast:755 --entrypoint /cast --cmd listen -o dist/e2e/cast.tar",
		g.Binary + " image load dist/e2e/cast.tar",
		"kubectl apply -f " + g.claimManifest("backend.yaml"),
	} {
		if _, err := g.Sh(ctx, command); err != nil {
			return err
		}
	}
	for _, c := range g.claims() {
		if _, err := g.Kubectl(ctx, "apply -f "+g.claimManifest(c.manifest)); err != nil {
			return err
		}
	}
	if _, err := g.runningPods(ctx, "run=backend", 2); err != nil {
		return err
	}
	clusterIPs, err := g.clusterIPs(ctx)
	if err != nil {
		return err
	}
	for node := range g.Nodes {
		if err := g.eventually(ctx, "kube-proxy of "+node+" knows the Service of the backends", slow, func(ctx context.Context) error {
			return g.nodeReaches(ctx, node, clusterIPs, 80)
		}); err != nil {
			return err
		}
	}
	return nil
}

// cleanUpClaims deletes the claims' objects. No lease, no SpiderEndpoint and no count may
// remain, and no trace of the pods on their nodes.
func (g *guide) cleanUpClaims(ctx context.Context) error {
	// One by one: many pods that end at once can hang a small machine.
	manifests := []string{"late.yaml"}
	for _, c := range g.claims() {
		manifests = append(manifests, c.manifest)
	}
	for _, m := range append(manifests, "backend.yaml") {
		if _, err := g.Kubectl(ctx, "delete --ignore-not-found -f "+g.claimManifest(m)); err != nil {
			return err
		}
	}
	if err := g.eventually(ctx, "no lease, no SpiderEndpoint and no count remains", slow, g.nothingHeld); err != nil {
		return err
	}
	for node := range g.Nodes {
		if err := g.eventually(ctx, "no link of a pod, and no route to one, remains on "+node, slow, func(ctx context.Context) error {
			left, err := g.run(ctx, g.Binary, "exec", node, "--", "sh", "-c", "ip -o link show | grep spv; ip route show table 500; ip -6 route show table 500")
			if err == nil && left != "" {
				err = errors.New(left)
			}
			return err
		}); err != nil {
			return err
		}
	}
	if err := g.kubectlAll(ctx,
		"delete -f "+g.claimManifest("networks.yaml"),
		`patch spiderippool lan-v4 lan-v6 --type=merge -p '{"spec":{"default":true}}'`,
	); err != nil {
		return err
	}
	for _, p := range slices.Backward(plugs) {
		if _, err := g.Exec(ctx, p.host, "ip link del "+p.link); err != nil {
			return err
		}
	}
	return nil
}

// claimManifest returns the path of a claim's manifest.
func (g *guide) claimManifest(name string) string { return g.manifest(filepath.Join("claims", name)) }
