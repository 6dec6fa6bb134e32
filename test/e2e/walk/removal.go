package walk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/linux/flows"
)

// otherNetwork is the nodes' next CNI configuration after that of Multus.
const otherNetwork = "/etc/cni/net.d/90-other.conflist"

const otherNetworkConf = `{
  "cniVersion": "1.0.0",
  "name": "other",
  "plugins": [{"type": "bridge", "bridge": "other", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.245.0.0/24"}]]}}]
}
`

// uninstall waits longer than Helm's default, because the lab shares its processors.
const uninstall = "helm uninstall spiderpool --namespace kube-system --timeout 15m 2>&1"

// Removal returns the steps that uninstall Spiderpool in all ways of the guide, and
// install it again.
func Removal(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Install Spiderpool if it is missing", false, g.installMissing},
		{"Uninstalling is refused while pods have addresses", false, g.refuseRemoval},
		{"Pods keep running without Spiderpool if told so", false, g.removeAroundPods},
		{"Former pods keep their addresses in a new installation", false, g.reinstallAroundPods},
		{"Uninstalling leaves clean nodes and the other network", false, g.removeAll},
		{"Install Spiderpool again", false, g.installAgain},
	}
}

func (g *guide) installMissing(ctx context.Context) error {
	if _, err := g.Sh(ctx, "helm status spiderpool --namespace kube-system"); err != nil {
		for _, step := range g.installation() {
			if err := step.Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", step.Title, err)
			}
		}
	}
	for node := range g.Nodes {
		if _, err := g.ExecWith(ctx, node, "cat >"+otherNetwork, strings.NewReader(otherNetworkConf)); err != nil {
			return err
		}
	}
	// The cluster's DNS has addresses of the same pools.
	_, err := g.Kubectl(ctx, "scale -n kube-system deployment/coredns --replicas=0")
	return err
}

// runPod runs one pod on the default network of worker1.
func (g *guide) runPod(ctx context.Context, name string) (corev1.Pod, error) {
	if _, err := g.Kubectl(ctx, "run "+name+` --image=nginx --overrides='{"spec":{"terminationGracePeriodSeconds":1,"nodeSelector":{"kubernetes.io/hostname":"worker1"}}}'`); err != nil {
		return corev1.Pod{}, err
	}
	pods, err := g.runningPods(ctx, "run="+name, 1)
	if err != nil {
		return corev1.Pod{}, err
	}
	return pods[0], nil
}

func (g *guide) refuseRemoval(ctx context.Context) error {
	keeper, err := g.runPod(ctx, "keeper")
	if err != nil {
		return err
	}
	out, err := g.Sh(ctx, uninstall)
	if err == nil {
		return errors.New("helm uninstalled Spiderpool although a pod has addresses")
	}
	if !strings.Contains(out, "default/keeper") {
		return fmt.Errorf("the output of helm does not name the pod default/keeper: %s", out)
	}
	if _, err := g.Sh(ctx, "helm rollback spiderpool --namespace kube-system $(helm history spiderpool --namespace kube-system -o json | jq '.[-1].revision')"); err != nil {
		return err
	}
	// Helm keeps the failed Job for its log.
	if _, err := g.Kubectl(ctx, "delete -n kube-system job spiderpool-init-remove-stop"); err != nil {
		return err
	}
	return errors.Join(g.installed(ctx), g.nodesReach(ctx, keeper))
}

func (g *guide) nodesReach(ctx context.Context, pod corev1.Pod) error {
	var errs []error
	for node := range g.Nodes {
		errs = append(errs, g.hostReachesPods(ctx, node, []corev1.Pod{pod}))
	}
	return errors.Join(errs...)
}

func (g *guide) removeAroundPods(ctx context.Context) error {
	for _, command := range []string{
		"helm upgrade spiderpool dist/spiderpool-0.1.0.tgz --namespace kube-system --reset-then-reuse-values --set spiderpoolController.cleanup.withRunningPods=true",
		uninstall,
	} {
		if _, err := g.Sh(ctx, command); err != nil {
			return err
		}
	}
	keeper, err := g.runningPods(ctx, "run=keeper", 1)
	if err != nil {
		return err
	}
	return errors.Join(g.nodesReach(ctx, keeper[0]), g.otherNetworkWorks(ctx))
}

// otherNetworkWorks starts a pod, which must get an address of the other network, and
// deletes it.
func (g *guide) otherNetworkWorks(ctx context.Context) error {
	pod, err := g.runPod(ctx, "other")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(pod.Status.PodIP, "10.245.0.") {
		return fmt.Errorf("pod other has the address %s, want one of the other network", pod.Status.PodIP)
	}
	_, err = g.Kubectl(ctx, "delete --timeout=5m pod other")
	return err
}

func (g *guide) reinstallAroundPods(ctx context.Context) error {
	if err := g.install(ctx); err != nil {
		return err
	}
	former, err := g.runningPods(ctx, "run=keeper", 1)
	if err != nil {
		return err
	}
	newcomer, err := g.runPod(ctx, "newcomer")
	if err != nil {
		return err
	}
	if newcomer.Status.PodIP == former[0].Status.PodIP {
		return fmt.Errorf("pods keeper and newcomer both have %s", newcomer.Status.PodIP)
	}
	held, err := g.leases(ctx)
	if err != nil {
		return err
	}
	for _, ip := range former[0].Status.PodIPs {
		if !slices.ContainsFunc(held, func(l v2beta1.Lease) bool { return l.IP == ip.IP && l.Pod == "default/keeper" }) {
			return fmt.Errorf("pod keeper does not hold its address %s any more", ip.IP)
		}
	}
	if err := errors.Join(g.nodesReach(ctx, former[0]), g.nodesReach(ctx, newcomer)); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "delete --timeout=5m pod keeper newcomer"); err != nil {
		return err
	}
	return g.eventually(ctx, "no lease, no SpiderEndpoint and no count remains", slow, g.nothingHeld)
}

func (g *guide) removeAll(ctx context.Context) error {
	for node := range g.Nodes {
		if _, err := g.Exec(ctx, node, "ls -d "+bpf.Directory); err != nil {
			return fmt.Errorf("node %s has no pinned programs before the removal: %w", node, err)
		}
	}
	if _, err := g.Sh(ctx, uninstall); err != nil {
		return err
	}
	for node := range g.Nodes {
		left, err := g.Exec(ctx, node, "ls -d /etc/cni/net.d/*multus* /opt/cni/bin/spiderpool* /opt/cni/bin/coordinator /opt/cni/bin/ifacer /opt/cni/bin/multus "+bpf.Directory+" "+flows.Directory+" 2>/dev/null;"+
			"ip rule | grep 'lookup 500'; ip -6 rule | grep 'lookup 500'; ip -o link | grep spv; nft list tables | grep spiderpool; true")
		if err == nil && left != "" {
			err = fmt.Errorf("left on node %s: %s", node, left)
		}
		if err != nil {
			return err
		}
	}
	return g.otherNetworkWorks(ctx)
}

// installAgain installs Spiderpool from its objects in the cluster, for later tests.
func (g *guide) installAgain(ctx context.Context) error {
	if err := g.install(ctx); err != nil {
		return err
	}
	for node := range g.Nodes {
		if _, err := g.Exec(ctx, node, "rm "+otherNetwork+" && ip link del other 2>/dev/null; true"); err != nil {
			return err
		}
	}
	pod, err := g.runPod(ctx, "again")
	if err != nil {
		return err
	}
	err = g.nodesReach(ctx, pod)
	_, deleted := g.Kubectl(ctx, "delete --timeout=5m pod again")
	return errors.Join(err, deleted)
}
