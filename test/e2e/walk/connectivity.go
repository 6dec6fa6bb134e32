package walk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/test/docblocks"
)

// connectivityNamespace has the pods of the steps, so that each fault needs no new pods.
const connectivityNamespace = "connectivity-e2e"

// planted is a fault for connectivity test.
type planted struct {
	title string
	// flags are those of the command: the kept pods by default.
	flags string
	// plant makes the fault, and heal removes it.
	plant, heal func(context.Context) error
	// finding is in the text "subject: problem" of a finding.
	finding string
}

// Connectivity returns the steps that run spiderpoolctl connectivity test: first everything works, then
// each step plants one fault, and the command has to name it. They need the installation from Guide. A routed
// network has one fault only: it drops all VLANs, and its nodes run in User Mode Linux, which has VLANs.
func Connectivity(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	if site.Routed {
		vlan := planted{"dropped VLAN", "--attachment kube-system/dropped-vlan", g.createFaultyNetworks, g.cleanUpConnectivity,
			"network kube-system/dropped-vlan: VLAN 100 carries no frames between node master and the others: on ens5.100, neither pods of other nodes nor gateways answer ARP or NDP"}
		return []Step{{"Name the fault: " + vlan.title, false, func(ctx context.Context) error { return g.nameFault(ctx, vlan) }}}
	}
	steps := []Step{
		{"Create networks with faults, and a namespace", false, g.prepareConnectivity},
		{"Every path works", false, g.everyPathWorks},
	}
	name := func(faults []planted) {
		for _, p := range faults {
			steps = append(steps, Step{"Name the fault: " + p.title, false, func(ctx context.Context) error { return g.nameFault(ctx, p) }})
		}
	}
	name(g.plantedFaults())
	steps = append(steps, Step{"Delete the kept pods", false, func(ctx context.Context) error {
		return g.kubectlAll(ctx, "delete namespace --timeout=5m "+connectivityNamespace)
	}})
	name(g.faultsOfStart())
	return append(steps, Step{"helm test runs the command", false, g.helmTest}, Step{"Ctrl-C leaves nothing", false, g.interruptConnectivity},
		Step{"Delete the networks with faults", false, g.cleanUpConnectivity})
}

func (g *guide) prepareConnectivity(ctx context.Context) error {
	if err := g.kubectlAll(ctx, "create namespace "+connectivityNamespace, "label namespace "+connectivityNamespace+" pod-security.kubernetes.io/enforce=privileged"); err != nil {
		return err
	}
	return g.createFaultyNetworks(ctx)
}

func (g *guide) createFaultyNetworks(ctx context.Context) error {
	// The guide removes the cluster's DNS at its end.
	return g.kubectlAll(ctx, "scale -n kube-system deployment/coredns --replicas=1", "apply -f "+g.manifest("connectivity.yaml"),
		"wait spiderippool --all --for=condition=Ready --timeout=60s", "wait -n kube-system spidermultusconfig --all --for=condition=Ready --timeout=60s",
		"rollout status -n kube-system deployment/coredns --timeout=120s")
}

// connectivity runs the command and returns its findings as "subject: problem".
func (g *guide) connectivity(ctx context.Context, flags string) (findings []string, err error) {
	const command = "bin/spiderpoolctl connectivity test -o json "
	fmt.Fprintf(g.Out, "$ %s%s\n", command, flags)
	out, err := g.run(ctx, "sh", "-c", command+flags)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return nil, err
	}
	var result struct {
		Findings []struct{ Subject, Problem, Remedy string }
		Probes   []struct{ Answer struct{ Fault string } }
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	failed := 0
	for _, p := range result.Probes {
		if p.Answer.Fault != "" {
			failed++
		}
	}
	fmt.Fprintf(g.Out, "  %d probes, %d failed\n", len(result.Probes), failed)
	for _, f := range result.Findings {
		fmt.Fprintf(g.Out, "  %s: %s. %s\n", f.Subject, f.Problem, f.Remedy)
		findings = append(findings, f.Subject+": "+f.Problem)
	}
	if failed > 0 != (err != nil) && len(result.Findings) == 0 {
		return nil, fmt.Errorf("%d probes failed, but the command ended with %v", failed, err)
	}
	return findings, nil
}

const keptPods = "--keep --namespace " + connectivityNamespace

func (g *guide) everyPathWorks(ctx context.Context) error {
	findings, err := g.connectivity(ctx, keptPods)
	if err == nil && len(findings) > 0 {
		err = errors.New(strings.Join(findings, "\n"))
	}
	return err
}

// shownFindings are the outputs in the pages, by the title of the fault.
var shownFindings = map[string]string{"wrong gateway in the pool": "connectivity-gateway"}

// nameFault plants a fault, runs the command, and heals the fault.
func (g *guide) nameFault(ctx context.Context, p planted) error {
	if err := p.plant(ctx); err != nil {
		return errors.Join(err, p.heal(ctx))
	}
	findings, err := g.connectivity(ctx, p.flags)
	if err == nil && !strings.Contains(strings.Join(findings, "\n"), p.finding) {
		err = fmt.Errorf("no finding has %q:\n%s", p.finding, strings.Join(findings, "\n"))
	}
	if output := shownFindings[p.title]; err == nil && output != "" {
		err = docblocks.Shows(output, strings.Join(findings, "\n"))
	}
	return errors.Join(err, p.heal(ctx))
}

// plantedFaults are those that this lab can have. The network namespaces of the pods are those of
// first-0 on master and last-1 on worker1.
func (g *guide) plantedFaults() []planted {
	inPod := func(pod, command string) func(context.Context) error {
		return func(ctx context.Context) error { return g.inNetwork(ctx, pod, command) }
	}
	on := func(host, command string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := g.Exec(ctx, host, command)
			return err
		}
	}
	cluster := func(arguments ...string) func(context.Context) error {
		return func(ctx context.Context) error { return g.kubectlAll(ctx, arguments...) }
	}
	return []planted{
		{"no default route in a pod", keptPods, inPod("first-0", "ip route del default"), inPod("first-0", "ip route add default via 10.6.0.1 dev eth0"),
			"pod first-0 on node master: it has no default route for IPv4, although gateway 10.6.0.1 of SpiderIPPool lan-v4"},
		{"network policy", keptPods, cluster("apply -n " + connectivityNamespace + " -f test/e2e/testdata/l2/connectivity-policy.yaml"),
			cluster("delete -n " + connectivityNamespace + " -f test/e2e/testdata/l2/connectivity-policy.yaml"),
			"network policy: ingress of last-0 is denied: no rule of " + connectivityNamespace + "/closed allows it"},
		{"small MTU between the nodes", keptPods, on("worker1", smallMTU), on("worker1", "nft delete table netdev connectivity"),
			"network " + g.Attachment + ": interface eth0 of pods has MTU 1500, but between nodes master and worker1 such packets are lost; packets of 1400 bytes pass"},
		{"route of a node to its pod", keptPods, func(ctx context.Context) error { return g.moveHostRoute(ctx, "del") }, func(ctx context.Context) error { return g.moveHostRoute(ctx, "add") },
			"node worker1: its route to pod last-1"},
		{"address used twice", keptPods, func(ctx context.Context) error { return g.impostor(ctx, "add") }, func(ctx context.Context) error { return g.impostor(ctx, "del") },
			"two hosts use it: pod last-1 on node worker1 has it"},
		{"strict rp_filter in a pod", keptPods, g.strictFilter, inPod("last-1", "sh -c 'ip link del other; sysctl -w net.ipv4.conf.eth0.rp_filter=0'"),
			"pod last-1 on node worker1: rp_filter is strict (net/ipv4/conf/eth0/rp_filter is 1), so the kernel drops packets from "},
	}
}

// faultsOfStart are those of pods that start with the fault.
func (g *guide) faultsOfStart() []planted {
	nothing := func(context.Context) error { return nil }
	return []planted{
		{"wrong gateway in the pool", "--attachment kube-system/wrong-gateway", nothing, nothing,
			"SpiderIPPool wrong-gateway: no host answers for its gateway 10.6.0.253, although other nodes answer on the same network"},
		{"full pool", "--attachment kube-system/full --timeout 15s", nothing, nothing, "it gets no IPv4 address, because its pools are full"},
		{"dead agent", "--keep --node worker1 --timeout 10s", g.withoutAgentOn("worker1"), g.withAgents, "node worker1: it has no spiderpool-agent, so no new pod gets an address there"},
	}
}

// smallMTU drops UDP packets of more than 1400 bytes. A switch would drop TCP, too, but here the kernel joins
// the packets of a connection before the rule sees them.
const smallMTU = `nft -f - <<-END
	table netdev connectivity {
		chain small { type filter hook ingress device "ens5" priority 0; meta l4proto udp meta length > 1400 drop; }
	}
	END`

// inNetwork runs a command in the network namespace of a pod of the test.
func (g *guide) inNetwork(ctx context.Context, name, command string) error {
	var pod corev1.Pod
	if err := g.Get(ctx, "pod -n "+connectivityNamespace+" "+name, &pod); err != nil {
		return err
	}
	_, err := g.Exec(ctx, pod.Spec.NodeName, fmt.Sprintf(`for pid in $(pidof spiderpoolctl); do
		if tr '\0' ' ' </proc/$pid/cmdline | grep -q -- '--name %s '; then exec nsenter --net=/proc/$pid/ns/net %s; fi
	done; exit 1`, name, command))
	return err
}

// moveHostRoute deletes the route of worker1 to last-1, or adds it again.
func (g *guide) moveHostRoute(ctx context.Context, verb string) error {
	v4, err := g.addressOf(ctx, "last-1")
	if err != nil {
		return err
	}
	command := fmt.Sprintf("ip route show table 500 %[1]s >/run/connectivity-route && ip route del %[1]s table 500", v4)
	if verb == "add" {
		command = "ip route add $(cat /run/connectivity-route) table 500"
	}
	_, err = g.Exec(ctx, "worker1", command)
	return err
}

// addressOf returns the IPv4 address of a pod of the test.
func (g *guide) addressOf(ctx context.Context, name string) (netip.Addr, error) {
	var pod corev1.Pod
	if err := g.Get(ctx, "pod -n "+connectivityNamespace+" "+name, &pod); err != nil {
		return netip.Addr{}, err
	}
	v4, _, err := addressesOf(pod)
	return v4, err
}

// impostor gives the host peer the address of last-1. The pod does not answer ARP meanwhile, so the
// impostor is the faster one.
func (g *guide) impostor(ctx context.Context, verb string) error {
	v4, err := g.addressOf(ctx, "last-1")
	if err != nil {
		return err
	}
	ignore := "8"
	if verb == "del" {
		ignore = "0"
	}
	_, err = g.Exec(ctx, "peer", fmt.Sprintf("ip address %s %s/32 dev eth0", verb, v4))
	return errors.Join(err, g.inNetwork(ctx, "last-1", "sysctl -w net.ipv4.conf.eth0.arp_ignore="+ignore), g.inNetwork(ctx, "first-0", "ip neigh flush dev eth0"))
}

// strictFilter gives last-1 a second interface on the same network, by which its replies to first-0 leave. Every path
// still works, until the filter of the first interface is strict.
func (g *guide) strictFilter(ctx context.Context) error {
	var client corev1.Pod
	if err := g.Get(ctx, "pod -n "+connectivityNamespace+" first-0", &client); err != nil {
		return err
	}
	_, mac, err := g.kernelAddresses(ctx, client)
	if err != nil {
		return err
	}
	from, _, err := addressesOf(client)
	if err != nil {
		return err
	}
	own, err := g.addressOf(ctx, "last-1")
	if err != nil {
		return err
	}
	if err := g.inNetwork(ctx, "last-1", fmt.Sprintf(`sh -ec 'ip link add link eth0 name other type macvlan mode bridge
		sysctl -w net.ipv4.conf.other.arp_ignore=1
		ip link set other up
		ip neigh add %[1]s lladdr %[2]s dev other nud permanent
		ip route add %[1]s dev other src %[3]s'`, from, mac, own)); err != nil {
		return err
	}
	if err := g.everyPathWorks(ctx); err != nil {
		return fmt.Errorf("with two ways and a loose filter: %w", err)
	}
	return g.inNetwork(ctx, "last-1", "sysctl -w net.ipv4.conf.eth0.rp_filter=1")
}

// withoutAgentOn removes the agent of one node.
func (g *guide) withoutAgentOn(node string) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := g.Kubectl(ctx, `patch -n kube-system daemonset spiderpool-agent -p '{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"master"}}}}}'`); err != nil {
			return err
		}
		return g.eventually(ctx, "the agent of "+node+" has stopped", slow, func(ctx context.Context) error {
			var pods corev1.PodList
			if err := g.Get(ctx, "pods -n kube-system -l app.kubernetes.io/component=agent", &pods); err != nil {
				return err
			}
			if len(pods.Items) != 1 || pods.Items[0].Spec.NodeName == node {
				return fmt.Errorf("there are %d agents", len(pods.Items))
			}
			return nil
		})
	}
}

// withAgents brings the agents of all nodes back. Pods that no agent served end only then.
func (g *guide) withAgents(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, `patch -n kube-system daemonset spiderpool-agent -p '{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":null}}}}}'`); err != nil {
		return err
	}
	if err := g.eventually(ctx, "Spiderpool's programs are back", slow, g.installed); err != nil {
		return err
	}
	_, err := g.Kubectl(ctx, "delete namespace -l app.kubernetes.io/name=spiderpool-connectivity --timeout=5m")
	return err
}

// helmTest runs the test of the chart. Nothing of it remains after a success.
func (g *guide) helmTest(ctx context.Context) error {
	if _, err := g.Sh(ctx, "helm test spiderpool --namespace kube-system --timeout 5m"); err != nil {
		_, more := g.Kubectl(ctx, "logs -n kube-system spiderpool-connectivity-test --tail=50")
		return errors.Join(err, more)
	}
	return g.eventually(ctx, "nothing of the test remains", slow, func(ctx context.Context) error {
		left, err := g.run(ctx, "sh", "-c", "kubectl get pods,serviceaccounts,roles,rolebindings -n kube-system -o name | grep connectivity; kubectl get namespaces,clusterroles,clusterrolebindings -o name | grep spiderpool-connectivity")
		if err == nil {
			err = errors.New(left)
		} else if left == "" {
			err = nil // grep finds nothing
		}
		return err
	})
}

// interruptConnectivity interrupts the command once its namespace exists.
func (g *guide) interruptConnectivity(ctx context.Context) error {
	out, _ := g.Sh(ctx, `pid=$(mktemp)
{ for try in $(seq 300); do
	if kubectl get namespaces -l app.kubernetes.io/name=spiderpool-connectivity -o name | grep -q .; then kill -INT $(cat $pid); break; fi
	sleep 0.1
done; rm $pid; } &
sh -c "echo \$\$ >$pid; exec bin/spiderpoolctl connectivity test"; echo ended with $?; wait`)
	if err := answers(out, nil, "ended with 2"); err != nil {
		return err
	}
	left, err := g.run(ctx, "kubectl", "get", "namespaces", "-l", "app.kubernetes.io/name=spiderpool-connectivity", "-o", "name")
	if err == nil && left != "" {
		err = fmt.Errorf("a namespace remains: %s", left)
	}
	return err
}

func (g *guide) cleanUpConnectivity(ctx context.Context) error {
	return g.kubectlAll(ctx, "delete --timeout=5m -f "+g.manifest("connectivity.yaml"), "scale -n kube-system deployment/coredns --replicas=0")
}
