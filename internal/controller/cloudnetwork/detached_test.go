package cloudnetwork

import (
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
)

// stranded has an interface of ours for worker2 that cannot be attached.
func stranded(t *testing.T) (x *bench, two string) {
	x = newAttachBench(t)
	x.join("worker1", x.subnets[1])
	x.run(15 * time.Second)
	x.cloud.Deny("Attach")
	x.join("worker2", x.subnets[1])
	x.run(5 * time.Second)
	one, two := x.instance("worker1"), x.instance("worker2")
	x.wantOwn(one+"/1: "+one+"/1", two+"/1: free")
	return x, two
}

func TestInterfaceWithoutInstanceIsDeleted(t *testing.T) {
	for name, restart := range map[string]bool{"same leader": false, "new leader": true} {
		t.Run(name, func(t *testing.T) {
			x, _ := stranded(t)
			one := x.instance("worker1")
			x.leave("worker2")
			if restart {
				x.restart()
			}
			x.run(time.Minute)
			if len(x.own()) != 2 {
				t.Error("the interface was deleted at once")
			}
			x.run(2 * cloud.Grace)
			x.wantOwn(one + "/1: " + one + "/1")
			x.leave("worker1")
			x.run(time.Minute)
			x.wantOwn()
		})
	}
}

// The controller attaches an interface again that a user has detached, and replaces a deleted one.
func TestLostInterfaceIsReplaced(t *testing.T) {
	x := newAttachBench(t)
	x.join("worker1", x.subnets[1])
	x.run(6 * time.Second) // no listing has confirmed the attachment yet
	one := x.instance("worker1")
	find := func() string {
		for _, i := range x.cloud.Present() {
			if i.Attached == one && i.Device == 1 {
				return i.ID
			}
		}
		return ""
	}
	first := find()
	if err := x.cloud.Detach(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	x.run(resyncMax + 15*time.Second)
	if got := find(); got != first {
		t.Fatalf("%q is attached instead of %s", got, first)
	}
	if err := x.cloud.Detach(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := x.cloud.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	x.run(3 * resyncMax)
	if got := find(); got == first || got == "" {
		t.Fatalf("%q is attached", got)
	}
}

func TestDeletedNetworkLeavesNothing(t *testing.T) {
	for name, remove := range map[string]func(x *bench, network *v2beta1.SpiderCloudNetwork) error{
		"deleted": func(x *bench, n *v2beta1.SpiderCloudNetwork) error { return x.c.Delete(x.t.Context(), n) },
		"no attach": func(x *bench, n *v2beta1.SpiderCloudNetwork) error {
			n.Spec.Interfaces[0].Attach = nil
			return x.c.Update(x.t.Context(), n)
		},
		"discover": func(x *bench, n *v2beta1.SpiderCloudNetwork) error {
			n.Spec.Mode, n.Spec.Manage = v2beta1.CloudDiscover, nil
			return x.c.Update(x.t.Context(), n)
		},
	} {
		t.Run(name, func(t *testing.T) {
			x, _ := stranded(t)
			one := x.instance("worker1")
			if err := remove(x, x.network()); err != nil {
				t.Fatal(err)
			}
			if x.run(time.Minute); len(x.network().Finalizers) == 0 {
				t.Fatal("the finalizer has gone before the interface")
			}
			x.run(2 * cloud.Grace)
			x.wantOwn(one + "/1: " + one + "/1") // goes with its instance
			network := &v2beta1.SpiderCloudNetwork{}
			err := x.c.Get(t.Context(), client.ObjectKey{Name: "aws"}, network)
			if gone := apierrors.IsNotFound(err); gone != (name == "deleted") || len(network.Finalizers) > 0 {
				t.Errorf("the network has the finalizers %v (%v)", network.Finalizers, err)
			}
			before := x.cloud.Calls("Interfaces")
			if x.run(2 * resyncMax); x.cloud.Calls("Interfaces") > before {
				t.Error("interfaces are still listed")
			}
		})
	}
}

func TestDeletionWaitsForPermission(t *testing.T) {
	x, _ := stranded(t)
	x.cloud.Deny("Delete")
	if err := x.c.Delete(t.Context(), x.network()); err != nil {
		t.Fatal(err)
	}
	x.run(3 * cloud.Grace)
	x.condition("PermissionMissing", "1 network interfaces without an instance cannot be deleted: the cloud does not allow the action fake:Delete")
	x.cloud.Allow("Delete")
	x.run(2 * stopMax)
	if err := x.c.Get(t.Context(), client.ObjectKey{Name: "aws"}, &v2beta1.SpiderCloudNetwork{}); !apierrors.IsNotFound(err) {
		t.Errorf("the network is not deleted: %v", err)
	}
}

// A finalizer holds the network also if it creates nothing, because the interface exists.
func TestAdoptedInterfaceHoldsNetwork(t *testing.T) {
	x, two := stranded(t)
	network := x.network()
	network.Finalizers = nil // by hand
	if err := x.c.Update(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	x.cloud.Allow("Attach")
	x.restart()
	x.run(time.Minute)
	if own := x.own(); !slices.Contains(own, two+"/1: "+two+"/1") || !slices.Contains(x.network().Finalizers, v2beta1.Finalizer) {
		t.Errorf("our interfaces are %v, and the finalizers %v", own, x.network().Finalizers)
	}
}

func TestWaitingDeletionSaysWhy(t *testing.T) {
	x := newAttachBench(t)
	x.join("worker1", x.subnets[1])
	x.run(15 * time.Second)
	if err := x.c.Delete(t.Context(), x.network()); err != nil {
		t.Fatal(err)
	}
	x.restart()
	x.pass(0)
	x.condition("Deleting", "two listings")
}
