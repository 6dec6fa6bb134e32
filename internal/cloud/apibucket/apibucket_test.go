package apibucket

import (
	"context"
	"testing"
	"time"
)

func TestActionsHaveBucketsOfTheirOwn(t *testing.T) {
	const describeBurst, changeBurst = 5, 3
	b := New(Size{0.001, describeBurst}, Size{0.001, changeBurst})
	for action, burst := range map[string]int{
		"DescribeInstances": describeBurst, "GetSubnetCidrReservations": describeBurst, "ListVSwitchCidrReservations": describeBurst,
		"AssignIpv6Addresses": changeBurst,
	} {
		if got := b.of(action).Burst(); got != burst {
			t.Errorf("%s has a bucket of %d, want %d", action, got, burst)
		}
	}
	for range changeBurst {
		if err := b.Wait(t.Context(), "AssignIpv6Addresses"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := b.Wait(ctx, "AssignIpv6Addresses"); err == nil {
		t.Error("an empty bucket gave a token")
	}
	if err := b.Wait(t.Context(), "UnassignIpv6Addresses"); err != nil {
		t.Errorf("another action has its own bucket, but: %v", err)
	}
}
