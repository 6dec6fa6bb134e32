package walk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// outage stops agents and controller, repeats the claims, and creates one pod and deletes
// another, which must disappear without an agent. One agent then finds its node full.
// After the restart the new pod must run, and no address may be lost.
func (g *guide) outage(ctx context.Context) error {
	if err := g.fillNode(ctx); err != nil {
		return err
	}
	if err := g.sendAway(ctx); err != nil {
		return err
	}
	if err := errors.Join(g.whileAway(ctx), g.takeRoomOfAgent(ctx), g.bringBack(ctx)); err != nil {
		return err
	}
	if err := g.victimGone(ctx); err != nil {
		return err
	}
	late, err := g.runningPods(ctx, "run=late", 1)
	if err != nil {
		return err
	}
	own, err := interfacesOf(late[0])
	if err != nil {
		return err
	}
	if err := g.isReached(ctx, own["eth0"]); err != nil {
		return err
	}
	if err := g.verify(ctx, g.claims()[0]); err != nil {
		return err
	}
	return g.eventually(ctx, "exactly the existing pods hold addresses", slow, g.heldByLiving)
}

func (g *guide) sendAway(ctx context.Context) error {
	if err := g.kubectlAll(ctx,
		`patch -n kube-system daemonset spiderpool-agent -p '{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":"true"}}}}}'`,
		"scale -n kube-system deployment/spiderpool-controller --replicas=0",
	); err != nil {
		return err
	}
	return g.eventually(ctx, "all agents and controllers have stopped", slow, func(ctx context.Context) error {
		var pods corev1.PodList
		if err := g.Get(ctx, "pods -n kube-system -l 'app.kubernetes.io/component in (agent, controller)'", &pods); err != nil {
			return err
		}
		if len(pods.Items) > 0 {
			return fmt.Errorf("%d pods remain, e.g. %s", len(pods.Items), pods.Items[0].Name)
		}
		return nil
	})
}

func (g *guide) bringBack(ctx context.Context) error {
	if err := g.kubectlAll(ctx,
		`patch -n kube-system daemonset spiderpool-agent -p '{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":null}}}}}'`,
		"scale -n kube-system deployment/spiderpool-controller --replicas=1",
	); err != nil {
		return err
	}
	return g.eventually(ctx, "Spiderpool's programs are back", slow, g.installed)
}

func (g *guide) whileAway(ctx context.Context) error {
	for _, c := range g.claims() {
		if err := g.verify(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.title, err)
		}
	}
	pods, err := g.runningPods(ctx, "run=several", 2)
	if err != nil {
		return err
	}
	doomed := pods[0].Name
	if err := g.kubectlAll(ctx, "apply -f "+g.claimManifest("late.yaml"), "delete --timeout=5m pod "+doomed); err != nil {
		return err
	}
	if err := g.eventually(ctx, "an event of pod late says that the agent is down", slow, func(ctx context.Context) error {
		return g.eventShows(ctx, "late", "agent-away")
	}); err != nil {
		return err
	}
	// Without an agent, nothing proves that the addresses are free.
	held, err := g.leases(ctx)
	if err != nil {
		return err
	}
	kept := 0
	for _, lease := range held {
		if lease.Pod == "default/"+doomed {
			kept++
		}
	}
	if kept != 6 {
		return fmt.Errorf("pod %s holds %d addresses before an agent has committed its releases, want 6", doomed, kept)
	}
	return nil
}

// eventSays returns an error unless an event of the pod contains the text.
func (g *guide) eventSays(ctx context.Context, pod, text string) error {
	var events corev1.EventList
	if err := g.Get(ctx, "events --field-selector involvedObject.name="+pod, &events); err != nil {
		return err
	}
	for _, e := range events.Items {
		if strings.Contains(e.Message, text) {
			fmt.Fprintf(g.Out, "  %s %s: %s\n", e.Type, e.Reason, e.Message)
			return nil
		}
	}
	return fmt.Errorf("none of its %d events contains the text", len(events.Items))
}

// heldByLiving compares the held addresses with those of the pods.
func (g *guide) heldByLiving(ctx context.Context) error {
	held, err := g.leases(ctx)
	if err != nil {
		return err
	}
	var pods corev1.PodList
	if err := g.Get(ctx, "pods -A", &pods); err != nil {
		return err
	}
	has := map[string]string{} // address to pod UID
	for _, pod := range pods.Items {
		if pod.Spec.HostNetwork {
			continue
		}
		interfaces, err := interfacesOf(pod)
		if err != nil {
			return err
		}
		for name, addresses := range interfaces {
			if name == "eth0" && pod.Labels["run"] == "overlay" {
				continue // another plugin's interface
			}
			for _, a := range addresses {
				has[a.String()] = string(pod.UID)
			}
		}
	}
	var errs []error
	for _, lease := range held {
		if has[lease.IP] != lease.PodUID {
			errs = append(errs, fmt.Errorf("the lease of %s belongs to %s (%s), but pod %q has the address", lease.IP, lease.Pod, lease.PodUID, has[lease.IP]))
		}
		delete(has, lease.IP)
	}
	for address, uid := range has {
		errs = append(errs, fmt.Errorf("pod %s has %s without a lease", uid, address))
	}
	return errors.Join(errs...)
}
