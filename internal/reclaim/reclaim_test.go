package reclaim

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
		Holder: lease.Holder{
			Attachment: lease.Attachment{ContainerID: "c1", Interface: "eth0"}, Pod: lease.ParsePodKey("default/web-0"), PodUID: "uid1", Node: "worker1",
		},
	}
}

func fixed(l lease.Lease) lease.Lease {
	l.FixedFor = lease.ParseOwner("Pod/default/web-0")
	return l
}

func retained(l lease.Lease) lease.Lease {
	l = fixed(l)
	l.State = lease.Retained
	return l
}

// alive describes a pod that runs in its sandbox on a ready node.
func alive() Facts {
	return Facts{
		Age:      time.Hour,
		Pod:      Pod{Presence: Exists, UID: "uid1", Phase: "Running", HasAddress: true},
		Node:     Node{Presence: Exists, Ready: true},
		Sandbox:  Present,
		Owner:    OwnerWanted,
		Unwanted: time.Hour,
	}
}

// situation is what Judge gets.
type situation struct {
	lease  lease.Lease
	facts  Facts
	policy Policy
}

// change turns the situation of a living pod into that of a test.
type change func(*situation)

func fixedAddress(s *situation)    { s.lease = fixed(s.lease) }
func retainedAddress(s *situation) { s.lease = retained(s.lease) }
func podGone(s *situation)         { s.facts.Pod = Pod{Presence: Gone} }
func podUnread(s *situation)       { s.facts.Pod = Pod{} }
func podReplaced(s *situation)     { s.facts.Pod.UID = "uid2" }
func noAddress(s *situation)       { s.facts.Pod.HasAddress = false }
func noSandbox(s *situation)       { s.facts.Sandbox = NotPresent }
func sandboxUnknown(s *situation)  { s.facts.Sandbox = SandboxUnknown }
func sandboxPresent(s *situation)  { s.facts.Sandbox = Present }
func otherSandbox(s *situation)    { s.facts.OtherSandbox = true }
func replaced(s *situation)        { s.facts.Replaced = true }
func notReady(s *situation)        { s.facts.Node.Ready = false }
func nodeUnread(s *situation)      { s.facts.Node = Node{} }
func nodeGone(s *situation)        { s.facts.Node, s.facts.Sandbox = Node{Presence: Gone}, SandboxUnknown }
func noNode(s *situation)          { s.lease.Node = "" }

func outOfService(s *situation) {
	s.facts.Node, s.facts.Sandbox = Node{Presence: Exists, OutOfService: true}, SandboxUnknown
}

func state(of lease.State) change { return func(s *situation) { s.lease.State = of } }
func phase(p string) change       { return func(s *situation) { s.facts.Pod.Phase = p } }
func owner(o Owner) change        { return func(s *situation) { s.facts.Owner = o } }
func asked(r Request) change      { return func(s *situation) { s.facts.Request = r } }
func fixedFor(owner string) change {
	return func(s *situation) { s.lease.FixedFor = lease.ParseOwner(owner) }
}

// aged sets the age of the lease.
func aged(d time.Duration) change {
	return func(s *situation) { s.facts.Age, s.facts.Unwanted = d, d }
}

// overdue makes the pod exceed its grace period by d.
func overdue(d time.Duration) change {
	return func(s *situation) {
		s.facts.Pod.Terminating, s.facts.Pod.Grace, s.facts.Terminating = true, 30*time.Second, 30*time.Second+d
	}
}

// set changes the policy.
func set(f func(*Policy)) change { return func(s *situation) { f(&s.policy) } }

func TestVerdicts(t *testing.T) {
	t.Parallel()
	gcOff := set(func(p *Policy) { p.Enabled = false })
	readyOff := set(func(p *Policy) { p.ZombieOnReadyNode = false })
	notReadyOff := set(func(p *Policy) { p.ZombieOnNotReadyNode = false })
	delay := set(func(p *Policy) { p.TerminatingDelay = 2 * time.Minute })
	withoutAddressOn := set(func(p *Policy) { p.RunningPodWithoutAddress = true })
	podsOff := set(func(p *Policy) { p.FixedForStatefulSet = false })
	fixedOff := set(func(p *Policy) { p.FixedForStatefulSet, p.FixedForKubeVirt = false, false })
	forever := set(func(p *Policy) { p.ScaledDownRetention = -1 })
	type changes = []change

	for _, tc := range []struct {
		name    string
		changes changes
		action  Action
		reason  Reason
		message string // part of it
	}{
		{"alive", nil, Keep, PodAlive, "pod default/web-0 uses the address"},
		{"disabled", changes{podGone, noSandbox, gcOff}, Keep, Disabled, "ipam.gc.enabled"},
		{"young", changes{aged(time.Minute), podGone, noSandbox},
			Keep, TooYoung, "the lease is 1m0s old; only leases of 5m0s or more are judged"},
		{"released", changes{state(lease.Released), podGone}, Keep, NotHeld, "Released"},
		{"quarantined", changes{state(lease.Quarantined), podGone}, Keep, NotHeld, "Quarantined"},

		{"pod unread", changes{podUnread, noSandbox}, Keep, PodUnknown, "cannot read pod default/web-0"},
		{"pod gone, sandbox gone", changes{podGone, noSandbox}, Free, PodGone, "does not exist, and node worker1 has no sandbox c1"},
		{"pod gone, sandbox alive", changes{podGone}, Keep, SandboxAlive, "but node worker1 still has sandbox c1"},
		{"pod gone, sandbox unknown", changes{podGone, sandboxUnknown}, Keep, NoProof, "node.kubernetes.io/out-of-service"},
		{"pod gone, node gone", changes{podGone, nodeGone}, Free, PodGone, "and node worker1 does not exist"},
		{"pod gone, node out of service", changes{podGone, outOfService}, Free, PodGone, "has the taint node.kubernetes.io/out-of-service"},
		{"pod and node gone, sandbox alive", changes{podGone, nodeGone, sandboxPresent}, Keep, SandboxAlive, "still has"},
		{"pod gone, node out of service, sandbox alive", changes{podGone, outOfService, sandboxPresent}, Keep, SandboxAlive, "still has"},
		{"pod gone, node not ready", changes{podGone, notReady, sandboxUnknown},
			Keep, NoProof, "nothing proves that sandbox c1 of node worker1 is gone"},
		{"pod gone, node unread", changes{podGone, nodeUnread, sandboxUnknown}, Keep, NoProof, ""},
		{"node gone, pod exists", changes{nodeGone}, Keep, PodAlive, ""},
		{"lease without node", changes{noNode, podGone, nodeGone}, Keep, NoProof, ""},
		{"pod with another UID", changes{podReplaced, noSandbox}, Free, PodReplaced, "now has UID uid2, not uid1 as in the lease"},
		{"pod with another UID, sandbox alive", changes{podReplaced}, Keep, SandboxAlive, ""},
		{"succeeded", changes{phase("Succeeded"), noSandbox}, Free, PodSucceeded, "succeeded"},
		{"failed", changes{phase("Failed"), noSandbox}, Free, PodFailed, "failed"},
		{"old sandbox, pod has another", changes{noSandbox, otherSandbox}, Free, SandboxGone, "now runs in a sandbox other than c1"},
		{"live pod without sandbox", changes{noSandbox}, Keep, PodAlive, "uses the address"},

		{"terminating in time", changes{overdue(-time.Second), sandboxUnknown}, Keep, PodAlive, ""},
		{"overdue", changes{overdue(90 * time.Second), noSandbox},
			Free, PodTerminating, "should have terminated 1m30s ago on Ready node worker1"},
		{"overdue, sandbox alive", changes{overdue(time.Hour)}, Keep, SandboxAlive, ""},
		{"overdue within the delay", changes{overdue(time.Minute), noSandbox, delay}, Keep, PodAlive, ""},
		{"overdue beyond the delay", changes{overdue(2 * time.Minute), noSandbox, delay}, Free, PodTerminating, ""},
		{"overdue, disabled on ready nodes, sandbox unknown", changes{overdue(time.Hour), sandboxUnknown, readyOff}, Keep, PodAlive, ""},
		{"overdue, disabled on nodes not ready", changes{overdue(time.Hour), outOfService, notReadyOff}, Keep, PodAlive, ""},
		{"terminating in time, sandbox gone", changes{overdue(-time.Second), noSandbox}, Keep, PodAlive, "may exceed its grace period by 0s"},
		{"overdue, disabled on ready nodes", changes{overdue(time.Hour), noSandbox, readyOff}, Keep, PodAlive, "disabled on Ready nodes"},
		{"overdue, disabled on nodes not ready, sandbox gone", changes{overdue(time.Hour), notReady, noSandbox, notReadyOff},
			Keep, PodAlive, "disabled on NotReady nodes"},
		{"overdue, fixed address, other sandbox", changes{fixedAddress, overdue(time.Hour), noSandbox, otherSandbox}, Retain, SandboxGone, ""},
		{"overdue, fixed address, no sandbox", changes{fixedAddress, overdue(time.Hour), noSandbox}, Keep, PodAlive, ""},
		{"overdue, node not ready", changes{overdue(time.Hour), notReady, sandboxUnknown}, Keep, NoProof, "NotReady node worker1"},
		{"overdue, node not ready, sandbox gone", changes{overdue(time.Hour), notReady, noSandbox}, Free, PodTerminating, ""},
		{"overdue, node out of service", changes{overdue(time.Hour), outOfService}, Free, PodTerminating, "out-of-service"},
		{"overdue, fixed address", changes{fixedAddress, overdue(time.Hour), sandboxUnknown}, Keep, PodAlive, ""},

		{"retained and replaced", changes{retainedAddress, replaced},
			Free, FixedReplaced, "its owner Pod/default/web-0 has another IPv4 address for eth0"},
		{"in use and replaced", changes{fixedAddress, replaced}, Keep, PodAlive, ""},

		{"no address, disabled, sandbox unknown", changes{noAddress, sandboxUnknown}, Keep, PodAlive, ""},
		{"no address, disabled", changes{noAddress, noSandbox}, Keep, PodAlive, "enableGcRunningPodOnEmptyPodStatusIPs is false"},
		{"no address", changes{noAddress, withoutAddressOn, noSandbox}, Free, PodWithoutAddress, "without an address in status.podIPs"},
		{"no address, sandbox unknown", changes{noAddress, withoutAddressOn, sandboxUnknown},
			Keep, NoProof, "without an address in status.podIPs"},
		{"no address yet", changes{noAddress, phase("Pending"), withoutAddressOn, sandboxUnknown}, Keep, PodAlive, ""},

		{"fixed, pod gone", changes{fixedAddress, podGone, noSandbox}, Retain, PodGone, ""},
		{"fixed, pod gone, no proof", changes{fixedAddress, podGone, sandboxUnknown}, Keep, NoProof, ""},
		{"fixed, pod and owner gone", changes{fixedAddress, podGone, noSandbox, owner(OwnerGone)}, Free, PodGone, ""},
		{"fixed, pod gone, owner unread", changes{fixedAddress, podGone, noSandbox, owner(OwnerUnknown)}, Retain, PodGone, ""},
		{"fixed, pod gone, disabled", changes{fixedAddress, podGone, noSandbox, podsOff}, Free, PodGone, ""},

		{"retained, owner wanted", changes{retainedAddress, podGone}, Keep, FixedWanted, "reserved for Pod/default/web-0"},
		{"retained, owner unread", changes{retainedAddress, podGone, owner(OwnerUnknown)}, Keep, FixedUnknown, "cannot read its owner"},
		{"retained, owner gone", changes{retainedAddress, podGone, owner(OwnerGone)}, Free, FixedOwnerGone, "no longer exists"},
		{"just scaled down", changes{retainedAddress, aged(time.Minute), podGone, owner(OwnerScaledDown)}, Keep, FixedWanted, "may come back"},
		{"scaled down", changes{retainedAddress, podGone, owner(OwnerScaledDown)}, Free, FixedScaledDown, "has not come back for 1h0m0s"},
		{"just left", changes{retainedAddress, aged(time.Minute), podReplaced, owner(OwnerLeft)}, Keep, FixedWanted, "runs without Spiderpool and may come back"},
		{"left", changes{retainedAddress, podReplaced, owner(OwnerLeft)}, Free, FixedLeft, "runs without Spiderpool and has not come back for 1h0m0s"},
		{"scaled down, retained for ever", changes{retainedAddress, podGone, owner(OwnerScaledDown), forever}, Keep, FixedWanted, ""},
		{"retained, disabled", changes{retainedAddress, podGone, podsOff}, Free, FixedSwitchedOff, ""},
		{"retained for a VM, disabled for pods", changes{retainedAddress, fixedFor("VirtualMachine/default/vm"), podGone, podsOff},
			Keep, FixedWanted, ""},
		{"asked, owner wanted", changes{retainedAddress, podGone, asked(Unneeded)}, Keep, FixedWanted, "reserved for Pod/default/web-0"},
		{"asked, owner unread", changes{retainedAddress, podGone, owner(OwnerUnknown), asked(Unneeded)}, Keep, FixedUnknown, ""},
		{"asked, just scaled down", changes{retainedAddress, aged(time.Minute), podGone, owner(OwnerScaledDown), asked(Unneeded)},
			Free, UserRequest, "a user asked for the release of the address of Pod/default/web-0"},
		{"asked, disabled", changes{retainedAddress, podGone, owner(OwnerGone), gcOff, asked(Unneeded)}, Free, UserRequest, ""},
		{"forced, owner wanted", changes{retainedAddress, podGone, asked(Forced)}, Free, UserRequest, ""},
		{"forced, owner unread", changes{retainedAddress, podGone, owner(OwnerUnknown), asked(Forced)}, Free, UserRequest, ""},
		{"forced, in use", changes{fixedAddress, asked(Forced)}, Keep, PodAlive, ""},
		{"forced, no proof", changes{podGone, sandboxUnknown, asked(Forced)}, Keep, NoProof, "nothing proves that sandbox c1 of node worker1 is gone"},
		{"forced, sandbox alive", changes{podGone, asked(Forced)}, Keep, SandboxAlive, ""},
		{"forced, young", changes{aged(time.Minute), podGone, noSandbox, asked(Forced)}, Keep, TooYoung, ""},
		{"forced, quarantined", changes{state(lease.Quarantined), asked(Forced)}, Keep, NotHeld, ""},
		{"retained for an unknown kind", changes{retainedAddress, fixedFor("Rack/default/r1"), podGone, fixedOff}, Keep, FixedWanted, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := situation{inUse(), alive(), policy()}
			for _, change := range tc.changes {
				change(&s)
			}
			v := Judge(s.lease, s.facts, s.policy)
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
	l.FixedFor = lease.ParseOwner(rapid.SampledFrom([]string{"", "Pod/default/web-0", "VirtualMachine/default/vm"}).Draw(t, "fixed for"))
	if l.State == lease.Retained && l.FixedFor.IsZero() {
		l.FixedFor = lease.ParseOwner("Pod/default/web-0")
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
		Node:     Node{presence("node object"), rapid.Bool().Draw(t, "ready"), rapid.Bool().Draw(t, "out of service")},
		Sandbox:  Sandbox(rapid.IntRange(0, 2).Draw(t, "sandbox")),
		Unwanted: time.Duration(rapid.IntRange(0, 120).Draw(t, "unwanted")) * time.Minute,
		Owner:    Owner(rapid.IntRange(0, 4).Draw(t, "owner")),
		Request:  Request(rapid.IntRange(0, 2).Draw(t, "request")),
	}
	if rapid.Bool().Draw(t, "terminating") {
		f.Pod.Terminating, f.Pod.Grace = true, time.Hour
		f.Terminating = time.Duration(rapid.IntRange(0, 120).Draw(t, "terminating for")) * time.Minute
	}
	return f
}

func drawPolicy(t *rapid.T) Policy {
	p := policy()
	for _, on := range []*bool{
		&p.Enabled, &p.ZombieOnReadyNode, &p.ZombieOnNotReadyNode, &p.RunningPodWithoutAddress, &p.FixedForStatefulSet, &p.FixedForKubeVirt,
	} {
		*on = rapid.IntRange(0, 3).Draw(t, "switch") > 0
	}
	p.TerminatingDelay = time.Duration(rapid.IntRange(0, 30).Draw(t, "delay")) * time.Minute
	return p
}

func TestNothingIsEndedWithoutProof(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l, f, p := drawLease(t), drawFacts(t), drawPolicy(t)
		f.Age = now.Sub(l.Since)
		v := Judge(l, f, p)
		if v.Action == Keep {
			return
		}
		if v.Reason == UserRequest {
			if l.State != lease.Retained || f.Request != Forced && (f.Request == NoRequest || f.Owner == OwnerWanted || f.Owner == OwnerUnknown) {
				t.Fatalf("released for a user: %+v of %+v", v, f)
			}
			return
		}
		if !p.Enabled {
			t.Fatalf("ended although disabled: %+v", v)
		}
		if l.State == lease.Retained {
			if on := p.retains(l.FixedFor); v.Action != Free || on && (f.Owner == OwnerWanted || f.Owner == OwnerUnknown) {
				t.Fatalf("took a retained address from its owner: %+v", v)
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
		mayComeBack := !l.FixedFor.IsZero() && f.Owner != OwnerGone
		if v.Action == Retain && !mayComeBack || v.Action == Free && mayComeBack && p.retains(l.FixedFor) {
			t.Fatalf("%+v: action %v for owner %v", l, v.Action, f.Owner)
		}
	})
}

// Less knowledge never ends a lease that more knowledge keeps. The taint
// out-of-service is an exception: it counts only while the sandbox is unknown.
func TestIgnoranceNeverEndsLease(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l, f, p := drawLease(t), drawFacts(t), drawPolicy(t)
		f.Age = now.Sub(l.Since)
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
		with, without := Judge(l, f, p), Judge(l, less, p)
		if without.Action > with.Action && without.Action >= Retain {
			t.Fatalf("with %+v: %+v; with %+v: %+v", f, with, less, without)
		}
	})
}

func TestSweepAppliesEveryVerdict(t *testing.T) {
	t.Parallel()
	block := lease.Block{Base: netip.MustParseAddr("10.0.0.0"), Version: "7"}
	for i, pod := range []string{"alive", "gone", "unproven", "fixed"} {
		l := inUse()
		l.Addr = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		l.Pod.Name = pod
		if pod == "fixed" {
			l = fixed(l)
		}
		block.Leases = append(block.Leases, l)
	}
	before := slices.Clone(block.Leases)
	swept, changes := Sweep(block, func(l lease.Lease) Facts {
		f := alive()
		switch l.Pod.Name {
		case "gone", "fixed":
			f.Pod, f.Sandbox = Pod{Presence: Gone}, NotPresent
		case "unproven":
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
	var made []string
	for _, c := range changes {
		made = append(made, c.String())
	}
	want := []string{
		"reclaimed 10.0.0.1 of pool a (PodGone): pod default/gone does not exist, and node worker1 has no sandbox c1",
		"retained 10.0.0.3 of pool a for Pod/default/web-0 (PodGone): pod default/fixed does not exist, and node worker1 has no sandbox c1",
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if !slices.Equal(block.Leases, before) || swept.Version != "7" || swept.Validate() != nil {
		t.Errorf("the block became %+v, swept %+v", block, swept)
	}
}
