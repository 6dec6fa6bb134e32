package linux

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// bondOption is a bonding option of the kernel (Documentation/networking/bonding.rst).
type bondOption struct {
	field  func(*netlink.Bond) *int
	values map[string]int // value names; numbers are always accepted
}

func ints[T ~int](names map[string]T) map[string]int {
	out := make(map[string]int, len(names))
	for k, v := range names {
		out[k] = int(v)
	}
	return out
}

var bondOptions = map[string]bondOption{
	"miimon":            {field: func(b *netlink.Bond) *int { return &b.Miimon }},
	"updelay":           {field: func(b *netlink.Bond) *int { return &b.UpDelay }},
	"downdelay":         {field: func(b *netlink.Bond) *int { return &b.DownDelay }},
	"use_carrier":       {field: func(b *netlink.Bond) *int { return &b.UseCarrier }},
	"arp_interval":      {field: func(b *netlink.Bond) *int { return &b.ArpInterval }},
	"resend_igmp":       {field: func(b *netlink.Bond) *int { return &b.ResendIgmp }},
	"num_grat_arp":      {field: func(b *netlink.Bond) *int { return &b.NumPeerNotif }},
	"num_unsol_na":      {field: func(b *netlink.Bond) *int { return &b.NumPeerNotif }},
	"all_slaves_active": {field: func(b *netlink.Bond) *int { return &b.AllSlavesActive }},
	"min_links":         {field: func(b *netlink.Bond) *int { return &b.MinLinks }},
	"lp_interval":       {field: func(b *netlink.Bond) *int { return &b.LpInterval }},
	"packets_per_slave": {field: func(b *netlink.Bond) *int { return &b.PacketsPerSlave }},
	"ad_actor_sys_prio": {field: func(b *netlink.Bond) *int { return &b.AdActorSysPrio }},
	"ad_user_port_key":  {field: func(b *netlink.Bond) *int { return &b.AdUserPortKey }},
	"tlb_dynamic_lb":    {field: func(b *netlink.Bond) *int { return &b.TlbDynamicLb }},
	"arp_validate": {field: func(b *netlink.Bond) *int { return (*int)(&b.ArpValidate) },
		values: ints(netlink.StringToBondArpValidateMap)},
	"arp_all_targets": {field: func(b *netlink.Bond) *int { return (*int)(&b.ArpAllTargets) },
		values: ints(netlink.StringToBondArpAllTargetsMap)},
	"primary_reselect": {field: func(b *netlink.Bond) *int { return (*int)(&b.PrimaryReselect) },
		values: ints(netlink.StringToBondPrimaryReselectMap)},
	"fail_over_mac": {field: func(b *netlink.Bond) *int { return (*int)(&b.FailOverMac) },
		values: ints(netlink.StringToBondFailOverMacMap)},
	"xmit_hash_policy": {field: func(b *netlink.Bond) *int { return (*int)(&b.XmitHashPolicy) },
		values: ints(netlink.StringToBondXmitHashPolicyMap)},
	"lacp_rate": {field: func(b *netlink.Bond) *int { return (*int)(&b.LacpRate) },
		values: ints(netlink.StringToBondLacpRateMap)},
	"ad_select": {field: func(b *netlink.Bond) *int { return (*int)(&b.AdSelect) },
		values: ints(netlink.StringToBondAdSelectMap)},
}

// wantedBond is a bond in the form of a netlink request.
type wantedBond struct {
	link    *netlink.Bond
	primary string // value of option primary, set after the ports have joined
	set     []string
}

// parseBond reads the mode and the options. An error names the option and its
// allowed values.
func parseBond(b Bond) (wantedBond, error) {
	if b.Mode < 0 || b.Mode > int(netlink.BOND_MODE_BALANCE_ALB) {
		return wantedBond{}, fmt.Errorf("mode %d of bond %s: want 0 (balance-rr) to 6 (balance-alb)", b.Mode, b.Name)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.Name
	w := wantedBond{link: netlink.NewLinkBond(attrs)}
	w.link.Mode = netlink.BondMode(b.Mode)
	for _, name := range slices.Sorted(maps.Keys(b.Options)) {
		if err := w.option(name, b.Options[name]); err != nil {
			return wantedBond{}, fmt.Errorf("option %s=%s of bond %s: %w", name, b.Options[name], b.Name, err)
		}
	}
	if w.primary != "" && !slices.Contains(b.Ports, w.primary) {
		return wantedBond{}, fmt.Errorf("option primary=%s of bond %s: it is not one of the ports %v", w.primary, b.Name, b.Ports)
	}
	return w, nil
}

func (w *wantedBond) option(name, value string) error {
	switch name {
	case "primary":
		w.primary = value
		return nil
	case "arp_ip_target":
		for _, t := range strings.Split(value, ",") {
			ip := net.ParseIP(t)
			if ip == nil || ip.To4() == nil {
				return fmt.Errorf("%q is not an IPv4 address", t)
			}
			w.link.ArpIpTargets = append(w.link.ArpIpTargets, ip)
		}
		return nil
	}
	o, ok := bondOptions[name]
	if !ok {
		return fmt.Errorf("unknown option; known options are arp_ip_target, primary, %s", strings.Join(slices.Sorted(maps.Keys(bondOptions)), ", "))
	}
	v, ok := o.values[value]
	if !ok {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("want a number of 0 or more%s", names(o.values))
		}
		v = n
	}
	*o.field(w.link) = v
	w.set = append(w.set, name)
	return nil
}

func names(values map[string]int) string {
	if len(values) == 0 {
		return ""
	}
	return " or one of " + strings.Join(slices.Sorted(maps.Keys(values)), ", ")
}

// fits compares the configured options with those of an existing interface.
func (w *wantedBond) fits(l netlink.Link) error {
	have, ok := l.(*netlink.Bond)
	if !ok {
		return fmt.Errorf("interface %s %w: its kind is %s instead of bond", w.link.Name, ErrUnfit, l.Type())
	}
	if have.Mode != w.link.Mode {
		return fmt.Errorf("bond %s %w: its mode is %s instead of %s", w.link.Name, ErrUnfit, have.Mode, w.link.Mode)
	}
	if h, want := addresses(have.ArpIpTargets), addresses(w.link.ArpIpTargets); len(want) > 0 && !slices.Equal(h, want) {
		return fmt.Errorf("bond %s %w: its option arp_ip_target is %v instead of %v", w.link.Name, ErrUnfit, h, want)
	}
	for _, name := range w.set {
		field := bondOptions[name].field
		if h, want := *field(have), *field(w.link); h != want {
			return fmt.Errorf("bond %s %w: its option %s is %d instead of %d", w.link.Name, ErrUnfit, name, h, want)
		}
	}
	return nil
}

// addresses returns the addresses as sorted texts: the kernel has its own order.
func addresses(ips []net.IP) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	slices.Sort(out)
	return out
}
