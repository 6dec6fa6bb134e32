package compile

import (
	"spiderpool.dev/spiderpool/api/v2beta1"
)

// confList is a network configuration list (CNI specification 1.1.0, section 1).
type confList struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Plugins    []any  `json:"plugins"`
}

func (l confList) text() string { return string(mustMarshal(l)) }

// The configurations of the plugins, as their documentation has them.

type typeOnly struct {
	Type string `json:"type"`
}

type ifacerPlugin struct {
	Type       string        `json:"type"`
	Interfaces []string      `json:"interfaces"`
	VlanID     int32         `json:"vlanID,omitempty"`
	Bond       *v2beta1.Bond `json:"bond,omitempty"`
}

// masterPlugin is macvlan, ipvlan and ipoib.
type masterPlugin struct {
	Type   string      `json:"type"`
	Master string      `json:"master,omitempty"`
	Mode   string      `json:"mode,omitempty"`
	MTU    int32       `json:"mtu,omitempty"`
	IPAM   *ipamPlugin `json:"ipam,omitempty"`
}

type vlanPlugin struct {
	Type   string      `json:"type"`
	Master string      `json:"master"`
	VlanID int32       `json:"vlanId"`
	MTU    int32       `json:"mtu,omitempty"`
	IPAM   *ipamPlugin `json:"ipam,omitempty"`
}

type sriovPlugin struct {
	Type      string      `json:"type"`
	VLAN      *int32      `json:"vlan,omitempty"`
	MinTxRate *int        `json:"min_tx_rate,omitempty"`
	MaxTxRate *int        `json:"max_tx_rate,omitempty"`
	IPAM      *ipamPlugin `json:"ipam,omitempty"`
}

type ibSriovPlugin struct {
	Type          string      `json:"type"`
	Pkey          string      `json:"pkey,omitempty"`
	LinkState     string      `json:"link_state"`
	RDMAIsolation bool        `json:"rdmaIsolation"`
	IBKubernetes  bool        `json:"ibKubernetesEnabled"`
	IPAM          *ipamPlugin `json:"ipam,omitempty"`
}

type ovsPlugin struct {
	Type     string          `json:"type"`
	Bridge   string          `json:"bridge"`
	VLAN     *int32          `json:"vlan,omitempty"`
	Trunk    []v2beta1.Trunk `json:"trunk,omitempty"`
	DeviceID string          `json:"deviceID,omitempty"`
	IPAM     *ipamPlugin     `json:"ipam,omitempty"`
}

type tuningPlugin struct {
	Type string `json:"type"`
	MTU  int32  `json:"mtu"`
}

type ipamPlugin struct {
	Type              string   `json:"type"`
	DefaultIPv4Pools  []string `json:"default_ipv4_ippool,omitempty"`
	DefaultIPv6Pools  []string `json:"default_ipv6_ippool,omitempty"`
	MatchMasterSubnet bool     `json:"match_master_subnet,omitempty"`
}

// ipamOf returns nil for an interface that gets no address.
func ipamOf(disabled bool, pools *v2beta1.AttachmentPools) *ipamPlugin {
	if disabled {
		return nil
	}
	plugin := &ipamPlugin{Type: "spiderpool"}
	if pools != nil {
		plugin.DefaultIPv4Pools, plugin.DefaultIPv6Pools = pools.IPv4, pools.IPv6
		plugin.MatchMasterSubnet = pools.MatchMasterSubnet != nil && *pools.MatchMasterSubnet
	}
	return plugin
}

// coordinatorConfig is the configuration of the coordinator plugin. What is
// left out it gets from the SpiderCoordinator; podCIDRType and the deprecated
// fields mean nothing to an attachment.
type coordinatorConfig struct {
	Type               string                   `json:"type"`
	Mode               *v2beta1.CoordinatorMode `json:"mode,omitempty"`
	HijackCIDR         []string                 `json:"hijackCIDR,omitempty"`
	PolicyRoutes       []v2beta1.Route          `json:"policyRoutes,omitempty"`
	PodMACPrefix       *string                  `json:"podMACPrefix,omitempty"`
	TunePodRoutes      *bool                    `json:"tunePodRoutes,omitempty"`
	PodDefaultRouteNIC *string                  `json:"podDefaultRouteNic,omitempty"`
	HostRuleTable      *int                     `json:"hostRuleTable,omitempty"`
	PodRPFilter        *int                     `json:"podRPFilter,omitempty"`
	TxQueueLen         *int                     `json:"txQueueLen,omitempty"`
	VethLinkAddress    *string                  `json:"vethLinkAddress,omitempty"`
	VethMTU            *int                     `json:"vethMTU,omitempty"`
}

func coordinatorPlugin(in *v2beta1.CoordinatorSpec) coordinatorConfig {
	if in == nil {
		return coordinatorConfig{Type: "coordinator"}
	}
	return coordinatorConfig{
		Type: "coordinator", Mode: in.Mode, HijackCIDR: in.HijackCIDR, PolicyRoutes: in.PolicyRoutes, PodMACPrefix: in.PodMACPrefix,
		TunePodRoutes: in.TunePodRoutes, PodDefaultRouteNIC: in.PodDefaultRouteNIC, HostRuleTable: in.HostRuleTable,
		PodRPFilter: in.PodRPFilter, TxQueueLen: in.TxQueueLen, VethLinkAddress: in.VethLinkAddress, VethMTU: in.VethMTU,
	}
}
