package compile

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/internal/service"
)

const (
	// labelProxyName names another proxy that serves the Service (API documentation of Service).
	labelProxyName = "service.kubernetes.io/service-proxy-name"

	// OurServices selects the Services and EndpointSlices that concern frontends. The control plane copies the labels
	// of a Service to its slices.
	OurServices = "!" + labelProxyName + ",!" + corev1.IsHeadlessService

	// defaultAffinity is the API server's default of sessionAffinityConfig.clientIP.timeoutSeconds.
	defaultAffinity = 10800
	// maxAffinity is the API server's limit of the same field.
	maxAffinity = 86400
)

// Service returns the frontends of a Service. reason says why the Service has none; then the result is nil. The
// errors name invalid parts, which the result leaves out.
func Service(object *corev1.Service) (compiled *service.Service, reason string, errs field.ErrorList) {
	if reason := withoutFrontends(object); reason != "" {
		return nil, reason, nil
	}
	spec, path := &object.Spec, field.NewPath("spec")
	s := &service.Service{
		Name:          service.Name{Namespace: object.Namespace, Name: object.Name},
		Created:       object.CreationTimestamp.Time,
		InternalLocal: ptr.Deref(spec.InternalTrafficPolicy, "") == corev1.ServiceInternalTrafficPolicyLocal,
	}
	clusterIPs := spec.ClusterIPs
	if len(clusterIPs) == 0 {
		clusterIPs = []string{spec.ClusterIP}
	}
	s.ClusterIPs = addrs(clusterIPs, path.Child("clusterIPs"), &errs)
	s.ExternalIPs = addrs(spec.ExternalIPs, path.Child("externalIPs"), &errs)
	for i, ingress := range object.Status.LoadBalancer.Ingress {
		// With the IP mode Proxy, the load balancer itself has to see the packets (KEP-1860).
		if ingress.IP == "" || ptr.Deref(ingress.IPMode, corev1.LoadBalancerIPModeVIP) != corev1.LoadBalancerIPModeVIP {
			continue
		}
		at := field.NewPath("status", "loadBalancer", "ingress").Index(i).Child("ip")
		if addr, ok := unicastAddr(ingress.IP, at, &errs); ok {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, addr)
		}
	}
	for i, text := range spec.LoadBalancerSourceRanges {
		prefix, ok := sourceRange(text)
		if !ok {
			errs = append(errs, field.Invalid(path.Child("loadBalancerSourceRanges").Index(i), text, "write a CIDR, e.g. 10.0.0.0/8"))
			s.LoadBalancerIPs = nil // the node checks the clients
			continue
		}
		s.SourceRanges = append(s.SourceRanges, prefix)
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		s.Affinity = defaultAffinity
		if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil {
			s.Affinity = uint32(min(max(ptr.Deref(c.ClientIP.TimeoutSeconds, defaultAffinity), 1), maxAffinity))
		}
	}
	s.Ports = servicePorts(spec.Ports, path.Child("ports"), &errs)
	return s, "", errs
}

// withoutFrontends returns why a Service has no frontends, "" if it has some.
func withoutFrontends(object *corev1.Service) string {
	proxy, other := object.Labels[labelProxyName]
	_, headless := object.Labels[corev1.IsHeadlessService]
	switch spec := &object.Spec; {
	case other:
		return fmt.Sprintf("the label %s leaves it to the proxy %q", labelProxyName, proxy)
	case headless:
		return "the label " + corev1.IsHeadlessService + " asks for no proxy"
	case spec.Type == corev1.ServiceTypeExternalName:
		return "it is an alias in DNS (type ExternalName)"
	case spec.ClusterIP == corev1.ClusterIPNone:
		return "it is headless: DNS returns the addresses of the endpoints"
	case spec.ClusterIP == "":
		return "it has no cluster IP yet"
	}
	return ""
}

func servicePorts(ports []corev1.ServicePort, path *field.Path, errs *field.ErrorList) (compiled []service.Port) {
	for i, p := range ports {
		protocol, ok := protocolOf(&p.Protocol)
		if !ok {
			*errs = append(*errs, field.NotSupported(path.Index(i).Child("protocol"), p.Protocol, protocols))
			continue
		}
		if p.Port < 1 || p.Port > math.MaxUint16 || p.NodePort < 0 || p.NodePort > math.MaxUint16 {
			*errs = append(*errs, field.Invalid(path.Index(i), fmt.Sprintf("port %d, nodePort %d", p.Port, p.NodePort), "write numbers from 1 to 65535"))
			continue
		}
		compiled = append(compiled, service.Port{Name: p.Name, Protocol: protocol, Port: uint16(p.Port), NodePort: uint16(p.NodePort)})
	}
	return compiled
}

var protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}

// protocolOf returns the number of a protocol; the default is TCP.
func protocolOf(name *corev1.Protocol) (service.Protocol, bool) {
	switch ptr.Deref(name, "") {
	case corev1.ProtocolTCP, "":
		return service.TCP, true
	case corev1.ProtocolUDP:
		return service.UDP, true
	case corev1.ProtocolSCTP:
		return service.SCTP, true
	}
	return 0, false
}

func addrs(texts []string, path *field.Path, errs *field.ErrorList) (parsed []netip.Addr) {
	for i, text := range texts {
		if addr, ok := unicastAddr(text, path.Index(i), errs); ok {
			parsed = append(parsed, addr)
		}
	}
	return parsed
}

// unicastAddr parses an address of a frontend or an endpoint. It refuses what the API server refuses in externalIPs and in
// EndpointSlices: e.g. an endpoint 169.254.169.254 would be the metadata service of a cloud.
func unicastAddr(text string, path *field.Path, errs *field.ErrorList) (netip.Addr, bool) {
	addr, ok := parseAddr(text)
	switch {
	case !ok:
		*errs = append(*errs, field.Invalid(path, text, "write an IP address, e.g. 192.0.2.10"))
	case addr.IsUnspecified() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.Zone() != "":
		*errs = append(*errs, field.Invalid(path, text, "a service has no unspecified, loopback, link-local or multicast address"))
	default:
		return addr, true
	}
	return netip.Addr{}, false
}

// parseAddr parses an address, IPv4-mapped IPv6 as IPv4. An old object may have leading zeros in IPv4: kube-proxy reads
// them as decimal (ParseIPSloppy), and netip not at all.
func parseAddr(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		addr, _ = netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	}
	return addr.Unmap(), addr.IsValid()
}

// sourceRange parses a range of client addresses. The API server accepts spaces around it, leading zeros and IPv4-mapped
// IPv6.
func sourceRange(text string) (netip.Prefix, bool) {
	_, network, err := netutils.ParseCIDRSloppy(strings.TrimSpace(text))
	if err != nil {
		return netip.Prefix{}, false
	}
	addr, _ := netip.AddrFromSlice(network.IP)
	bits, _ := network.Mask.Size()
	if addr.Is4In6() {
		return netip.PrefixFrom(addr.Unmap(), max(bits-96, 1)), true
	}
	return netip.PrefixFrom(addr, bits), true
}

// EndpointSlice returns the endpoints of an EndpointSlice, nil if the slice has no addresses (addressType FQDN) or
// belongs to no Service. The errors name invalid parts, which the result leaves out.
//
// A condition without a value counts as true for ready and serving, and as false for terminating (API documentation
// of EndpointConditions, KEP-1672). The control plane reports every endpoint of a Service with
// publishNotReadyAddresses as ready, so we do not read that field.
func EndpointSlice(object *discoveryv1.EndpointSlice) (*service.Slice, field.ErrorList) {
	owner := object.Labels[discoveryv1.LabelServiceName]
	if owner == "" || object.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil
	}
	var errs field.ErrorList
	s := &service.Slice{
		Name: service.Name{Namespace: object.Namespace, Name: object.Name}, Service: owner,
		Endpoints: make([]service.Endpoint, 0, len(object.Endpoints)),
	}
	for i, p := range object.Ports {
		protocol, ok := protocolOf(p.Protocol)
		if !ok {
			errs = append(errs, field.NotSupported(field.NewPath("ports").Index(i).Child("protocol"), *p.Protocol, protocols))
			continue
		}
		if ptr.Deref(p.Port, 0) == 0 {
			continue // it means all ports, and no Service has such a port
		}
		if *p.Port < 0 || *p.Port > math.MaxUint16 {
			errs = append(errs, field.Invalid(field.NewPath("ports").Index(i).Child("port"), *p.Port, "write a number from 1 to 65535"))
			continue
		}
		s.Ports = append(s.Ports, service.SlicePort{Name: intern(ptr.Deref(p.Name, "")), Protocol: protocol, Port: uint16(*p.Port)})
	}
	for i := range object.Endpoints {
		e := &object.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		// Only the first address counts (API documentation of EndpointSlice).
		addr, ok := unicastAddr(e.Addresses[0], field.NewPath("endpoints").Index(i).Child("addresses").Index(0), &errs)
		if !ok {
			continue
		}
		compiled := endpoint(e, addr)
		if n := len(s.Endpoints); n > 0 && reflect.DeepEqual(compiled.Hints, s.Endpoints[n-1].Hints) {
			compiled.Hints = s.Endpoints[n-1].Hints // share equal hints
		}
		s.Endpoints = append(s.Endpoints, compiled)
	}
	return s, errs
}

func endpoint(e *discoveryv1.Endpoint, addr netip.Addr) service.Endpoint {
	compiled := service.Endpoint{
		Addr:        addr,
		Node:        intern(ptr.Deref(e.NodeName, "")),
		Ready:       ptr.Deref(e.Conditions.Ready, true),
		Serving:     ptr.Deref(e.Conditions.Serving, true),
		Terminating: ptr.Deref(e.Conditions.Terminating, false),
	}
	if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
		compiled.Pod = e.TargetRef.Name
	}
	if e.Hints != nil && len(e.Hints.ForZones)+len(e.Hints.ForNodes) > 0 {
		compiled.Hints = &service.Hints{}
		for _, zone := range e.Hints.ForZones {
			compiled.Hints.Zones = append(compiled.Hints.Zones, intern(zone.Name))
		}
		for _, node := range e.Hints.ForNodes {
			compiled.Hints.Nodes = append(compiled.Hints.Nodes, intern(node.Name))
		}
	}
	return compiled
}

// intern returns a text that equal texts share: many endpoints are on one node.
func intern(text string) string { return unique.Make(text).Value() }

// ServiceNode returns the part of a Node that concerns the services of its pods.
func ServiceNode(object *corev1.Node) service.Node {
	node := service.Node{Name: object.Name, Zone: object.Labels[corev1.LabelTopologyZone]}
	for _, a := range object.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if addr, ok := parseAddr(a.Address); ok {
			node.Addrs = append(node.Addrs, addr)
		}
	}
	return node
}
