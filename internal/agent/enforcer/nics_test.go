package enforcer

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/wire"
)

// second returns the attachment of net1 beside that of eth0.
func second(at wire.Attachment) wire.Attachment {
	at.Interface = "net1"
	return at
}

func TestEachInterfaceHasItsPolicies(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	net1 := second(at)
	n.view.set("10.0.0.1", nil, pod)
	n.view.setStorage("10.7.0.1", nil, pod)
	n.admit(pod, at)
	n.expect("before its ADD", net1, "")
	n.admit(pod, net1)
	n.expect("after both ADDs", at, "10.0.0.1")
	n.expect("after both ADDs", net1, "10.7.0.1")
	if got := n.kernel.filter(at.NetNS, "net1").Always.String(); got != "10.0.0.9, 10.7.0.9, 192.0.2.1" {
		t.Errorf("%s always pass, want the pod and its node", got)
	}
	if on := n.kernel.node[netplan.VethPairOf(at.ContainerID).Host].Interfaces; len(on) != 2 || on[1].Addrs[0] != netip.MustParseAddr("10.7.0.9") {
		t.Errorf("the node's filter has %v", on)
	}
	n.run()
	n.view.setStorage("", nil, pod)
	n.Changed(pod.PodKey, n.Now())
	n.eventually("without its policy", net1, "")
	n.expect("without a policy of net1", at, "10.0.0.1")
	if n.kernel.opened != 1 {
		t.Errorf("%d filters were opened", n.kernel.opened)
	}
}

func TestInterfaceOfOpenPodIsFiltered(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.setStorage("10.7.0.1", nil, pod)
	n.admit(pod, at)
	n.admit(pod, second(at))
	n.expect("after both ADDs", at, "")
	n.expect("after both ADDs", second(at), "10.7.0.1")
}

// A running pod gets an interface whose policies are unknown.
func TestNewInterfaceStartsClosed(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.admit(pod, at)
	n.view.setStorage("10.7.0.1", errMissing, pod)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := n.Admit(ctx, second(at), pod)
	var failure *ipam.Error
	if !errors.As(err, &failure) || !strings.Contains(failure.Details, "interface net1: "+errMissing.Error()) {
		t.Errorf("got %v", err)
	}
	n.expect("while its peers are unknown", second(at), "nothing")
	n.expect("while the peers of net1 are unknown", at, "")
	n.view.setStorage("10.7.0.1", nil, pod)
	n.admit(pod, second(at))
	n.expect("with its peers", second(at), "10.7.0.1")
}

// The missing peers of one interface do not hold up the others.
func TestUnknownInterfaceKeepsItsFilter(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	net1, s := second(at), func() *sandbox { return n.sandbox(at.ContainerID) }
	n.view.set("10.0.0.1", nil, pod)
	n.view.setStorage("10.7.0.1", nil, pod)
	n.admit(pod, at)
	n.admit(pod, net1)
	n.view.set("10.0.0.2", nil, pod)
	n.view.setStorage("10.7.0.2", errMissing, pod)
	if err := n.bring(s(), pod); !passes(err) {
		t.Errorf("got %v", err)
	}
	n.expect("beside an unknown interface", at, "10.0.0.2")
	n.expect("while its peers are unknown", net1, "10.7.0.1")

	n.view.setStorage("", nil, pod)
	if err := n.bring(s(), pod); err != nil {
		t.Fatal(err)
	}
	n.view.setStorage("10.7.0.3", errMissing, pod)
	_ = n.bring(s(), pod)
	n.expect("at first", net1, "")
	n.pass(patience)
	_ = n.bring(s(), pod)
	n.expect("when the peers of its first policy are late", net1, "nothing")
	n.expect("beside a closed interface", at, "10.0.0.2")
}

func TestDeleteOfOneInterfaceKeepsOthers(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	net1 := second(at)
	n.view.set("10.0.0.1", nil, pod)
	n.view.setStorage("10.7.0.1", nil, pod)
	n.admit(pod, at)
	n.admit(pod, net1)
	n.Forget(net1)
	if err := n.bring(n.sandbox(at.ContainerID), pod); err != nil {
		t.Fatal(err)
	}
	n.expect("after the DEL of net1", at, "10.0.0.1")
	n.expect("after its DEL, while its link may live", net1, "nothing")
	if got := n.kernel.filter(at.NetNS, "eth0").Always.String(); got != "10.0.0.9, 192.0.2.1" {
		t.Errorf("%s always pass after the DEL of net1", got)
	}
	if r, err := n.stored(at.ContainerID); err != nil || len(r.Interfaces) != 1 {
		t.Errorf("record after the DEL: %v, %v", r, err)
	}
	n.admit(pod, net1)
	n.expect("after its next ADD", net1, "10.7.0.1")
	n.Forget(at)
	if n.kernel.open != 1 || len(n.view.forgotten) != 0 {
		t.Errorf("the DEL of eth0 ended the pod")
	}
	n.Forget(net1)
	if left, _ := os.ReadDir(n.Records); n.kernel.open != 0 || len(left) != 0 || !slices.Equal(n.view.forgotten, []lease.PodKey{pod.PodKey}) {
		t.Errorf("after both DELs: %d open filters, records %v, forgotten %v", n.kernel.open, left, n.view.forgotten)
	}
}

// Another network plugin has eth0.
func TestOnlyOurInterfacesAreFiltered(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", nil, pod)
	n.view.setStorage("10.7.0.1", nil, pod)
	n.admit(pod, second(at))
	n.expect("with an eth0 of another plugin", at, "")
	n.expect("beside an eth0 of another plugin", second(at), "10.7.0.1")
	n.Forget(second(at))
	if n.kernel.open != 0 {
		t.Error("the filter is still open")
	}
}

// The network is that of the ADD, whatever the pod writes into its annotations later.
func TestRestartKeepsNetworks(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	net1 := second(at)
	n.view.setStorage("10.7.0.1", nil, pod)
	stop := n.run()
	n.admit(pod, at)
	n.admit(pod, net1)
	stop()
	n.network = policy.Name{Namespace: "shop", Name: "other"}
	n.view.setStorage("10.7.0.2", nil, pod)
	n.restart()
	n.run()
	n.eventually("after a restart", net1, "10.7.0.2")
	n.admit(pod, net1) // its coordinator's request
	n.expect("after a repeated ADD", net1, "10.7.0.2")
	n.expect("after a restart", at, "")
}

// While an agent ends, it may serve an ADD or a DEL of a sandbox that the next one has adopted.
func TestFormerAgentsRequestsCount(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	net1 := second(at)
	n.view.set("10.0.0.1", nil, pod)
	n.view.setStorage("10.7.0.1", nil, pod)
	n.admit(pod, at)
	former := n.Enforcer
	n.restart()
	n.look()
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"an ADD", func() error { return former.Admit(t.Context(), net1, pod) }, "10.7.0.1"},
		{"a DEL", func() error { former.Forget(net1); return nil }, "nothing"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if err := n.bring(n.sandbox(at.ContainerID), pod); err != nil {
			t.Fatal(err)
		}
		n.expect("after "+step.what+" by the former agent", net1, step.want)
		n.expect("after "+step.what+" of net1 by the former agent", at, "10.0.0.1")
	}
}

// DEL comes before the agent has looked at its records.
func TestDeleteRightAfterRestart(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.admit(pod, at)
	n.admit(pod, second(at))
	n.restart()
	n.Forget(second(at))
	if r, err := n.stored(at.ContainerID); err != nil || len(r.Interfaces) != 1 || r.Interfaces[0].Name != "eth0" {
		t.Errorf("record: %v, %v", r, err)
	}
	n.restart()
	n.Forget(at)
	if _, err := os.Stat(filepath.Join(n.Records, at.ContainerID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("record after both DELs: %v", err)
	}
}

// A pod that is deleted by force may run for a while.
func TestForceDeletedPodStaysClosedOnNode(t *testing.T) {
	n := newNode(t)
	pod, at := n.pod("web")
	n.view.set("10.0.0.1", nil, pod)
	stop := n.run()
	n.admit(pod, at)
	stop()
	n.mu.Lock()
	delete(n.pods, pod.PodKey)
	n.mu.Unlock()
	n.restart()
	n.run()
	await(t, func() error {
		n.kernel.mu.Lock()
		defer n.kernel.mu.Unlock()
		if len(n.kernel.former) != 0 {
			return errors.New("the agent has not decided about its sandboxes")
		}
		return nil
	})
	n.kernel.mu.Lock()
	closed := n.kernel.node[netplan.VethPairOf(at.ContainerID).Host]
	n.kernel.mu.Unlock()
	if len(closed.Interfaces) != 1 || closed.Interfaces[0].Sets.Ingress == nil || closed.Interfaces[0].Sets.Egress == nil {
		t.Errorf("the node's filter has %v", closed)
	}
	n.expect("without its pod", at, "10.0.0.1")

	n.mu.Lock()
	n.pods[pod.PodKey] = pod
	n.mu.Unlock()
	n.view.set("", nil, pod)
	n.Changed(pod.PodKey, n.Now()) // the watch was behind
	n.eventually("when the pod is known", at, "")
	await(t, func() error {
		n.kernel.mu.Lock()
		defer n.kernel.mu.Unlock()
		if len(n.kernel.node) != 0 {
			return errors.New("the node's filter stays closed")
		}
		return nil
	})
}
