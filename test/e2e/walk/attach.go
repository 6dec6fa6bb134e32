package walk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/cloud"
)

const (
	// furtherLink is the name of the link with device index 1 on the nodes, and furtherDevice that index.
	furtherLink, furtherDevice = "ens6", 1
	// leaving is the node whose interface a user detaches, and whose instance ends later.
	leaving = "worker1"
	// staying is the node that remains.
	staying = "master"
)

// podSubnets are the subnets for pods, one in the zone of each node.
var podSubnets = map[string]string{"master": "subnet-00000000000000104", "worker1": "subnet-00000000000000105"}

// attaching is the walk with interfaces that the controller creates and attaches.
type attaching struct{ *manage }

// Attach returns the steps of the guide's chapter "Attached interfaces": the nodes have only their primary interface, and the
// controller creates and attaches another one for pods. The lab may have the installation of the guide, but no pod of a test. The
// last steps leave it without pools.
func Attach(lab *Lab, site Site) []Step {
	a := &attaching{newManage(lab, site, 0)}
	a.device, a.application = furtherDevice, "attach/30-nginx-lb.yaml"
	return []Step{
		{"Remove the pools that the guide made by hand", false, a.removePools},
		{"Nodes have only their primary interface", true, a.begin},
		{"Tag the subnets for pods", true, a.tagSubnets},
		{"Put the images into the lab's registry", true, a.loadImages},
		{"Install Spiderpool with pools that follow the cloud", true, func(ctx context.Context) error { return a.installWith(ctx, "attach/00-install.sh") }},
		{"Have the controller attach an interface to each node", true, a.apply},
		{"Create the application", true, a.firstPods},
		{"The pods are on the attached interfaces", true, a.podsAreThere},
		{"Pods reach nodes", true, a.podsReachNodes},
		{"Pods reach pods", true, a.podsReachPods},
		{"Nodes reach pods", true, a.nodesReachPods},
		{"Pods reach the internet", true, a.podsReachInternet},
		{"An interface that a user detaches is attached again", false, a.detach},
		{"An interface goes with its instance", false, a.terminate},
		{"A deleted SpiderCloudNetwork leaves no interface without an instance", false, a.forget},
	}
}

// begin checks the nodes, and limits the controller to the policy of the guide.
func (a *attaching) begin(ctx context.Context) error {
	if _, err := a.look(ctx); err != nil {
		return err
	}
	for node := range a.Nodes {
		if err := a.noLink(ctx, node); err != nil {
			return err
		}
	}
	policy, err := a.guidesPolicy("Attach")
	if err != nil {
		return err
	}
	cluster, err := a.Kubectl(ctx, `get namespace kube-system -o jsonpath='{.metadata.uid}'`)
	if err != nil {
		return err
	}
	return a.setFaults(ctx, cloudFaults{Policy: strings.ReplaceAll(policy, "CLUSTER", strings.TrimSpace(cluster)), Latency: true, Attaching: "2s"})
}

// tagSubnets does what the guide's command create-tags does.
func (a *attaching) tagSubnets(ctx context.Context) error {
	parameters := []string{"Tag.1.Key=pods", "Tag.1.Value=yes"}
	for i, node := range slices.Sorted(maps.Keys(podSubnets)) {
		parameters = append(parameters, fmt.Sprintf("ResourceId.%d=%s", i+1, podSubnets[node]))
	}
	_, err := a.call(ctx, "CreateTags", parameters...)
	return err
}

// link is a link as ip shows it.
type link struct {
	Name    string `json:"ifname"`
	Address string
	Flags   []string
}

// link returns the attached interface of a node; ok is false if there is none.
func (a *attaching) link(ctx context.Context, node string) (found link, ok bool, err error) {
	out, err := a.run(ctx, a.Binary, "exec", node, "--", "ip", "-json", "link")
	if err != nil {
		return link{}, false, err
	}
	var links []link
	err = json.Unmarshal([]byte(out), &links)
	at := slices.IndexFunc(links, func(l link) bool { return l.Name == furtherLink })
	if at < 0 {
		return link{}, false, err
	}
	return links[at], true, err
}

// linkIs checks that the attached interface of a node has a MAC address, and the flags.
func (a *attaching) linkIs(ctx context.Context, node, mac string, flags ...string) error {
	l, ok, err := a.link(ctx, node)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("node %s has no link %s", node, furtherLink)
	case l.Address != mac:
		return fmt.Errorf("%s of node %s has the MAC address %s, want %s", furtherLink, node, l.Address, mac)
	}
	for _, flag := range flags {
		if !slices.Contains(l.Flags, flag) {
			return fmt.Errorf("%s of node %s has the flags %v, want %s, too", furtherLink, node, l.Flags, flag)
		}
	}
	return nil
}

// noLink waits until a node has no attached interface.
func (a *attaching) noLink(ctx context.Context, node string) error {
	return a.eventually(ctx, fmt.Sprintf("node %s has no %s", node, furtherLink), 5*time.Second, func(ctx context.Context) error {
		l, ok, err := a.link(ctx, node)
		if err == nil && ok {
			err = fmt.Errorf("it has %+v", l)
		}
		return err
	})
}

// own returns the interfaces that the controller has created, by the instance in their tags.
func (s cloudState) own() map[string][]cloudInterface {
	found := map[string][]cloudInterface{}
	for _, i := range s.Interfaces {
		if i.Tags[cloud.TagNetwork] == cloudNetwork {
			found[i.Tags[cloud.TagInstance]] = append(found[i.Tags[cloud.TagInstance]], i)
		}
	}
	return found
}

// further returns the interface of a node that the controller has attached. It must be as the guide says.
func (a *attaching) further(ctx context.Context, node string) (cloudInterface, error) {
	state, err := a.cloud(ctx)
	if err != nil {
		return cloudInterface{}, err
	}
	own := state.own()[a.instances[node]]
	if len(own) != 1 {
		return cloudInterface{}, fmt.Errorf("%d interfaces were created for node %s, want 1: %+v", len(own), node, own)
	}
	i := own[0]
	if i.Instance != a.instances[node] || i.Device != furtherDevice || i.Subnet != podSubnets[node] || !i.DeleteOnTermination ||
		i.Tags[cloud.TagIndex] != strconv.Itoa(furtherDevice) || i.Tags["node.k8s.amazonaws.com/no_manage"] != "true" {
		return i, fmt.Errorf("the interface of node %s is %+v", node, i)
	}
	return i, nil
}

// isAttached waits until a node has the interface that the cloud shows, with the same MAC address, and prints the time since start.
func (a *attaching) isAttached(ctx context.Context, start time.Time, node string) error {
	var i cloudInterface
	if err := a.eventually(ctx, "the cloud has attached an interface to "+node, slow, func(ctx context.Context) (err error) {
		i, err = a.further(ctx, node)
		return err
	}); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "  %s was attached to node %s after %s\n", i.ID, node, since(start))
	if err := a.eventually(ctx, fmt.Sprintf("%s of node %s has the MAC address %s", furtherLink, node, i.MAC), 5*time.Second, func(ctx context.Context) error {
		return a.linkIs(ctx, node, i.MAC) // down, unless a pod that waited has set it up
	}); err != nil {
		return err
	}
	_, err := a.Exec(ctx, node, "ip link show "+furtherLink)
	return err
}

func (a *attaching) apply(ctx context.Context) error {
	if _, err := a.Kubectl(ctx, "apply -f "+a.manifest("attach/20-early.yaml")); err != nil {
		return err
	}
	start := time.Now()
	if _, err := a.Kubectl(ctx, "apply -f "+a.manifest("attach/10-spidercloudnetwork.yaml")); err != nil {
		return err
	}
	for _, node := range slices.Sorted(maps.Keys(a.Nodes)) {
		if err := a.isAttached(ctx, start, node); err != nil {
			return err
		}
	}
	if err := a.havePools(ctx, start); err != nil {
		return err
	}
	if _, err := a.Kubectl(ctx, "wait pod/early --for=condition=Ready --timeout=5m"); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "  the pod that had waited was ready %s after kubectl apply\n", since(start))
	if _, err := a.Kubectl(ctx, "delete pod early"); err != nil {
		return err
	}
	state, err := a.cloud(ctx)
	fmt.Fprintf(a.Out, "  calls of EC2 so far: %v, failures: %v\n", state.Calls, state.Failures)
	return err
}

// podsAreThere checks that each pod has the MAC address of the attached interface of its node, which is up, and that the VPC routes
// its addresses to that interface.
func (a *attaching) podsAreThere(ctx context.Context) error {
	pods, err := a.nginxPods(ctx)
	if err != nil {
		return err
	}
	state, err := a.cloud(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		i, err := a.further(ctx, pod.Spec.NodeName)
		if err == nil {
			err = a.linkIs(ctx, pod.Spec.NodeName, i.MAC, "UP")
		}
		if err != nil {
			return err
		}
		mac, err := a.inPod(ctx, pod, "cat /sys/class/net/eth0/address")
		if mac = strings.TrimSpace(mac); err != nil || mac != i.MAC {
			return fmt.Errorf("pod %s on %s has the MAC address %q, want %s: %w", pod.Name, pod.Spec.NodeName, mac, i.MAC, err)
		}
		v4, v6, err := addressesOf(pod)
		if err != nil {
			return err
		}
		for _, addr := range []netip.Addr{v4, v6} {
			if !slices.ContainsFunc(state.Routes, func(r cloudRoute) bool { return r.Interface == i.ID && r.Prefix.Contains(addr) }) {
				return fmt.Errorf("%s of pod %s is not assigned to %s of node %s", addr, pod.Name, i.ID, pod.Spec.NodeName)
			}
		}
	}
	return nil
}

// detach takes the interface of a node away, as a user would. Its pods lose their network. The controller attaches it again.
func (a *attaching) detach(ctx context.Context) error {
	lost, err := a.podOn(ctx, leaving)
	if err != nil {
		return err
	}
	if err := a.takeInterface(ctx, leaving); err != nil {
		return err
	}
	start := time.Now()
	if err := a.isAttached(ctx, start, leaving); err != nil {
		return err
	}
	if err := a.eventually(ctx, "an event names the pod that lost its network", time.Minute, func(ctx context.Context) error {
		return a.gone(ctx, a.poolOf(leaving, 4), "of default/"+lost.Name)
	}); err != nil {
		return err
	}
	if _, err := a.Kubectl(ctx, "delete pod --grace-period=1 "+lost.Name); err != nil {
		return err
	}
	if _, err := a.podOn(ctx, leaving); err != nil { // waits until both pods are ready
		return err
	}
	fmt.Fprintf(a.Out, "  a new pod was ready %s after the interface had gone\n", since(start))
	return errors.Join(a.podsAreThere(ctx), a.podsReachPods(ctx), a.nodesReachPods(ctx), a.kubectlAll(ctx, "get spidercloudnetworks -o wide", "get spiderippools -o wide"))
}

// takeInterface detaches the interface of a node, and waits until its link has gone.
func (a *attaching) takeInterface(ctx context.Context, node string) error {
	i, err := a.further(ctx, node)
	if err != nil {
		return err
	}
	if _, err := a.call(ctx, "DetachNetworkInterface", "AttachmentId="+i.Attachment, "Force=true"); err != nil {
		return err
	}
	return a.noLink(ctx, node)
}

// terminate ends the instance of a node. Its interface goes with it.
func (a *attaching) terminate(ctx context.Context) error {
	// The controller must not run on a node that is cut off, and the agent there cannot release addresses any more.
	if err := a.kubectlAll(ctx, "scale -n kube-system deployment/coredns --replicas=0", "cordon "+leaving,
		"delete pod -l run=nginx-lb --timeout=2m --field-selector spec.nodeName="+leaving, "delete pod --timeout=2m "+controllers); err != nil {
		return err
	}
	if err := a.eventually(ctx, "Spiderpool's programs are ready", slow, a.installed); err != nil {
		return err
	}
	if _, err := a.call(ctx, "TerminateInstances", "InstanceId.1="+a.instances[leaving]); err != nil {
		return err
	}
	if err := a.noLink(ctx, leaving); err != nil {
		return err
	}
	state, err := a.cloud(ctx)
	if err != nil {
		return err
	}
	if left := state.own()[a.instances[leaving]]; len(left) > 0 {
		return fmt.Errorf("the instance of %s has gone, and the interfaces %+v are left", leaving, left)
	}
	if err := a.kubectlAll(ctx, "delete node "+leaving, "delete pods --all-namespaces --field-selector spec.nodeName="+leaving+" --force --wait=false"); err != nil {
		return err
	}
	return a.noPools(ctx, leaving)
}

// forget deletes the SpiderCloudNetwork while the interface of a node has no instance. The controller deletes the interface first.
func (a *attaching) forget(ctx context.Context) error {
	if _, err := a.Kubectl(ctx, "delete --timeout=5m deployment nginx-lb"); err != nil {
		return err
	}
	if err := a.noneInUse(ctx); err != nil {
		return err
	}
	if err := a.takeInterface(ctx, staying); err != nil {
		return err
	}
	start := time.Now()
	if _, err := a.Kubectl(ctx, "delete --wait=false spidercloudnetwork "+cloudNetwork); err != nil {
		return err
	}
	if err := a.eventually(ctx, "the condition names the interface that is to be deleted", time.Minute, func(ctx context.Context) error {
		message, err := a.run(ctx, "sh", "-c", "kubectl get spidercloudnetwork "+cloudNetwork+` -o jsonpath='{.status.conditions[?(@.type=="Ready")].message}'`)
		return answers(message, err, "network interfaces without an instance are deleted")
	}); err != nil {
		return err
	}
	if _, err := a.Kubectl(ctx, "wait --for=delete --timeout=5m spidercloudnetwork/"+cloudNetwork); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "  the SpiderCloudNetwork was gone after %s\n", since(start))
	state, err := a.cloud(ctx)
	if err != nil {
		return err
	}
	if left := state.own(); len(left) > 0 {
		return fmt.Errorf("the interfaces %+v are left", left)
	}
	fmt.Fprintf(a.Out, "  calls of EC2: %v, failures: %v\n", state.Calls, state.Failures)
	if err := a.noPools(ctx, slices.Sorted(maps.Keys(a.Nodes))...); err != nil {
		return err
	}
	return a.restore(ctx)
}

// restore gives the lab the cloud and the nodes of the topology again.
func (a *attaching) restore(ctx context.Context) error {
	for _, daemon := range []string{cloudAPI, leaving + "/kubelet"} {
		if _, err := a.Sh(ctx, a.Binary+" daemon "+daemon+" kill"); err != nil {
			return err
		}
	}
	return a.eventually(ctx, "node "+leaving+" is back", slow, func(ctx context.Context) error {
		var node corev1.Node
		return a.Get(ctx, "node "+leaving, &node)
	})
}
