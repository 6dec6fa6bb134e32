package agentclient

import (
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
)

// EndpointObject returns the SpiderEndpoint with this content.
func EndpointObject(content ipam.Endpoint) *v2beta1.SpiderEndpoint {
	object := &v2beta1.SpiderEndpoint{
		TypeMeta:   metav1.TypeMeta{APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderEndpoint"},
		ObjectMeta: metav1.ObjectMeta{Namespace: content.Namespace, Name: content.Name},
		Status: v2beta1.SpiderEndpointStatus{
			Current:             v2beta1.EndpointAllocation{UID: content.PodUID, Node: content.Node, IPs: []v2beta1.EndpointIP{}},
			OwnerControllerType: content.Owner.Kind,
			OwnerControllerName: content.Owner.Name,
		},
	}
	for _, i := range content.Interfaces {
		out := v2beta1.EndpointIP{Interface: i.Interface, Network: i.Network.String(), Vlan: new(int64(0)), CleanGateway: new(i.CleanGateway)}
		for _, a := range i.Addresses {
			address, name := new(a.Prefix.String()), new(a.Pool)
			var gateway *string
			if a.Gateway.IsValid() {
				gateway = new(a.Gateway.String())
			}
			if a.Prefix.Addr().Is4() {
				out.IPv4, out.IPv4Pool, out.IPv4Gateway = address, name, gateway
			} else {
				out.IPv6, out.IPv6Pool, out.IPv6Gateway = address, name, gateway
			}
		}
		for _, r := range i.Routes {
			out.Routes = append(out.Routes, v2beta1.Route{Dst: r.Dst.String(), Gw: r.Via.String()})
		}
		object.Status.Current.IPs = append(object.Status.Current.IPs, out)
	}
	return object
}

// endpointIn is the inverse of EndpointObject. It omits values that do not parse, so
// that the content differs from the wanted one. It returns nil for nil.
func endpointIn(object *v2beta1.SpiderEndpoint) *ipam.Endpoint {
	if object == nil {
		return nil
	}
	current := object.Status.Current
	content := &ipam.Endpoint{
		EndpointKey: ipam.EndpointKey{PodKey: lease.PodKey{Namespace: object.Namespace, Name: object.Name}, PodUID: current.UID},
		Node:        current.Node,
		Owner:       ipam.Controller{Kind: object.Status.OwnerControllerType, Name: object.Status.OwnerControllerName},
	}
	for _, in := range current.IPs {
		i := ipam.EndpointInterface{Interface: in.Interface, CleanGateway: ptr.Deref(in.CleanGateway, false)}
		i.Network.Namespace, i.Network.Name, _ = strings.Cut(in.Network, "/")
		for _, a := range []struct{ prefix, gateway, pool *string }{{in.IPv4, in.IPv4Gateway, in.IPv4Pool}, {in.IPv6, in.IPv6Gateway, in.IPv6Pool}} {
			if prefix, err := netip.ParsePrefix(ptr.Deref(a.prefix, "")); err == nil {
				gateway, _ := netip.ParseAddr(ptr.Deref(a.gateway, ""))
				i.Addresses = append(i.Addresses, ipam.EndpointAddress{Prefix: prefix, Gateway: gateway, Pool: ptr.Deref(a.pool, "")})
			}
		}
		for _, r := range in.Routes {
			dst, _ := netip.ParsePrefix(r.Dst)
			if via, err := netip.ParseAddr(r.Gw); err == nil && dst.IsValid() {
				i.Routes = append(i.Routes, inet.Route{Dst: dst, Via: via})
			}
		}
		content.Interfaces = append(content.Interfaces, i)
	}
	return content
}
