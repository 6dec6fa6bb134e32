//go:build apiserver

package admission_test

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestPoolsAreCanonicalized(t *testing.T) {
	c, _ := serve(t)
	p := newPool("canonical", "FD00:1::/64", "fd00:1::B", "fd00:1::000c-fd00:1::f", "fd00:1::a")
	p.Spec.ExcludeIPs = []string{"fd00:1:0::d"}
	p.Spec.Gateway = new("FD00:1::1")
	p.Spec.Routes = []v2beta1.Route{{Dst: "fd01::1/32", Gw: "fd00:1:0::2"}}
	p.Spec.NodeName = []string{"n1"}
	kubetest.Create(t, c, p)
	s := p.Spec
	got := fmt.Sprintln(s.Subnet, s.IPs, s.ExcludeIPs, *s.Gateway, s.Routes, *s.IPVersion, p.Labels, p.Finalizers)
	want := "fd00:1::/64 [fd00:1::a-fd00:1::f] [fd00:1::d] fd00:1::1 [{fd01::/32 fd00:1::2}] 6 map[ipam.spidernet.io/node:n1] [spiderpool.spidernet.io]\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	// The manifest applied again, as its author wrote it, changes nothing.
	version := p.ResourceVersion
	p.Spec.Subnet, p.Spec.IPs = "FD00:1::/64", []string{"fd00:1::f-fd00:1::f", "fd00:1::a-fd00:1::e"}
	if err := c.Update(t.Context(), p); err != nil || p.ResourceVersion != version {
		t.Errorf("version %s became %s, error %v", version, p.ResourceVersion, err)
	}
}

func TestSubnetsAreCanonicalized(t *testing.T) {
	c, _ := serve(t)
	subnet := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "canonical"}, Spec: v2beta1.SpiderSubnetSpec{
		AddressSpace: v2beta1.AddressSpace{
			Subnet: "FD00:2::/64", IPs: []string{"fd00:2::B", "fd00:2::000c-fd00:2::f", "fd00:2::a"}, ExcludeIPs: []string{"fd00:2:0::d"},
			Gateway: new("FD00:2::1"), Routes: []v2beta1.Route{{Dst: "fd01::1/32", Gw: "fd00:2:0::2"}},
		},
	}}
	kubetest.Create(t, c, subnet)
	s := subnet.Spec
	got := fmt.Sprintln(s.Subnet, s.IPs, s.ExcludeIPs, *s.Gateway, s.Routes, *s.IPVersion)
	want := "fd00:2::/64 [fd00:2::a-fd00:2::f] [fd00:2::d] fd00:2::1 [{fd01::/32 fd00:2::2}] 6\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	version := subnet.ResourceVersion
	subnet.Spec.Subnet, subnet.Spec.IPs, subnet.Spec.IPVersion = "FD00:2::/64", []string{"fd00:2::f-fd00:2::f", "fd00:2::a-fd00:2::e"}, nil
	if err := c.Update(t.Context(), subnet); err != nil || subnet.ResourceVersion != version {
		t.Errorf("version %s became %s, error %v", version, subnet.ResourceVersion, err)
	}
}

func TestReservedIPsAreCanonicalized(t *testing.T) {
	c, _ := serve(t)
	for name, reservation := range map[string]struct {
		ips  []string
		want string
	}{
		"v4": {[]string{"10.4.9.9", "10.4.9.1-10.4.9.3", "10.4.9.4", "10.4.9.2"}, "[10.4.9.1-10.4.9.4 10.4.9.9] 4\n"},
		"v6": {[]string{"FD00:3::0B", "fd00:3::a", "fd00:3:0::1-fd00:3::1"}, "[fd00:3::1 fd00:3::a-fd00:3::b] 6\n"},
	} {
		t.Run(name, func(t *testing.T) {
			reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "canonical-" + name}, Spec: v2beta1.SpiderReservedIPSpec{IPs: reservation.ips}}
			kubetest.Create(t, c, reserved)
			if got := fmt.Sprintln(reserved.Spec.IPs, *reserved.Spec.IPVersion); got != reservation.want {
				t.Errorf("got %swant %s", got, reservation.want)
			}
			version := reserved.ResourceVersion
			reserved.Spec.IPs, reserved.Spec.IPVersion = reservation.ips, nil
			if err := c.Update(t.Context(), reserved); err != nil || reserved.ResourceVersion != version {
				t.Errorf("version %s became %s, error %v", version, reserved.ResourceVersion, err)
			}
		})
	}
}
