package compile

import (
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cniconf"
)

// ipamOf returns nil if the interface gets no address.
func ipamOf(disabled bool, pools *v2beta1.AttachmentPools) *cniconf.IPAM {
	if disabled {
		return nil
	}
	ipam := &cniconf.IPAM{Type: cniconf.TypeIPAM}
	if pools != nil {
		ipam.DefaultIPv4Pools, ipam.DefaultIPv6Pools = pools.IPv4, pools.IPv6
		ipam.MatchMasterSubnet = ptr.Deref(pools.MatchMasterSubnet, false)
	}
	return ipam
}

// coordinatorKeys returns the plugin's configuration with the fields that the spec sets.
// podCIDRType and the fields without effect have no key.
func coordinatorKeys(in *v2beta1.CoordinatorSpec) cniconf.Coordinator {
	capabilities := &cniconf.Capabilities{Bandwidth: true}
	if in == nil {
		return cniconf.Coordinator{Type: cniconf.TypeCoordinator, Capabilities: capabilities}
	}
	var routes []cniconf.Route
	for _, route := range in.PolicyRoutes {
		routes = append(routes, cniconf.Route(route))
	}
	return cniconf.Coordinator{
		Type: cniconf.TypeCoordinator, Mode: (*string)(in.Mode), OverlayPodCIDR: in.OverlayPodCIDR, ServiceCIDR: in.ServiceCIDR, HijackCIDR: in.HijackCIDR, PolicyRoutes: routes, PodMACPrefix: in.PodMACPrefix,
		TunePodRoutes: in.TunePodRoutes, PodDefaultRouteNIC: in.PodDefaultRouteNIC, HostRuleTable: in.HostRuleTable,
		PodRPFilter: in.PodRPFilter, TxQueueLen: in.TxQueueLen, VethLinkAddress: in.VethLinkAddress, VethMTU: in.VethMTU,
		AntiSpoof: in.AntiSpoof, Capabilities: capabilities,
	}
}
