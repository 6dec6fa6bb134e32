package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
)

const (
	// The pods begin in homeZone, whose nodes share a subnet. The node outside is in otherZone.
	homeZone, otherZone = "ap-east-1b", "ap-east-1a"
	outside             = "master"
	// controllerDeployment runs the webhook that keeps pods in their zone.
	controllerDeployment = "-n kube-system deployment/spiderpool-controller"
)

// homes are the nodes of homeZone.
var homes = []string{"worker1", "worker2"}

// fixed is the walk with addresses that follow the pods of a StatefulSet.
type fixed struct {
	*manage
	former map[string][2]netip.Addr // the addresses of each pod, which it keeps
	lost   string                   // the node whose kubelet stops
}

// FixedAddresses returns the steps of the guide's chapter "Fixed addresses": pods of a StatefulSet keep their addresses when they
// move between the nodes of a zone. The site needs the nodes in homes and outside. The lab may have the installation of the guide,
// but no pod of a test. The last steps leave it without pools.
func FixedAddresses(lab *Lab, site Site) []Step {
	f := &fixed{manage: newManage(lab, site, 0), former: map[string][2]netip.Addr{}}
	return []Step{
		{"Remove the pools that the guide made by hand", false, f.removePools},
		{"Take the prefixes of the nodes away", true, f.takeAll},
		{"Reserve the ranges in their subnets", true, f.reserve},
		{"Put the images into the lab's registry", true, f.loadImages},
		{"Install Spiderpool with pools that follow the cloud", true, func(ctx context.Context) error { return f.installWith(ctx, "fixed/00-install.sh") }},
		{"Have the controller assign addresses", true, func(ctx context.Context) error { return f.applyNetwork(ctx, "fixed/10-spidercloudnetwork.yaml") }},
		{"Fixed addresses are on no interface before a pod has them", true, f.noneIsAssigned},
		{"Pods of a StatefulSet get fixed addresses", true, f.create},
		{"A pod that starts again on its node keeps them", false, f.restart},
		{"A pod takes its addresses to another node", true, f.move},
		{"Pods of a node without a kubelet take theirs along", false, f.cutOff},
		{"The node comes back, and leaves them alone", false, f.comeBack},
		{"A pod stays in the zone of its addresses", false, f.pinned},
		{"A pod in another zone is refused", false, f.refused},
		{"Once its addresses are released, it gets others", false, f.released},
		{"Addresses without a pod leave their interface", true, f.coolDown},
		{"Cloud, pools and leases are equal", false, f.balance},
		{"Deleted objects release their addresses", false, f.forget},
	}
}

// reserve does what the guide's command create-subnet-cidr-reservation does.
func (f *fixed) reserve(ctx context.Context) error {
	for subnet, ranges := range map[string][]string{
		"subnet-00000000000000102": {"172.31.16.192/28", "2406:da1e:c4:ed01::d0/124"},
		"subnet-00000000000000103": {"172.31.32.192/28", "2406:da1e:c4:ed02::d0/124"},
	} {
		for _, cidr := range ranges {
			if _, err := f.call(ctx, "CreateSubnetCidrReservation", "SubnetId="+subnet, "Cidr="+cidr, "ReservationType=explicit"); err != nil {
				return err
			}
		}
	}
	return nil
}

// fixedPools returns the pools of fixed addresses.
func (f *fixed) fixedPools(ctx context.Context) ([]v2beta1.SpiderIPPool, error) {
	var pools v2beta1.SpiderIPPoolList
	err := f.Get(ctx, "spiderippools -l ipam.spidernet.io/cloud-zone", &pools)
	if err == nil && len(pools.Items) != 4 {
		err = fmt.Errorf("%d pools of fixed addresses, want one of each zone and IP version", len(pools.Items))
	}
	return pools.Items, err
}

// noneIsAssigned checks that no interface has an address of the pools, and that no pool says so.
func (f *fixed) noneIsAssigned(ctx context.Context) error {
	pools, err := f.fixedPools(ctx)
	if err != nil {
		return err
	}
	state, err := f.cloud(ctx)
	if err != nil {
		return err
	}
	for _, pool := range pools {
		if len(pool.Status.Placements) > 0 {
			return fmt.Errorf("pool %s has the placements %+v, want none", pool.Name, pool.Status.Placements)
		}
		ips, err := inet.Parse(pool.Spec.IPs, inet.Bounds{})
		if err != nil {
			return err
		}
		for _, r := range state.Routes {
			if ips.Contains(r.Prefix.Addr()) {
				return fmt.Errorf("interface %s of %s has %s of pool %s, which no pod has", r.Interface, r.Instance, r.Prefix, pool.Name)
			}
		}
	}
	return nil
}

func (f *fixed) create(ctx context.Context) error {
	if _, err := f.Kubectl(ctx, "cordon "+outside); err != nil {
		return err
	}
	start := time.Now()
	if _, err := f.Kubectl(ctx, "apply -f "+f.manifest("fixed/20-db.yaml")); err != nil {
		return err
	}
	pods, err := f.ready(ctx, start)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		v4, v6, err := addressesOf(pod)
		if err != nil {
			return err
		}
		f.former[pod.Name] = [2]netip.Addr{v4, v6}
	}
	if _, err := f.Kubectl(ctx, "wait pod/client --for=condition=Ready --timeout=5m"); err != nil {
		return err
	}
	return errors.Join(f.followed(ctx, pods), f.kubectlAll(ctx, "uncordon "+outside, "get spiderippools -o wide"))
}

// ready waits until the pods of the StatefulSet are ready, prints how long they took, and returns them in order of their names.
func (f *fixed) ready(ctx context.Context, start time.Time) ([]corev1.Pod, error) {
	pods, err := f.runningPods(ctx, "app=db", 2)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(f.Out, "  all pods were ready after %s\n", since(start))
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for _, pod := range pods {
		at := map[corev1.PodConditionType]time.Duration{}
		for _, c := range pod.Status.Conditions {
			at[c.Type] = c.LastTransitionTime.Sub(pod.CreationTimestamp.Time)
		}
		fmt.Fprintf(f.Out, "  pod %s on %s: scheduled %s, network %s, ready %s after its creation\n", pod.Name, pod.Spec.NodeName,
			at[corev1.PodScheduled], at[corev1.PodReadyToStartContainers], at[corev1.PodReady])
	}
	return pods, f.showPods(ctx, "-l app=db")
}

// followed checks that the pods have their addresses, that these are on the interfaces of the pods' nodes and on no other, that the
// pools say so, and that the pods answer at once.
func (f *fixed) followed(ctx context.Context, pods []corev1.Pod, except ...string) error {
	state, err := f.cloud(ctx)
	if err != nil {
		return err
	}
	places, err := f.placements(ctx)
	if err != nil {
		return err
	}
	var urls []string
	for _, pod := range pods {
		eni, err := f.eni(ctx, pod.Spec.NodeName)
		if err != nil {
			return err
		}
		v4, v6, err := addressesOf(pod)
		if err != nil {
			return err
		}
		if had := f.former[pod.Name]; had != [2]netip.Addr{v4, v6} {
			return fmt.Errorf("pod %s has %s and %s, and had %s", pod.Name, v4, v6, had)
		}
		for _, addr := range f.former[pod.Name] {
			if at := state.holders(addr); !slices.Equal(at, []string{eni}) {
				return fmt.Errorf("pod %s is on %s with interface %s, but %s is on %v", pod.Name, pod.Spec.NodeName, eni, addr, at)
			}
			if p := places[addr]; p.Interface != eni || p.PodUID != string(pod.UID) || p.Message != "" {
				return fmt.Errorf("pod %s with UID %s is on interface %s, but the placement is %+v", pod.Name, pod.UID, eni, p)
			}
			fmt.Fprintf(f.Out, "  %s of %s is on interface %s of %s\n", addr, pod.Name, eni, pod.Spec.NodeName)
			urls = append(urls, "http://"+netip.AddrPortFrom(addr, 80).String())
		}
	}
	return f.answer(ctx, urls, except...)
}

// answer fetches the pages once, from each node and from the client. It prints how long each took.
func (f *fixed) answer(ctx context.Context, urls []string, except ...string) error {
	command := `for url in "` + strings.Join(urls, `" "`) + `"; do curl -sS --max-time 10 -o /dev/null -w "%{http_code} after %{time_total} s %{url_effective}\n" "$url" || exit 1; done`
	from := map[string]shell{"client": f.podShell(corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "client"}})}
	for node := range f.Nodes {
		if !slices.Contains(except, node) {
			from[node] = f.hostShell(node)
		}
	}
	var errs []error
	for name, in := range from {
		out, err := in(ctx, command)
		if n := strings.Count(out, "200 after"); err == nil && n != len(urls) {
			err = fmt.Errorf("%d of %d pages", n, len(urls))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s does not reach the pods: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// placements returns what the pools of fixed addresses say about each address.
func (f *fixed) placements(ctx context.Context) (map[netip.Addr]v2beta1.CloudPlacement, error) {
	pools, err := f.fixedPools(ctx)
	if err != nil {
		return nil, err
	}
	places := map[netip.Addr]v2beta1.CloudPlacement{}
	for _, pool := range pools {
		for _, p := range pool.Status.Placements {
			addr, err := netip.ParseAddr(p.IP)
			if err != nil {
				return nil, err
			}
			places[addr] = p
		}
	}
	return places, nil
}

// nodesOf returns the node of a pod, and the other node of homeZone.
func (f *fixed) nodesOf(ctx context.Context, name string) (own, other string, err error) {
	var pod corev1.Pod
	if err := f.Get(ctx, "pod "+name, &pod); err != nil {
		return "", "", err
	}
	at := slices.Index(homes, pod.Spec.NodeName)
	if at < 0 {
		return "", "", fmt.Errorf("pod %s is on %s, want a node of zone %s", name, pod.Spec.NodeName, homeZone)
	}
	return homes[at], homes[1-at], nil
}

// restart deletes db-0, and lets it start on the same node only.
func (f *fixed) restart(ctx context.Context) error {
	own, other, err := f.nodesOf(ctx, "db-0")
	if err != nil {
		return err
	}
	return f.replace(ctx, other, own)
}

// move deletes db-0, and lets it start on the other node of its zone only.
func (f *fixed) move(ctx context.Context) error {
	own, other, err := f.nodesOf(ctx, "db-0")
	if err != nil {
		return err
	}
	return errors.Join(f.replace(ctx, own, other), f.kubectlAll(ctx, "get spiderippool aws-db-b-fixed-v4 -o jsonpath='{.status.placements}{\"\\n\"}'"))
}

// replace deletes db-0, and waits until it is ready on a node. The closed node takes no pod meanwhile.
func (f *fixed) replace(ctx context.Context, closed, to string) error {
	if _, err := f.Kubectl(ctx, "cordon "+closed); err != nil {
		return err
	}
	start := time.Now()
	if _, err := f.Kubectl(ctx, "delete pod db-0"); err != nil {
		return err
	}
	pods, err := f.ready(ctx, start)
	if err != nil {
		return err
	}
	if now := pods[0].Spec.NodeName; now != to {
		return fmt.Errorf("pod db-0 is on %s, want %s", now, to)
	}
	return errors.Join(f.followed(ctx, pods), f.kubectlAll(ctx, "uncordon "+closed))
}
