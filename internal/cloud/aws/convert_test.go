package aws

import (
	"net/netip"
	"slices"
	"testing"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// described is an interface of an instance as EC2 describes it.
func described(id string, card, device int32, ipv6 []types.InstanceIpv6Address, prefixes ...string) types.InstanceNetworkInterface {
	n := types.InstanceNetworkInterface{
		NetworkInterfaceId: &id, Ipv6Addresses: ipv6,
		Attachment: &types.InstanceNetworkInterfaceAttachment{Status: types.AttachmentStatusAttached, DeviceIndex: &device, NetworkCardIndex: &card},
	}
	for _, p := range prefixes {
		n.Ipv6Prefixes = append(n.Ipv6Prefixes, types.InstanceIpv6Prefix{Ipv6Prefix: &p})
	}
	return n
}

func understood(t *testing.T, interfaces ...types.InstanceNetworkInterface) []cloud.Interface {
	t.Helper()
	i, err := instanceOf(types.Instance{InstanceId: awssdk.String("i-1"), NetworkInterfaces: interfaces})
	if err != nil {
		t.Fatal(err)
	}
	return i.Interfaces
}

func TestNodesOwnIPv6StaysWithNode(t *testing.T) {
	const own, other, delegated = "2001:db8::10", "2001:db8::5", "2001:db8:0:0:7::/80"
	single := func(text string, primary *bool) types.InstanceIpv6Address {
		return types.InstanceIpv6Address{Ipv6Address: &text, IsPrimaryIpv6: primary}
	}
	for _, tc := range []struct {
		name     string
		device   int32
		ipv6     []types.InstanceIpv6Address
		primary  []string
		assigned []string
	}{
		{"device 0", 0, []types.InstanceIpv6Address{single(own, nil)}, []string{own}, []string{delegated}},
		{"device 1", 1, []types.InstanceIpv6Address{single(own, nil)}, []string{own}, []string{delegated}},
		{"two without a mark", 0, []types.InstanceIpv6Address{single(other, nil), single(own, nil)}, []string{other, own}, []string{delegated}},
		{
			"the second one is marked", 1, []types.InstanceIpv6Address{single(other, awssdk.Bool(false)), single(own, awssdk.Bool(true))},
			[]string{own}, []string{delegated, other + "/128"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := understood(t, described("eni-1", 0, tc.device, tc.ipv6, delegated))[0]
			if diff := cmp.Diff(tc.primary, each(got.Primary, netip.Addr.String)); diff != "" {
				t.Errorf("the node's own (-want +got)\n%s", diff)
			}
			assigned := each(got.Assigned, netip.Prefix.String)
			slices.Sort(assigned)
			if diff := cmp.Diff(tc.assigned, assigned); diff != "" {
				t.Errorf("for pods (-want +got)\n%s", diff)
			}
		})
	}
}

// The device indexes of p4d.24xlarge and others repeat on each network card.
func TestOtherNetworkCardsAreAbsent(t *testing.T) {
	const first, second = "2001:db8:0:0:7::/80", "2001:db8:0:0:8::/80"
	got := understood(t, described("eni-card1", 1, 1, nil, second), described("eni-card0", 0, 1, nil, first))
	if len(got) != 1 || got[0].ID != "eni-card0" {
		t.Fatalf("the interfaces are %+v, want that of card 0 only", got)
	}
}
