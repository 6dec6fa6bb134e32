package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	guardedManifest = "test/e2e/testdata/antispoof/guarded.yaml"
	exemptManifest  = "test/e2e/testdata/antispoof/exempt.yaml"
	// exempted is the address in the annotation of the exempt pod.
	exempted = "192.0.2.50"
	// guardLabel permits exceptions in a namespace.
	guardLabel = "ipam.spidernet.io/allow-source-addresses"
)

// AntiSpoofing returns the steps that switch on antiSpoof with the commands of its guide, send forged frames from each
// interface of a pod, and try an exception without and with permission. They need the installation from Guide.
func AntiSpoofing(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Forged frames leave a pod without antiSpoof", false, g.forgeriesPassUnguarded},
		{"Forged frames of every interface are dropped", false, g.forgeriesAreDropped},
		{"Ordinary traffic of a guarded pod passes", false, g.guardedPodWorks},
		{"An exception needs the permission of the namespace", false, g.exceptionNeedsLabel},
		{"Switch antiSpoof off again", false, g.unguard},
	}
}

// antiSpoof runs the commands of the guide, with further values of Helm.
func (g *guide) antiSpoof(ctx context.Context, value string, further ...string) error {
	if _, err := g.Kubectl(ctx, `patch spidercoordinator default --type merge --patch '{"spec":{"antiSpoof":`+value+`}}'`); err != nil {
		return err
	}
	return g.upgrade(ctx, strings.Join(append(further, "coordinator.antiSpoof="+value), ","))
}

// forgeriesPassUnguarded shows that the test hears forged frames.
func (g *guide) forgeriesPassUnguarded(ctx context.Context) error {
	if err := g.LoadPackets(ctx); err != nil {
		return err
	}
	pod, err := g.guarded(ctx)
	if err != nil {
		return err
	}
	heard, forged, err := g.forge(ctx, pod, "eth0", "")
	if err != nil {
		return err
	}
	for _, name := range []string{"IPv4 of another pod", "ARP of the gateway", "neighbor advertisement of the gateway"} {
		if !forged[name].sent || !slices.Contains(heard, name) {
			return fmt.Errorf("the node did not hear the forged frame %q, only %q", name, heard)
		}
	}
	_, err = g.Kubectl(ctx, "delete --timeout=5m pod guarded")
	return err
}

// guarded returns the pod of the manifest, after it has created it if necessary.
func (g *guide) guarded(ctx context.Context) (corev1.Pod, error) {
	if err := g.applyPods(ctx, guardedManifest); err != nil {
		return corev1.Pod{}, err
	}
	pods, err := g.runningPods(ctx, "run=guarded", 1)
	if err != nil {
		return corev1.Pod{}, err
	}
	return pods[0], nil
}

func (g *guide) forgeriesAreDropped(ctx context.Context) error {
	if err := g.antiSpoof(ctx, "true"); err != nil {
		return err
	}
	pod, err := g.guarded(ctx)
	if err != nil {
		return err
	}
	for _, device := range []string{"eth0", "net1", "veth0"} {
		if err := g.forgeriesFollowRules(ctx, pod, device, ""); err != nil {
			return err
		}
	}
	return g.guardCountsDrops(ctx, pod)
}

// drops matches the counters of the rules that drop.
var drops = regexp.MustCompile(`counter packets (\d+) bytes \d+ drop`)

// guardCountsDrops looks at the counters with the command of the guide.
func (g *guide) guardCountsDrops(ctx context.Context, pod corev1.Pod) error {
	rules, err := g.Exec(ctx, pod.Spec.NodeName, fmt.Sprintf("for ns in /run/netns/*; do "+
		"nsenter --net=$ns ip -o address | grep -qw %s && nsenter --net=$ns nft list table netdev spiderpool-guard; done; true", pod.Status.PodIP))
	if err != nil {
		return err
	}
	sum := 0
	for _, match := range drops.FindAllStringSubmatch(rules, -1) {
		n, err := strconv.Atoi(match[1])
		if err != nil {
			return err
		}
		sum += n
	}
	if sum == 0 {
		return fmt.Errorf("the rules count no dropped frames: %s", rules)
	}
	return nil
}

// forgery is a frame that a pod has sent.
type forgery struct{ sent, passes bool }

// forge sends forged frames from an interface of a pod, and returns the names of those that the node hears, and all by
// name.
func (g *guide) forge(ctx context.Context, pod corev1.Pod, device, permitted string) (heard []string, forged map[string]forgery, err error) {
	interfaces, err := interfacesOf(pod)
	if err != nil {
		return nil, nil, err
	}
	own := interfaces[device]
	if device == "veth0" {
		own = interfaces["eth0"]
	}
	if len(own) != 2 {
		return nil, nil, fmt.Errorf("pod %s has the addresses %v for %s, want one of each IP version", pod.Name, own, device)
	}
	token := fmt.Sprintf("%s-%d", device, time.Now().UnixNano())
	file := "/run/heard-" + token
	node := pod.Spec.NodeName
	if _, err := g.Exec(ctx, node, fmt.Sprintf("setsid %s/%s hear %s >%s 2>&1 </dev/null &", g.Root, packetsProgram, token, file)); err != nil {
		return nil, nil, err
	}
	read := func(line string) error {
		return g.eventually(ctx, "the node says "+line, slow, func(ctx context.Context) error {
			out, err := g.run(ctx, g.Binary, "exec", node, "--", "cat", file)
			heard = strings.Split(out, "\n")
			if err == nil && !slices.Contains(heard, line) {
				err = errors.New(out)
			}
			return err
		})
	}
	if err := read("listening"); err != nil {
		return nil, nil, err
	}
	out, err := g.inPod(ctx, pod, fmt.Sprintf("/packets forge -permit='%s' %s %s %s %s", permitted, device, token, own[0], own[1]))
	if err != nil {
		return nil, nil, err
	}
	if err := read("heard the last frame"); err != nil {
		return nil, nil, err
	}
	for i, line := range heard {
		heard[i] = strings.TrimPrefix(line, "heard ")
	}
	forged = map[string]forgery{}
	for line := range strings.Lines(out) {
		passes, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		forged[name] = forgery{true, passes == "true"}
	}
	return heard, forged, nil
}

// forgeriesFollowRules compares what the node hears with the rules of antiSpoof.
func (g *guide) forgeriesFollowRules(ctx context.Context, pod corev1.Pod, device, permitted string) error {
	heard, forged, err := g.forge(ctx, pod, device, permitted)
	if err != nil {
		return err
	}
	var errs []error
	dropped := 0
	for name, f := range forged {
		if got := slices.Contains(heard, name); got != f.passes {
			errs = append(errs, fmt.Errorf("%s of %s: %q passes: %v, want %v", device, pod.Name, name, got, f.passes))
		} else if !got {
			dropped++
		}
	}
	if dropped < 20 {
		errs = append(errs, fmt.Errorf("%s of %s: only %d of %d frames were dropped", device, pod.Name, dropped, len(forged)))
	}
	fmt.Fprintf(g.Out, "  %s of %s: %d of %d frames dropped\n", device, pod.Name, dropped, len(forged))
	return errors.Join(errs...)
}

// guardedPodWorks connects to and from the guarded pod: the nodes, another pod, and the API server's ClusterIPs.
func (g *guide) guardedPodWorks(ctx context.Context) error {
	pod, err := g.guarded(ctx)
	if err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "run other --image="+PacketsImage+` --overrides='{"spec":{"nodeSelector":{"kubernetes.io/hostname":"master"},"terminationGracePeriodSeconds":1}}' -- serve 80`); err != nil {
		return err
	}
	others, err := g.runningPods(ctx, "run=other", 1)
	if err != nil {
		return err
	}
	own, err := interfacesOf(pod)
	if err != nil {
		return err
	}
	theirs, err := interfacesOf(others[0])
	if err != nil {
		return err
	}
	var api corev1.Service
	if err := g.Get(ctx, "service kubernetes", &api); err != nil {
		return err
	}
	clusterIP, err := netip.ParseAddr(api.Spec.ClusterIP)
	if err != nil {
		return err
	}
	targets := targetsOf(theirs["eth0"], 80, "tcp", "udp", "sctp")
	if err := errors.Join(
		g.allAnswer(ctx, pod, targets...),
		g.allAnswer(ctx, others[0], targetsOf(slices.Concat(own["eth0"], own["net1"]), 80, "tcp", "udp", "sctp")...),
	); err != nil {
		return err
	}
	if _, err := g.inPod(ctx, pod, fmt.Sprintf("/packets reach %s", netip.AddrPortFrom(clusterIP, 443))); err != nil {
		return err
	}
	for host, node := range g.Nodes {
		for _, a := range slices.Concat(own["eth0"], own["net1"]) {
			if _, err := g.Exec(ctx, host, fmt.Sprintf("%s/%s reach %s", g.Root, packetsProgram, netip.AddrPortFrom(a, 80))); err != nil {
				return err
			}
		}
		// The kubelet.
		for _, a := range node.addresses() {
			if _, err := g.inPod(ctx, pod, fmt.Sprintf("/packets reach %s", netip.AddrPortFrom(a, 10250))); err != nil {
				return err
			}
		}
	}
	_, err = g.Kubectl(ctx, "delete --timeout=5m pod other guarded")
	return err
}

func (g *guide) exceptionNeedsLabel(ctx context.Context) error {
	if err := g.applyPods(ctx, exemptManifest); err != nil {
		return err
	}
	if err := g.eventually(ctx, "an event says that the namespace does not permit it", slow, func(ctx context.Context) error {
		return g.eventSays(ctx, "exempt", guardLabel)
	}); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "label namespace default "+guardLabel+"=true"); err != nil {
		return err
	}
	pods, err := g.runningPods(ctx, "run=exempt", 1)
	if err != nil {
		return err
	}
	if err := g.forgeriesFollowRules(ctx, pods[0], "eth0", exempted); err != nil {
		return err
	}
	return g.kubectlAll(ctx, "label namespace default "+guardLabel+"-", "delete --timeout=5m pod exempt")
}

func (g *guide) unguard(ctx context.Context) error { return g.antiSpoof(ctx, "false") }
