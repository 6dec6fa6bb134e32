package coordinator

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

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

const (
	defaultSocket        = "/var/run/spidernet/spiderpool.sock"
	defaultHostRuleTable = 500
)

// conf is the plugin's network configuration: the fields of a CoordinatorSpec,
// those that are left out coming from the agent, and what only the plugin has.
type conf struct {
	types.PluginConf
	Socket             string   `json:"ipam_unix_socket_path"`
	Mode               *string  `json:"mode"`
	HijackCIDR         []string `json:"hijackCIDR"`
	OverlayPodCIDR     []string `json:"overlayPodCIDR"`
	ServiceCIDR        []string `json:"serviceCIDR"`
	PolicyRoutes       []route  `json:"policyRoutes"`
	PodMACPrefix       *string  `json:"podMACPrefix"`
	TunePodRoutes      *bool    `json:"tunePodRoutes"`
	PodDefaultRouteNIC *string  `json:"podDefaultRouteNic"`
	HostRuleTable      *int     `json:"hostRuleTable"`
	PodRPFilter        *int     `json:"podRPFilter"`
	TxQueueLen         *int     `json:"txQueueLen"`
	VethLinkAddress    *string  `json:"vethLinkAddress"`
	VethMTU            *int     `json:"vethMTU"`
	PodDefaultCNINIC   string   `json:"podDefaultCniNic"`
	MultusNICPrefix    string   `json:"multusNicPrefix"`
	Log                logConf  `json:"logOptions"`
}

type route struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

type logConf struct {
	Level    string  `json:"logLevel"`
	File     string  `json:"logFile"`
	MaxSize  integer `json:"logMaxSize"` // MiB
	MaxAge   integer `json:"logMaxAge"`  // days
	MaxCount integer `json:"logMaxCount"`
}

// integer is a JSON number or a string that holds one; both are in use.
type integer int

func (n *integer) UnmarshalJSON(text []byte) error {
	v, err := strconv.Atoi(strings.Trim(string(text), `"`))
	if err != nil || v < 0 {
		return fmt.Errorf("%s is not a whole number of 0 or more", text)
	}
	*n = integer(v)
	return nil
}

// parseConf returns the configuration with the defaults that are not the agent's.
func parseConf(stdin []byte) (*conf, error) {
	c := &conf{
		Socket: defaultSocket, PodDefaultCNINIC: "eth0", MultusNICPrefix: "net",
		Log: logConf{Level: "INFO", File: "/var/log/spidernet/coordinator.log", MaxSize: 100, MaxAge: 30, MaxCount: 7},
	}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(wire.CodeDecodingFailure, "the network configuration is not what coordinator understands", err.Error())
	}
	return c, nil
}

// agent is the node's agent.
func (c *conf) agent() rpc.Client { return rpc.Client{Socket: c.Socket} }

// previous returns the result of the plugins before in the chain.
func (c *conf) previous() (*types100.Result, error) {
	if c.RawPrevResult == nil {
		return nil, types.NewError(wire.CodeInvalidConfig, "coordinator must be chained behind a main plugin: the network configuration has no prevResult", "")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(wire.CodeDecodingFailure, "decode prevResult", err.Error())
	}
	previous, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, types.NewError(wire.CodeDecodingFailure, "decode prevResult", err.Error())
	}
	return previous, nil
}

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
		gw, err := netip.ParseAddr(r.GW)
		if err != nil {
			return nil, &netplan.FieldError{Field: "policyRoutes.gw", Value: r.GW, Reason: "want an IP address"}
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
