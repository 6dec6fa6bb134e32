package aws

import (
	"net/netip"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/inet"
)

func TestPoliciesAreEnoughAndLeast(t *testing.T) {
	cloudtest.Policies(t, "../../../docs/reference/aws-iam.md", func(t *testing.T) (cloud.Provider, cloudtest.PolicyWorld) { return start(t) }, cloudtest.Limits{})
}

// The policy for Manage does not allow DescribeNetworkInterfaces.
func TestRepetitionNeedsNoFurtherPermission(t *testing.T) {
	p, w, instance, _ := startWithNode(t)
	found, err := p.Instances(t.Context(), []string{instance})
	if err != nil {
		t.Fatal(err)
	}
	w.Deny("Interfaces")
	eth0 := found[0].Interfaces[0].ID
	for _, piece := range []string{"10.0.1.200/32", "10.0.1.128/28", "2001:db8:0:1::200/128", "2001:db8:0:1:5::/80"} {
		exact := []netip.Prefix{netip.MustParsePrefix(piece)}
		a := cloud.Assignment{Interface: eth0, Family: inet.FamilyOf(exact[0].Addr()), Unit: cloud.Prefixes, Exact: exact}
		if exact[0].IsSingleIP() {
			a.Unit = cloud.Addresses
		}
		for range 2 {
			if got, err := p.Assign(t.Context(), a); err != nil || !slices.Equal(got, exact) {
				t.Errorf("assign %s: %v, %v", piece, got, err)
			}
		}
		for range 2 {
			if err := p.Unassign(t.Context(), eth0, exact); err != nil {
				t.Errorf("unassign %s: %v", piece, err)
			}
		}
	}
}

// Permit implements cloudtest.PolicyWorld.
func (w *world) Permit(document string) error { return w.SetPolicy(principal, document) }

// Used implements cloudtest.PolicyWorld.
func (w *world) Used() map[string]bool {
	used := map[string]bool{}
	for action := range w.Calls() {
		used[service+action] = true
	}
	if used["ec2:CreateNetworkInterface"] {
		used["ec2:CreateTags"] = true // the permission to create with tags
	}
	return used
}

var (
	cidrIPv4 = netip.MustParsePrefix("10.0.1.0/24")
	cidrIPv6 = netip.MustParsePrefix("2001:db8:0:1::/64")
)

// startWithNode returns a fake EC2 with one node.
func startWithNode(t *testing.T) (p *Provider, w *world, instance, subnet string) {
	p, w = start(t)
	subnet = w.AddSubnet("eu-central-1a", nil, cidrIPv4, cidrIPv6)
	return p, w, w.AddInstance("m5.large", subnet), subnet
}
