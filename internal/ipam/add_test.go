package ipam_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

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
	p := ipam.Pod{Namespace: "default", Name: "web-0", UID: "uid-web-0", Owner: ipam.Controller{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web"}}
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

func TestOwnersOfAnotherAPIGroupHaveNoFixedAddresses(t *testing.T) {
	w := newWorld(t)
	w.Options.FixStatefulSet, w.Options.FixVirtualMachine = true, true
	for name, want := range map[string]struct {
		owner ipam.Controller
		fixed string
	}{
		"web-0":  {ipam.Controller{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web"}, "Pod/default/web-0"},
		"kruise": {ipam.Controller{APIVersion: "apps.kruise.io/v1beta1", Kind: "StatefulSet", Name: "web"}, ""},
		"vmi":    {ipam.Controller{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "a"}, "VirtualMachine/default/a"},
		"vm":     {ipam.Controller{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "b"}, "VirtualMachine/default/b"},
	} {
		w.SetPod(ipamtest.WorldPod{Pod: ipam.Pod{Namespace: "default", Name: name, UID: "uid-" + name, Owner: want.owner}, Node: "n1"})
		s := w.Service("n1")
		if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment(name)}); err != nil {
			t.Fatal(err)
		}
		if leases := s.Allocator.OfPod("uid-" + name); len(leases) != 1 || leases[0].FixedFor != want.fixed {
			t.Errorf("%s: %v, want fixed for %q", name, leases, want.fixed)
		}
		if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment(name)}); err != nil {
			t.Fatal(err)
		}
	}
}

// The ADD of a sandbox that the runtime has given up comes late.
func TestAnOldSandboxDoesNotTakeTheAddressOfANewerOne(t *testing.T) {
	w := newWorld(t, "a")
	s := w.Service("n1")
	newer := attachment("a")
	newer.ContainerID = "newer"
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: newer}); err != nil {
		t.Fatal(err)
	}
	w.Advance(-time.Minute) // to when the old one arrived
	_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
	var failure *wire.Error
	if !errors.As(err, &failure) || failure.Code != wire.CodeTryAgainLater || !strings.Contains(failure.Details, "sandbox newer of pod default/a is newer") {
		t.Errorf("the old sandbox got %v", err)
	}
	if leases := s.Allocator.OfPod("uid-a"); len(leases) != 1 || leases[0].ContainerID != "newer" {
		t.Errorf("leases %v", leases)
	}
}

// An interface is taken away, which cannot be committed, and wanted again, which
// fails: it is still to be taken away.
func TestAReleaseOnDiskSurvivesAFailedAdd(t *testing.T) {
	w := newWorld(t, "a")
	s := w.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	w.SetAway(true)
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("an ADD without an API server succeeded")
	}
	w.SetAway(false)
	if left, err := s.Replay(t.Context()); err != nil || left != 0 {
		t.Fatal(left, err)
	}
	if leases := held(t, w.Store); len(leases) != 0 {
		t.Errorf("the release was forgotten: %v", leases)
	}
}

// Reclaim may end the lease of a sandbox that its node still has, when an operator
// declares the node out of service; and the node may not hear of it.
func TestARepeatedAddDoesNotTrustWhatItRemembersOfAnOldLease(t *testing.T) {
	for name, tc := range map[string]struct {
		other  bool // a pod of another node gets the address
		want   string
		holder string
	}{
		"the address is free": {false, "10.1.0.5", "default/a"},
		"another pod has it":  {true, "", "default/b"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a")
			w.SetPool(rangePool(t, "p", "10.1.0.0/24", "10.1.0.5"), true)
			w.SetPod(ipamtest.WorldPod{Pod: ipam.Pod{Namespace: "default", Name: "b", UID: "uid-b"}, Node: "n2"})
			s := w.Service("n1")
			if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
				t.Fatal(err)
			}
			w.Advance(10 * time.Minute)
			b, err := w.Store.Get(t.Context(), netip.MustParseAddr("10.1.0.0"))
			if err != nil {
				t.Fatal(err)
			}
			b, _ = b.Reclaim(b.Leases[0], w.Now())
			if _, err := w.Store.Put(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if tc.other {
				if _, err := w.Service("n2").Add(t.Context(), wire.AddRequest{Attachment: attachment("b")}); err != nil {
					t.Fatal(err)
				}
			}
			reply, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
			got := ""
			if err == nil {
				got = reply.Addresses[0].Prefix.Addr().String()
			}
			if got != tc.want {
				t.Fatalf("the repeated ADD got %q, %v; want %q", got, err, tc.want)
			}
			if l := held(t, w.Store)[netip.MustParseAddr("10.1.0.5")]; l.Pod != tc.holder {
				t.Errorf("the store has %+v", l)
			}
		})
	}
}

// The interfaces of a pod are added one after the other; only the first writes.
func TestTheAddOfAFurtherInterfaceReadsNoBlock(t *testing.T) {
	w := newWorld(t, "a")
	s := w.Service("n1")
	at := attachment("a")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: at}); err != nil {
		t.Fatal(err)
	}
	reads := w.Store.Count("get") + w.Store.Count("list")
	w.Advance(30 * time.Second)
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: at}); err != nil {
		t.Fatal(err)
	}
	if more := w.Store.Count("get") + w.Store.Count("list") - reads; more != 0 {
		t.Errorf("%d reads of blocks", more)
	}
}
