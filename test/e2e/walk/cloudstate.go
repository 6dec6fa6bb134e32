package walk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// cloudState is what the lab's cloud has, whatever it shows in describes (test/lab/internal/cloudapi).
type cloudState struct {
	Routes     []cloudRoute
	Interfaces []cloudInterface
	Calls      map[string]int
	Failures   map[string]int
}

// cloudInterface is an interface of a node, or one that a client has created. Attachment is the ID of its attachment, if any.
type cloudInterface struct {
	ID, Subnet, MAC, Attachment, Instance string
	Tags                                  map[string]string
	Device                                int
	DeleteOnTermination                   bool
}

// cloudRoute is an address or a prefix that the VPC delivers to an interface.
type cloudRoute struct {
	Prefix              netip.Prefix
	Interface, Instance string
}

// cloudFaults are the faults of the lab's cloud.
type cloudFaults struct {
	Lag       string            `json:"lag,omitempty"`
	Attaching string            `json:"attaching,omitempty"`
	Stale     int               `json:"stale,omitempty"`
	Latency   bool              `json:"latency,omitempty"`
	Throttle  *ec2test.Throttle `json:"throttle,omitempty"`
	Faults    []ec2test.Fault   `json:"faults,omitempty"`
	Policy    string            `json:"policy,omitempty"`
}

// cloud returns the state of the lab's cloud, without output.
func (m *manage) cloud(ctx context.Context) (state cloudState, err error) {
	out, err := m.run(ctx, m.Binary, "exec", cloudHost, "--", "curl", "-sS", "--fail-with-body", "--max-time", "20", cloudURL+"lab/state")
	if err != nil {
		return state, fmt.Errorf("read the state of the cloud: %w", err)
	}
	return state, json.Unmarshal([]byte(out), &state)
}

// setFaults replaces the faults of the lab's cloud.
func (m *manage) setFaults(ctx context.Context, faults cloudFaults) error {
	body, err := json.Marshal(faults)
	if err != nil {
		return err
	}
	if faults.Policy == "" {
		fmt.Fprintf(m.Out, "… faults of the cloud: %s\n", body)
	}
	_, err = m.runWith(ctx, bytes.NewReader(body), m.Binary, "exec", cloudHost, "--",
		"curl", "-sS", "--fail-with-body", "--max-time", "20", "-X", "PUT", "--data-binary", "@-", cloudURL+"lab/faults")
	return err
}

// guidesPolicy returns the policy of a chapter of docs/reference/aws-iam.md.
func (m *manage) guidesPolicy(chapter string) (string, error) {
	page, err := os.ReadFile(filepath.Join(m.Root, "docs/reference/aws-iam.md"))
	if err != nil {
		return "", err
	}
	_, text, _ := strings.Cut(string(page), "\n## "+chapter+"\n")
	_, begin, _ := strings.Cut(text, "```json\n")
	policy, _, ok := strings.Cut(begin, "```")
	if !ok {
		return "", fmt.Errorf("docs/reference/aws-iam.md has no policy in the chapter %s", chapter)
	}
	return policy, nil
}

// routed reports whether the VPC delivers an address to an instance.
func (s cloudState) routed(instance string, addr netip.Addr) bool {
	return slices.ContainsFunc(s.Routes, func(r cloudRoute) bool { return r.Instance == instance && r.Prefix.Contains(addr) })
}

// holders returns the interfaces with an address that is not a part of a prefix.
func (s cloudState) holders(addr netip.Addr) (ifaces []string) {
	for _, r := range s.Routes {
		if r.Prefix == netip.PrefixFrom(addr, addr.BitLen()) {
			ifaces = append(ifaces, r.Interface)
		}
	}
	return ifaces
}

// pieces returns what an instance has for pods: all but the addresses of the node.
func (s cloudState) pieces(instance string, node Node) []cloudRoute {
	return slices.DeleteFunc(slices.Clone(s.Routes), func(r cloudRoute) bool {
		return r.Instance != instance || r.Prefix.IsSingleIP() && slices.Contains(node.addresses(), r.Prefix.Addr())
	})
}

// count returns the number of pieces of an IP version.
func count(pieces []cloudRoute, family inet.Family) (n int) {
	for _, p := range pieces {
		if inet.FamilyOf(p.Prefix.Addr()) == family {
			n++
		}
	}
	return n
}

// readInstances reads which instance each node is.
func (m *manage) readInstances(ctx context.Context) error {
	for name := range m.Nodes {
		var node corev1.Node
		if err := m.Get(ctx, "node "+name, &node); err != nil {
			return err
		}
		m.instances[name] = node.Spec.ProviderID[strings.LastIndex(node.Spec.ProviderID, "/")+1:]
	}
	return nil
}

// books compares the cloud, the pools and the leases. Nothing may be assigned without being in a pool, or the other way round; no
// address in use may be unassigned, and no assigned one withheld.
func (m *manage) books(ctx context.Context) error {
	state, err := m.cloud(ctx)
	if err != nil {
		return err
	}
	var pools v2beta1.SpiderIPPoolList
	var reserved v2beta1.SpiderReservedIPList
	var network v2beta1.SpiderCloudNetwork
	var blocks v2beta1.SpiderIPBlockList
	if err := errors.Join(m.Get(ctx, "spiderippools", &pools), m.Get(ctx, "spiderreservedips", &reserved),
		m.Get(ctx, "spidercloudnetwork "+cloudNetwork, &network), m.Get(ctx, "spideripblocks", &blocks)); err != nil {
		return err
	}
	assigned, errs := m.poolsEqual(state, pools.Items)
	for _, b := range blocks.Items {
		for _, l := range b.Spec.Leases {
			errs = append(errs, fits(l, assigned))
		}
	}
	for _, r := range reserved.Items {
		errs = append(errs, fmt.Errorf("SpiderReservedIP %s with %v is left", r.Name, r.Spec.IPs))
	}
	for _, c := range network.Status.Changes {
		errs = append(errs, fmt.Errorf("status.changes still has %s of %s", c.Action, c.Node))
	}
	return errors.Join(errs...)
}

// poolsEqual compares the pools of the network with what the cloud has assigned, and returns the latter.
func (m *manage) poolsEqual(state cloudState, pools []v2beta1.SpiderIPPool) (assigned inet.Set, errs []error) {
	for node, instance := range m.instances {
		for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
			var sets []inet.Set
			for _, p := range state.pieces(instance, m.Nodes[node]) {
				if inet.FamilyOf(p.Prefix.Addr()) == family {
					sets = append(sets, lease.Withholdable(p.Prefix))
				}
			}
			want := inet.Union(sets...)
			assigned = inet.Union(assigned, want)
			name := m.poolOf(node, int(family))
			at := slices.IndexFunc(pools, func(p v2beta1.SpiderIPPool) bool { return p.Name == name })
			if at < 0 {
				errs = append(errs, fmt.Errorf("there is no pool %s", name))
				continue
			}
			if have, err := inet.Parse(pools[at].Spec.IPs, inet.Bounds{}); err != nil || !have.Equal(want) {
				errs = append(errs, fmt.Errorf("pool %s has %s, and the cloud has assigned %s", name, have, want))
			}
		}
	}
	return assigned, errs
}

// fits compares a lease with what the cloud has assigned.
func fits(l v2beta1.Lease, assigned inet.Set) error {
	addr, err := netip.ParseAddr(l.IP)
	switch {
	case err != nil:
		return err
	case l.State == v2beta1.LeaseWithheld && assigned.Contains(addr):
		return fmt.Errorf("%s is withheld, although it is assigned", l.IP)
	case l.State == v2beta1.LeaseInUse && !assigned.Contains(addr):
		return fmt.Errorf("%s is in use by %s, and is not assigned", l.IP, l.Pod)
	}
	return nil
}
