package coordinator

import (
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/rpc"
	"spiderpool.dev/spiderpool/internal/wire"
)

// The modes.
const (
	modeAuto     = "auto"
	modeUnderlay = "underlay"
	modeOverlay  = "overlay"
	modeDisabled = "disabled"
)

const defaultHostRuleTable = 500

// conf is the plugin's network configuration, with the defaults of the keys that
// only the plugin has.
type conf struct {
	cniconf.Coordinator
	log plugin.Log
}

// parseConf reads the configuration. Its error has the CNI code for a malformed or
// an invalid configuration.
func parseConf(stdin []byte) (*conf, error) {
	c := &conf{Coordinator: cniconf.Coordinator{
		Socket: cniconf.DefaultSocket, PodDefaultCNINIC: "eth0", MultusNICPrefix: "net",
		Log: cniconf.LogOptions{File: "/var/log/spidernet/coordinator.log"},
	}}
	if err := plugin.Decode(stdin, &c.Coordinator); err != nil {
		return nil, err
	}
	var err error
	if c.log, err = plugin.NewLog(c.Log.File, c.Log.Level, c.Log.MaxSize, c.Log.MaxAge, c.Log.MaxCount); err != nil {
		return nil, types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	}
	return c, nil
}

// agent is the node's agent.
func (c *conf) agent() rpc.Client { return rpc.Client{Socket: c.Socket} }

// settings merges the configuration into the agent's: what is set here wins,
// and the pod's own wish for its default route wins over both.
func (c *conf) settings(reply wire.CoordinatorReply) (mode, macPrefix string, s netplan.Settings, err error) {
	g := reply.Config
	s = netplan.Settings{
		TunePodRoutes: or(c.TunePodRoutes, g.TunePodRoutes),
		DefaultNIC:    or(c.PodDefaultRouteNIC, g.PodDefaultRouteNIC),
		HostRuleTable: or(c.HostRuleTable, g.HostRuleTable),
		RPFilter:      or(c.PodRPFilter, g.PodRPFilter),
		TxQueueLen:    or(c.TxQueueLen, g.TxQueueLen),
		VethMTU:       or(c.VethMTU, g.VethMTU),
		VethLinkAddr:  g.VethLinkAddress,
	}
	if reply.PodDefaultRouteNIC != "" {
		s.DefaultNIC = reply.PodDefaultRouteNIC
	}
	if s.HostRuleTable == 0 {
		s.HostRuleTable = defaultHostRuleTable
	}
	if c.VethLinkAddress != nil && *c.VethLinkAddress != "" {
		if s.VethLinkAddr, err = netip.ParseAddr(*c.VethLinkAddress); err != nil {
			return "", "", s, &netplan.FieldError{Field: "vethLinkAddress", Value: *c.VethLinkAddress, Reason: "want an IP address"}
		}
	}
	for _, f := range []struct {
		name string
		text []string
		set  []netip.Prefix
		to   *[]netip.Prefix
	}{
		{"hijackCIDR", c.HijackCIDR, g.HijackCIDR, &s.HijackCIDR},
		{"serviceCIDR", c.ServiceCIDR, g.ServiceCIDR, &s.ServiceCIDR},
		{"overlayPodCIDR", c.OverlayPodCIDR, g.OverlayPodCIDR, &s.OverlayPodCIDR},
	} {
		if *f.to, err = prefixes(f.name, f.text, f.set); err != nil {
			return "", "", s, err
		}
	}
	s.OwnPolicyRoutes = c.PolicyRoutes != nil
	if s.PolicyRoutes, err = c.policyRoutes(g.PolicyRoutes); err != nil {
		return "", "", s, err
	}
	mode = or(c.Mode, g.Mode)
	switch mode {
	case "":
		mode = modeAuto
	case modeAuto, modeUnderlay, modeOverlay, modeDisabled:
	default:
		return "", "", s, &netplan.FieldError{Field: "mode", Value: mode, Reason: "want auto, underlay, overlay or disabled"}
	}
	return mode, or(c.PodMACPrefix, g.PodMACPrefix), s, nil
}

func (c *conf) policyRoutes(global []inet.Route) ([]inet.Route, error) {
	var hops []inet.Route
	if c.PolicyRoutes == nil {
		for _, r := range global {
			hops = append(hops, inet.Route{Dst: r.Dst, Via: r.Via})
		}
		return hops, nil
	}
	for _, r := range c.PolicyRoutes {
		dst, err := netip.ParsePrefix(r.Dst)
		if err != nil {
			return nil, &netplan.FieldError{Field: "policyRoutes.dst", Value: r.Dst, Reason: "want a network as 10.0.0.0/8"}
		}
		gw, err := netip.ParseAddr(r.Gw)
		if err != nil {
			return nil, &netplan.FieldError{Field: "policyRoutes.gw", Value: r.Gw, Reason: "want an IP address"}
		}
		hops = append(hops, inet.Route{Dst: dst, Via: gw})
	}
	return hops, nil
}

// prefixes parses networks; without text those that are set stay.
func prefixes(field string, text []string, set []netip.Prefix) ([]netip.Prefix, error) {
	if text == nil {
		return set, nil
	}
	out := make([]netip.Prefix, 0, len(text))
	for _, t := range text {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, &netplan.FieldError{Field: field, Value: t, Reason: "want a network as 169.254.0.0/16"}
		}
		out = append(out, p)
	}
	return out, nil
}

func or[T any](own *T, global T) T {
	if own != nil {
		return *own
	}
	return global
}
