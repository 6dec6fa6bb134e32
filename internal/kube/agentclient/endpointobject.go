package agentclient

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
)

func withoutInterface(content ipam.Endpoint, name string) *ipam.Endpoint {
	content.Interfaces = slices.DeleteFunc(slices.Clone(content.Interfaces),
		func(i ipam.EndpointInterface) bool { return i.Interface == name })
	return &content
}

func equalEndpoints(a, b ipam.Endpoint) bool {
	return a.PodUID == b.PodUID && a.Node == b.Node && a.Owner == b.Owner &&
		slices.EqualFunc(a.Interfaces, b.Interfaces, func(x, y ipam.EndpointInterface) bool {
			return x.Interface == y.Interface && x.CleanGateway == y.CleanGateway &&
				slices.Equal(x.Addresses, y.Addresses) && slices.Equal(x.Routes, y.Routes)
		})
}

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
		out := v2beta1.EndpointIP{Interface: i.Interface, Vlan: new(int64(0)), CleanGateway: new(i.CleanGateway)}
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
