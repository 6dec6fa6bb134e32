package walk

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	net1PolicyManifest = "test/e2e/testdata/policy/net1.yaml"
	multiDefinition    = "internal/kube/definitions/others/k8s.cni.cncf.io_multi-networkpolicies.yaml"
)

// isolateNet1 installs the definition of MultiNetworkPolicies while the agents run, and isolates net1 of a starting pod.
func (g *guide) isolateNet1(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+multiDefinition); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "wait --for=condition=Established --timeout=60s -f "+multiDefinition); err != nil {
		return err
	}
	if err := g.applyPods(ctx, net1PolicyManifest); err != nil {
		return err
	}
	pods, err := g.runningPods(ctx, "run=policy-net1", 1)
	if err != nil {
		return err
	}
	if err := g.net1Is(ctx, pods[0], false); err != nil {
		return err
	}
	if err := g.crashAgents(ctx); err != nil {
		return err
	}
	if err := g.net1Is(ctx, pods[0], false); err != nil {
		return fmt.Errorf("after the agents were killed: %w", err)
	}
	if _, err := g.Kubectl(ctx, "delete multi-networkpolicies.k8s.cni.cncf.io net1"); err != nil {
		return err
	}
	if err := g.net1Is(ctx, pods[0], true); err != nil {
		return fmt.Errorf("without the policy: %w", err)
	}
	if _, err := g.Kubectl(ctx, "delete pod net1"); err != nil {
		return err
	}
	_, err = g.Kubectl(ctx, "delete -f "+multiDefinition)
	return err
}

// net1Is waits until the friend reaches net1, and the stranger only if it is open. Both reach eth0.
func (g *guide) net1Is(ctx context.Context, pod corev1.Pod, open bool) error {
	own, err := interfacesOf(pod)
	if err != nil {
		return err
	}
	if len(own["net1"]) != 2 {
		return fmt.Errorf("pod %s has the addresses %v, want two on net1", pod.Name, own)
	}
	targets := targetsOf(append(own["net1"], own["eth0"]...), 80, "tcp")
	return g.eventually(ctx, "the verdicts on net1 are right", slow, func(ctx context.Context) error {
		for client, onNet1 := range map[string]string{"friend": Answered, "stranger": wanted(open)} {
			verdicts, err := g.AskAll(ctx, "default", client, targets)
			if err != nil {
				return err
			}
			want := strings.Join([]string{onNet1, onNet1, Answered, Answered}, " ")
			if got := strings.Join(verdicts, " "); got != want {
				return fmt.Errorf("%s to %v is %s, want %s", client, targets, got, want)
			}
		}
		return nil
	})
}
