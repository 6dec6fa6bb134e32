package lease

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// takeOver gives the pod's address to a sandbox of the node and stores the writes.
func takeOver(t *testing.T, x *Index, now time.Time, container, node string) Result {
	t.Helper()
	r := request("web-0", "a")
	r.ContainerID, r.Node, r.FixedFor = container, node, Owner{KindPod, "default", "web-0"}
	plan := x.Choose(now, r)
	for _, b := range plan.Writes {
		if err := b.Validate(); err != nil {
			t.Fatal(err)
		}
		x.Put(b, now)
	}
	return plan.Results[0]
}

func TestFormerSandboxKeepsAddressFromStrangers(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0")
	for _, holder := range []struct{ container, node string }{{"first", "cut-off"}, {"second", "node"}} {
		if err := takeOver(t, x, start, holder.container, holder.node).Err; err != nil {
			t.Fatal(err)
		}
	}
	now := start.Add(time.Hour)
	put := func(writes []Block) {
		for _, b := range writes {
			x.Put(b, now)
		}
	}
	put(x.Release(now, Attachment{"second", "eth0"}))
	retained := x.FixedFor(Owner{KindPod, "default", "web-0"})
	if len(retained) != 1 || retained[0].State != Retained {
		t.Fatalf("the owner has %+v", retained)
	}
	put(x.Reclaim(now, retained...))
	now = now.Add(time.Hour)
	stranger := func() error { return x.Choose(now, request("stranger", "a")).Results[0].Err }
	if err := stranger(); !errors.As(err, new(*ExhaustedError)) {
		t.Fatalf("got %v while a former sandbox may use the address", err)
	}
	put(x.Release(now, Attachment{"first", "eth0"})) // a container of another node
	if err := stranger(); err == nil {
		t.Fatal("another node ended the former sandbox")
	}
	b, _ := x.Block(addr("10.0.0.0"))
	if b.Removable(nil, now, 0) {
		t.Error("the block may be deleted with a former sandbox in it")
	}
	b, ok := b.Forget(b.Former[0])
	if !ok || b.Former == nil {
		t.Errorf("forgot %t, and Former is nil: %t", ok, b.Former == nil)
	}
	x.Put(b, now)
	if err := stranger(); err != nil {
		t.Error(err)
	}
}

func TestPodReusesNoAddressOfStrangersSandbox(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.1")
	takeOver(t, x, start, "first", "node")
	b, _ := x.Block(addr("10.0.0.0"))
	b = b.Remember(Lease{Addr: addr("10.0.0.0"), State: InUse, Holder: Holder{Attachment: Attachment{"stranger", "eth0"}, PodUID: "other", Node: "other"}})
	x.Put(b, start)
	if result := takeOver(t, x, start, "second", "node"); result.Err != nil || result.Grants[0].Addr != addr("10.0.0.1") {
		t.Errorf("got %+v", result)
	}
}

func TestLateDelRemovesFormerSandbox(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0")
	takeOver(t, x, start, "first", "node")
	takeOver(t, x, start, "second", "node")
	writes := x.Release(start, Attachment{"first", "eth0"})
	if len(writes) != 1 || len(writes[0].Former) != 0 || writes[0].Leases[0].ContainerID != "second" {
		t.Errorf("got %+v", writes)
	}
}

func TestReturnedSandboxIsFormerNoMore(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0")
	for _, container := range []string{"first", "second", "first"} {
		takeOver(t, x, start, container, "node")
	}
	b, _ := x.Block(addr("10.0.0.0"))
	if len(b.Former) != 1 || b.Former[0].ContainerID != "second" {
		t.Errorf("former sandboxes are %+v", b.Former)
	}
}

func TestAddressChangesHandsBoundedly(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.1")
	for i := range MaxFormer + 1 {
		if err := takeOver(t, x, start, fmt.Sprint("c", i), fmt.Sprint("node-", i)).Err; err != nil {
			t.Fatal(err)
		}
	}
	var crowded *CrowdedError
	if err := takeOver(t, x, start, "last", "node").Err; !errors.As(err, &crowded) || !strings.Contains(err.Error(), "1 of node node-0, 1 of node node-1,") {
		t.Fatalf("got %v", err)
	}
	if err := takeOver(t, x, start, fmt.Sprint("c", MaxFormer), fmt.Sprint("node-", MaxFormer)).Err; err != nil {
		t.Errorf("the holder's repeated ADD: %v", err)
	}
}

// A pod with two addresses of one block needs room for two former sandboxes.
func TestNoFormerSandboxIsForgotten(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.1")
	take := func(container string, interfaces ...string) error {
		r := request("web-0", "a")
		r.ContainerID, r.FixedFor, r.Wants = container, Owner{KindPod, "default", "web-0"}, nil
		for _, ifname := range interfaces {
			r.Wants = append(r.Wants, Want{Interface: ifname, Family: 4, Pools: []string{"a"}})
		}
		plan := x.Choose(start, r)
		for _, b := range plan.Writes {
			x.Put(b, start)
		}
		return plan.Results[0].Err
	}
	for i := range MaxFormer / 2 {
		if err := take(fmt.Sprint("c", i), "eth0", "net1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := take("single", "eth0"); err != nil {
		t.Fatal(err)
	}
	former := func() int { b, _ := x.Block(addr("10.0.0.0")); return len(b.Former) }
	if former() != MaxFormer-1 {
		t.Fatalf("%d former sandboxes", former())
	}
	var crowded *CrowdedError
	if err := take("last", "eth0", "net1"); !errors.As(err, &crowded) || former() != MaxFormer-1 {
		t.Errorf("got %v, and %d former sandboxes", err, former())
	}
}

func TestUnansweredBlockRenewsHeldLease(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0")
	takeOver(t, x, start, "first", "node")
	b, _ := x.Block(addr("10.0.0.0"))
	was := b.Leases[0]
	b.Unconfirmed = true
	x.Put(b, start)
	r := request("web-0", "a")
	r.ContainerID, r.FixedFor = "first", Owner{KindPod, "default", "web-0"}
	plan := x.Choose(start, r, r)
	if len(plan.Writes) != 1 || plan.Writes[0].Unconfirmed || !plan.Writes[0].Leases[0].Since.After(was.Since) {
		t.Fatalf("got %+v", plan.Writes)
	}
	for _, result := range plan.Results {
		if result.Err != nil || len(result.Blocks) != 1 || result.Grants[0].Addr != was.Addr {
			t.Errorf("got %+v", result)
		}
	}
}

func TestUnreadBlockGrantsNothingNew(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.1")
	takeOver(t, x, start, "first", "node")
	b, _ := x.Block(addr("10.0.0.0"))
	b.Unread = true
	x.Put(b, start)
	if err := x.Choose(start, request("stranger", "a")).Results[0].Err; err == nil {
		t.Error("granted an address of an unread block")
	}
}

func TestValidateChecksFormerSandboxes(t *testing.T) {
	t.Parallel()
	former := func(address, container string) Former {
		return Former{addr(address), Holder{Attachment: Attachment{container, "eth0"}, Node: "node"}}
	}
	many := make([]Former, 0, MaxFormer+1)
	for i := range MaxFormer + 1 {
		many = append(many, former("10.0.0.1", fmt.Sprintf("%02d", i)))
	}
	for want, list := range map[string][]Former{
		"":                                many[:MaxFormer],
		"is outside the block":            {former("10.0.1.0", "c")},
		`has the container ID ""`:         {former("10.0.0.1", "")},
		"must be sorted, each once":       {former("10.0.0.1", "c"), former("10.0.0.1", "c")},
		"33 former sandboxes; at most 32": many,
	} {
		err := Block{Base: addr("10.0.0.0"), Former: slices.Clone(list)}.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
