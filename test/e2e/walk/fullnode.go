package walk

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// The agent of a full node preempts a pod, the victim, and waits for its room. The
// victim's DEL must succeed without an agent, or both wait for ever:
//
//  1. fillNode: the victim, with addresses, requests the free CPU of worker1.
//  2. The agent ends.
//  3. takeRoomOfAgent: a pod that cannot be preempted requests the CPU of the agent.
//  4. The agent comes back, and victimGone.
const fullNode = "worker1"

func (g *guide) fillNode(ctx context.Context) error {
	if err := g.requestFreeCPU(ctx, "victim.yaml"); err != nil {
		return err
	}
	_, err := g.runningPods(ctx, "run=victim", 1)
	return err
}

func (g *guide) takeRoomOfAgent(ctx context.Context) error {
	if err := g.requestFreeCPU(ctx, "squatter.yaml"); err != nil {
		return err
	}
	_, err := g.runningPods(ctx, "run=squatter -n kube-system", 1)
	return err
}

// victimGone checks that the scheduler preempted the victim, and that it ended.
func (g *guide) victimGone(ctx context.Context) error {
	if err := g.eventSays(ctx, "victim", "Preempted by "); err != nil {
		return fmt.Errorf("no event says that the victim made room for the agent: %w", err)
	}
	var pods corev1.PodList
	if err := g.Get(ctx, "pods -l run=victim", &pods); err != nil {
		return err
	}
	if len(pods.Items) > 0 {
		return fmt.Errorf("pod victim has not ended: %s", pods.Items[0].Status.Message)
	}
	_, err := g.Kubectl(ctx, "delete -n kube-system pod squatter")
	return err
}

// requestFreeCPU creates the pod of the manifest, with all unrequested CPU of fullNode.
func (g *guide) requestFreeCPU(ctx context.Context, manifest string) error {
	var node corev1.Node
	if err := g.Get(ctx, "node "+fullNode, &node); err != nil {
		return err
	}
	var pods corev1.PodList
	if err := g.Get(ctx, "pods -A --field-selector=status.phase!=Succeeded,status.phase!=Failed,spec.nodeName="+fullNode, &pods); err != nil {
		return err
	}
	free := node.Status.Allocatable.Cpu().MilliValue()
	for _, p := range pods.Items {
		free -= cpuOf(p)
	}
	if free <= 0 {
		return fmt.Errorf("%s has no unrequested CPU: %dm", fullNode, free)
	}
	_, err := g.Sh(ctx, fmt.Sprintf("sed 's/FREE/%dm/' %s | kubectl apply -f -", free, g.claimManifest(manifest)))
	return err
}

// cpuOf returns the CPU that the scheduler counts for a pod, in thousandths.
func cpuOf(p corev1.Pod) int64 {
	var together, most int64
	for _, c := range p.Spec.Containers {
		together += c.Resources.Requests.Cpu().MilliValue()
	}
	for _, c := range p.Spec.InitContainers {
		most = max(most, c.Resources.Requests.Cpu().MilliValue())
	}
	return max(together, most)
}
