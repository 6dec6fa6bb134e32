package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	servicesManifest = "test/e2e/testdata/services.yaml"
	// pins is the directory of the programs that translate services.
	pins = "/sys/fs/bpf/spiderpool"
)

// Services returns the steps that leave services to kube-proxy, let eBPF translate them
// instead, end and remove the agents meanwhile, and go back to kube-proxy. In the steps that change
// something, a pod on each node uses the Service all the time. They need the installation
// from Guide.
func Services(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Create servers and a Service", false, g.createServers},
		{"Leave the Service to kube-proxy", false, g.disableEBPF},
		{"No connection breaks when eBPF takes over", false, g.underTraffic(g.enableEBPF)},
		{"Servers behind the Service see the pod's address", false, g.serversSeePods},
		{"A Service without endpoints refuses connections", false, g.refusesConnections},
		{"No connection breaks when the agents are killed", false, g.underTraffic(g.killAgents)},
		{"No connection breaks without agents", false, g.underTraffic(g.withoutAgents)},
		{"No connection breaks when kube-proxy takes over", false, g.underTraffic(g.disableEBPF)},
		{"Delete the servers", false, g.deleteServers},
	}
}

func (g *guide) createServers(ctx context.Context) error {
	// The guide removes the cluster's DNS at its end.
	if err := g.kubectlAll(ctx, "scale -n kube-system deployment/coredns --replicas=1", "apply -f "+servicesManifest); err != nil {
		return err
	}
	pods, err := g.runningPods(ctx, "run=backend", len(g.Nodes))
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if err := g.eventually(ctx, "pod "+pod.Name+" reaches the Service by its name", slow, func(ctx context.Context) error {
			_, err := g.inPod(ctx, pod, "curl -sS --max-time 10 -o /dev/null http://backend.default.svc.cluster.local")
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (g *guide) deleteServers(ctx context.Context) error {
	return g.kubectlAll(ctx, "delete --timeout=5m -f "+servicesManifest, "scale -n kube-system deployment/coredns --replicas=0")
}

// traffic uses the Service until the file /tmp/stop exists: one connection all the time,
// to the ClusterIP in ip, and a new one by name after each answer. It fails unless every
// request on every connection has an answer.
const traffic = `rm -f /tmp/stop; touch /tmp/asked
	(while [ ! -e /tmp/stop ]; do
		printf "GET / HTTP/1.1\r\nHost: x\r\n\r\n"; echo >>/tmp/asked; sleep 0.2
	done; printf "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") | nc $ip 80 >/tmp/answers &
	new=0; failed=0
	while [ ! -e /tmp/stop ]; do
		new=$((new+1))
		curl -sS -o /dev/null --max-time 10 http://backend.default.svc.cluster.local || failed=$((failed+1))
	done; wait
	asked=$(($(wc -l </tmp/asked)+1)); answered=$(grep -c "HTTP/1.1 200" /tmp/answers); rm /tmp/asked /tmp/answers
	echo "$answered of $asked requests answered on one connection, $failed of $new new connections failed"
	[ $answered = $asked ] && [ $failed = 0 ]`

// underTraffic returns a step that runs change while a pod on each node uses the Service.
func (g *guide) underTraffic(change func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		pods, err := g.runningPods(ctx, "run=backend", len(g.Nodes))
		if err != nil {
			return err
		}
		ips, err := g.clusterIPs(ctx)
		if err != nil {
			return err
		}
		results := make(chan error, len(pods))
		for _, pod := range pods {
			go func() {
				out, err := g.run(ctx, "kubectl", "exec", pod.Name, "--", "sh", "-c", "ip="+ips[0].String()+"; "+traffic)
				fmt.Fprintf(g.Out, "  pod %s: %s", pod.Name, out)
				if err != nil {
					err = fmt.Errorf("pod %s: %s: %w", pod.Name, strings.TrimSpace(out), err)
				}
				results <- err
			}()
		}
		errs := []error{g.trafficFlows(ctx, pods)}
		if errs[0] == nil {
			errs = append(errs, change(ctx), g.trafficFlows(ctx, pods))
		}
		for _, pod := range pods {
			_, err := g.inPod(ctx, pod, "touch /tmp/stop")
			errs = append(errs, err)
		}
		for range pods {
			errs = append(errs, <-results)
		}
		return errors.Join(errs...)
	}
}

// trafficFlows waits for ten more answers on the connection of each pod.
func (g *guide) trafficFlows(ctx context.Context, pods []corev1.Pod) error {
	for _, pod := range pods {
		count := func(ctx context.Context) (n int, err error) {
			out, err := g.run(ctx, "kubectl", "exec", pod.Name, "--", "sh", "-c", `grep -c "HTTP/1.1 200" /tmp/answers || true`)
			if err == nil {
				_, err = fmt.Sscan(out, &n)
			}
			return n, err
		}
		first := -1
		if err := g.eventually(ctx, "answers reach pod "+pod.Name, slow, func(ctx context.Context) error {
			n, err := count(ctx)
			if err != nil {
				return err
			}
			if first < 0 {
				first = n
			}
			if n < first+10 {
				return fmt.Errorf("%d answers so far", n-first)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// serviceMode changes the Helm value and waits until all agents have it.
func (g *guide) serviceMode(ctx context.Context, mode string) error {
	return g.upgrade(ctx, "service.mode="+mode)
}

func (g *guide) enableEBPF(ctx context.Context) error {
	if err := g.serviceMode(ctx, "ebpf"); err != nil {
		return err
	}
	return g.nodesSayEBPF(ctx)
}

// nodesSayEBPF asks every agent for the translator of its node.
func (g *guide) nodesSayEBPF(ctx context.Context) error {
	agents, err := g.agents(ctx)
	if err != nil {
		return err
	}
	for _, agent := range agents {
		if err := g.eventually(ctx, "eBPF translates on "+agent.Spec.NodeName, slow, func(ctx context.Context) error {
			line, err := g.Kubectl(ctx, "exec -n kube-system "+agent.Name+" -c agent -- spiderpoolctl node | grep services")
			if got := strings.Fields(line); err == nil && (len(got) != 6 || got[3] != "eBPF" || got[5] != "ok") {
				err = fmt.Errorf("spiderpoolctl node says: %s", line)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// agents returns the agents' pods once all are ready.
func (g *guide) agents(ctx context.Context) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := g.eventually(ctx, "one agent is ready on each node", slow, func(ctx context.Context) error {
		if err := g.Get(ctx, "pods -n kube-system -l app.kubernetes.io/component=agent", &pods); err != nil {
			return err
		}
		if len(pods.Items) != len(g.Nodes) {
			return fmt.Errorf("%d agents", len(pods.Items))
		}
		for _, pod := range pods.Items {
			if len(pod.Status.ContainerStatuses) == 0 || !pod.Status.ContainerStatuses[0].Ready {
				return fmt.Errorf("agent %s is not ready", pod.Name)
			}
		}
		return nil
	})
	return pods.Items, err
}

// serversSeePods connects to the Service from a pod on each node.
func (g *guide) serversSeePods(ctx context.Context) error {
	return g.serversSee(ctx, func(pod corev1.Pod) ([]netip.Addr, error) {
		v4, v6, err := addressesOf(pod)
		return []netip.Addr{v4, v6}, err
	})
}

// serversSee connects to the Service from a pod on each node, often enough to reach all
// servers, which must see the client's addresses in from.
func (g *guide) serversSee(ctx context.Context, from func(corev1.Pod) ([]netip.Addr, error)) error {
	pods, err := g.runningPods(ctx, "run=backend", len(g.Nodes))
	if err != nil {
		return err
	}
	ips, err := g.clusterIPs(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		addresses, err := from(pod)
		if err != nil {
			return err
		}
		var questions []question
		for _, ip := range ips {
			for range 8 {
				questions = append(questions, question{netip.AddrPortFrom(ip, 80), sameVersion(ip, addresses)})
			}
		}
		if err := ask(ctx, g.podShell(pod), questions); err != nil {
			return fmt.Errorf("pod %s on %s: %w", pod.Name, pod.Spec.NodeName, err)
		}
	}
	return nil
}

// refusesConnections connects to the Service without endpoints. curl ends with 7 if the
// connection is refused, and with 28 after a timeout.
func (g *guide) refusesConnections(ctx context.Context) error {
	pods, err := g.runningPods(ctx, "run=backend", len(g.Nodes))
	if err != nil {
		return err
	}
	for _, pod := range pods {
		for _, version := range []string{"-4", "-6"} {
			out, err := g.inPod(ctx, pod, "sh -c 'curl -sS "+version+" --max-time 10 http://empty.default.svc.cluster.local; echo ended with $?'")
			if err := answers(out, err, "ended with 7\n"); err != nil {
				return err
			}
		}
	}
	return nil
}

// killAgents kills the agents. Their successors translate as before.
func (g *guide) killAgents(ctx context.Context) error {
	if err := g.crashAgents(ctx); err != nil {
		return err
	}
	return errors.Join(g.nodesSayEBPF(ctx), g.serversSeePods(ctx))
}

// crashAgents kills the agent of each node and waits for the next one.
func (g *guide) crashAgents(ctx context.Context) error {
	before, err := g.agents(ctx)
	if err != nil {
		return err
	}
	for _, agent := range before {
		if _, err := g.Exec(ctx, agent.Spec.NodeName, "kill -9 $(pidof spiderpool-agent)"); err != nil {
			return err
		}
	}
	return g.eventually(ctx, "the agents have restarted", slow, func(ctx context.Context) error {
		var now corev1.PodList
		if err := g.Get(ctx, "pods -n kube-system -l app.kubernetes.io/component=agent", &now); err != nil {
			return err
		}
		for i, agent := range now.Items {
			if agent.Status.ContainerStatuses[0].RestartCount == before[i].Status.ContainerStatuses[0].RestartCount {
				return fmt.Errorf("agent %s has not", agent.Name)
			}
		}
		return g.installed(ctx)
	})
}

// withoutAgents removes the agents and the controller for a while.
func (g *guide) withoutAgents(ctx context.Context) error {
	if err := g.sendAway(ctx); err != nil {
		return err
	}
	return errors.Join(g.serversSeePods(ctx), g.refusesConnections(ctx), g.bringBack(ctx), g.nodesSayEBPF(ctx), g.serversSeePods(ctx))
}

// disableEBPF goes back to kube-proxy: servers see the node, and nothing is left of eBPF.
func (g *guide) disableEBPF(ctx context.Context) error {
	if err := g.serviceMode(ctx, "kubeproxy"); err != nil {
		return err
	}
	for node := range g.Nodes {
		if g.socketsTranslate(ctx, node) {
			return fmt.Errorf("node %s still has %s", node, pins)
		}
	}
	return g.serversSee(ctx, func(pod corev1.Pod) ([]netip.Addr, error) { return g.Nodes[pod.Spec.NodeName].addresses(), nil })
}

// socketsTranslate reports whether a node has the programs that translate services.
func (g *guide) socketsTranslate(ctx context.Context, node string) bool {
	_, err := g.Exec(ctx, node, "test -e "+pins)
	return err == nil
}
