package walk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	fixedManifest = "test/e2e/testdata/policy/fixed.yaml"
	// rebooted is the node that restarts.
	rebooted = "worker1"
	// outsider is a client on the other node that no policy allows to reach the closed servers.
	outsider = "outsider"
	// rebornPods is the number of pods on the node that probe from their first process on, before and after its restart.
	rebornPods = 3
	// rebornProbes is longer than the time between the start of these pods and the restart.
	rebornProbes = "90s"
)

// acrossReboot restarts a node like a power failure. Pods on it with no permitted egress probe from their first process
// on. Two clients on the other node probe all the time. One of them may not reach a closed server on the first node, which
// has the same addresses before and after. A routed site has no pool for that server.
func (g *guide) acrossReboot(ctx context.Context) error {
	targets, rules, err := g.verdictTargets(ctx)
	if err != nil {
		return err
	}
	probes := map[string]string{}
	for i, t := range targets["caged"] {
		probes["caged"] += fmt.Sprintf(" %s=%s", t, wanted(rules["caged"][i].open))
	}
	if !g.Routed {
		fixed, err := g.startFixed(ctx)
		if err != nil {
			return err
		}
		for _, t := range fixed {
			probes[outsider] += fmt.Sprintf(" %s=silent", t)
		}
	}
	if err := g.startClients(ctx, probes); err != nil {
		return err
	}
	if err := g.startReborn(ctx, targets["stranger"], rules["stranger"]); err != nil {
		return err
	}
	if err := g.reboot(ctx, rebooted); err != nil {
		return err
	}
	errs := []error{
		g.eventually(ctx, "the policies have effect", slow, func(ctx context.Context) error {
			return g.verdictsAre(ctx, func(r verdictRule) bool { return r.open })
		}),
		g.rebornAreRight(ctx),
		g.stopProbes(ctx, slices.Sorted(maps.Keys(probes))),
	}
	if !g.Routed {
		errs = append(errs, g.fixedAnswers(ctx))
	}
	_, err = g.Kubectl(ctx, "delete pods -l 'run in (early-policy, "+outsider+")'")
	errs = append(errs, err)
	_, err = g.Kubectl(ctx, "delete -f "+earlyPolicyManifest)
	return errors.Join(append(errs, err)...)
}

// startFixed runs the closed server with pools of its own, and returns its targets.
func (g *guide) startFixed(ctx context.Context) ([]Target, error) {
	if _, err := g.Kubectl(ctx, "apply -f "+fixedManifest); err != nil {
		return nil, err
	}
	return g.fixedServer(ctx)
}

func (g *guide) fixedServer(ctx context.Context) ([]Target, error) {
	pods, err := g.runningPods(ctx, "run=policy-fixed", 1)
	if err != nil {
		return nil, err
	}
	v4, v6, err := addressesOf(pods[0])
	return targetsOf([]netip.Addr{v4, v6}, 80, "tcp", "udp"), err
}

// fixedAnswers waits until the friend reaches the closed server, so the probes of the outsider had a server that could
// answer. Then it deletes the server.
func (g *guide) fixedAnswers(ctx context.Context) error {
	fixed, err := g.fixedServer(ctx)
	if err != nil {
		return err
	}
	if err := g.eventually(ctx, "the friend reaches the closed server", slow, func(ctx context.Context) error {
		verdicts, err := g.AskAll(ctx, "default", "friend", fixed)
		if err == nil && slices.ContainsFunc(verdicts, func(v string) bool { return v != Answered }) {
			err = fmt.Errorf("%v are %v", fixed, verdicts)
		}
		return err
	}); err != nil {
		return err
	}
	return g.kubectlAll(ctx, "delete pod -l run=policy-fixed", "delete -f "+fixedManifest+" --ignore-not-found --timeout=1m")
}

// startClients starts the outsider, and the probes of each client.
func (g *guide) startClients(ctx context.Context, probes map[string]string) error {
	if _, err := g.Kubectl(ctx, fmt.Sprintf(`run %s --image=%s --overrides='{"spec": {"nodeName": "master", "terminationGracePeriodSeconds": 1}}' -- serve 80`,
		outsider, PacketsImage)); err != nil {
		return err
	}
	if _, err := g.runningPods(ctx, "run="+outsider, 1); err != nil {
		return err
	}
	for client, asked := range probes {
		if _, err := g.Kubectl(ctx, "exec "+client+" -- /packets start"+asked); err != nil {
			return err
		}
	}
	return nil
}

// startReborn runs pods on the node that probe the servers that answer everyone on the other node.
func (g *guide) startReborn(ctx context.Context, targets []Target, rules []verdictRule) error {
	if _, err := g.Kubectl(ctx, "apply -f "+earlyPolicyManifest); err != nil {
		return err
	}
	var asked []string
	for i, t := range targets {
		if rules[i].open {
			asked = append(asked, t.String()+"=silent")
		}
	}
	for i := range rebornPods {
		// A container killed by the restart counts as failed, so it runs once more, and then ends.
		if _, err := g.Kubectl(ctx, fmt.Sprintf(`run reborn-%d --restart=OnFailure --labels=run=early-policy --image=%s --overrides='{"spec": {"nodeName": "%s"}}' -- watch -for %s %s`,
			i, PacketsImage, rebooted, rebornProbes, strings.Join(asked, " "))); err != nil {
			return err
		}
	}
	_, err := g.runningPods(ctx, "run=early-policy", rebornPods)
	return err
}

// reboot restarts a node, and waits until its pods run again.
func (g *guide) reboot(ctx context.Context, name string) error {
	var before, now corev1.Node
	if err := g.Get(ctx, "node "+name, &before); err != nil {
		return err
	}
	began := time.Now().Truncate(time.Second)
	if _, err := g.Sh(ctx, g.Binary+" reboot "+name); err != nil {
		return err
	}
	return g.eventually(ctx, "the node and its pods are back", slow, func(ctx context.Context) error {
		if err := g.Get(ctx, "node "+name, &now); err != nil {
			return err
		}
		if now.Status.NodeInfo.BootID == before.Status.NodeInfo.BootID {
			return fmt.Errorf("the node has the boot ID %s as before", before.Status.NodeInfo.BootID)
		}
		var pods corev1.PodList
		if err := g.Get(ctx, "pods --field-selector spec.nodeName="+name, &pods); err != nil {
			return err
		}
		for _, pod := range pods.Items {
			for _, c := range pod.Status.ContainerStatuses {
				if started := startOf(c); started.Before(began) {
					return fmt.Errorf("the container of pod %s is the one started at %s", pod.Name, started)
				}
			}
		}
		return g.installed(ctx)
	})
}

// startOf returns the start of a container's last run, or the zero time.
func startOf(c corev1.ContainerStatus) time.Time {
	switch {
	case c.State.Running != nil:
		return c.State.Running.StartedAt.Time
	case c.State.Terminated != nil:
		return c.State.Terminated.StartedAt.Time
	}
	return time.Time{}
}

// rebornAreRight reads the counts of the pods' second run.
func (g *guide) rebornAreRight(ctx context.Context) error {
	var errs []error
	for i := range rebornPods {
		name := fmt.Sprintf("reborn-%d", i)
		if err := g.hasEnded(ctx, name); err != nil {
			return err
		}
		counts, err := g.run(ctx, "kubectl", "logs", "--tail=30", name)
		errs = append(errs, err, rightCounts(name, counts))
		fmt.Fprintf(g.Out, "  %s: %s", name, counts[strings.LastIndex(strings.TrimSpace(counts), "\n")+1:])
	}
	return errors.Join(errs...)
}
