package netplan

import (
	"fmt"
	"slices"
)

// KernelFeature is a feature with its needs of a node's kernel.
type KernelFeature struct {
	Feature string
	// Linux is the first version with the feature, e.g. 5 and 7; none if any version has it.
	Linux []int
	// Also are further needs, as Markdown.
	Also string
	// Without is the effect of an older kernel.
	Without string
}

var (
	masquerading = KernelFeature{
		"ClusterIP services without `--masquerade-all` in kube-proxy", []int{5, 7}, "`CONFIG_NFT_NAT`, `CONFIG_NFT_MASQ`",
		"the kernel cannot masquerade by input interface, so packets of pods to services keep the pod's address; set --masquerade-all in kube-proxy",
	}
	spoofing = KernelFeature{"`antiSpoof` of the coordinator", []int{5, 16}, "`CONFIG_NETFILTER_EGRESS`", "with antiSpoof, pods do not start on the node"}
)

// KernelFeatures are the features with needs of the kernel. The table in docs/guides/install.md is printed from them.
var KernelFeatures = []KernelFeature{
	{"ipvlan attachments", []int{4, 2}, "module `ipvlan`", "network attachments of type ipvlan fail"},
	{"macvlan, VLAN and bond attachments", nil, "modules `macvlan`, `8021q`, `bonding`", ""},
	masquerading,
	{"services by eBPF (`service.mode`)", []int{5, 14}, "a bpffs at `/sys/fs/bpf`, control groups v2", "kube-proxy translates the services of the node's pods"},
	spoofing,
	{"egress policies for packet sockets", []int{5, 16}, "`CONFIG_NETFILTER_EGRESS`", "a pod with NET_RAW evades egress policies"},
	{"flows (`observability.enabled`)", []int{6, 6}, "", "connections of the node's pods are not observed"},
	{"policies that a pod with NET_ADMIN cannot remove", []int{6, 9}, "", "a pod with NET_ADMIN can remove its policies"},
	{"limits of the bandwidth", nil, "modules `ifb`, `sch_tbf`, `sch_ingress`, `cls_u32`, `act_mirred`", ""},
	{"IPv6 pods", nil, "`net.ipv6.conf.all.disable_ipv6=0` on the node", ""},
}

// Version returns the first version with the feature, e.g. "Linux 5.7"; "" if any version has it.
func (f KernelFeature) Version() string {
	if len(f.Linux) == 0 {
		return ""
	}
	return fmt.Sprintf("Linux %d.%d", f.Linux[0], f.Linux[1])
}

// In reports whether the kernel of a release, e.g. "6.1.0-18-amd64", is new enough; known is false for an unknown
// format of the release.
func (f KernelFeature) In(release string) (has, known bool) {
	v, known := kernelVersion(release)
	return known && slices.Compare(v, f.Linux) >= 0, known
}
