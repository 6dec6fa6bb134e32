package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// kernelTables are the routing tables of the kernel's own (linux/rtnetlink.h):
// default, main and local.
var kernelTables = []int{253, 254, 255}

// Coordinator returns the faults of a coordinator's configuration, of a
// SpiderCoordinator or in a SpiderMultusConfig.
func Coordinator(path *field.Path, in *v2beta1.CoordinatorSpec) field.ErrorList {
	var errs field.ErrorList
	for i, cidr := range in.HijackCIDR {
		if prefix, err := netip.ParsePrefix(cidr); err != nil || prefix.Addr().Is4In6() {
			errs = append(errs, field.Invalid(path.Child("hijackCIDR").Index(i), cidr, `is not a network in CIDR notation; write one as "10.0.0.0/8" or "fd00::/64"`))
		}
	}
	for i, route := range in.PolicyRoutes {
		errs = append(errs, checkPolicyRoute(path.Child("policyRoutes").Index(i), route)...)
	}
	if p := in.PodMACPrefix; p != nil && *p != "" {
		if _, err := netplan.MACWithPrefix(*p, netip.IPv4Unspecified()); err != nil {
			errs = append(errs, field.Invalid(path.Child("podMACPrefix"), *p, `is not the beginning of a unicast address; write two bytes, the first one even, as "0a:1b"`))
		}
	}
	if nic := in.PodDefaultRouteNIC; nic != nil && *nic != "" {
		if fault := interfaceNameFault(*nic); fault != "" {
			errs = append(errs, field.Invalid(path.Child("podDefaultRouteNIC"), *nic, strings.Replace(fault, "'ip link' shows it", `"eth0" or "net1"`, 1)))
		}
	}
	if table := in.HostRuleTable; table != nil && (*table < 1 || slices.Contains(kernelTables, *table)) {
		errs = append(errs, field.Invalid(path.Child("hostRuleTable"), *table, "is no table that routes of ours can be in; write another one, as 500"))
	}
	if filter := in.PodRPFilter; filter != nil && (*filter < 0 || *filter > 2) {
		errs = append(errs, field.Invalid(path.Child("podRPFilter"), *filter, "is no value of rp_filter; write 0, 1 or 2"))
	}
	if length := in.TxQueueLen; length != nil && *length < 0 {
		errs = append(errs, field.Invalid(path.Child("txQueueLen"), *length, "is negative; write a number of packets, or 0 to leave it as it is"))
	}
	if mtu := in.VethMTU; mtu != nil && *mtu < 1 {
		errs = append(errs, field.Invalid(path.Child("vethMTU"), *mtu, "is no MTU; write a number of bytes, as 1500"))
	}
	if a := in.VethLinkAddress; a != nil && *a != "" {
		if addr, err := netip.ParseAddr(*a); err != nil || !addr.IsLinkLocalUnicast() || addr.Zone() != "" {
			errs = append(errs, field.Invalid(path.Child("vethLinkAddress"), *a, "is not a link-local address; write one of 169.254.0.0/16 or fe80::/10, or leave it out"))
		}
	}
	return errs
}

func checkPolicyRoute(path *field.Path, route v2beta1.Route) field.ErrorList {
	dst, err := netip.ParsePrefix(route.Dst)
	if err != nil || dst.Addr().Is4In6() {
		return field.ErrorList{field.Invalid(path.Child("dst"), route.Dst, `is not a network in CIDR notation; write one as "10.0.0.0/8" or "fd00::/64"`)}
	}
	gw, errs := compileAddr(path.Child("gw"), route.Gw)
	if len(errs) > 0 {
		return errs
	}
	if inet.FamilyOf(gw) != inet.FamilyOf(dst.Addr()) {
		return field.ErrorList{field.Invalid(path.Child("gw"), route.Gw, fmt.Sprintf("is not of the IP version of dst %s; write a next hop of that version", route.Dst))}
	}
	return nil
}
