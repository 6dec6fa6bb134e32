package walk

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
)

const (
	// cloudHost is the host of the lab's EC2 API, and cloudURL its address.
	cloudHost, cloudURL = "ec2", "http://172.31.0.30/"
	// cloudNetwork is the name of the SpiderCloudNetwork.
	cloudNetwork = "aws"
	// cloudAPI is the lab's daemon that is the cloud.
	cloudAPI = "lab/cloud-api"
)

// zeroTouch is the walk with pools that follow the cloud.
type zeroTouch struct {
	*guide
	// device is the device index of the interface of pods.
	device int
	// assigned is the prefix that worker1 gets after its first one.
	assigned netip.Prefix
}

// ZeroTouch returns the steps of the guide's chapter "Zero touch": the guide without its step that creates pools. The lab
// may have the installation of the guide, but no pod of a test. The last steps leave it without pools.
func ZeroTouch(lab *Lab, site Site) []Step {
	z := &zeroTouch{guide: &guide{lab, site}}
	return []Step{
		{"Remove the pools that the guide made by hand", false, z.removePools},
		{"Put the images into the lab's registry", true, z.loadImages},
		{"Install Spiderpool with pools that follow the cloud", true, z.install},
		{"Name the interfaces", true, z.nameInterfaces},
		{"Create the application", true, z.createApplication},
		{"Pods reach nodes", true, z.podsReachNodes},
		{"Pods reach pods", true, z.podsReachPods},
		{"Nodes reach pods", true, z.nodesReachPods},
		{"A prefix that the cloud assigns is in the pool", true, z.assign},
		{"A prefix that the cloud takes away is out of service", true, z.takeAway},
		{"The replaced pod has an address of the new prefix", true, z.replacePod},
		{"An instance vanishes, and its pools give out nothing", true, z.vanish},
		{"The node leaves with its pools", true, z.leave},
		{"A node that joins has its pools", true, z.join},
		{"Deleted objects release their addresses", false, z.forget},
	}
}

func (z *zeroTouch) removePools(ctx context.Context) error {
	if _, err := z.run(ctx, "helm", "status", "spiderpool", "--namespace", "kube-system"); err != nil {
		return nil
	}
	// The cluster's DNS has addresses of the same pools.
	return z.kubectlAll(ctx, "scale -n kube-system deployment/coredns --replicas=0",
		"delete --timeout=3m spiderippools --all",
		"delete -n kube-system spidermultusconfig ipvlan-ens5 --ignore-not-found")
}

func (z *zeroTouch) install(ctx context.Context) error {
	return z.installWith(ctx, "zero-touch/00-install.sh")
}

func (z *zeroTouch) installWith(ctx context.Context, script string) error {
	if _, err := z.Sh(ctx, "make chart && sh "+z.manifest(script)); err != nil {
		return err
	}
	if err := z.eventually(ctx, "Spiderpool's programs are ready", slow, z.installed); err != nil {
		return err
	}
	return z.showPods(ctx, "-n kube-system")
}

func (z *zeroTouch) nameInterfaces(ctx context.Context) error {
	if _, err := z.Kubectl(ctx, "apply -f "+z.manifest("zero-touch/10-spidercloudnetwork.yaml")); err != nil {
		return err
	}
	if _, err := z.Kubectl(ctx, "wait spidercloudnetwork/"+cloudNetwork+" --for=condition=Ready --timeout=60s"); err != nil {
		return err
	}
	if err := z.eventually(ctx, "each node has its pools", time.Minute, func(ctx context.Context) error {
		var errs []error
		for node := range z.Nodes {
			errs = append(errs, z.poolsAre(ctx, node, 16))
		}
		_, err := z.run(ctx, "kubectl", "get", "-n", "kube-system", "network-attachment-definitions.k8s.cni.cncf.io", "ipvlan-ens5")
		return errors.Join(append(errs, err)...)
	}); err != nil {
		return err
	}
	return z.kubectlAll(ctx, "get spidercloudnetworks -o wide", "get spiderippools -o wide")
}

func (z *zeroTouch) poolOf(node string, version int) string {
	return fmt.Sprintf("%s-%s-%d-v%d", cloudNetwork, node, z.device, version)
}

// poolsAre checks that a node has a Ready pool of each IP version, and the number of IPv4 addresses.
func (z *zeroTouch) poolsAre(ctx context.Context, node string, addresses int64) error {
	for _, version := range []int{4, 6} {
		var pool v2beta1.SpiderIPPool
		if err := z.Get(ctx, "spiderippool "+z.poolOf(node, version), &pool); err != nil {
			return err
		}
		total := pool.Status.TotalIPCount
		switch {
		case total == nil || *total < 1:
			return fmt.Errorf("pool %s has no count yet", pool.Name)
		case version == 4 && *total != addresses:
			return fmt.Errorf("pool %s has %d addresses, want %d", pool.Name, *total, addresses)
		}
	}
	return nil
}

// call calls an action of the EC2 API, as the aws command would, and returns the answer.
func (z *zeroTouch) call(ctx context.Context, action string, parameters ...string) (string, error) {
	command := "curl -sS --fail-with-body --max-time 20 --aws-sigv4 aws:amz:ap-east-1:ec2 --user AKIALAB:lab -d Version=2016-11-15 -d Action=" + action
	for _, p := range parameters {
		command += " -d " + p
	}
	out, err := z.Exec(ctx, cloudHost, command+" "+cloudURL)
	fmt.Fprintln(z.Out)
	return out, err
}

// eni returns the ID of the interface of a node.
func (z *zeroTouch) eni(ctx context.Context, node string) (string, error) {
	var pool v2beta1.SpiderIPPool
	err := z.Get(ctx, "spiderippool "+z.poolOf(node, 4), &pool)
	return pool.Labels[names.LabelCloudInterface], err
}

func (z *zeroTouch) assign(ctx context.Context) error {
	eni, err := z.eni(ctx, "worker1")
	if err != nil {
		return err
	}
	out, err := z.call(ctx, "AssignPrivateIpAddresses", "NetworkInterfaceId="+eni, "Ipv4PrefixCount=1")
	if err != nil {
		return err
	}
	var answer struct {
		Prefixes []netip.Prefix `xml:"assignedIpv4PrefixSet>item>ipv4Prefix"`
	}
	if err := xml.Unmarshal([]byte(out), &answer); err != nil || len(answer.Prefixes) != 1 {
		return fmt.Errorf("the answer has %d prefixes, want one: %w", len(answer.Prefixes), err)
	}
	z.assigned = answer.Prefixes[0]
	return z.eventually(ctx, "the pool of worker1 has "+z.assigned.String(), time.Minute, func(ctx context.Context) error {
		return z.poolsAre(ctx, "worker1", 32)
	})
}

// podOn returns the application's pod on a node.
func (z *zeroTouch) podOn(ctx context.Context, node string) (corev1.Pod, error) {
	pods, err := z.nginxPods(ctx)
	if err != nil {
		return corev1.Pod{}, err
	}
	at := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == node })
	if at < 0 {
		return corev1.Pod{}, fmt.Errorf("no pod of the application runs on %s", node)
	}
	return pods[at], nil
}

func (z *zeroTouch) takeAway(ctx context.Context) error {
	eni, err := z.eni(ctx, "worker1")
	if err != nil {
		return err
	}
	pod, err := z.podOn(ctx, "worker1")
	if err != nil {
		return err
	}
	v4, _, err := addressesOf(pod)
	if err != nil {
		return err
	}
	if _, err := z.call(ctx, "UnassignPrivateIpAddresses", "NetworkInterfaceId="+eni, "Ipv4Prefix.1="+z.Nodes["worker1"].PodIPv4.String()); err != nil {
		return err
	}
	if err := z.vpcDrops(ctx, v4); err != nil {
		return err
	}
	if err := z.eventually(ctx, "an event names the pod that lost its address", time.Minute, func(ctx context.Context) error {
		return z.gone(ctx, z.poolOf("worker1", 4), fmt.Sprintf("%s of default/%s", v4, pod.Name))
	}); err != nil {
		return err
	}
	if err := z.reserved(ctx, v4); err != nil {
		return err
	}
	return z.kubectlAll(ctx, "get spidercloudnetworks -o wide", "get spiderreservedips")
}

// vpcDrops checks that the VPC delivers nothing to an address any more.
func (z *zeroTouch) vpcDrops(ctx context.Context, addr netip.Addr) error {
	return z.eventually(ctx, "the VPC drops packets to "+addr.String(), 5*time.Second, func(ctx context.Context) error {
		if _, err := z.Exec(ctx, "master", "ping -c 1 -W 1 "+addr.String()); err == nil {
			return fmt.Errorf("master reaches %s", addr)
		}
		return nil
	})
}

// gone checks that an event AddressesGone of a pool contains a text.
func (z *zeroTouch) gone(ctx context.Context, pool, text string) error {
	var events corev1.EventList
	if err := z.Get(ctx, "events --field-selector involvedObject.name="+pool+",reason=AddressesGone", &events); err != nil {
		return err
	}
	for _, e := range events.Items {
		if strings.Contains(e.Message, text) {
			fmt.Fprintf(z.Out, "  %s %s: %s\n", e.Type, e.Reason, e.Message)
			return nil
		}
	}
	return fmt.Errorf("none of %d events AddressesGone of pool %s contains %q", len(events.Items), pool, text)
}

// reserved checks that no pod can get an address.
func (z *zeroTouch) reserved(ctx context.Context, addr netip.Addr) error {
	var list v2beta1.SpiderReservedIPList
	if err := z.Get(ctx, "spiderreservedips", &list); err != nil {
		return err
	}
	for _, r := range list.Items {
		for _, text := range r.Spec.IPs {
			first, last, _ := strings.Cut(text, "-")
			from, err := netip.ParseAddr(first)
			to := from
			if last != "" {
				to, _ = netip.ParseAddr(last)
			}
			if err == nil && from.Compare(addr) <= 0 && addr.Compare(to) <= 0 {
				return nil
			}
		}
	}
	return fmt.Errorf("%s is in none of the %d SpiderReservedIPs", addr, len(list.Items))
}

func (z *zeroTouch) replacePod(ctx context.Context) error {
	lost, err := z.podOn(ctx, "worker1")
	if err != nil {
		return err
	}
	if _, err := z.Kubectl(ctx, "delete pod --grace-period=1 "+lost.Name); err != nil {
		return err
	}
	pod, err := z.podOn(ctx, "worker1")
	if err != nil {
		return err
	}
	v4, _, err := addressesOf(pod)
	if err == nil && !z.assigned.Contains(v4) {
		err = fmt.Errorf("pod %s has %s, want an address of %s", pod.Name, v4, z.assigned)
	}
	return errors.Join(err, z.podsReachNodes(ctx), z.podsReachPods(ctx))
}

func (z *zeroTouch) vanish(ctx context.Context) error {
	pod, err := z.podOn(ctx, "worker1")
	if err != nil {
		return err
	}
	var node corev1.Node
	if err := z.Get(ctx, "node worker1", &node); err != nil {
		return err
	}
	id := node.Spec.ProviderID[strings.LastIndex(node.Spec.ProviderID, "/")+1:]
	if _, err := z.call(ctx, "TerminateInstances", "InstanceId.1="+id); err != nil {
		return err
	}
	if err := z.vpcDrops(ctx, netip.MustParseAddr(z.Nodes["worker1"].IPv4)); err != nil {
		return err
	}
	// A new leader asks about all nodes at once. It must not run on a node that is cut off.
	if err := z.kubectlAll(ctx, "cordon worker1", "delete pod -n kube-system -l app.kubernetes.io/component=controller --wait=false"); err != nil {
		return err
	}
	v4, v6, err := addressesOf(pod)
	if err != nil {
		return err
	}
	return z.eventually(ctx, "the SpiderCloudNetwork names the node, and its addresses are reserved", 2*time.Minute, func(ctx context.Context) error {
		message, err := z.run(ctx, "sh", "-c", "kubectl get spidercloudnetwork "+cloudNetwork+` -o jsonpath='{.status.conditions[?(@.type=="Ready")].message}'`)
		if err == nil && !strings.Contains(message, "does not know the instance of node worker1") {
			err = fmt.Errorf("the condition says %q", message)
		}
		return errors.Join(err, z.reserved(ctx, v4), z.reserved(ctx, v6))
	})
}

func (z *zeroTouch) leave(ctx context.Context) error {
	// The agent of the node cannot release the addresses.
	if err := z.kubectlAll(ctx, "scale deployment/nginx-lb --replicas=1", "delete node worker1",
		"delete pods --all-namespaces --field-selector spec.nodeName=worker1 --force --wait=false"); err != nil {
		return err
	}
	if err := z.noPools(ctx, "worker1"); err != nil {
		return err
	}
	_, err := z.Kubectl(ctx, "get spiderippools")
	return err
}

// noPools waits until the nodes have no pools.
func (z *zeroTouch) noPools(ctx context.Context, nodes ...string) error {
	return z.eventually(ctx, "the pools of "+strings.Join(nodes, " and ")+" are gone", slow, func(ctx context.Context) error {
		var pools v2beta1.SpiderIPPoolList
		if err := z.Get(ctx, "spiderippools", &pools); err != nil {
			return err
		}
		for _, pool := range pools.Items {
			if len(pool.Spec.NodeName) == 1 && slices.Contains(nodes, pool.Spec.NodeName[0]) {
				return fmt.Errorf("pool %s is left", pool.Name)
			}
		}
		return nil
	})
}

func (z *zeroTouch) join(ctx context.Context) error {
	// The cloud starts again with the instance, and the node with a new kubelet.
	for _, daemon := range []string{cloudAPI, "worker1/kubelet"} {
		if _, err := z.Sh(ctx, z.Binary+" daemon "+daemon+" kill"); err != nil {
			return err
		}
	}
	if err := z.eventually(ctx, "node worker1 is back", slow, func(ctx context.Context) error {
		var node corev1.Node
		return z.Get(ctx, "node worker1", &node)
	}); err != nil {
		return err
	}
	if err := z.eventually(ctx, "it has its pools", time.Minute, func(ctx context.Context) error { return z.poolsAre(ctx, "worker1", 16) }); err != nil {
		return err
	}
	if err := z.eventually(ctx, "Spiderpool's programs are ready", slow, z.installed); err != nil {
		return err
	}
	if _, err := z.Kubectl(ctx, "scale deployment/nginx-lb --replicas=2"); err != nil {
		return err
	}
	pods, err := z.nginxPods(ctx)
	if err != nil {
		return err
	}
	return errors.Join(z.onEveryNode(pods), z.podsReachPods(ctx), z.kubectlAll(ctx, "get pods -o wide", "get spidercloudnetworks -o wide"))
}

func (z *zeroTouch) forget(ctx context.Context) error {
	err := z.kubectlAll(ctx, "scale -n kube-system deployment/coredns --replicas=0",
		"delete --timeout=5m deployment nginx-lb", "delete --timeout=5m spidercloudnetwork "+cloudNetwork)
	return errors.Join(err, z.noPools(ctx, slices.Sorted(maps.Keys(z.Nodes))...))
}
