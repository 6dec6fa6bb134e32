package cloudnetwork

import (
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// returnedBench has a node whose second prefix is due to go back.
func returnedBench(t *testing.T) (x *bench, eni string) {
	x = newManagedBench(t, 4)
	eni = x.join("worker1", x.subnets[1])
	x.pods("worker1", 20)
	x.pass(0)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.removePods()
	x.pass(time.Second)
	return x, eni
}

func TestUnneededPrefixGoesBack(t *testing.T) {
	x, eni := returnedBench(t)
	full := "aws-worker1-0-v4: 172.31.32.16-172.31.32.47"
	x.pass(coolDown - time.Second)
	if x.want(full); x.reserved() != "" {
		t.Fatalf("%s are reserved before the end of the cool-down", x.reserved())
	}
	x.pass(time.Second)
	x.pass(100 * time.Millisecond) // a fresh answer
	if x.want(full); x.reserved() != "172.31.32.32-172.31.32.47" {
		t.Fatalf("%q are reserved", x.reserved())
	}
	x.pass(settleTime)
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.31")
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.pass(settleTime - time.Second)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.pass(time.Second)
	x.wantAssigned(eni, "172.31.32.16/28")
	if got := x.withheld().String(); got != "172.31.32.32-172.31.32.47" {
		t.Errorf("%s are withheld", got)
	}
	x.passes(10)
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.31")
	if x.reserved() != "" || len(x.network().Status.Changes) > 0 {
		t.Errorf("%q are reserved, and the calls %v are open", x.reserved(), x.network().Status.Changes)
	}
	x.condition("PoolsUpToDate", "")
	for {
		select {
		case event := <-x.events.Events:
			if strings.Contains(event, "AddressesGone") {
				t.Errorf("the event %s", event)
			}
			continue
		default:
		}
		break
	}
}

func TestRegainedPrefixIsInService(t *testing.T) {
	x, eni := returnedBench(t)
	x.passes(20)
	x.wantAssigned(eni, "172.31.32.16/28")
	x.pods("worker1", 20)
	x.passes(20)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.47")
	if got := x.withheld(); !got.IsEmpty() {
		t.Errorf("%s are withheld", got)
	}
}

func TestPrefixOfOtherNodeIsInService(t *testing.T) {
	x, _ := returnedBench(t)
	x.passes(20)
	x.join("worker2", x.subnets[1])
	x.passes(20)
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.31", "aws-worker2-0-v4: 172.31.32.32-172.31.32.47")
	if got := x.withheld(); !got.IsEmpty() {
		t.Errorf("%s are withheld", got)
	}
}

func TestAddressInUseKeepsPrefix(t *testing.T) {
	x, eni := returnedBench(t)
	x.pass(coolDown)
	x.pass(100 * time.Millisecond)
	if x.reserved() == "" {
		t.Fatal("nothing is reserved")
	}
	x.pass(settleTime)
	x.create(blockOf("worker1", "aws-worker1-0-v4", "172.31.32.32", "172.31.32.33", x.clock.Now())) // an agent with a broken watch
	x.passes(20)
	x.wantAssigned(eni, "172.31.32.32/28") // the other one is not in use
	x.want("aws-worker1-0-v4: 172.31.32.32-172.31.32.47")
	if got := x.withheld(); got.String() != "172.31.32.16-172.31.32.31" || x.reserved() != "" {
		t.Errorf("%s are withheld, %s reserved", got, x.reserved())
	}
}

func TestRefusedReturnKeepsPrefix(t *testing.T) {
	x, eni := returnedBench(t)
	action := x.cloud.Deny("Unassign")
	x.passes(12)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.degraded("PermissionMissing", "SpiderIPPool aws-worker1-0-v4 keeps addresses that no pod needs: the cloud does not allow the action "+action)
	x.passes(12)
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.47")
	if got := x.withheld(); !got.IsEmpty() {
		t.Errorf("%s are withheld", got)
	}
	x.cloud.Allow("Unassign")
	x.pass(refusedTime)
	x.passes(20)
	x.wantAssigned(eni, "172.31.32.16/28")
}

func TestDiscoverEndsReturn(t *testing.T) {
	x, eni := returnedBench(t)
	x.cloud.Fail(cloudtest.Fault{Method: "Unassign", Kind: cloud.Throttled, Times: 1000})
	if x.passes(12); x.withheld().IsEmpty() {
		t.Fatal("nothing is withheld")
	}
	x.mode(v2beta1.CloudDiscover)
	x.passes(20)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.47")
	if got := x.withheld(); !got.IsEmpty() {
		t.Errorf("%s are withheld", got)
	}
	if got := x.assignable("aws-worker1-0-v4"); got != 0 {
		t.Errorf("%d addresses are assignable", got)
	}
}

// A lost answer to Unassign keeps the addresses withheld until it is clear what happened, also when the mode becomes Discover.
func TestDiscoverAwaitsLostReturn(t *testing.T) {
	x, eni := returnedBench(t)
	x.cloud.Lose("Unassign")
	x.cloud.Freeze()
	next := time.Duration(0)
	for len(x.assigned(eni)) == 2 {
		next = x.pass(next)
	}
	x.mode(v2beta1.CloudDiscover)
	for began := x.clock.Now(); x.clock.Now().Sub(began) < 2*time.Minute; {
		if x.clock.Now().Sub(began) > 20*time.Second {
			x.cloud.Thaw()
		}
		next = x.pass(min(next, 5*time.Second))
		if pool, _ := compile.Pool(x.pools()["aws-worker1-0-v4"]); pool.IPs.Overlaps(inet.OfPrefix(prefix("172.31.32.32/28"))) && x.withheld().IsEmpty() {
			t.Fatal("agents grant addresses that the cloud has taken back")
		}
	}
	if changes := x.network().Status.Changes; len(changes) > 0 {
		t.Errorf("the calls %v are open", changes)
	}
}
