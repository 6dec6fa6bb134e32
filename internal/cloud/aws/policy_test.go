package aws

import (
	"net/netip"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
)

func TestPoliciesAreEnoughAndLeast(t *testing.T) {
	cloudtest.Policies(t, "../../../docs/reference/aws-iam.md", func(t *testing.T) (cloud.Provider, cloudtest.PolicyWorld) { return start(t) }, cloudtest.Limits{})
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
