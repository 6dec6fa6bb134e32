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

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
)

const (
	flowsManifest = "test/e2e/testdata/flows/pods.yaml"
	relayName     = "spiderpool-hubble-relay"
	// clientFiles is the directory of the client certificate, relative to the root.
	clientFiles = "dist/e2e/hubble"
	// agentPort is the port on which agents serve flows.
	agentPort = 5712
	// shown is the limit for a flow to be shown.
	shown = time.Minute
)

// observation are the values of Helm that Flows sets, and restores at its end.
const (
	observation   = "observability.enabled=true,observability.relay.enabled=true,service.mode=ebpf"
	noObservation = "observability.enabled=false,observability.relay.enabled=false,service.mode=kubeproxy"
)

// Flows returns the steps that observe the connections of pods on both nodes, and read them with the unmodified programs of
// Hubble, by the commands of the guide. They need the installation from Guide.
func Flows(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Observe connections with hubble-relay", false, g.observeFlows},
		{"hubble shows both nodes", false, g.hubbleShowsNodes},
		{"The flow log equals that of tcpdump", false, g.flowsEqualTcpdump},
		{"A flow names the Service and its backend", false, g.flowNamesService},
		{"Each verdict of the policies has its flow", false, g.verdictsAreFlows},
		{"Packets that anti-spoofing drops are shown", false, g.forgeriesAreFlows},
		{"spiderpoolctl shows the flows of a node", false, g.spiderpoolctlObserves},
		{"Flows need a client certificate", false, g.flowsNeedCertificate},
		{"A killed agent loses its buffer only", false, g.flowsAfterCrash},
		{"Observe no longer", false, g.ignoreFlows},
	}
}

func (g *guide) observeFlows(ctx context.Context) error {
	if err := g.LoadPackets(ctx); err != nil {
		return err
	}
	// The guide removes the cluster's DNS at its end.
	if _, err := g.Kubectl(ctx, "scale -n kube-system deployment/coredns --replicas=1"); err != nil {
		return err
	}
	if err := g.antiSpoof(ctx, "true", observation); err != nil {
		return err
	}
	if err := g.kubectlAll(ctx, "apply -f "+policyManifest, "apply -f "+policiesManifest, "apply -f "+flowsManifest); err != nil {
		return err
	}
	_, err := g.flowPods(ctx)
	return errors.Join(err, g.saveClientCertificate(ctx))
}

func (g *guide) ignoreFlows(ctx context.Context) error {
	if err := g.kubectlAll(ctx, "delete --timeout=5m -f "+flowsManifest, "delete -f "+policiesManifest, "delete --timeout=5m -f "+policyManifest,
		"scale -n kube-system deployment/coredns --replicas=0"); err != nil {
		return err
	}
	return g.antiSpoof(ctx, "false", noObservation)
}

// flowPods returns the pods of the steps by name, once they are ready.
func (g *guide) flowPods(ctx context.Context) (map[string]corev1.Pod, error) {
	others, err := g.runningPods(ctx, "run=policy", policyPods)
	if err != nil {
		return nil, err
	}
	servers, err := g.runningPods(ctx, "run=flows", 1)
	pods := map[string]corev1.Pod{}
	for _, pod := range append(others, servers...) {
		pods[pod.Name] = pod
	}
	return pods, err
}

// saveClientCertificate writes the files of the Secret for clients.
func (g *guide) saveClientCertificate(ctx context.Context) error {
	var secret corev1.Secret
	if err := g.Get(ctx, "secret -n kube-system spiderpool-flows-client-certs", &secret); err != nil {
		return err
	}
	dir := filepath.Join(g.Root, clientFiles)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, content := range secret.Data {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

const (
	withCA          = " --tls --tls-ca-cert-files ca.crt"
	withCertificate = withCA + " --tls-client-cert-file tls.crt --tls-client-key-file tls.key"
	ofRelay         = " --tls-server-name " + relayName + ".kube-system.svc"
	ofAgents        = " --tls-server-name spiderpool-agent-flows.kube-system.svc"
)

// hubbleAt returns the command line that runs hubble on a node against a server.
func (g *guide) hubbleAt(server, tls, arguments string) string {
	return fmt.Sprintf("cd %s/%s && HOME=$PWD %s/bin/hubble --server %s%s %s", g.Root, clientFiles, g.Root, server, tls, arguments)
}

// hubble runs hubble on a node against hubble-relay.
func (g *guide) hubble(ctx context.Context, arguments string) (string, error) {
	var relay corev1.Service
	if err := g.Get(ctx, "service -n kube-system "+relayName, &relay); err != nil {
		return "", err
	}
	fmt.Fprintf(g.Out, "$ hubble %s\n", arguments)
	return g.run(ctx, g.Binary, "exec", "master", "--", "sh", "-c", g.hubbleAt(relay.Spec.ClusterIP+":443", withCertificate+ofRelay, arguments))
}

// flowsOf returns the flows that hubble shows since a time.
func (g *guide) flowsOf(ctx context.Context, since time.Time, filters string) (flows []*flowpb.Flow, err error) {
	out, err := g.hubble(ctx, fmt.Sprintf("observe --since %s %s -o json", since.UTC().Format("2006-01-02T15:04:05.000Z"), filters))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		var answer observerpb.GetFlowsResponse
		if err := protojson.Unmarshal([]byte(line), &answer); err != nil {
			return nil, fmt.Errorf("hubble printed %s: %w", line, err)
		}
		if f := answer.GetFlow(); f != nil {
			flows = append(flows, f)
		}
	}
	return flows, nil
}

// hubbleShowsNodes uses the relay from this machine, with the commands of the guide.
func (g *guide) hubbleShowsNodes(ctx context.Context) error {
	return g.eventually(ctx, "hubble-relay has both nodes", slow, func(ctx context.Context) error {
		out, err := g.Sh(ctx, "kubectl -n kube-system port-forward svc/"+relayName+" 4245:443 >"+clientFiles+"/forward.log & forward=$!; trap 'kill $forward' EXIT\n"+
			"until grep -q Forwarding "+clientFiles+"/forward.log; do kill -0 $forward || exit 1; sleep 0.1; done\n"+
			"("+g.hubbleAt("localhost:4245", withCertificate+ofRelay, "list nodes")+") && "+g.hubbleAt("localhost:4245", withCertificate+ofRelay, "status"))
		if err != nil {
			return err
		}
		if n := strings.Count(out, " Connected "); n != len(g.Nodes) || !strings.Contains(out, fmt.Sprintf("Connected Nodes: %d/%[1]d", len(g.Nodes))) {
			return fmt.Errorf("hubble shows %d connected nodes", n)
		}
		return nil
	})
}

// flowNamesService connects to the first ClusterIP; see ADR 31 for the second one. The flow has the Service before the translation, and the backend behind it.
func (g *guide) flowNamesService(ctx context.Context) error {
	if err := g.nodesSayEBPF(ctx); err != nil {
		return err
	}
	pods, err := g.flowPods(ctx)
	if err != nil {
		return err
	}
	var web corev1.Service
	if err := g.Get(ctx, "service web", &web); err != nil {
		return err
	}
	ip, err := netip.ParseAddr(web.Spec.ClusterIP)
	if err != nil {
		return err
	}
	started := time.Now()
	if _, err := g.inPod(ctx, pods["friend"], "/packets reach "+netip.AddrPortFrom(ip, 8000).String()); err != nil {
		return err
	}
	return g.eventually(ctx, "the flow names the Service", shown, func(ctx context.Context) error {
		flows, err := g.flowsOf(ctx, started, "--from-pod default/friend --to-service default/web")
		if err != nil {
			return err
		}
		for _, f := range flows {
			if f.GetDestination().GetPodName() != "nginx" || f.GetL4().GetTCP().GetDestinationPort() != 80 {
				return fmt.Errorf("the flow has another backend: %v", f)
			}
		}
		if len(flows) == 0 {
			return errors.New("no flow does")
		}
		return nil
	})
}

// addrsOf returns the addresses of a pod.
func addrsOf(pod corev1.Pod) (addrs []netip.Addr) {
	for _, ip := range pod.Status.PodIPs {
		addrs = append(addrs, netip.MustParseAddr(ip.IP))
	}
	return addrs
}

// forgeriesAreFlows sends frames of other addresses from a pod.
func (g *guide) forgeriesAreFlows(ctx context.Context) error {
	pods, err := g.flowPods(ctx)
	if err != nil {
		return err
	}
	v4, v6, err := addressesOf(pods["nginx"])
	if err != nil {
		return err
	}
	started := time.Now()
	if _, err := g.inPod(ctx, pods["nginx"], fmt.Sprintf("/packets forge eth0 token %s %s", v4, v6)); err != nil {
		return err
	}
	return g.eventually(ctx, "forged packets of both families are shown", shown, func(ctx context.Context) error {
		flows, err := g.flowsOf(ctx, started, "--verdict DROPPED --drop-reason-desc INVALID_SOURCE_IP --from-pod default/nginx")
		if err != nil {
			return err
		}
		families := map[bool]bool{}
		for _, f := range flows {
			source, err := netip.ParseAddr(f.GetIP().GetSource())
			if err != nil || f.GetTrafficDirection() != flowpb.TrafficDirection_EGRESS {
				return fmt.Errorf("the flow is not that of a forged packet: %v", f)
			}
			if source != v4 && source != v6 { // otherwise, the MAC is forged
				families[source.Is4()] = true
			}
		}
		if len(families) != 2 {
			return fmt.Errorf("%d flows, of the families %v", len(flows), families)
		}
		return nil
	})
}

func (g *guide) spiderpoolctlObserves(ctx context.Context) error {
	agents, err := g.agents(ctx)
	if err != nil {
		return err
	}
	var all []string
	for _, agent := range agents {
		out, err := g.Kubectl(ctx, "exec -n kube-system "+agent.Name+" -c agent -- spiderpoolctl observe --verdict DROPPED --last 200")
		if err != nil {
			return err
		}
		all = append(all, out)
	}
	text := strings.Join(all, "")
	for _, want := range []string{
		"-> default/closed-1:81 ingress eth0 DROPPED (POLICY_DENIED) by NetworkPolicy default/closed TCP Flags: SYN",
		"egress eth0 DROPPED (POLICY_DENIED) by NetworkPolicy default/caged",
		"default/nginx", "(INVALID_SOURCE_IP)",
	} {
		if !strings.Contains(text, want) {
			return fmt.Errorf("spiderpoolctl observe does not print %q", want)
		}
	}
	return nil
}

// flowsNeedCertificate asks hubble-relay and an agent with and without a client certificate.
func (g *guide) flowsNeedCertificate(ctx context.Context) error {
	var relay corev1.Service
	if err := g.Get(ctx, "service -n kube-system "+relayName, &relay); err != nil {
		return err
	}
	servers := map[string]string{
		relay.Spec.ClusterIP + ":443":                            ofRelay,
		fmt.Sprintf("%s:%d", g.Nodes["worker1"].IPv4, agentPort): ofAgents,
	}
	for server, name := range servers {
		for _, c := range []struct {
			tls  string
			open bool
		}{{withCertificate + name, true}, {withCA + name, false}, {"", false}} {
			out, err := g.Exec(ctx, "master", g.hubbleAt(server, c.tls, "status --timeout 3s 2>&1"))
			if (err == nil) != c.open {
				return fmt.Errorf("hubble status of %s with the flags %q: error %v, want access: %v: %s", server, c.tls, err, c.open, out)
			}
		}
	}
	return nil
}

// flowsAfterCrash kills the agents while a pod opens a hundred connections a second. The next agents show the flows since the
// end of the former ones, from before their own start on.
func (g *guide) flowsAfterCrash(ctx context.Context) error {
	pods, err := g.flowPods(ctx)
	if err != nil {
		return err
	}
	v4, _, err := addressesOf(pods["open-1"])
	if err != nil {
		return err
	}
	probes := "exec friend -- /packets "
	if _, err := g.Kubectl(ctx, probes+"start tcp/"+netip.AddrPortFrom(v4, 80).String()+"="+Answered); err != nil {
		return err
	}
	killed := time.Now()
	crashed := g.crashAgents(ctx)
	counts, err := g.Kubectl(ctx, probes+"stop") // more flows would push those of the crash out of the ring
	if err := errors.Join(crashed, err, rightCounts("friend", counts)); err != nil {
		return err
	}
	return g.eventually(ctx, "both nodes show the flows since the crash", shown, func(ctx context.Context) error {
		flows, err := g.flowsOf(ctx, killed, "--from-pod default/friend --to-pod default/open-1")
		if err != nil {
			return err
		}
		first := map[string]time.Time{}
		for _, f := range slices.Backward(flows) {
			first[f.GetNodeName()] = f.GetTime().AsTime()
		}
		if len(first) != len(g.Nodes) {
			return fmt.Errorf("flows of the nodes %v", first)
		}
		agents, err := g.agents(ctx)
		if err != nil {
			return err
		}
		for _, agent := range agents {
			running := agent.Status.ContainerStatuses[0].State.Running
			if at := first[agent.Spec.NodeName]; running == nil || !at.Before(running.StartedAt.Time) {
				return fmt.Errorf("node %s shows flows from %s on only: its agent runs %v", agent.Spec.NodeName, at, running)
			}
		}
		for node, at := range first {
			fmt.Fprintf(g.Out, "  %s shows flows from %s after the end of its agent\n", node, at.Sub(killed).Round(10*time.Millisecond))
		}
		return nil
	})
}
