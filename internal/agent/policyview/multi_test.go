package policyview

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/policy"
)

// onStorage makes a policy a MultiNetworkPolicy for net1.
func onStorage(p *policy.Policy) *policy.Policy {
	p.Name.Multi, p.Networks = true, []policy.Name{{Namespace: "shop", Name: "storage"}}
	return p
}

func TestInterfacesAwaitTheirPoliciesOnly(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		web := podOf("web")
		expectOn(t, v, web, "net1", "? MultiNetworkPolicies")
		c.sink.Synced(agentclient.NetworkPolicies)
		c.sink.Synced(agentclient.ClusterPolicies)
		if told := c.takeTold(); told != "shop/web" {
			t.Errorf("told about %q", told)
		}
		expect(t, v, web, open)
		expectOn(t, v, web, "net1", "? MultiNetworkPolicies")
		c.sink.Synced(agentclient.MultiPolicies)
		if told := c.takeTold(); told != "shop/web" {
			t.Errorf("told about %q", told)
		}
		expectOn(t, v, web, "net1", open)
	})
}

func TestMultiPoliciesConcernTheirNetworks(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		c.synced()
		web := podOf("web", "app=web")
		expectOn(t, v, web, "net1", open)
		p := onStorage(from("web", "app=web", "app=client"))
		group := groupOf(p)
		for _, step := range []struct {
			what             string
			do               func()
			told, net1, eth0 string
		}{
			{"a policy", func() { c.sink.SetPolicy(p) }, "shop/web", "? " + group, open},
			{"its peers", func() { c.send(group, 0, 1, "10.7.0.1") }, "shop/web", "ingress isolated; ingress any 10.7.0.1; egress open", open},
			{"a NetworkPolicy with its name", func() {
				c.sink.SetPolicy(&policy.Policy{Name: policy.Name{Namespace: "shop", Name: "web"}, Egress: policy.Section{Isolates: true}})
			}, "shop/web", "ingress isolated; ingress any 10.7.0.1; egress open", "ingress open; egress isolated"},
			{"its end", func() { c.sink.DeletePolicy(policy.Name{Namespace: "shop", Name: "web"}) }, "shop/web", "ingress isolated; ingress any 10.7.0.1; egress open", open},
			{"a policy of another network", func() {
				other := onStorage(from("other", "app=web", "app=none"))
				other.Networks[0].Name = "none"
				c.sink.SetPolicy(other)
			}, "", "ingress isolated; ingress any 10.7.0.1; egress open", open},
			{"the end of the policy", func() { c.sink.DeletePolicy(p.Name) }, "shop/web", open, open},
		} {
			step.do()
			if told := c.takeTold(); told != step.told {
				t.Errorf("%s: told about %q, want %q", step.what, told, step.told)
			}
			t.Log(step.what)
			expectOn(t, v, web, "net1", step.net1)
			expectOn(t, v, web, "net2", open)
			sets, unknown := v.Decide(web, []policy.Interface{{Name: "eth0", Default: true}, {Name: "net1", Network: p.Networks[0]}})
			if unknown[0] != nil || oneLine(sets[0]) != step.eth0 {
				t.Errorf("%s: eth0 has %s, %v, want %s", step.what, oneLine(sets[0]), unknown[0], step.eth0)
			}
		}
	})
}

// A pod needs the groups of all its interfaces, until an interface goes.
func TestGroupsOfInterfacesAreKept(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		first, second := from("first", "app=web", "app=a"), onStorage(from("second", "app=web", "app=b"))
		c.sink.SetPolicy(first)
		c.sink.SetPolicy(second)
		c.synced()
		web := podOf("web", "app=web")
		expectOn(t, v, web, "net1", "? peer group")
		c.send(groupOf(first), 0, 1, "10.6.0.1")
		c.send(groupOf(second), 0, 1, "10.7.0.1")
		expectOn(t, v, web, "net1", "ingress isolated; ingress any 10.7.0.1; egress open")
		time.Sleep(3 * linger)
		if got := c.groups(); len(got) != 2 {
			t.Errorf("followed: %v", got)
		}
		expect(t, v, web, "ingress isolated; ingress any 10.6.0.1; egress open") // net1 is gone
		time.Sleep(3 * linger)
		if got := c.groups(); len(got) != 1 || got[0] != groupOf(first) {
			t.Errorf("followed without net1: %v", got)
		}
	})
}
