package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/pool"
)

func TestAnnotationRouteFollowsGateway(t *testing.T) {
	assigned := func() []EndpointInterface {
		return []EndpointInterface{
			{Interface: "eth0", Addresses: []EndpointAddress{{Prefix: netip.MustParsePrefix("10.0.0.5/24")}}},
			{Interface: "net1", Addresses: []EndpointAddress{{Prefix: netip.MustParsePrefix("10.1.0.5/24")}, {Prefix: netip.MustParsePrefix("fd01::5/64")}}},
		}
	}
	route := func(dst, gw string) plan {
		return plan{routes: []inet.Route{{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(gw)}}}
	}
	placed := assigned()
	if err := placeRoutes(placed, route("2001:db8::/32", "fd01::1")); err != nil || len(placed[0].Routes) != 0 || len(placed[1].Routes) != 1 {
		t.Errorf("got %+v, %v", placed, err)
	}
	nowhere := route("192.0.2.0/24", "10.9.0.1")
	err := placeRoutes(assigned(), nowhere)
	var annotation *pool.AnnotationError
	if !errors.As(err, &annotation) || !strings.Contains(err.Error(), "192.0.2.0/24 via 10.9.0.1") || !strings.Contains(err.Error(), "10.1.0.0/24") {
		t.Errorf("a gateway in no subnet of a pod with our interfaces only: got %v", err)
	}
	err = placeRoutes(assigned(), route("192.0.2.0/24", "10.0.0.255"))
	if !errors.As(err, &annotation) || !strings.Contains(err.Error(), "the gateway is the network or the broadcast address of the subnet 10.0.0.0/24") {
		t.Errorf("the broadcast address as a gateway: got %v", err)
	}
	nowhere.foreign = true
	if err := placeRoutes(assigned(), nowhere); err != nil {
		t.Errorf("a gateway that may be on another plugin's interface: %v", err)
	}
}
