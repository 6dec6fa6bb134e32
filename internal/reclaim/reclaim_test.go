package reclaim

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/lease"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func policy() Policy {
	return Policy{
		Enabled: true, ZombieOnReadyNode: true, ZombieOnNotReadyNode: true,
		FixedForStatefulSet: true, FixedForKubeVirt: true,
		MinAge: DefaultMinAge, ScaledDownRetention: DefaultScaledDownRetention,
	}
}

func inUse() lease.Lease {
	return lease.Lease{
		Addr: netip.MustParseAddr("10.0.0.1"), State: lease.InUse, Pool: "a", Since: now.Add(-time.Hour),
		Holder: lease.Holder{Attachment: lease.Attachment{ContainerID: "c1", Interface: "eth0"}, Pod: "default/web-0", PodUID: "uid1", Node: "worker1"},
	}
}

func fixed(l lease.Lease) lease.Lease {
	l.FixedFor = "Pod/default/web-0"
	return l
}

func retained(l lease.Lease) lease.Lease {
	l = fixed(l)
	l.State = lease.Retained
	return l
}

// alive is a pod that runs on a ready node and has its sandbox.
func alive() Facts {
	return Facts{
		Pod:     Pod{Presence: Exists, UID: "uid1", Phase: "Running", HasAddress: true},
		Node:    Node{Presence: Exists, Ready: true},
		Sandbox: Present,
		Owner:   OwnerWanted,
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	gone := func(f *Facts, _ *Policy) { f.Pod = Pod{Presence: Gone} }
	sandbox := func(s Sandbox) func(*Facts, *Policy) { return func(f *Facts, _ *Policy) { f.Sandbox = s } }
	terminating := func(ago time.Duration) func(*Facts, *Policy) {
		return func(f *Facts, _ *Policy) { f.Pod.Deadline = now.Add(-ago) }
	}
	other := func(f *Facts, _ *Policy) { f.OtherSandbox = true }
	notReady := func(f *Facts, _ *Policy) { f.Node.Ready = false }
	nodeGone := func(f *Facts, _ *Policy) { f.Node = Node{Presence: Gone}; f.Sandbox = SandboxUnknown }
	fenced := func(f *Facts, _ *Policy) {
		f.Node = Node{Presence: Exists, OutOfService: true}
		f.Sandbox = SandboxUnknown
	}
	owner := func(o Owner) func(*Facts, *Policy) { return func(f *Facts, _ *Policy) { f.Owner = o } }
	type changes = []func(*Facts, *Policy)

	for _, tc := range []struct {
		name    string
		lease   lease.Lease
		changes changes
		action  Action
		reason  Reason
		message string // part of it
	}{
		{"alive", inUse(), nil, Keep, PodAlive, "pod default/web-0 uses the address"},
		{"switched off", inUse(), changes{gone, sandbox(NotPresent), func(_ *Facts, p *Policy) { p.Enabled = false }}, Keep, Disabled, "ipam.gc.enabled"},
		{"young", func() lease.Lease { l := inUse(); l.Since = now.Add(-time.Minute); return l }(), changes{gone, sandbox(NotPresent)},
			Keep, TooYoung, "the lease is 1m0s old; only leases of 5m0s or more are judged"},
		{"released", lease.Lease{State: lease.Released}, changes{gone}, Keep, NotHeld, "Released"},
		{"quarantined", lease.Lease{State: lease.Quarantined}, changes{gone}, Keep, NotHeld, "Quarantined"},

		{"pod unread", inUse(), changes{func(f *Facts, _ *Policy) { f.Pod = Pod{} }, sandbox(NotPresent)}, Keep, PodUnknown, "cannot read pod default/web-0"},
		{"pod gone, sandbox gone", inUse(), changes{gone, sandbox(NotPresent)}, Free, PodGone, "does not exist, and node worker1 has no sandbox c1"},
		{"pod gone, sandbox alive", inUse(), changes{gone}, Keep, SandboxAlive, "but node worker1 still has sandbox c1"},
		{"pod gone, agent away", inUse(), changes{gone, sandbox(SandboxUnknown)}, Keep, NoProof, "node.kubernetes.io/out-of-service"},
		{"pod gone, node gone", inUse(), changes{gone, nodeGone}, Free, PodGone, "and node worker1 does not exist"},
		{"pod gone, node fenced", inUse(), changes{gone, fenced}, Free, PodGone, "has the taint node.kubernetes.io/out-of-service"},
		{"pod gone, node said to be gone but its agent has the sandbox", inUse(), changes{gone, nodeGone, sandbox(Present)}, Keep, SandboxAlive, "still has"},
		{"pod gone, node fenced but its agent has the sandbox", inUse(), changes{gone, fenced, sandbox(Present)}, Keep, SandboxAlive, "still has"},
		{"pod gone, node not ready", inUse(), changes{gone, notReady, sandbox(SandboxUnknown)}, Keep, NoProof, "nothing proves that sandbox c1 of node worker1 is gone"},
		{"node unread", inUse(), changes{gone, func(f *Facts, _ *Policy) { f.Node = Node{} }, sandbox(SandboxUnknown)}, Keep, NoProof, ""},
		{"node gone but the pod is still there", inUse(), changes{nodeGone}, Keep, PodAlive, ""},
		{"lease of no node", func() lease.Lease { l := inUse(); l.Node = ""; return l }(), changes{gone, nodeGone}, Keep, NoProof, ""},
		{"pod of another UID", inUse(), changes{func(f *Facts, _ *Policy) { f.Pod.UID = "uid2" }, sandbox(NotPresent)}, Free, PodReplaced,
			"now has UID uid2, not uid1 as in the lease"},
		{"pod of another UID, sandbox alive", inUse(), changes{func(f *Facts, _ *Policy) { f.Pod.UID = "uid2" }}, Keep, SandboxAlive, ""},
		{"succeeded", inUse(), changes{func(f *Facts, _ *Policy) { f.Pod.Phase = "Succeeded" }, sandbox(NotPresent)}, Free, PodSucceeded, "succeeded"},
		{"failed", inUse(), changes{func(f *Facts, _ *Policy) { f.Pod.Phase = "Failed" }, sandbox(NotPresent)}, Free, PodFailed, "failed"},
		{"old sandbox of a live pod that has another", inUse(), changes{sandbox(NotPresent), other}, Free, SandboxGone, "now runs in a sandbox other than c1"},
		{"no sandbox of a live pod", inUse(), changes{sandbox(NotPresent)}, Keep, PodAlive, "uses the address"},

		{"terminating in time", inUse(), changes{terminating(-time.Second), sandbox(SandboxUnknown)}, Keep, PodAlive, ""},
		{"terminating too long", inUse(), changes{terminating(90 * time.Second), sandbox(NotPresent)}, Free, PodTerminating,
			"should have terminated 1m30s ago on Ready node worker1"},
		{"terminating too long, sandbox alive", inUse(), changes{terminating(time.Hour)}, Keep, SandboxAlive, ""},
		{"terminating within the delay", inUse(), changes{terminating(time.Minute), sandbox(SandboxUnknown), func(_ *Facts, p *Policy) { p.TerminatingDelay = 2 * time.Minute }},
			Keep, PodAlive, ""},
		{"terminating beyond the delay", inUse(), changes{terminating(2 * time.Minute), sandbox(NotPresent), func(_ *Facts, p *Policy) { p.TerminatingDelay = 2 * time.Minute }},
			Free, PodTerminating, ""},
		{"terminating, not on ready nodes", inUse(), changes{terminating(time.Hour), sandbox(SandboxUnknown), func(_ *Facts, p *Policy) { p.ZombieOnReadyNode = false }},
			Keep, PodAlive, ""},
		{"terminating, not on nodes that are not ready", inUse(), changes{terminating(time.Hour), fenced, func(_ *Facts, p *Policy) { p.ZombieOnNotReadyNode = false }},
			Keep, PodAlive, ""},
		{"terminating in time, sandbox gone", inUse(), changes{terminating(-time.Second), sandbox(NotPresent)}, Keep, PodAlive, "may exceed its grace period by 0s"},
		{"terminating, not on ready nodes, sandbox gone", inUse(),
			changes{terminating(time.Hour), sandbox(NotPresent), func(_ *Facts, p *Policy) { p.ZombieOnReadyNode = false }},
			Keep, PodAlive, "disabled on Ready nodes"},
		{"terminating, not on nodes that are not ready, sandbox gone", inUse(),
			changes{terminating(time.Hour), notReady, sandbox(NotPresent), func(_ *Facts, p *Policy) { p.ZombieOnNotReadyNode = false }},
			Keep, PodAlive, "disabled on NotReady nodes"},
		{"terminating, fixed address, another sandbox", fixed(inUse()), changes{terminating(time.Hour), sandbox(NotPresent), other}, Retain, SandboxGone, ""},
		{"terminating, fixed address, no sandbox", fixed(inUse()), changes{terminating(time.Hour), sandbox(NotPresent)}, Keep, PodAlive, ""},
		{"terminating, node not ready", inUse(), changes{terminating(time.Hour), notReady, sandbox(SandboxUnknown)}, Keep, NoProof, "NotReady node worker1"},
		{"terminating, node not ready but its agent answers", inUse(), changes{terminating(time.Hour), notReady, sandbox(NotPresent)}, Free, PodTerminating, ""},
		{"terminating, node fenced", inUse(), changes{terminating(time.Hour), fenced}, Free, PodTerminating, "out-of-service"},
		{"terminating, fixed address", fixed(inUse()), changes{terminating(time.Hour), sandbox(SandboxUnknown)}, Keep, PodAlive, ""},

		{"retained, and replaced", retained(inUse()), changes{func(f *Facts, _ *Policy) { f.Replaced = true }}, Free, FixedReplaced,
			"its owner Pod/default/web-0 has another IPv4 address for eth0"},
		{"in use, and its owner has another", fixed(inUse()), changes{func(f *Facts, _ *Policy) { f.Replaced = true }}, Keep, PodAlive, ""},

		{"runs without an address, not switched on", inUse(), changes{func(f *Facts, _ *Policy) { f.Pod.HasAddress = false }, sandbox(SandboxUnknown)}, Keep, PodAlive, ""},
		{"runs without an address, not switched on, sandbox gone", inUse(), changes{func(f *Facts, _ *Policy) { f.Pod.HasAddress = false }, sandbox(NotPresent)},
			Keep, PodAlive, "enableGcRunningPodOnEmptyPodStatusIPs is false"},
		{"runs without an address, sandbox gone", inUse(), changes{func(f *Facts, p *Policy) { f.Pod.HasAddress, p.RunningPodWithoutAddress = false, true }, sandbox(NotPresent)},
			Free, PodWithoutAddress, "without an address in status.podIPs"},
		{"runs without an address, sandbox unknown", inUse(), changes{func(f *Facts, p *Policy) { f.Pod.HasAddress, p.RunningPodWithoutAddress = false, true }, sandbox(SandboxUnknown)},
			Keep, NoProof, "without an address in status.podIPs"},
		{"starts without an address", inUse(), changes{func(f *Facts, p *Policy) {
			f.Pod.HasAddress, f.Pod.Phase, p.RunningPodWithoutAddress = false, "Pending", true
		}, sandbox(SandboxUnknown)}, Keep, PodAlive, ""},

		{"fixed, pod gone", fixed(inUse()), changes{gone, sandbox(NotPresent)}, Retain, PodGone, ""},
		{"fixed, pod gone, no proof", fixed(inUse()), changes{gone, sandbox(SandboxUnknown)}, Keep, NoProof, ""},
		{"fixed, pod and owner gone", fixed(inUse()), changes{gone, sandbox(NotPresent), owner(OwnerGone)}, Free, PodGone, ""},
		{"fixed, pod gone, owner unread", fixed(inUse()), changes{gone, sandbox(NotPresent), owner(OwnerUnknown)}, Retain, PodGone, ""},
		{"fixed, pod gone, switched off", fixed(inUse()), changes{gone, sandbox(NotPresent), func(_ *Facts, p *Policy) { p.FixedForStatefulSet = false }}, Free, PodGone, ""},

		{"waits for its pod", retained(inUse()), changes{gone}, Keep, FixedWanted, "reserved for Pod/default/web-0"},
		{"owner unread", retained(inUse()), changes{gone, owner(OwnerUnknown)}, Keep, FixedUnknown, "cannot read its owner"},
		{"owner gone", retained(inUse()), changes{gone, owner(OwnerGone)}, Free, FixedOwnerGone, "no longer exists"},
		{"just scaled away", func() lease.Lease { l := retained(inUse()); l.Since = now.Add(-time.Minute); return l }(), changes{gone, owner(OwnerScaledDown)},
			Keep, FixedWanted, "may come back"},
		{"scaled away", retained(inUse()), changes{gone, owner(OwnerScaledDown)}, Free, FixedScaledDown, "has not come back for 1h0m0s"},
		{"scaled away, kept for ever", retained(inUse()), changes{gone, owner(OwnerScaledDown), func(_ *Facts, p *Policy) { p.ScaledDownRetention = -1 }}, Keep, FixedWanted, ""},
		{"retained, switched off", retained(inUse()), changes{gone, func(_ *Facts, p *Policy) { p.FixedForStatefulSet = false }}, Free, FixedSwitchedOff, ""},
		{"retained for a VM, switched off for pods", func() lease.Lease { l := retained(inUse()); l.FixedFor = "VirtualMachine/default/vm"; return l }(),
			changes{gone, func(_ *Facts, p *Policy) { p.FixedForStatefulSet = false }}, Keep, FixedWanted, ""},
		{"retained for something of a later release", func() lease.Lease { l := retained(inUse()); l.FixedFor = "Rack/default/r1"; return l }(),
			changes{gone, func(_ *Facts, p *Policy) { p.FixedForStatefulSet, p.FixedForKubeVirt = false, false }}, Keep, FixedWanted, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f, p := alive(), policy()
			for _, change := range tc.changes {
				change(&f, &p)
			}
			v := Judge(tc.lease, f, p, now)
			if v.Action != tc.action || v.Reason != tc.reason || !strings.Contains(v.Message, tc.message) || v.Message == "" {
				t.Errorf("verdict is %+v, want %v %s with %q", v, tc.action, tc.reason, tc.message)
			}
		})
	}
}

func drawLease(t *rapid.T) lease.Lease {
	l := inUse()
	l.State = rapid.SampledFrom([]lease.State{lease.InUse, lease.InUse, lease.Retained, lease.Released, lease.Quarantined}).Draw(t, "state")
	l.Since = now.Add(-time.Duration(rapid.IntRange(0, 120).Draw(t, "age")) * time.Minute)
	l.Node = rapid.SampledFrom([]string{"worker1", "worker1", ""}).Draw(t, "node")
	l.FixedFor = rapid.SampledFrom([]string{"", "Pod/default/web-0", "VirtualMachine/default/vm"}).Draw(t, "fixed for")
	if l.State == lease.Retained && l.FixedFor == "" {
		l.FixedFor = "Pod/default/web-0"
	}
	return l
}

func drawFacts(t *rapid.T) Facts {
	presence := func(what string) Presence { return Presence(rapid.IntRange(0, 2).Draw(t, what)) }
	f := Facts{
		Pod: Pod{
			Presence:   presence("pod"),
			UID:        rapid.SampledFrom([]string{"uid1", "uid1", "uid2"}).Draw(t, "uid"),
			Phase:      rapid.SampledFrom([]string{"Pending", "Running", "Succeeded", "Failed", "Unknown"}).Draw(t, "phase"),
			HasAddress: rapid.Bool().Draw(t, "has address"),
		},
		Node:    Node{presence("node object"), rapid.Bool().Draw(t, "ready"), rapid.Bool().Draw(t, "out of service")},
		Sandbox: Sandbox(rapid.IntRange(0, 2).Draw(t, "sandbox")),
		Owner:   Owner(rapid.IntRange(0, 3).Draw(t, "owner")),
	}
	if rapid.Bool().Draw(t, "terminating") {
		f.Pod.Deadline = now.Add(time.Duration(rapid.IntRange(-60, 60).Draw(t, "deadline")) * time.Minute)
	}
	return f
}

func drawPolicy(t *rapid.T) Policy {
	p := policy()
	for _, on := range []*bool{&p.Enabled, &p.ZombieOnReadyNode, &p.ZombieOnNotReadyNode, &p.RunningPodWithoutAddress, &p.FixedForStatefulSet, &p.FixedForKubeVirt} {
		*on = rapid.IntRange(0, 3).Draw(t, "switch") > 0
	}
	p.TerminatingDelay = time.Duration(rapid.IntRange(0, 30).Draw(t, "delay")) * time.Minute
	return p
}

// Whatever is observed, nothing is ended on doubt.
func TestNothingIsEndedWithoutProof(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l, f, p := drawLease(t), drawFacts(t), drawPolicy(t)
		v := Judge(l, f, p, now)
		if v.Action == Keep {
			return
		}
		if !p.Enabled {
			t.Fatalf("ended although switched off: %+v", v)
		}
		if l.State == lease.Retained {
			if on := p.retains(l.FixedFor); v.Action != Free || on && (f.Owner == OwnerWanted || f.Owner == OwnerUnknown) {
				t.Fatalf("a retained address was taken from its owner: %+v", v)
			}
			return
		}
		deadNode := l.Node != "" && (f.Node.Presence == Gone || f.Node.Presence == Exists && f.Node.OutOfService)
		if f.Sandbox != NotPresent && (f.Sandbox == Present || !deadNode) {
			t.Fatalf("ended without proof: %+v of %+v", v, f)
		}
		if l.State != lease.InUse || now.Sub(l.Since) < p.MinAge || f.Pod.Presence == Unknown {
			t.Fatalf("ended %+v: %+v", l, v)
		}
		if v.Action == Retain && (l.FixedFor == "" || f.Owner == OwnerGone) || v.Action == Free && p.retains(l.FixedFor) && l.FixedFor != "" && f.Owner != OwnerGone {
			t.Fatalf("%+v: action %v for owner %v", l, v.Action, f.Owner)
		}
	})
}

// Less knowledge never ends a lease that more knowledge keeps, except that an
// operator's word on a node counts where its agent says nothing.
func TestIgnoranceNeverEndsALease(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l, f, p := drawLease(t), drawFacts(t), drawPolicy(t)
		less := f
		switch rapid.IntRange(0, 3).Draw(t, "forget") {
		case 0:
			less.Pod = Pod{}
		case 1:
			less.Node = Node{}
		case 2:
			less.Owner = OwnerUnknown
		case 3:
			less.Sandbox = SandboxUnknown
			if f.Sandbox == Present {
				less.Node = Node{}
			}
		}
		with, without := Judge(l, f, p, now), Judge(l, less, p, now)
		if without.Action > with.Action && without.Action >= Retain {
			t.Fatalf("with %+v: %+v; with %+v: %+v", f, with, less, without)
		}
	})
}

func TestSweepChangesABlockOnce(t *testing.T) {
	t.Parallel()
	block := lease.Block{Base: netip.MustParseAddr("10.0.0.0"), Version: "7"}
	for i, pod := range []string{"alive", "gone", "unproven", "fixed"} {
		l := inUse()
		l.Addr = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		l.Pod = "default/" + pod
		if pod == "fixed" {
			l = fixed(l)
		}
		block.Leases = append(block.Leases, l)
	}
	before := slices.Clone(block.Leases)
	swept, changes := Sweep(block, func(l lease.Lease) Facts {
		f := alive()
		switch l.Pod {
		case "default/gone", "default/fixed":
			f.Pod, f.Sandbox = Pod{Presence: Gone}, NotPresent
		case "default/unproven":
			f.Pod, f.Sandbox = Pod{Presence: Gone}, SandboxUnknown
		}
		return f
	}, policy(), now)
	var states []lease.State
	for _, l := range swept.Leases {
		states = append(states, l.State)
	}
	if want := []lease.State{lease.InUse, lease.Released, lease.InUse, lease.Retained}; !slices.Equal(states, want) {
		t.Errorf("states are %v, want %v", states, want)
	}
	if len(changes) != 2 || changes[0].Lease.Pod != "default/gone" || changes[0].Action != Free || changes[1].Action != Retain {
		t.Errorf("changes are %+v", changes)
	}
	if !slices.Equal(block.Leases, before) || swept.Version != "7" || swept.Validate() != nil {
		t.Errorf("the block became %+v, swept %+v", block, swept)
	}
}

func TestOwnersAreParsed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   string
		want []string // nil: refused
	}{
		{"Pod/default/web-0", []string{"Pod", "default", "web-0"}},
		{"VirtualMachine/ns/vm", []string{"VirtualMachine", "ns", "vm"}},
		{"", nil}, {"Pod/default", nil}, {"Pod/default/web-0/x", nil}, {"Rack/default/r1", nil}, {"Pod//web-0", nil}, {"Pod/default/", nil},
	} {
		kind, namespace, name, ok := ParseOwner(tc.in)
		if ok != (tc.want != nil) || ok && !slices.Equal([]string{kind, namespace, name}, tc.want) {
			t.Errorf("ParseOwner(%q) = %q, %q, %q, %t", tc.in, kind, namespace, name, ok)
		}
	}
}

func TestPodsOfAStatefulSetAreKnownByTheirNames(t *testing.T) {
	for pod, want := range map[string]struct {
		set     string
		ordinal int
	}{"web-0": {"web", 0}, "my-db-12": {"my-db", 12}, "web": {}, "web-": {}, "web-a": {}} {
		set, ordinal, ok := StatefulSetOf(pod)
		if ok != (want.set != "") || ok && (set != want.set || ordinal != want.ordinal) {
			t.Errorf("StatefulSetOf(%q) = %q, %d, %t", pod, set, ordinal, ok)
		}
	}
}
