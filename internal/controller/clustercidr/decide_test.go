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

// decision is what is to follow from facts.
type decision struct {
	kind     v2beta1.PodCIDRType
	facts    facts
	pods     []string
	services []string
	missing  string
	err      error // to try again
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

func TestDecide(t *testing.T) {
	compare(t, map[string]decision{
		"cluster takes the first source that says anything": {
			kind: v2beta1.PodCIDRCluster, facts: facts{services: services, cluster: cluster, calico: calico}, pods: merged, services: found,
		},
		"auto prefers the overlay network that is there": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster, calico: calico, cilium: cilium},
			pods: []string{"192.168.0.0/16"}, services: found,
		},
		"auto takes Cilium where there is no Calico": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster, cilium: cilium}, pods: []string{"10.0.0.0/8"}, services: found,
		},
		"auto falls back to the cluster's": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster}, pods: merged, services: found,
		},
		"auto is content with no overlay network at all": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: []origin{{name: "nodes"}}}, services: found,
		},
		"none asks for none": {
			kind: v2beta1.PodCIDRNone, facts: facts{services: services, cluster: cluster, calico: calico}, services: found,
		},
		"an overlay network that was named must be there": {
			kind: v2beta1.PodCIDRCalico, facts: facts{services: services}, services: found,
			missing: "overlayPodCIDR: spec.podCIDRType is calico, but the cluster has no IPPool of crd.projectcalico.org; use auto, cluster or none",
		},
		"cluster networks that are nowhere are missed": {
			kind: v2beta1.PodCIDRCluster, facts: facts{services: []origin{{name: "a"}, {name: "b"}}, cluster: []origin{{name: "c"}}},
			missing: "serviceCIDR: not found in any of: a, b; overlayPodCIDR: not found in any of: c",
		},
		"nonsense is named with its source": {
			kind: v2beta1.PodCIDRNone, facts: facts{services: []origin{{name: "kubeadm", networks: []string{"10.96.0.0"}}}},
			missing: `serviceCIDR: kubeadm has "10.96.0.0", which is not a network in CIDR notation (e.g. 10.0.0.0/8)`,
		},
	})
}

func TestDecideWithEmptyOrUnreadableSources(t *testing.T) {
	compare(t, map[string]decision{
		"an overlay network that was named must have networks": {
			kind: v2beta1.PodCIDRCilium, facts: facts{services: services, cluster: cluster, cilium: &origin{name: `Cilium with ipam "eni"`}}, services: found,
			missing: `overlayPodCIDR: spec.podCIDRType is cilium, but this source has no network: Cilium with ipam "eni"; use auto, cluster or none`,
		},
		"auto passes over overlay networks without networks": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster, calico: &origin{name: "calico"}, cilium: &origin{name: "cilium"}},
			pods: merged, services: found,
		},
		"what cannot be read is reported where it is needed": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: services, cluster: cluster, calico: &origin{name: "calico", err: errUnreadable}}, services: found,
			missing: "overlayPodCIDR: calico cannot be read: not today", err: errUnreadable,
		},
		"what cannot be read does not matter where it is not needed": {
			kind: v2beta1.PodCIDRCluster, pods: merged, services: found,
			facts: facts{services: append(slices.Clone(services), origin{name: "c", err: errUnreadable}), cluster: cluster, calico: &origin{err: errUnreadable}},
		},
		"what comes behind a source that cannot be read is not taken": {
			kind: v2beta1.PodCIDRAuto, facts: facts{services: append([]origin{{name: "objects", err: errUnreadable}}, services...), cluster: []origin{{name: "kubeadm", err: errUnreadable}, cluster[1]}},
			missing: "serviceCIDR: objects cannot be read: not today; overlayPodCIDR: kubeadm cannot be read: not today", err: errUnreadable,
		},
	})
}
