package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// Step is one step of the walk.
type Step struct {
	Title string
	// Demo marks the steps of the demo. The other steps test failures and remove the
	// guide's objects at the end.
	Demo bool
	Run  func(context.Context) error
}

// slow is a generous limit, also for User Mode Linux on a shared processor, for anything
// that takes seconds on a real machine.
const slow = 10 * time.Minute

// guide is the walk on one site.
type guide struct {
	*Lab
	Site
}

// Guide returns the steps of the guide on a lab, in order. Each step needs all earlier
// ones.
func Guide(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	steps := append(g.installation(Step{"A pod without a pool on its node reports why it waits", false, g.waitWithoutPool}), []Step{
		{"The waiting pod starts once it has a pool", false, g.waitingPodStarts},
		{"Invalid objects are refused with the reason", false, g.refuse},
		{"Create the application", true, g.createApplication},
		{"Pods reach nodes", true, g.podsReachNodes},
		{"Pods reach pods", true, g.podsReachPods},
		{"Pods reach ClusterIPs", true, g.podsReachClusterIPs},
		{"Nodes reach pods", true, g.nodesReachPods},
		{"Pods reach the internet", true, g.podsReachInternet},
		{"A load balancer forwards clients to the Service", true, g.loadBalancer},
		{"Paths of an Ingress lead to two applications", true, g.ingress},
	}...)
	if site.Routed {
		steps = append(steps, Step{"A peered VPC reaches the pods", true, g.peerReachesPods})
	}
	steps = append(steps, Step{"Deleted objects release their addresses", false, g.cleanUp})
	if site.Routed {
		steps = append(steps, Step{"macvlan pods start, but reach no other node", false, g.macvlanIsCutOff})
	}
	return steps
}

// Install runs the guide's steps that install the network, up to the pools, with the
// site's manifests. It prints their titles.
func Install(ctx context.Context, lab *Lab, site Site) error {
	g := &guide{lab, site}
	for _, step := range g.installation() {
		fmt.Printf("\n== %s\n", step.Title)
		if err := step.Run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.Title, err)
		}
	}
	return nil
}

// installation returns the steps up to the pools. The withoutPool steps run just before
// the first pool exists.
func (g *guide) installation(withoutPool ...Step) []Step {
	return slices.Concat([]Step{
		{"Put the images into the lab's registry", true, g.loadImages},
		{"Install Spiderpool with Helm", true, g.install},
		{"Describe the network attachment", true, g.attach},
	}, withoutPool, []Step{{"Create a pool for each node", true, g.createPools}})
}

func (g *guide) manifest(name string) string { return filepath.Join(g.Manifests, name) }

func (g *guide) loadImages(ctx context.Context) error {
	archives, err := filepath.Glob(filepath.Join(g.Root, "dist/images/*.tar"))
	if err != nil || len(archives) == 0 {
		return fmt.Errorf("no image in dist/images; run make images: %w", err)
	}
	for _, archive := range archives {
		if _, err := g.Sh(ctx, g.Binary+" image load "+archive); err != nil {
			return err
		}
	}
	return nil
}

func (g *guide) install(ctx context.Context) error {
	if _, err := g.Sh(ctx, "make chart && sh "+g.manifest("00-install.sh")); err != nil {
		return err
	}
	err := g.eventually(ctx, "Spiderpool's programs are ready", slow, g.installed)
	if err != nil {
		return err
	}
	namespace, name, _ := strings.Cut(g.Attachment, "/")
	_, err = g.Kubectl(ctx, fmt.Sprintf("get network-attachment-definitions.k8s.cni.cncf.io -n %s %s", namespace, name))
	return errors.Join(err, g.showPods(ctx, "-n kube-system"))
}

func (g *guide) showPods(ctx context.Context, selection string) error {
	_, err := g.Kubectl(ctx, "get pods -o wide "+selection)
	return err
}

// upgrade changes values of Helm, and waits for Spiderpool's programs.
func (g *guide) upgrade(ctx context.Context, values string) error {
	if _, err := g.Sh(ctx, "helm upgrade spiderpool dist/spiderpool-0.1.0.tgz --namespace kube-system --reset-then-reuse-values --set "+values); err != nil {
		return err
	}
	return g.eventually(ctx, "Spiderpool's programs are ready", slow, g.installed)
}

// installed returns an error that names the first program not yet ready.
func (g *guide) installed(ctx context.Context) error {
	const release = "-n kube-system -l app.kubernetes.io/instance=spiderpool"
	var daemonSets appsv1.DaemonSetList
	var deployments appsv1.DeploymentList
	var jobs batchv1.JobList
	err := errors.Join(g.Get(ctx, "daemonsets "+release, &daemonSets), g.Get(ctx, "deployments "+release, &deployments), g.Get(ctx, "jobs "+release, &jobs))
	if err != nil {
		return err
	}
	if len(daemonSets.Items) < 2 || len(deployments.Items) < 1 {
		return fmt.Errorf("%d DaemonSets and %d Deployments, want agent, multus and controller", len(daemonSets.Items), len(deployments.Items))
	}
	for _, d := range daemonSets.Items {
		if d.Status.ObservedGeneration < d.Generation {
			return fmt.Errorf("DaemonSet %s: the last change is not observed yet", d.Name)
		}
		if s := d.Status; s.DesiredNumberScheduled != int32(len(g.Nodes)) || s.NumberReady != s.DesiredNumberScheduled || s.UpdatedNumberScheduled != s.DesiredNumberScheduled {
			return fmt.Errorf("DaemonSet %s: %d of %d pods are ready", d.Name, s.NumberReady, len(g.Nodes))
		}
	}
	for _, d := range deployments.Items {
		if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas < *d.Spec.Replicas || d.Status.ReadyReplicas < *d.Spec.Replicas {
			return fmt.Errorf("the Deployment %s has %d of %d replicas ready", d.Name, d.Status.ReadyReplicas, *d.Spec.Replicas)
		}
	}
	for _, j := range jobs.Items {
		if j.Status.Succeeded == 0 {
			return fmt.Errorf("the Job %s has not succeeded", j.Name)
		}
	}
	return nil
}

func (g *guide) attach(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+g.manifest("10-spidermultusconfig.yaml")); err != nil {
		return err
	}
	namespace, name, _ := strings.Cut(g.Attachment, "/")
	if _, err := g.Kubectl(ctx, fmt.Sprintf("wait -n %s spidermultusconfig/%s --for=condition=Ready --timeout=60s", namespace, name)); err != nil {
		return err
	}
	_, err := g.Kubectl(ctx, "get spidermultusconfigs.spiderpool.spidernet.io -A")
	if err != nil {
		return err
	}
	config, err := g.Kubectl(ctx, fmt.Sprintf(`get network-attachment-definitions.k8s.cni.cncf.io -n %s %s -o jsonpath='{.spec.config}{"\n"}'`, namespace, name))
	if err == nil && (!strings.Contains(config, `"spiderpool"`) || !strings.Contains(config, `"coordinator"`)) {
		err = fmt.Errorf("the configuration of %s has no spiderpool or coordinator: %s", g.Attachment, config)
	}
	return err
}

func (g *guide) waitWithoutPool(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+g.manifest("early.yaml")); err != nil {
		return err
	}
	return g.eventually(ctx, "an event of the pod says why the pool does not fit", slow, func(ctx context.Context) error {
		var events corev1.EventList
		if err := g.Get(ctx, "events --field-selector involvedObject.name=early", &events); err != nil {
			return err
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, "elsewhere") && strings.Contains(e.Message, "nodeName") && strings.Contains(e.Message, "worker1") && e.Type == corev1.EventTypeWarning {
				fmt.Fprintf(g.Out, "  %s %s: %s\n", e.Type, e.Reason, e.Message)
				var pod corev1.Pod
				if err := g.Get(ctx, "pod early", &pod); err != nil {
					return err
				}
				if pod.Status.Phase != corev1.PodPending {
					return fmt.Errorf("the pod without an address is %s", pod.Status.Phase)
				}
				return nil
			}
		}
		return fmt.Errorf("no such event among %d", len(events.Items))
	})
}

func (g *guide) createPools(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "delete spiderippool elsewhere --ignore-not-found"); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "apply -f "+g.manifest("20-ippools.yaml")); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "wait spiderippool --all --for=condition=Ready --timeout=60s"); err != nil {
		return err
	}
	_, err := g.Kubectl(ctx, "get spiderippools -o wide")
	return err
}

func (g *guide) waitingPodStarts(ctx context.Context) error {
	err := g.eventually(ctx, "the pod that had no pool runs", slow, func(ctx context.Context) error {
		var pod corev1.Pod
		if err := g.Get(ctx, "pod early", &pod); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = g.Kubectl(ctx, "delete pod early --grace-period=1")
	return err
}

// refuse applies every manifest in the directory "refused". Each must be refused with
// every text after "# says:" in it.
func (g *guide) refuse(ctx context.Context) error {
	const directory = "test/e2e/testdata/refused"
	files, err := filepath.Glob(filepath.Join(g.Root, directory, "*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no manifest in %s: %w", directory, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		_, refusal := g.Kubectl(ctx, "apply -f "+filepath.Join(directory, filepath.Base(file)))
		if refusal == nil {
			return fmt.Errorf("%s was accepted", filepath.Base(file))
		}
		for line := range strings.Lines(string(content)) {
			if says, ok := strings.CutPrefix(line, "# says: "); ok {
				if err := refusedWith(refusal, strings.TrimSpace(says)); err != nil {
					return fmt.Errorf("%s: %w", filepath.Base(file), err)
				}
			}
		}
	}
	return nil
}

func (g *guide) createApplication(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "create -f "+g.manifest("30-nginx-lb.yaml")); err != nil {
		return err
	}
	pods, err := g.runningPods(ctx, "run=nginx-lb", 2)
	if err != nil {
		return err
	}
	err = errors.Join(g.showPods(ctx, ""), g.onEveryNode(pods), g.addressesBelongToNodes(pods))
	if err != nil {
		return err
	}
	_, err = g.Kubectl(ctx, "get spiderendpoints")
	return err
}

// runningPods waits for the wanted number of ready pods with the labels. It returns them
// in order of node name.
func (g *guide) runningPods(ctx context.Context, labels string, want int) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := g.eventually(ctx, fmt.Sprintf("%d pods with %s are ready", want, labels), slow, func(ctx context.Context) error {
		if err := g.Get(ctx, "pods -l "+labels, &pods); err != nil {
			return err
		}
		ready := 0
		for _, p := range pods.Items {
			if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}) {
				ready++
			}
		}
		if ready != want || len(pods.Items) != want {
			return fmt.Errorf("%d pods, %d of them ready", len(pods.Items), ready)
		}
		return nil
	})
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Spec.NodeName, b.Spec.NodeName) })
	return pods.Items, err
}

func (g *guide) onEveryNode(pods []corev1.Pod) error {
	for name := range g.Nodes {
		if !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == name }) {
			return fmt.Errorf("no pod runs on %s", name)
		}
	}
	return nil
}

// addressesBelongToNodes checks that each pod has an IPv4 and an IPv6 address from its
// node's prefixes, and that its SpiderEndpoint shows them.
func (g *guide) addressesBelongToNodes(pods []corev1.Pod) error {
	for _, p := range pods {
		node := g.Nodes[p.Spec.NodeName]
		v4, v6, err := addressesOf(p)
		if err != nil {
			return err
		}
		if !node.PodIPv4.Contains(v4) || !node.PodIPv6.Contains(v6) {
			return fmt.Errorf("pod %s on %s has %s and %s, want addresses of %s and %s", p.Name, p.Spec.NodeName, v4, v6, node.PodIPv4, node.PodIPv6)
		}
	}
	return nil
}

// addressesOf returns the IPv4 and the IPv6 address of a pod.
func addressesOf(pod corev1.Pod) (v4, v6 netip.Addr, err error) {
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return v4, v6, fmt.Errorf("pod %s: %w", pod.Name, err)
		}
		if addr.Is4() {
			v4 = addr
		} else {
			v6 = addr
		}
	}
	if !v4.IsValid() || !v6.IsValid() {
		return v4, v6, fmt.Errorf("pod %s has the addresses %v, want one of each IP version", pod.Name, pod.Status.PodIPs)
	}
	return v4, v6, nil
}

// address returns a load balancer's address from the status of the Service or Ingress.
func (g *guide) loadBalancerAddress(ctx context.Context, object string) (string, error) {
	var address string
	err := g.eventually(ctx, "the load balancer of "+object+" has an address", slow, func(ctx context.Context) error {
		var ingress networkingv1.Ingress // a Service's status has the same shape
		if err := g.Get(ctx, object, &ingress); err != nil {
			return err
		}
		for _, point := range ingress.Status.LoadBalancer.Ingress {
			if point.IP != "" {
				address = point.IP
				return nil
			}
		}
		return errors.New("its status has none")
	})
	return address, err
}

// leases returns the addresses in use according to the blocks.
func (g *guide) leases(ctx context.Context) ([]v2beta1.Lease, error) {
	var blocks v2beta1.SpiderIPBlockList
	if err := g.Get(ctx, "spideripblocks", &blocks); err != nil {
		return nil, err
	}
	var held []v2beta1.Lease
	for _, block := range blocks.Items {
		for _, lease := range block.Spec.Leases {
			if lease.State != v2beta1.LeaseReleased && lease.State != v2beta1.LeaseWithheld {
				held = append(held, lease)
			}
		}
	}
	return held, nil
}
