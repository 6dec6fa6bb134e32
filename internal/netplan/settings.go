package netplan

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/inet"
)

// Mode selects the plan for a pod.
type Mode string

// The modes. Auto means underlay if the pod's first interface is ours, else overlay.
const (
	ModeAuto     Mode = "auto"
	ModeUnderlay Mode = "underlay"
	ModeOverlay  Mode = "overlay"
	ModeDisabled Mode = "disabled"
)

// Settings are the coordinator's configuration. The JSON is the agent's answer to
// the plugin, in which the agent has completed the cluster's SpiderCoordinator.
type Settings struct {
	Mode           Mode           `json:"mode"`
	HijackCIDR     []netip.Prefix `json:"hijackCIDR,omitempty"`
	OverlayPodCIDR []netip.Prefix `json:"overlayPodCIDR,omitempty"`
	ServiceCIDR    []netip.Prefix `json:"serviceCIDR,omitempty"`
	PolicyRoutes   []inet.Route   `json:"policyRoutes,omitempty"`
	// OwnPolicyRoutes is true if PolicyRoutes are those of the attachment. The pod must
	// then reach each gateway now, because no later attachment brings its subnet. The
	// cluster's routes apply only to pods that reach the gateways.
	OwnPolicyRoutes bool `json:"-"`
	// MACPrefix is the first two bytes of the pod's hardware address, e.g. "0a:1b"; "" keeps the address.
	MACPrefix     string `json:"podMACPrefix,omitempty"`
	TunePodRoutes bool   `json:"tunePodRoutes"`
	// DefaultNIC is the interface for the default route. "" keeps the interface that
	// has it, which is the first one at the beginning.
	DefaultNIC    string     `json:"podDefaultRouteNIC,omitempty"`
	HostRuleTable int        `json:"hostRuleTable"`
	RPFilter      int        `json:"podRPFilter"`
	TxQueueLen    int        `json:"txQueueLen,omitempty"` // packets; 0 keeps the kernel's value
	VethLinkAddr  netip.Addr `json:"vethLinkAddress,omitzero"`
	VethMTU       int        `json:"vethMTU,omitempty"` // bytes; 0 keeps the kernel's default
	// AntiSpoof lets the pod send only from its own addresses.
	AntiSpoof bool `json:"antiSpoof,omitempty"`
}

// Default returns the settings of an empty SpiderCoordinator.
func Default() Settings {
	return Settings{Mode: ModeAuto, TunePodRoutes: true, HostRuleTable: 500, VethMTU: 1500}
}

// FieldError is an invalid setting.
type FieldError struct {
	Field  string // e.g. "hijackCIDR[1]"
	Value  any
	Reason string // with the way out
}

// Error returns the field, the value and the reason. A value from an annotation may be
// long, so Error returns at most 256 letters of it.
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s %.256q: %s", e.Field, fmt.Sprint(e.Value), e.Reason)
}

const (
	wantNetwork   = `is not a network in CIDR notation, such as "10.0.0.0/8" or "fd00::/64", or an address`
	wantLinkLocal = "is not a link-local address; use one in 169.254.0.0/16 or fe80::/10, or omit the field"
)

// With returns the settings with the keys that c sets, and every invalid one. It
// clears the host bits of networks, because the kernel's routes have none.
func (s Settings) With(c cniconf.Coordinator) (Settings, []FieldError) {
	var errs []FieldError
	if c.Mode != nil {
		s.Mode = cmp.Or(Mode(*c.Mode), ModeAuto)
	}
	s.HijackCIDR = networks(&errs, "hijackCIDR", c.HijackCIDR, s.HijackCIDR)
	s.OverlayPodCIDR = networks(&errs, "overlayPodCIDR", c.OverlayPodCIDR, s.OverlayPodCIDR)
	s.ServiceCIDR = networks(&errs, "serviceCIDR", c.ServiceCIDR, s.ServiceCIDR)
	if c.PolicyRoutes != nil {
		s.PolicyRoutes = routes(&errs, c.PolicyRoutes)
	}
	set(&s.MACPrefix, c.PodMACPrefix)
	set(&s.TunePodRoutes, c.TunePodRoutes)
	set(&s.DefaultNIC, c.PodDefaultRouteNIC)
	set(&s.HostRuleTable, c.HostRuleTable)
	set(&s.RPFilter, c.PodRPFilter)
	set(&s.TxQueueLen, c.TxQueueLen)
	set(&s.VethMTU, c.VethMTU)
	set(&s.AntiSpoof, c.AntiSpoof)
	if c.VethLinkAddress != nil && *c.VethLinkAddress != "" {
		var err error
		if s.VethLinkAddr, err = netip.ParseAddr(*c.VethLinkAddress); err != nil {
			errs = append(errs, FieldError{"vethLinkAddress", *c.VethLinkAddress, wantLinkLocal})
		}
	}
	return s, append(errs, s.Validate()...)
}

func set[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}

// network reads a network in CIDR notation, or an address, which stands for the network
// with only that address: "169.254.20.10" is 169.254.20.10/32.
func network(text string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), !a.Is4In6() && a.Zone() == ""
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err == nil && !p.Addr().Is4In6()
}

// networks parses texts; without texts (nil) it returns inherited.
func networks(errs *[]FieldError, field string, texts []string, inherited []netip.Prefix) []netip.Prefix {
	if texts == nil {
		return inherited
	}
	out := make([]netip.Prefix, 0, len(texts))
	for i, text := range texts {
		if p, ok := network(text); ok {
			out = append(out, p)
		} else {
			*errs = append(*errs, FieldError{fmt.Sprintf("%s[%d]", field, i), text, wantNetwork})
		}
	}
	return out
}

func routes(errs *[]FieldError, texts []cniconf.Route) []inet.Route {
	out := make([]inet.Route, 0, len(texts))
	for i, text := range texts {
		dst := text.Dst
		if p, ok := network(dst); ok {
			dst = p.String()
		}
		r, err := inet.ParseRoute(dst, text.Gw)
		var fault *inet.RouteError
		if errors.As(err, &fault) {
			*errs = append(*errs, FieldError{fmt.Sprintf("policyRoutes[%d].%s", i, fault.Key), fault.Value, fault.Reason})
			continue
		}
		out = append(out, r)
	}
	return inet.MergeRoutes(nil, out)
}

// Validate returns every setting that is invalid for every pod. The plans check the
// rest, e.g. that the pod reaches the gateways of its routes.
func (s Settings) Validate() (errs []FieldError) {
	invalid := func(field string, value any, reason string) { errs = append(errs, FieldError{field, value, reason}) }
	switch s.Mode {
	case ModeAuto, ModeUnderlay, ModeOverlay, ModeDisabled:
	default:
		invalid("mode", string(s.Mode), "use auto, underlay, overlay or disabled")
	}
	for i, r := range s.PolicyRoutes {
		if r.Dst != r.Dst.Masked() {
			invalid(fmt.Sprintf("policyRoutes[%d].dst", i), r.Dst.String(), "has host bits; use "+r.Dst.Masked().String())
		}
		if !r.Via.IsValid() || inet.FamilyOf(r.Via) != inet.FamilyOf(r.Dst.Addr()) {
			invalid(fmt.Sprintf("policyRoutes[%d].gw", i), r.Via.String(),
				fmt.Sprintf("is not an %s address like dst %s; use a next hop of that IP version", inet.FamilyOf(r.Dst.Addr()), r.Dst))
		} else if fault := inet.NextHopFault(r.Via); fault != "" {
			invalid(fmt.Sprintf("policyRoutes[%d].gw", i), r.Via.String(), fault)
		}
	}
	if s.MACPrefix != "" {
		if _, err := MACWithPrefix(s.MACPrefix, netip.IPv4Unspecified()); err != nil {
			errs = append(errs, *err)
		}
	}
	if fault := InterfaceNameFault(s.DefaultNIC); s.DefaultNIC != "" && fault != "" {
		invalid("podDefaultRouteNIC", s.DefaultNIC, fault+`; e.g. "eth0" or "net1"`)
	}
	// Tables 253 to 255 are the kernel's (linux/rtnetlink.h).
	if s.HostRuleTable < 1 || s.HostRuleTable >= 253 && s.HostRuleTable <= 255 {
		invalid("hostRuleTable", s.HostRuleTable, "use a table above 0 other than 253 (default), 254 (main) and 255 (local), e.g. 500")
	}
	if s.RPFilter < 0 || s.RPFilter > 2 {
		invalid("podRPFilter", s.RPFilter, "use 0 (off), 1 (strict) or 2 (loose)")
	}
	if s.TxQueueLen < 0 {
		invalid("txQueueLen", s.TxQueueLen, "use a number of packets, or 0 to keep the kernel's value")
	}
	if a := s.VethLinkAddr; a.IsValid() && (!a.IsLinkLocalUnicast() || a.Zone() != "") {
		invalid("vethLinkAddress", a.String(), wantLinkLocal)
	}
	if s.VethMTU < 0 || s.VethMTU > 65535 {
		invalid("vethMTU", s.VethMTU, "use a number of bytes up to 65535, e.g. 1500, or 0 for the kernel's default")
	}
	return errs
}

// maxInterfaceName is IFNAMSIZ-1 of linux/if.h.
const maxInterfaceName = 15

// InterfaceNameFault returns why Linux has no interface of the name, "" if it can.
func InterfaceNameFault(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > maxInterfaceName:
		return fmt.Sprintf("is longer than %d bytes, the limit for interface names", maxInterfaceName)
	case strings.ContainsAny(name, "/: \t\n"):
		return "is not an interface name"
	}
	return ""
}
