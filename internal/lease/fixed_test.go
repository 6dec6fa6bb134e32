package lease

import (
	"fmt"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

func TestFixedAddressReturnsToOwner(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15", "10.0.1.0-10.0.1.15")
	r := request("web-0", "a", "b")
	r.FixedFor = ParseOwner("Pod/default/web-0")
	a := one(t, x, start, r)
	release(t, x, start, eth0("web-0"))
	if u := x.Usage("a"); u.Retained != 1 || u.Free != 15 {
		t.Errorf("usage is %+v, want one retained and 15 free", u)
	}
	for i := range 15 {
		if got := one(t, x, start, request(fmt.Sprint(i), "a")); got == a {
			t.Fatalf("the retained address %s went to pod %d", a, i)
		}
	}
	mustBeExhausted(t, x, start, request("late", "a"))

	back := r
	back.PodUID, back.ContainerID, back.Node = "second uid", "second container", "node2"
	if got := one(t, x, start.Add(time.Hour), back); got != a {
		t.Errorf("the pod came back to %s, want %s", got, a)
	}
}

func TestRetainedAddressOfUnwantedPoolIsReleased(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15", "10.0.1.0-10.0.1.15")
	r := request("web-0", "a")
	r.FixedFor = ParseOwner("Pod/default/web-0")
	one(t, x, start, r)
	release(t, x, start, eth0("web-0"))
	moved := r
	moved.ContainerID, moved.Wants = "second container", []Want{{"eth0", 4, []string{"b"}}}
	if got := one(t, x, start, moved); !set(t, "10.0.1.0-10.0.1.15").Contains(addr(got)) {
		t.Fatalf("the pod has %s, want an address of b", got)
	}
	if u := x.Usage("a"); u.Retained != 0 || u.Free != 16 {
		t.Errorf("usage of a is %+v, want nothing retained", u)
	}
}

func TestRetainedAddressesOfFormerInterfacesAreReleased(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15", "fd00::-fd00::f")
	r := request("web-0", "a")
	r.FixedFor = ParseOwner("Pod/default/web-0")
	former := r
	former.Wants = []Want{{"eth0", 4, []string{"a"}}, {"eth0", 6, []string{"b"}}, {"net1", 4, []string{"a"}}}
	mustChoose(t, x, start, former)
	release(t, x, start, eth0("web-0"))
	release(t, x, start, Attachment{"container-web-0", "net1"})
	if four, six := x.Usage("a"), x.Usage("b"); four.Retained != 2 || six.Retained != 1 {
		t.Fatalf("usage is %+v and %+v, want three addresses retained", four, six)
	}
	one(t, x, start, r)
	if four, six := x.Usage("a"), x.Usage("b"); four.InUse != 1 || four.Retained != 0 || six.Retained != 0 {
		t.Errorf("usage is %+v and %+v, want one address in use and none retained", four, six)
	}
}

func TestExcludedRetainedAddressIsReleased(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1-10.0.0.2")
	r := request("web-0", "a")
	r.FixedFor = ParseOwner("Pod/default/web-0")
	a := one(t, x, start, r)
	release(t, x, start, eth0("web-0"))
	x.SetPool("a", set(t, "10.0.0.1-10.0.0.2").Minus(inet.OfAddrs(addr(a))))
	r.ContainerID = "second container"
	if got := one(t, x, start, r); got == a {
		t.Errorf("the excluded address %s came back", got)
	}
}
