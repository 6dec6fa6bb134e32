package view

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// Target is a cluster before an installation.
type Target struct {
	// Release is that of the program that asks.
	Release string
	// Kubernetes is the version of the API server, e.g. "v1.36.0".
	Kubernetes string
	Nodes      []*corev1.Node
	// Definitions are the custom resource definitions of this release.
	Definitions []Definition
	// Pools are all SpiderIPPools, and Blocks is whether there is a SpiderIPBlock.
	Pools  []*v2beta1.SpiderIPPool
	Blocks bool
	Multus Multus
	// Policies is whether the API server serves ClusterNetworkPolicies, and MultiPolicies the same of MultiNetworkPolicies.
	Policies, MultiPolicies bool
	// ServiceNetworks are the networks of ClusterIPs, and ServiceSource is their source.
	ServiceNetworks []string
	ServiceSource   string
}

// oldestKubernetes is the oldest supported version: docs/guides/install.md.
var oldestKubernetes = version.MustParseSemantic("1.31.0")

// Preflight checks whether this release can be installed.
func (t *Target) Preflight() Report {
	r := Report{Release: t.Release}
	t.kubernetes(&r)
	t.otherRelease(&r)
	t.multus(&r)
	t.policies(&r)
	if len(t.ServiceNetworks) > 0 {
		r.ok("service networks", "%s, from %s", strings.Join(t.ServiceNetworks, ", "), t.ServiceSource)
	} else {
		r.warn("service networks", "no ServiceCIDR, and no serviceSubnet in ConfigMap kube-system/kubeadm-config; the controller may find them in the static pods of the API server",
			"name them: --set coordinator.serviceCIDR={10.96.0.0/12}")
	}
	t.systems(&r)
	t.kernels(&r)
	t.runtimes(&r)
	return r
}

func (t *Target) kubernetes(r *Report) {
	served, err := version.ParseGeneric(t.Kubernetes)
	switch {
	case err != nil:
		r.warn("Kubernetes", fmt.Sprintf("unknown version %q", t.Kubernetes), "check by hand that it is 1.31 or later")
	case served.LessThan(oldestKubernetes):
		r.fail("Kubernetes", t.Kubernetes+" is older than 1.31", "upgrade the cluster")
	default:
		r.ok("Kubernetes", "%s", t.Kubernetes)
	}
}

// otherRelease looks for the objects of Spiderpool.
func (t *Target) otherRelease(r *Report) {
	const subject = "Spiderpool"
	if foreign := compile.DescribeForeign(t.Pools, maxNamed); foreign != nil {
		r.fail(subject, "pods of another release have addresses, which this release would give to other pods: "+strings.Join(foreign, "; "),
			"delete these pods, wait until status.allocatedIPCount of every pool is 0, then uninstall the other release; see docs/guides/install.md#from-spiderpool-12")
		return
	}
	var unstamped, stamps []string
	for _, d := range t.Definitions {
		d.Name, _, _ = strings.Cut(d.Name, ".")
		switch {
		case d.Exists && d.Stamp == "":
			unstamped = append(unstamped, d.Name)
		case d.Exists && !slices.Contains(stamps, d.Stamp):
			stamps = append(stamps, d.Stamp)
		}
	}
	switch {
	case len(unstamped) > 0:
		r.warn(subject, "definitions of another release: "+some(unstamped), "uninstall that release first, unless it is gone; the installation replaces the definitions and keeps the objects")
	case len(stamps) > 0 && t.Blocks:
		r.warn(subject, "it is installed, or was: definitions of "+some(stamps)+", and SpiderIPBlocks with leases", "helm list -A shows the release; use helm upgrade --reset-then-reuse-values instead of helm install")
	case len(stamps) > 0:
		r.ok(subject, "definitions of %s, and no leases", some(stamps))
	default:
		r.ok(subject, "not installed")
	}
}

func (t *Target) multus(r *Report) {
	const subject = "Multus"
	if !t.Multus.Served {
		r.ok(subject, "not installed: the chart installs it")
		return
	}
	var found Report
	t.Multus.check(&found)
	for _, check := range found.Checks {
		check.Verdict, check.Remedy = Warning, "the chart installs Multus; if another one stays, install with multus.multusCNI.install=false"
		r.Checks = append(r.Checks, check)
	}
}

func (t *Target) policies(r *Report) {
	for _, kind := range []struct {
		name, value string
		served      bool
	}{{"ClusterNetworkPolicies", "clusterNetworkPolicy", t.Policies}, {"MultiNetworkPolicies", "multiNetworkPolicy", t.MultiPolicies}} {
		if kind.served {
			r.ok("policies", "%s are defined", kind.name)
		} else {
			r.ok("policies", "%s are not defined; --set policy.installCRDs.%s=true defines them", kind.name, kind.value)
		}
	}
}

// byValue groups the nodes by a value of theirs.
func byValue(nodes []*corev1.Node, value func(*corev1.Node) string) map[string][]string {
	groups := map[string][]string{}
	for _, node := range nodes {
		groups[value(node)] = append(groups[value(node)], node.Name)
	}
	return groups
}

func (t *Target) systems(r *Report) {
	groups := byValue(t.Nodes, func(n *corev1.Node) string {
		return n.Status.NodeInfo.OperatingSystem + "/" + n.Status.NodeInfo.Architecture
	})
	for _, system := range slices.Sorted(maps.Keys(groups)) {
		nodes := groups[system]
		switch {
		case !strings.HasPrefix(system, "linux/"):
			r.warn("nodes", fmt.Sprintf("%s: %s; Spiderpool runs on Linux only", system, some(nodes)), "no agent runs there; place pods with our addresses on other nodes")
		case system != "linux/amd64" && system != "linux/arm64":
			r.warn("nodes", fmt.Sprintf("%s: %s", system, some(nodes)), "our images are for amd64 and arm64; keep the agents off: spiderpoolAgent.nodeSelector")
		default:
			r.ok("nodes", "%s: %s", system, some(nodes))
		}
	}
	if len(t.Nodes) == 0 {
		r.warn("nodes", "there is none", "join one; Spiderpool needs no network plugin on it")
	}
}

// kernels compares the kernels with netplan.KernelFeatures.
func (t *Target) kernels(r *Report) {
	linux := slices.DeleteFunc(slices.Clone(t.Nodes), func(n *corev1.Node) bool { return n.Status.NodeInfo.OperatingSystem == "windows" })
	groups := byValue(linux, func(n *corev1.Node) string { return n.Status.NodeInfo.KernelVersion })
	for _, release := range slices.Sorted(maps.Keys(groups)) {
		nodes, complete := some(groups[release]), true
		for _, feature := range netplan.KernelFeatures {
			has, known := feature.In(release)
			if !known {
				r.warn("kernel", fmt.Sprintf("%q of %s has an unknown format", release, nodes), "run spiderpoolctl node in the agent of the node")
				complete = false
				break
			}
			if !has {
				complete = false
				r.warn("kernel", fmt.Sprintf("%s of %s is older than %s, for %s: %s", release, nodes, strings.TrimPrefix(feature.Version(), "Linux "), strings.ReplaceAll(feature.Feature, "`", ""), feature.Without), "use a newer kernel, or do without it")
			}
		}
		if complete {
			r.ok("kernel", "%s of %s has every feature by its version", release, nodes)
		}
	}
}

func (t *Target) runtimes(r *Report) {
	groups := byValue(t.Nodes, func(n *corev1.Node) string { return n.Status.NodeInfo.ContainerRuntimeVersion })
	for _, runtime := range slices.Sorted(maps.Keys(groups)) {
		nodes := some(groups[runtime])
		if strings.HasPrefix(runtime, "containerd://") || strings.HasPrefix(runtime, "cri-o://") {
			r.ok("runtime", "%s: %s", runtime, nodes)
			continue
		}
		r.warn("runtime", fmt.Sprintf("%s: %s; untested", runtime, nodes), "name its CRI socket: --set spiderpoolAgent.criSocket=/run/cri-dockerd.sock")
	}
}
