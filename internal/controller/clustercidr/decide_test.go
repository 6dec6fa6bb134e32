package clustercidr

import (
	"errors"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// What sources say.
var (
	services      = []origin{{name: "ServiceCIDR objects"}, {name: "kubeadm", networks: []string{"10.96.0.0/12", "fd00:10:96::/112"}}}
	cluster       = []origin{{name: "kubeadm"}, {name: "nodes", networks: []string{"10.244.1.0/24", "10.244.0.0/24", "fd00:1::/80"}}}
	merged        = []string{"10.244.0.0/23", "fd00:1::/80"}
	calico        = &origin{name: "calico", networks: []string{"192.168.1.1/16"}}
	cilium        = &origin{name: "cilium", networks: []string{"10.0.0.0/8"}}
	errUnreadable = errors.New("not today")
	found         = []string{"10.96.0.0/12", "fd00:10:96::/112"}
)

// decision is the expected result for facts.
type decision struct {
	kind     v2beta1.PodCIDRType
	facts    facts
	pods     []string
	services []string
	missing  string
	err      error // causes a retry
}

func compare(t *testing.T, decisions map[string]decision) {
	t.Helper()
	for name, c := range decisions {
		t.Run(name, func(t *testing.T) {
			got := decide(c.kind, c.facts)
			if !slices.Equal(got.overlayPodCIDR, c.pods) || !slices.Equal(got.serviceCIDR, c.services) || got.missing != c.missing || !errors.Is(got.err, c.err) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestSpecificationComesFirst(t *testing.T) {
	f := facts{services: []origin{{name: "unreadable", err: errUnreadable}}, cluster: []origin{{name: "unreadable", err: errUnreadable}}, calico: calico}
	spec := &v2beta1.CoordinatorSpec{ServiceCIDR: []string{"10.96.0.0/12", "fd00:10:96::/112"}, OverlayPodCIDR: []string{"10.244.1.0/24", "10.244.0.0/24", "fd00:1::/80"}}
	compare(t, map[string]decision{
		"both":     {kind: v2beta1.PodCIDRCalico, facts: f.with(spec), pods: merged, services: found},
		"services": {kind: v2beta1.PodCIDRCalico, facts: f.with(&v2beta1.CoordinatorSpec{ServiceCIDR: spec.ServiceCIDR}), pods: []string{"192.168.0.0/16"}, services: found},
	})
}

func TestDecide(t *testing.T) {
	compare(t, map[string]decision{
		"cluster takes the first source with networks": {
			kind: v2beta1.PodCIDRCluster, facts: facts{services: services, cluster: cluster, calico: calico}, pods: merged, services: found,
		},
		"auto prefers an existing overlay network": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster, calico: calico, cilium: cilium},
			pods: []string{"192.168.0.0/16"}, services: found,
		},
		"auto takes Cilium without Calico": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster, cilium: cilium}, pods: []string{"10.0.0.0/8"}, services: found,
		},
		"auto falls back to the cluster's": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster}, pods: merged, services: found,
		},
		"auto accepts a cluster without overlay network": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: []origin{{name: "nodes"}}}, services: found,
		},
		"none needs no source": {
			kind: v2beta1.PodCIDRNone, facts: facts{services: services, cluster: cluster, calico: calico}, services: found,
		},
		"the chosen overlay network must exist": {
			kind: v2beta1.PodCIDRCalico, facts: facts{services: services}, services: found,
			missing: "overlayPodCIDR: spec.podCIDRType is calico, but the cluster has no IPPool of crd.projectcalico.org; use auto, cluster or none",
		},
		"missing cluster networks are reported": {
			kind: v2beta1.PodCIDRCluster, facts: facts{services: []origin{{name: "a"}, {name: "b"}}, cluster: []origin{{name: "c"}}},
			missing: "serviceCIDR: not found in any of: a, b (or set the field in spec); overlayPodCIDR: not found in any of: c (or set the field in spec)",
		},
		"a malformed network is reported with its source": {
			kind: v2beta1.PodCIDRNone, facts: facts{services: []origin{{name: "kubeadm", networks: []string{"10.96.0.0"}}}},
			missing: `serviceCIDR: kubeadm has "10.96.0.0", which is not a network in CIDR notation (e.g. 10.0.0.0/8)`,
		},
	})
}

func TestDecideWithEmptyOrUnreadableSources(t *testing.T) {
	compare(t, map[string]decision{
		"the chosen overlay network must have networks": {
			kind: v2beta1.PodCIDRCilium, facts: facts{services: services, cluster: cluster, cilium: &origin{name: `Cilium with ipam "eni"`}}, services: found,
			missing: `overlayPodCIDR: spec.podCIDRType is cilium, but this source has no network: Cilium with ipam "eni"; use auto, cluster or none`,
		},
		"auto skips overlay networks without networks": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster, calico: &origin{name: "calico"}, cilium: &origin{name: "cilium"}},
			pods: merged, services: found,
		},
		"a needed unreadable source is reported": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster, calico: &origin{name: "calico", err: errUnreadable}}, services: found,
			missing: "overlayPodCIDR: calico cannot be read: not today", err: errUnreadable,
		},
		"an unneeded unreadable source does not matter": {
			kind: v2beta1.PodCIDRCluster, pods: merged, services: found,
			facts: facts{services: append(slices.Clone(services), origin{name: "c", err: errUnreadable}), cluster: cluster, calico: &origin{err: errUnreadable}},
		},
		"an unreadable source stops the search": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: append([]origin{{name: "objects", err: errUnreadable}}, services...), cluster: []origin{{name: "kubeadm", err: errUnreadable}, cluster[1]}},
			missing: "serviceCIDR: objects cannot be read: not today; overlayPodCIDR: kubeadm cannot be read: not today", err: errUnreadable,
		},
	})
}

// A cluster that changed from Calico to Cilium keeps the pools of Calico.
func TestAutoNamesBothOverlays(t *testing.T) {
	got := decide(v2beta1.PodCIDRAuto, facts{services: services, cluster: cluster, calico: calico, cilium: cilium}).source
	if want := "calico; the cluster has cilium, too: if the pods use that, set spec.podCIDRType"; got != want {
		t.Errorf("source %q, want %q", got, want)
	}
}
