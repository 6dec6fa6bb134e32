package walk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	policyManifest      = "test/e2e/testdata/policy/pods.yaml"
	policiesManifest    = "test/e2e/testdata/policy/policies.yaml"
	earlyPolicyManifest = "test/e2e/testdata/policy/early.yaml"
	// policyPods is the number of pods in policyManifest.
	policyPods = 6
	// apiOutage is the time without an API server.
	apiOutage = 20 * time.Second
	// earlyPods is the number of pods that probe from their first process on.
	earlyPods = 6
)

// verdictRule says what a client should get from the servers with a label.
type verdictRule struct {
	client, servers, protocol string
	port                      uint16
	open                      bool
}

// verdictRules follow from policiesManifest.
var verdictRules = []verdictRule{
	{"friend", "open", "tcp", 80, true},
	{"friend", "open", "udp", 80, true},
	{"friend", "closed", "tcp", 80, true},
	{"friend", "closed", "udp", 80, true},
	{"friend", "closed", "tcp", 81, false},
	{"friend", "closed", "sctp", 80, false},
	{"stranger", "open", "tcp", 80, true},
	{"stranger", "open", "sctp", 80, true},
	{"stranger", "closed", "tcp", 80, false},
	{"stranger", "closed", "udp", 80, false},
	{"caged", "open", "tcp", 80, true},
	{"caged", "open", "udp", 80, true},
	{"caged", "closed", "tcp", 80, false},
	{"caged", "closed", "udp", 80, false},
}

// Policies returns the steps that enforce NetworkPolicies between pods on both nodes while each client sends a probe
// every 10 ms: agents and the controller are killed, the API server is away, the agents are upgraded and removed, and a node
// restarts. No verdict may be wrong. They need the installation from Guide.
func Policies(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Pods without a policy reach each other", false, g.createPolicyPods},
		{"NetworkPolicies take effect", false, g.createPolicies},
		{"No verdict is wrong when the agents are killed", false, g.underProbes(g.crashAgents)},
		{"No verdict is wrong when the controller is killed", false, g.underProbes(g.crashController)},
		{"No verdict is wrong without the API server", false, g.underProbes(g.withoutAPIServer)},
		{"No verdict is wrong when the agents are upgraded", false, g.underProbes(g.upgradeAgents)},
		{"No verdict is wrong without agents and controller", false, g.underProbes(g.awayAndBack)},
		{"A pod is isolated before its first process", false, g.isolatedFromStart},
		{"No verdict is wrong when a node restarts", false, g.acrossReboot},
		{"A MultiNetworkPolicy isolates net1", false, g.isolateNet1},
		{"Deleted policies isolate no longer", false, g.deletePolicies},
		{"Delete the pods", false, g.deletePolicyPods},
	}
}

func (g *guide) createPolicyPods(ctx context.Context) error {
	if err := g.LoadPackets(ctx); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "apply -f "+policyManifest); err != nil {
		return err
	}
	return g.eventually(ctx, "every pod answers", slow, func(ctx context.Context) error {
		return g.verdictsAre(ctx, func(verdictRule) bool { return true })
	})
}

func (g *guide) createPolicies(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+policiesManifest); err != nil {
		return err
	}
	return g.eventually(ctx, "the policies have effect", slow, func(ctx context.Context) error {
		return g.verdictsAre(ctx, func(r verdictRule) bool { return r.open })
	})
}

func (g *guide) deletePolicies(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "delete -f "+policiesManifest); err != nil {
		return err
	}
	return g.eventually(ctx, "every pod answers", slow, func(ctx context.Context) error {
		return g.verdictsAre(ctx, func(verdictRule) bool { return true })
	})
}

func (g *guide) deletePolicyPods(ctx context.Context) error {
	_, err := g.Kubectl(ctx, "delete --timeout=5m -f "+policyManifest)
	return err
}

// verdictTargets returns the targets of each client, with their rules.
func (g *guide) verdictTargets(ctx context.Context) (map[string][]Target, map[string][]verdictRule, error) {
	pods, err := g.runningPods(ctx, "run=policy", policyPods)
	if err != nil {
		return nil, nil, err
	}
	targets, rules := map[string][]Target{}, map[string][]verdictRule{}
	for _, pod := range pods {
		v4, v6, err := addressesOf(pod)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range verdictRules {
			if pod.Labels["app"] != r.servers {
				continue
			}
			for _, t := range targetsOf([]netip.Addr{v4, v6}, r.port, r.protocol) {
				targets[r.client], rules[r.client] = append(targets[r.client], t), append(rules[r.client], r)
			}
		}
	}
	return targets, rules, nil
}

// verdictsAre asks once from every client.
func (g *guide) verdictsAre(ctx context.Context, open func(verdictRule) bool) error {
	targets, rules, err := g.verdictTargets(ctx)
	if err != nil {
		return err
	}
	var wrong []string
	for client, asked := range targets {
		verdicts, err := g.AskAll(ctx, "default", client, asked)
		if err != nil {
			return err
		}
		for i, verdict := range verdicts {
			if want := wanted(open(rules[client][i])); verdict != want {
				wrong = append(wrong, fmt.Sprintf("%s to %s is %s, want %s", client, asked[i], verdict, want))
			}
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%d wrong verdicts, e.g. %s", len(wrong), wrong[0])
	}
	return nil
}

func wanted(open bool) string {
	if open {
		return Answered
	}
	return "silent"
}

// underProbes returns a step that runs change while each client probes its targets.
func (g *guide) underProbes(change func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		targets, rules, err := g.verdictTargets(ctx)
		if err != nil {
			return err
		}
		for client, asked := range targets {
			command := "exec " + client + " -- /packets start"
			for i, t := range asked {
				command += fmt.Sprintf(" %s=%s", t, wanted(rules[client][i].open))
			}
			if _, err := g.Kubectl(ctx, command); err != nil {
				return err
			}
		}
		return errors.Join(change(ctx), g.stopProbes(ctx, slices.Sorted(maps.Keys(targets))))
	}
}

// stopProbes stops the probes of all clients at once, because each waits ten seconds for
// answers, and returns an error if one had a wrong verdict.
func (g *guide) stopProbes(ctx context.Context, clients []string) error {
	counts, errs := make([]string, len(clients)), make([]error, len(clients))
	var stopping sync.WaitGroup
	for i, client := range clients {
		stopping.Go(func() { counts[i], errs[i] = g.run(ctx, "kubectl", "exec", client, "--", "/packets", "stop") })
	}
	stopping.Wait()
	for i, client := range clients {
		fmt.Fprintf(g.Out, "$ kubectl exec %s -- /packets stop\n%s", client, counts[i])
		errs[i] = errors.Join(errs[i], rightCounts(client, counts[i]))
	}
	return errors.Join(errs...)
}

// rightCounts returns an error unless the last line counts probes and nothing wrong.
func rightCounts(client, counts string) error {
	lines := strings.Split(strings.TrimSpace(counts), "\n")
	var probes, wrong int
	if _, err := fmt.Sscanf(lines[len(lines)-1], "%d probes, %d wrong", &probes, &wrong); err != nil {
		return fmt.Errorf("pod %s: no counts: %w: %s", client, err, counts)
	}
	if probes == 0 || wrong > 0 {
		return fmt.Errorf("pod %s: %d of %d verdicts are wrong:\n%s", client, wrong, probes, counts)
	}
	return nil
}

func (g *guide) crashController(ctx context.Context) error {
	const selection = "pods -n kube-system -l app.kubernetes.io/component=controller"
	var before, now corev1.PodList
	if err := g.Get(ctx, selection, &before); err != nil {
		return err
	}
	for _, pod := range before.Items {
		if _, err := g.Exec(ctx, pod.Spec.NodeName, "kill -9 $(pidof spiderpool-controller)"); err != nil {
			return err
		}
	}
	return g.eventually(ctx, "the controller has restarted", slow, func(ctx context.Context) error {
		if err := g.Get(ctx, selection, &now); err != nil {
			return err
		}
		if restarts(now.Items) <= restarts(before.Items) {
			return errors.New("it has not")
		}
		return g.installed(ctx)
	})
}

// restarts counts the restarts of all containers.
func restarts(pods []corev1.Pod) (n int32) {
	for _, pod := range pods {
		for _, container := range pod.Status.ContainerStatuses {
			n += container.RestartCount
		}
	}
	return n
}

// withoutAPIServer also kills the agents: each starts again without an API server.
func (g *guide) withoutAPIServer(ctx context.Context) error {
	const server = "control-plane/kube-apiserver "
	if _, err := g.Sh(ctx, g.Binary+" daemon "+server+"stop"); err != nil {
		return err
	}
	var errs []error
	for node := range g.Nodes {
		_, err := g.Exec(ctx, node, "kill -9 $(pidof spiderpool-agent)")
		errs = append(errs, err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(apiOutage): // the duration of the fault, not a wait for an effect
	}
	_, err := g.Sh(ctx, g.Binary+" daemon "+server+"start")
	return errors.Join(append(errs, err, g.eventually(ctx, "Spiderpool's programs are back", slow, g.installed))...)
}

func (g *guide) upgradeAgents(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "rollout restart -n kube-system daemonset/spiderpool-agent"); err != nil {
		return err
	}
	return g.eventually(ctx, "all agents are new", slow, g.installed)
}

func (g *guide) awayAndBack(ctx context.Context) error {
	if err := g.sendAway(ctx); err != nil {
		return err
	}
	return errors.Join(g.verdictsAre(ctx, func(r verdictRule) bool { return r.open }), g.bringBack(ctx))
}

// isolatedFromStart creates pods with no permitted egress, whose first process probes at once: first with all programs
// in place, then while the agents restart.
func (g *guide) isolatedFromStart(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+earlyPolicyManifest); err != nil {
		return err
	}
	if err := g.startEarly(ctx); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "rollout restart -n kube-system daemonset/spiderpool-agent"); err != nil {
		return err
	}
	if err := g.startEarly(ctx); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "delete -f "+earlyPolicyManifest); err != nil {
		return err
	}
	return g.eventually(ctx, "all agents are new", slow, g.installed)
}

// startEarly runs pods that probe for three seconds, and reads their counts.
func (g *guide) startEarly(ctx context.Context) error {
	targets, rules, err := g.verdictTargets(ctx)
	if err != nil {
		return err
	}
	// The servers that answer everyone.
	var asked []string
	for i, t := range targets["stranger"] {
		if rules["stranger"][i].open {
			asked = append(asked, t.String()+"=silent")
		}
	}
	slices.Sort(asked)
	for i := range earlyPods {
		if _, err := g.Kubectl(ctx, fmt.Sprintf("run early-%d --restart=Never --labels=run=early-policy --image=%s -- watch -for 3s %s",
			i, PacketsImage, strings.Join(asked, " "))); err != nil {
			return err
		}
	}
	var errs []error
	for i := range earlyPods {
		name := fmt.Sprintf("early-%d", i)
		if err := g.hasEnded(ctx, name); err != nil {
			return err
		}
		counts, err := g.run(ctx, "kubectl", "logs", "--tail=30", name)
		errs = append(errs, err, rightCounts(name, counts))
	}
	_, err = g.Kubectl(ctx, "delete pods -l run=early-policy")
	return errors.Join(append(errs, err)...)
}

// hasEnded waits for the success of a pod.
func (g *guide) hasEnded(ctx context.Context, name string) error {
	return g.eventually(ctx, "pod "+name+" has ended", slow, func(ctx context.Context) error {
		var pod corev1.Pod
		if err := g.Get(ctx, "pod "+name, &pod); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodSucceeded {
			return fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return nil
	})
}
