package enforcer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/netplan"
)

func TestStartingPodIsFiltered(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", nil, pod)
	n.admit(pod, at)
	n.expect("after the ADD", at, "10.0.0.1")
	pair := netplan.VethPairOf(at.ContainerID).Host
	if w, ok := n.kernel.node[pair]; !ok || w.Interfaces[0].Addrs[0] != netip.MustParseAddr("10.0.0.9") {
		t.Errorf("the node's filter has %v", n.kernel.node)
	}
	always := n.kernel.tables[at.NetNS].Interfaces[0].Always
	if got := always.String(); got != "10.0.0.9, 192.0.2.1" {
		t.Errorf("%s always pass, want the pod and its node", got)
	}
	n.admit(pod, at)
	if n.kernel.opened != 1 {
		t.Errorf("a second ADD opened another filter")
	}
}

func TestOpenPodCostsNothing(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.admit(pod, at)
	n.admit(pod, at)
	for _, name := range []string{"net1", "net2"} { // net2 is of another IPAM plugin
		other := at
		other.Interface = name
		n.admit(pod, other)
	}
	if n.kernel.opened != 0 || len(n.kernel.writes)+len(n.kernel.node) != 0 {
		t.Errorf("the kernel has seen %d filters, %v", n.kernel.opened, n.kernel.writes)
	}
}

func TestStartWaitsForPolicies(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", errMissing, pod)
	done := make(chan error, 1)
	go func() { done <- n.Admit(t.Context(), at, pod) }()
	await(t, func() error {
		if n.view.questions() < 2 {
			return errors.New("Admit does not try again")
		}
		return nil
	})
	select {
	case err := <-done:
		t.Fatalf("the pod starts without its policies: %v", err)
	default:
	}
	n.view.set("10.0.0.1", nil, pod)
	n.Changed(pod.PodKey, time.Now())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n.expect("after the ADD", at, "10.0.0.1")
}

func TestStartFailsWithoutPolicies(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", errMissing, pod)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := n.Admit(ctx, at, pod)
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !strings.Contains(failure.Msg, "default/web") ||
		!strings.Contains(failure.Details, errMissing.Error()) {
		t.Errorf("got %v", err)
	}
	unknown := &Enforcer{View: n.view, Pod: n.Pod, Interface: n.Interface, Records: n.Records, PodNamespaces: n.PodNamespaces,
		Metrics: n.Metrics, Now: n.Now, Warn: n.Warn, Log: n.Enforcer.Log}
	if err := unknown.Admit(ctx, at, pod); err == nil || !strings.Contains(err.Error(), "addresses of this node") {
		t.Errorf("without the node's addresses: %v", err)
	}
}

func TestStartFailsWithoutKernel(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.kernel.fault = errors.New("operation not supported")
	n.admit(pod, at) // no policy selects it
	n.view.set("10.0.0.1", nil, pod)
	err := n.Admit(t.Context(), at, pod)
	if err == nil || !strings.Contains(err.Error(), "operation not supported") {
		t.Errorf("got %v", err)
	}
	lost := at
	lost.NetNS, lost.ContainerID = "/proc/0/ns/net", "c-lost"
	n.kernel.fault = nil
	if err := n.Admit(t.Context(), lost, pod); err == nil || !strings.Contains(err.Error(), "/proc/0/ns/net") {
		t.Errorf("a namespace out of reach: %v", err)
	}
}

func TestRunningPodsFollowPolicies(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	other, atOther := n.pod("other")
	n.view.set("10.0.0.5", nil, other)
	n.run()
	n.admit(pod, at)
	n.admit(other, atOther)
	for _, peer := range []string{"10.0.0.1", "10.0.0.2", "", "10.0.0.3"} {
		n.view.set(peer, nil, pod)
		n.Changed(pod.PodKey, n.Now())
		n.eventually("after a change", at, peer)
	}
	if n.kernel.writes[atOther.NetNS] != 1 {
		t.Errorf("the other pod's filter was written %d times", n.kernel.writes[atOther.NetNS])
	}
	n.view.set("", nil, pod, other)
	n.ChangedAll(n.Now())
	n.eventually("without policies", at, "")
	n.eventually("without policies", atOther, "")
	await(t, func() error {
		n.kernel.mu.Lock()
		defer n.kernel.mu.Unlock()
		if len(n.kernel.node)+n.kernel.open > 0 {
			return fmt.Errorf("left over: %v on the node, %d open filters", n.kernel.node, n.kernel.open)
		}
		return nil
	})
}

func TestFilterFollowsNodeAddresses(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", nil, pod)
	n.admit(pod, at)
	n.run()
	n.SetNodeAddrs([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.7")})
	await(t, func() error {
		n.kernel.mu.Lock()
		defer n.kernel.mu.Unlock()
		if got := n.kernel.tables[at.NetNS].Interfaces[0].Always.String(); !strings.Contains(got, "192.0.2.7") {
			return fmt.Errorf("always pass: %s", got)
		}
		return nil
	})
}

func TestRestartKeepsFilters(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	open, atOpen := n.pod("open")
	n.view.set("10.0.0.1", nil, pod, open)
	stop := n.run()
	n.admit(pod, at)
	n.admit(open, atOpen)
	stop()
	n.expect("without an agent", at, "10.0.0.1")
	if n.kernel.open != 0 || len(n.kernel.former) != 2 {
		t.Errorf("the ended agent has %d filters, the node %v", n.kernel.open, n.kernel.former)
	}

	n.view.set("10.0.0.2", errMissing, pod)
	n.view.set("", errMissing, open)
	n.restart()
	asked := n.view.questions()
	stop = n.run()
	await(t, func() error {
		if n.view.questions() < asked+4 {
			return errors.New("the agent does not look at its pods")
		}
		return nil
	})
	n.expect("before the policies are known", at, "10.0.0.1")
	n.expect("before the policies are known", atOpen, "10.0.0.1")
	n.kernel.mu.Lock()
	if len(n.kernel.former) != 2 {
		t.Error("the node's former filters are gone before the policies are known")
	}
	n.kernel.mu.Unlock()

	n.view.set("10.0.0.2", nil, pod)
	n.ChangedAll(n.Now())
	n.eventually("with the policies", at, "10.0.0.2")
	n.eventually("with the policies", atOpen, "")
	await(t, func() error {
		n.kernel.mu.Lock()
		defer n.kernel.mu.Unlock()
		if len(n.kernel.former) != 0 {
			return fmt.Errorf("the node has former filters: %v", n.kernel.former)
		}
		return nil
	})
	stop()
	if len(n.warnings) != 0 {
		t.Errorf("events: %q", n.warnings)
	}
}

// A former sandbox of a StatefulSet's pod may end behind the start of the next one.
func TestDeleteClosesFilter(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", nil, pod)
	n.admit(pod, at)
	next := at
	next.ContainerID, next.NetNS = "c-next", at.NetNS+"-next"
	if err := os.Symlink("/proc/self/ns/net", next.NetNS); err != nil {
		t.Fatal(err)
	}
	n.admit(pod, next)

	net1 := at
	net1.Interface = "net1"
	n.Forget(net1)
	if n.kernel.open != 2 {
		t.Error("the DEL of net1 closed a filter")
	}
	for range 2 {
		n.Forget(at)
		if n.kernel.open != 1 || len(n.kernel.node) != 1 || len(n.view.forgotten) != 0 {
			t.Errorf("after DEL: %d open filters, %v on the node, forgotten %v", n.kernel.open, n.kernel.node, n.view.forgotten)
		}
	}
	n.Forget(next)
	if n.kernel.open != 0 || !slices.Equal(n.view.forgotten, []lease.PodKey{pod.PodKey}) {
		t.Errorf("after the last DEL: %d open filters, forgotten %v", n.kernel.open, n.view.forgotten)
	}
	if left, err := os.ReadDir(n.Records); err != nil || len(left) != 0 {
		t.Errorf("records: %v, %v", left, err)
	}
	outside := filepath.Join(filepath.Dir(n.Records), "file")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	at.ContainerID = "../file"
	n.Forget(at)
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("DEL of a bad container ID: %v", err)
	}
}

// The DEL may have reached another agent.
func TestFilterEndsWithNamespace(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", nil, pod)
	n.admit(pod, at)
	n.look()
	if n.kernel.open != 1 {
		t.Error("a running pod's filter is closed")
	}
	if err := os.Remove(at.NetNS); err != nil {
		t.Fatal(err)
	}
	n.look()
	if left, _ := os.ReadDir(n.Records); n.kernel.open != 0 || len(left) != 0 {
		t.Errorf("%d filters hold a namespace that has ended; records %v", n.kernel.open, left)
	}
}

func TestDamagedRecordIsDiscarded(t *testing.T) {
	n := newNode(t)
	_, at := n.pod("web")
	whole := record{identity: identity{Container: at.ContainerID, Namespace: at.NetNS}, Interfaces: []attached{{Name: "eth0"}}}
	if err := n.write(whole); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"torn": `{"container":"to`, "other": `{"container":"another"}`, "empty": `{"container":"empty"}`} {
		if err := os.WriteFile(filepath.Join(n.Records, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	left := func() int {
		n.look()
		if got := slices.Collect(maps.Keys(n.Enforcer.mu.sandboxes)); !slices.Equal(got, []string{at.ContainerID}) {
			t.Errorf("found %v", got)
		}
		entries, err := os.ReadDir(n.Records)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	n.now = time.Now()
	if got := left(); got != 4 { // another agent may be writing
		t.Errorf("%d records, want 4", got)
	}
	n.pass(2 * lookInterval)
	if got := left(); got != 1 {
		t.Errorf("%d records, want 1", got)
	}
}

func TestFailureIsReportedOnce(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", nil, pod)
	n.admit(pod, at)
	n.view.set("10.0.0.2", nil, pod)
	n.kernel.fault = errors.New("no buffer space available")
	s := n.sandbox(at.ContainerID)
	for range 3 {
		if err := n.bring(s, pod); err == nil {
			t.Fatal("no error")
		}
	}
	if len(n.warnings) != 1 || !strings.Contains(n.warnings[0], "web: ") || !strings.Contains(n.warnings[0], "no buffer space") {
		t.Errorf("events: %q", n.warnings)
	}
	n.kernel.fault = nil
	if states := n.States(); len(states) != 1 || !states[0].Failing || !states[0].Filtered {
		t.Errorf("states: %+v", states)
	}
	if err := n.bring(s, pod); err != nil {
		t.Fatal(err)
	}
	if states := n.States(); len(states) != 1 || states[0].Failing || states[0].Drops != [2]uint64{2, 3} {
		t.Errorf("states: %+v", states)
	}
}

// The controller is away, so the peers of a new policy do not arrive.
func TestUnknownPeersCloseOpenPod(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.admit(pod, at)
	n.view.set("10.0.0.1", errMissing, pod)
	s := n.sandbox(at.ContainerID)
	_ = n.bring(s, pod)
	n.expect("at first", at, "")
	n.pass(patience)
	_ = n.bring(s, pod)
	n.expect("later", at, "nothing")
	if len(n.warnings) != 1 || !strings.Contains(n.warnings[0], errMissing.Error()) {
		t.Errorf("events: %q", n.warnings)
	}
	n.view.set("10.0.0.1", nil, pod)
	if err := n.bring(s, pod); err != nil {
		t.Fatal(err)
	}
	n.expect("with the peers", at, "10.0.0.1")
	n.view.set("10.0.0.2", errMissing, pod)
	n.pass(patience)
	_ = n.bring(s, pod)
	n.pass(patience)
	_ = n.bring(s, pod)
	n.expect("with a filter", at, "10.0.0.1")
}

// Another pod has the name by now.
func TestSuccessorsPoliciesStayAway(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", nil, pod)
	n.admit(pod, at)
	n.run()
	pod.UID = "another"
	n.mu.Lock()
	n.pods[pod.PodKey] = pod
	n.mu.Unlock()
	n.view.set("10.0.0.2", nil, pod)
	n.ChangedAll(n.Now())
	other, atOther := n.pod("other")
	n.admit(other, atOther)
	n.view.set("10.0.0.3", nil, other)
	n.ChangedAll(n.Now())
	n.eventually("changed behind it", atOther, "10.0.0.3")
	n.expect("after the change", at, "10.0.0.1")
}
