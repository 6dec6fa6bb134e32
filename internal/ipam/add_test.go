package ipam_test

import (
	"net/netip"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestAFailedAddGivesBackWhatItTook(t *testing.T) {
	w := newWorld(t, "a")
	s := w.Service("n1")
	w.Store.After = func(netip.Addr) error {
		w.Store.After = nil
		w.DeletePool("p")
		return nil
	}
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("an address of a pool that is gone was given")
	}
	if leases := held(t, w.Store); len(leases) != 0 {
		t.Errorf("the failed ADD kept %v", leases)
	}
}

func TestAFailedAddKeepsWhatThePodHadBefore(t *testing.T) {
	w := newWorld(t, "a")
	s := w.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	w.DeletePool("p")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("an address of a pool that is gone was given")
	}
	if leases := held(t, w.Store); len(leases) != 1 {
		t.Errorf("after the repeated ADD: %v, want what the sandbox has", leases)
	}
}

// The write of one IP version succeeds, and of the other the last address goes to
// another node in that moment.
func TestAnAddThatLosesHalfWayKeepsNothing(t *testing.T) {
	w := newWorld(t, "a")
	w.SetPool(rangePool(t, "v6", "fd00::/64", "fd00::10"), true)
	w.SetPod(ipamtest.WorldPod{Pod: ipam.Pod{Namespace: "default", Name: "b", UID: "uid-b"}, Node: "n2"})
	first, other := w.Service("n1"), w.Service("n2")
	lost := false
	w.Store.Before = func(operation string, base netip.Addr) error {
		if operation == "put" && base.Is6() && !lost {
			lost = true
			if _, err := other.Add(t.Context(), wire.AddRequest{Attachment: attachment("b")}); err != nil {
				t.Errorf("the other node: %v", err)
			}
		}
		return nil
	}
	if _, err := first.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("the last address was given twice")
	}
	for _, l := range held(t, w.Store) {
		if l.ContainerID == attachment("a").ContainerID {
			t.Errorf("the failed ADD kept %s", l.Addr)
		}
	}
}

func TestARetainedAddressSurvivesAFailedAdd(t *testing.T) {
	w := newWorld(t)
	w.Options.FixStatefulSet = true
	p := ipam.Pod{Namespace: "default", Name: "web-0", UID: "uid-web-0", Owner: ipam.Controller{Kind: "StatefulSet", Name: "web"}}
	w.SetPod(ipamtest.WorldPod{Pod: p, Node: "n1"})
	s := w.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("web-0")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("web-0")}); err != nil {
		t.Fatal(err)
	}
	w.Store.After = func(netip.Addr) error {
		w.Store.After = nil
		w.DeletePool("p")
		return nil
	}
	next := attachment("web-0")
	next.ContainerID = "next"
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: next}); err == nil {
		t.Fatal("an address of a pool that is gone was given")
	}
	if leases := s.Allocator.OfPod("uid-web-0"); len(leases) != 1 || leases[0].State != lease.InUse {
		t.Errorf("leases %v, want the address that was kept for the pod", leases)
	}
}
