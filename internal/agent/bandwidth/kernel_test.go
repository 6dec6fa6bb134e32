//go:build kernel

package bandwidth

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// node is a node under test with one pod of the coordinator.
type node struct {
	*Follower
	t        *testing.T
	host     *linux.Namespace
	pod      *linuxtest.Machine
	object   ipam.Pod
	now      time.Time
	warnings []string
}

const podAddr = "172.31.28.17"

func newNode(t *testing.T) *node {
	t.Helper()
	machine, peer := linuxtest.NewMachine(t, "node"), linuxtest.NewMachine(t, "peer")
	linuxtest.Wire(machine, "ens5", peer, "eth0")
	host, err := linux.Open(machine.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	n := &node{t: t, host: host, now: time.Unix(1_000_000, 0),
		object: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "web"}, UID: "uid"}}
	n.Follower = &Follower{
		Ready: func() error { return nil },
		Pods:  func() []ipam.Pod { return []ipam.Pod{n.object} },
		Rates: func(pod ipam.Pod) (map[string]netplan.Rates, error) { return compile.Bandwidth(pod.Annotations, nil) },
		Leases: func() []lease.Lease {
			return []lease.Lease{{Addr: netip.MustParseAddr(podAddr), Holder: lease.Holder{PodUID: "uid"}}}
		},
		Enabled: func(context.Context) bool { return true },
		Warn:    func(pod ipam.Pod, reason string) { n.warnings = append(n.warnings, pod.Name+": "+reason) },
		Now:     func() time.Time { return n.now },
		Log:     slog.New(slog.DiscardHandler), PodNamespaces: t.TempDir(),
	}
	n.pod = n.namespace("pod", machine, podAddr+"/20")
	return n
}

// namespace makes a namespace that looks like that of a pod.
func (n *node) namespace(name string, machine *linuxtest.Machine, addr string) *linuxtest.Machine {
	n.t.Helper()
	m := linuxtest.NewMachine(n.t, name)
	machine.Sub("macvlan", "ens5", m, "eth0")
	m.Addr("eth0", addr)
	linuxtest.Wire(m, netplan.PodVeth, machine, netplan.VethPairOf(name).Host)
	if err := os.Symlink(m.Path(), filepath.Join(n.PodNamespaces, name)); err != nil {
		n.t.Fatal(err)
	}
	return m
}

// annotate changes the pod's annotations and looks once.
func (n *node) annotate(annotations map[string]string) {
	n.object.Annotations = annotations
	n.follow(n.t.Context(), n.host)
}

// expect compares the shapers of the pod, e.g. "out-eth0 rate 10Mbit".
func (n *node) expect(when string, pod *linuxtest.Machine, want ...string) {
	n.t.Helper()
	out := pod.Must("", "tc", "qdisc", "show")
	if got := strings.Count(out, "qdisc tbf"); got != len(want) {
		n.t.Errorf("%s: %d shapers, want %d:\n%s", when, got, len(want), out)
	}
	for _, w := range want {
		dev, rate, _ := strings.Cut(w, " ")
		if !strings.Contains(pod.Must("", "tc", "qdisc", "show", "dev", dev), rate) {
			n.t.Errorf("%s: no %q in\n%s", when, w, out)
		}
	}
}

func TestRunningPodFollowsAnnotations(t *testing.T) {
	n := newNode(t)
	n.expect("at the start", n.pod)
	n.annotate(map[string]string{names.AnnotationPodEgressBandwidth: "10M"})
	n.expect("annotated", n.pod, "out-eth0 rate 10Mbit")
	n.annotate(map[string]string{names.AnnotationPodEgressBandwidth: "20M", names.AnnotationPodBandwidth: `[{"interface":"eth0","ingress":"5M"}]`})
	n.expect("changed", n.pod, "out-eth0 rate 20Mbit", "in-eth0 rate 5Mbit")
	for i, invalid := range []string{"10 MB", "-5M", "1e99", "0"} {
		n.annotate(map[string]string{names.AnnotationPodIngressBandwidth: invalid})
		n.expect(invalid, n.pod, "out-eth0 rate 20Mbit", "in-eth0 rate 5Mbit")
		n.follow(t.Context(), n.host)
		want := `web: annotation kubernetes.io/ingress-bandwidth: "` + invalid + `": `
		if len(n.warnings) != i+1 || !strings.HasPrefix(n.warnings[i], want) || !strings.HasSuffix(n.warnings[i], "; example: 10M") {
			t.Errorf("%q: warnings %q", invalid, n.warnings)
		}
	}
	n.annotate(nil)
	n.expect("without annotations", n.pod)
	if out := n.pod.Must("", "ip", "-br", "link") + n.pod.Must("", "tc", "qdisc"); strings.Contains(out, "-eth0") || strings.Contains(out, "clsact") {
		t.Errorf("left over:\n%s", out)
	}
}

// An agent that was away finds the change at its start.
func TestRestartedAgentFindsChange(t *testing.T) {
	n := newNode(t)
	n.annotate(map[string]string{names.AnnotationPodEgressBandwidth: "10M"})
	n.seen, n.object.Annotations = nil, nil
	n.follow(t.Context(), n.host)
	n.expect("after the restart", n.pod)
}

// An ADD read the annotations before a change and finishes after the first look.
func TestPodIsFollowedAfterRacingAdd(t *testing.T) {
	n := newNode(t)
	n.annotate(map[string]string{names.AnnotationPodEgressBandwidth: "10M"})
	n.pod.Must("", "tc", "qdisc", "change", "dev", "out-eth0", "root", "handle", "5350:", "tbf", "rate", "3mbit", "burst", "10k", "limit", "30k")
	n.now = n.now.Add(interval)
	n.follow(t.Context(), n.host)
	n.expect("a minute later", n.pod, "out-eth0 rate 10Mbit")
	n.now = n.now.Add(followedFor)
	n.pod.Must("", "tc", "qdisc", "del", "dev", "out-eth0", "root")
	n.follow(t.Context(), n.host)
	n.expect("long after the change", n.pod)
}

func TestForeignNamespacesStayUnlimited(t *testing.T) {
	n := newNode(t)
	machine, peer := linuxtest.NewMachine(t, "other-node"), linuxtest.NewMachine(t, "other-peer")
	linuxtest.Wire(machine, "ens5", peer, "eth0")
	foreign := n.namespace("foreign", machine, "172.31.28.99/20")
	both := n.namespace("both", machine, podAddr+"/20")
	both.Addr("eth0", "172.31.28.18/20")
	n.Leases = func() []lease.Lease {
		return []lease.Lease{{Addr: netip.MustParseAddr(podAddr), Holder: lease.Holder{PodUID: "uid"}},
			{Addr: netip.MustParseAddr("172.31.28.18"), Holder: lease.Holder{PodUID: "other"}}}
	}
	n.annotate(map[string]string{names.AnnotationPodEgressBandwidth: "10M"})
	n.expect("the pod", n.pod, "out-eth0 rate 10Mbit")
	n.expect("a foreign namespace", foreign)
	n.expect("a namespace with addresses of two pods", both)
}

func TestDisabledCoordinatorChangesNothing(t *testing.T) {
	n := newNode(t)
	n.Enabled = func(context.Context) bool { return false }
	n.annotate(map[string]string{names.AnnotationPodEgressBandwidth: "10M"})
	n.expect("disabled", n.pod)
}

// Run waits until pods and leases are known, and looks again after each change.
func TestFollowerRunsUntilEnd(t *testing.T) {
	n := newNode(t)
	looks, changed, missing := make(chan struct{}, 16), make(chan struct{}, 1), errors.New("not read yet")
	tries := 0
	n.Ready = func() error {
		if tries++; tries == 1 {
			return missing
		}
		return nil
	}
	n.Pods = func() []ipam.Pod { looks <- struct{}{}; return nil }
	n.Open = func() (*linux.Namespace, error) { return linux.Open(n.pod.Path()) }
	n.Changed = changed
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	<-looks
	changed <- struct{}{}
	<-looks
	cancel()
	<-done
}
