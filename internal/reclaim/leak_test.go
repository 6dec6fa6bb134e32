package reclaim

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// truth is the real state behind a lease, known or unknown.
type truth struct {
	sandboxLives bool // its container may send packets
	otherLives   bool // its pod has another living sandbox
	nodeGone     bool
	podGone      bool
	podReplaced  bool
	ownerGone    bool
}

// drawTruth draws a state that a crash at any moment may leave: a live sandbox
// has its pod unless the pod was deleted by force, and a deleted node runs
// nothing.
func drawTruth(t *rapid.T) truth {
	var now truth
	now.nodeGone = rapid.IntRange(0, 4).Draw(t, "node gone") == 0
	now.sandboxLives = !now.nodeGone && rapid.Bool().Draw(t, "sandbox lives")
	switch rapid.IntRange(0, 2).Draw(t, "pod") {
	case 0:
		now.podGone = true
	case 1:
		now.podReplaced = true
	default:
		now.otherLives = !now.nodeGone && rapid.Bool().Draw(t, "another sandbox")
		now.podGone = now.nodeGone // by the garbage collector of Kubernetes
	}
	now.ownerGone = now.podGone && rapid.Bool().Draw(t, "owner gone")
	return now
}

// facts returns all facts about the truth, or a random part of them.
func (now truth) facts(t *rapid.T, complete bool) Facts {
	seen := func(what string) bool { return complete || rapid.Bool().Draw(t, "sees the "+what) }
	var f Facts
	if seen("pod") {
		switch {
		case now.podGone:
			f.Pod.Presence = Gone
		case now.podReplaced:
			f.Pod = Pod{Presence: Exists, UID: "another", Phase: "Running", HasAddress: true}
		default:
			f.Pod = Pod{Presence: Exists, UID: "uid1", Phase: "Running", HasAddress: true}
		}
	}
	if seen("node") {
		f.Node = Node{Presence: Exists, Ready: true}
		if now.nodeGone {
			f.Node = Node{Presence: Gone}
		}
	}
	if seen("sandbox") && !now.nodeGone {
		f.Sandbox = NotPresent
		if now.sandboxLives {
			f.Sandbox = Present
		}
		f.OtherSandbox = now.otherLives
	}
	if seen("owner") {
		f.Owner = OwnerWanted
		if now.ownerGone {
			f.Owner = OwnerGone
		}
	}
	return f
}

// Sweeps with partial knowledge, with writers in between, never free the address of
// a live sandbox. A sweep with all knowledge leaves only leases in use or
// reserved.
func TestSweepsNeitherLeakNorKill(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		block := lease.Block{Base: netip.MustParseAddr("10.0.0.0")}
		truths := map[netip.Addr]truth{}
		for i := range rapid.IntRange(1, inet.BlockSize).Draw(t, "leases") {
			l := inUse()
			l.Addr = inet.BlockAddr(block.Base, i)
			l.ContainerID = fmt.Sprint("c", i)
			if rapid.IntRange(0, 2).Draw(t, "fixed") == 0 {
				l.FixedFor = lease.ParseOwner(fmt.Sprint("Pod/default/web-", i))
			}
			block.Leases = append(block.Leases, l)
			truths[l.Addr] = drawTruth(t)
		}
		p := policy()
		rounds := rapid.IntRange(0, 4).Draw(t, "rounds of partial knowledge")
		for round := 0; round <= rounds; round++ {
			complete := round == rounds
			// A freed address may be in use again by the next round.
			for i, l := range block.Leases {
				if l.State == lease.Released && rapid.Bool().Draw(t, "reused") {
					fresh := inUse()
					fresh.Addr, fresh.ContainerID, fresh.Since = l.Addr, fmt.Sprint("fresh", round, i), now
					block.Leases[i] = fresh
					truths[l.Addr] = truth{sandboxLives: true}
				}
			}
			swept, changes := Sweep(block, func(l lease.Lease) Facts {
				f := truths[l.Addr].facts(t, complete)
				f.Age = now.Sub(l.Since)
				return f
			}, p, now)
			for _, c := range changes {
				if truths[c.Lease.Addr].sandboxLives && c.Lease.State == lease.InUse {
					t.Fatalf("round %d ended the lease of a live sandbox: %+v", round, c)
				}
			}
			block = swept
		}
		for _, l := range block.Leases {
			is := truths[l.Addr]
			switch l.State {
			case lease.InUse:
				// A live pod without a sandbox gets a new one, with the same address.
				waits := !is.podGone && !is.podReplaced && !is.otherLives
				if !is.sandboxLives && !waits && now.Sub(l.Since) >= p.MinAge {
					t.Fatalf("leaked: %+v, although %+v", l, is)
				}
			case lease.Retained:
				if is.ownerGone {
					t.Fatalf("retained without an owner: %+v, although %+v", l, is)
				}
			}
		}
	})
}

func TestScaledDownRetentionEndsOnTime(t *testing.T) {
	t.Parallel()
	l := retained(inUse())
	f := Facts{Pod: Pod{Presence: Gone}, Owner: OwnerScaledDown}
	for _, tc := range []struct {
		waited time.Duration
		want   Action
	}{{DefaultScaledDownRetention - time.Second, Keep}, {DefaultScaledDownRetention, Free}} {
		f.Unwanted = tc.waited
		if v := Judge(l, f, policy()); v.Action != tc.want {
			t.Errorf("after %s: %+v, want action %v", tc.waited, v, tc.want)
		}
	}
}
