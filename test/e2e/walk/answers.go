package walk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

const answersManifest = "test/e2e/testdata/l2/answers.yaml"

// Answers returns the steps that compare the answers of spiderpoolctl with those of kubectl, of the
// kernel in the pods, and with the SpiderIPBlocks. They need the installation from Guide.
func Answers(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Create pods", false, g.createAnswerPods},
		{"ip who agrees with the kernel and the block", false, g.whoAgrees},
		{"ip list agrees with the blocks", false, g.eventuallyAgrees(g.listAgrees)},
		{"pool show and pool usage agree with the blocks", false, g.eventuallyAgrees(g.poolsAgree)},
		{"pod explain agrees with the kernel and the pools", false, g.explainAgrees},
		{"pod explain tells why a pod waits", false, g.explainTellsWhy},
		{"Delete the pods", false, func(ctx context.Context) error { return g.kubectlAll(ctx, "delete --timeout=5m -f "+answersManifest) }},
	}
}

func (g *guide) createAnswerPods(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+answersManifest); err != nil {
		return err
	}
	_, err := g.runningPods(ctx, "run=answers", 2)
	return err
}

// ctl runs spiderpoolctl and decodes its JSON. The exit code has to be the given one.
func (g *guide) ctl(ctx context.Context, code int, arguments string, into any) error {
	command := "bin/spiderpoolctl " + arguments + " -o json"
	fmt.Fprintf(g.Out, "$ %s\n", command)
	out, err := g.run(ctx, "sh", "-c", command)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		return err
	}
	if got != code {
		return fmt.Errorf("%s: exit code %d, want %d: %s (%w)", command, got, code, out, err)
	}
	return json.Unmarshal([]byte(out), into)
}

// leasesInUse returns all leases in use by their address.
func (g *guide) leasesInUse(ctx context.Context) (map[netip.Addr]v2beta1.Lease, error) {
	var blocks v2beta1.SpiderIPBlockList
	if err := g.Get(ctx, "spideripblocks", &blocks); err != nil {
		return nil, err
	}
	leases := map[netip.Addr]v2beta1.Lease{}
	for _, b := range blocks.Items {
		for _, l := range b.Spec.Leases {
			if addr, err := netip.ParseAddr(l.IP); err == nil && string(l.State) == "InUse" {
				leases[addr] = l
			}
		}
	}
	return leases, nil
}

// kernelAddresses returns the global addresses of eth0 in the pod's network namespace, with its hardware
// address. The namespace is that with the IPv4 address of the pod.
func (g *guide) kernelAddresses(ctx context.Context, pod corev1.Pod) (addrs []netip.Addr, mac string, err error) {
	v4, _, err := addressesOf(pod)
	if err != nil {
		return nil, "", err
	}
	out, err := g.Exec(ctx, pod.Spec.NodeName, fmt.Sprintf(`for ns in /run/netns/*; do
		if nsenter --net=$ns ip addr show dev eth0 2>/dev/null | grep -q " %s/"; then exec nsenter --net=$ns ip addr show dev eth0; fi
	done; exit 1`, v4))
	if err != nil {
		return nil, "", err
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 1 && fields[0] == "link/ether":
			mac = fields[1]
		case len(fields) > 1 && strings.HasPrefix(fields[0], "inet") && strings.Contains(line, "scope global"):
			prefix, err := netip.ParsePrefix(fields[1])
			if err != nil {
				return nil, "", err
			}
			addrs = append(addrs, prefix.Addr())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	if len(addrs) != 2 || mac == "" {
		return nil, "", fmt.Errorf("pod %s: eth0 has the addresses %v and MAC %q", pod.Name, addrs, mac)
	}
	return addrs, mac, nil
}

// answeredAddress is an address in the output of spiderpoolctl.
type answeredAddress struct {
	Address                                                     netip.Addr
	State, Pool, Pod, PodUID, Interface, Node, MAC, ContainerID string
}

func (g *guide) whoAgrees(ctx context.Context) error {
	pods, err := g.runningPods(ctx, "run=answers", 2)
	if err != nil {
		return err
	}
	leases, err := g.leasesInUse(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		addrs, mac, err := g.kernelAddresses(ctx, pod)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			var who struct {
				State   string
				Holders []answeredAddress
			}
			if err := g.ctl(ctx, 0, "ip who "+addr.String(), &who); err != nil {
				return err
			}
			if len(who.Holders) == 1 && who.Holders[0].MAC == "" {
				who.Holders[0].MAC = mac // the agent does not know it; see ip who --help
			}
			l := leases[addr]
			if len(who.Holders) != 1 {
				return fmt.Errorf("%s has %d holders", addr, len(who.Holders))
			}
			want := answeredAddress{addr, "InUse", l.Pool, "default/" + pod.Name, string(pod.UID), "eth0", pod.Spec.NodeName, mac, l.ContainerID}
			if got := who.Holders[0]; got != want || l.Pod != want.Pod {
				return fmt.Errorf("ip who says %+v, want %+v; the block has %+v", got, want, l)
			}
		}
	}
	return nil
}

func addressesIn(all []answeredAddress) (addrs []netip.Addr) {
	for _, a := range all {
		addrs = append(addrs, a.Address)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

func (g *guide) listAgrees(ctx context.Context) error {
	leases, err := g.leasesInUse(ctx)
	if err != nil {
		return err
	}
	for _, node := range slices.Sorted(maps.Keys(g.Nodes)) {
		var list []answeredAddress
		if err := g.ctl(ctx, 0, "ip list --namespace default --node "+node, &list); err != nil {
			return err
		}
		var want []netip.Addr
		for addr, l := range leases {
			if l.Node == node && strings.HasPrefix(l.Pod, "default/") {
				want = append(want, addr)
			}
		}
		slices.SortFunc(want, netip.Addr.Compare)
		if got := addressesIn(list); !slices.Equal(got, want) || len(want) == 0 {
			return fmt.Errorf("ip list says %v for node %s, the blocks have %v", got, node, want)
		}
	}
	return nil
}

// eventuallyAgrees repeats a comparison of two answers, because a pod without an address
// in one family holds that of the other one for a moment at each try.
func (g *guide) eventuallyAgrees(compare func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error { return g.eventually(ctx, "the answers agree", slow, compare) }
}

func (g *guide) poolsAgree(ctx context.Context) error {
	leases, err := g.leasesInUse(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{"lan-v4", "lan-v6"} {
		var object v2beta1.SpiderIPPool
		if err := g.Get(ctx, "spiderippool "+name, &object); err != nil {
			return err
		}
		inUse, nodes := 0, map[string]int{}
		for _, l := range leases {
			if l.Pool == name {
				inUse++
				nodes[l.Node]++
			}
		}
		var show struct {
			Total, Free, InUse int64
			Gateway            string
		}
		var usage struct {
			InUse int64
			Nodes []struct {
				Name  string
				InUse int
			}
		}
		if err := errors.Join(g.ctl(ctx, 0, "pool show "+name, &show), g.ctl(ctx, 0, "pool usage "+name, &usage)); err != nil {
			return err
		}
		const total = 90 + 6 // 10.6.128.10-99, …:10-6f
		if show.InUse != int64(inUse) || show.Free != show.Total-int64(inUse) || show.Gateway != *object.Spec.Gateway || show.Total != 90 && show.Total != total {
			return fmt.Errorf("pool show %s says %+v, the blocks have %d leases, the pool has gateway %s", name, show, inUse, *object.Spec.Gateway)
		}
		got := map[string]int{}
		for _, n := range usage.Nodes {
			got[n.Name] = n.InUse
		}
		if fmt.Sprint(got) != fmt.Sprint(nodes) || usage.InUse != int64(inUse) {
			return fmt.Errorf("pool usage %s says %v, the blocks have %v", name, got, nodes)
		}
	}
	return nil
}

// explained is the output of pod explain.
type explained struct {
	Phase, Node, UID string
	Interfaces       []struct {
		Name, Network string
		Families      []struct {
			Pools []struct {
				Pool      string
				Candidate bool
			}
		}
	}
	Holds    []answeredAddress
	Findings []struct{ Problem string }
}

func (g *guide) explainAgrees(ctx context.Context) error {
	pods, err := g.runningPods(ctx, "run=answers", 2)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		addrs, _, err := g.kernelAddresses(ctx, pod)
		if err != nil {
			return err
		}
		var x explained
		if err := g.ctl(ctx, 0, "pod explain default/"+pod.Name, &x); err != nil {
			return err
		}
		if !slices.Equal(addressesIn(x.Holds), addrs) || x.Node != pod.Spec.NodeName || x.UID != string(pod.UID) || x.Phase != "Running" {
			return fmt.Errorf("pod explain says %+v, the kernel has %v", x, addrs)
		}
		if len(x.Interfaces) != 1 || x.Interfaces[0].Name != "eth0" || x.Interfaces[0].Network != g.Attachment || len(x.Interfaces[0].Families) != 2 {
			return fmt.Errorf("pod explain says %+v, want eth0 on %s with two IP versions", x.Interfaces, g.Attachment)
		}
		for _, f := range x.Interfaces[0].Families {
			if len(f.Pools) == 0 || !f.Pools[0].Candidate || !strings.HasPrefix(f.Pools[0].Pool, "lan-") {
				return fmt.Errorf("pod explain considers %+v", f.Pools)
			}
		}
	}
	return nil
}

// explainTellsWhy compares the finding about a pod without an address with the event of its agent.
func (g *guide) explainTellsWhy(ctx context.Context) error {
	var event string
	if err := g.eventually(ctx, "the agent tells why pod answers-stuck waits", slow, func(ctx context.Context) error {
		var events corev1.EventList
		if err := g.Get(ctx, "events --field-selector involvedObject.name=answers-stuck,reason=FailedAllocateIP", &events); err != nil {
			return err
		}
		if len(events.Items) == 0 {
			return errors.New("it has no event")
		}
		event = events.Items[0].Message
		return nil
	}); err != nil {
		return err
	}
	var x explained
	if err := g.ctl(ctx, 1, "pod explain default/answers-stuck", &x); err != nil {
		return err
	}
	const why = "spec.namespaceName"
	if len(x.Findings) == 0 || !strings.Contains(x.Findings[0].Problem, "elsewhere") || !strings.Contains(x.Findings[0].Problem, why) || !strings.Contains(event, why) || len(x.Holds) > 0 {
		return fmt.Errorf("pod explain says %+v, the agent says %q", x, event)
	}
	return nil
}
