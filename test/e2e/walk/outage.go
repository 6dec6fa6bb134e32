package walk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// outage takes agents and controller away, walks through the claims once more,
// and starts and deletes a pod. When they are back, the one has to run, the other
// has to be gone, and no address may have been lost.
func (g *guide) outage(ctx context.Context) error {
	if err := g.sendAway(ctx); err != nil {
		return err
	}
	doomed, err := g.whileAway(ctx)
	if err := errors.Join(err, g.bringBack(ctx)); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "wait pod/"+doomed+" --for=delete --timeout=5m"); err != nil {
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
	return g.eventually(ctx, "addresses are held by pods that exist, and by no others", slow, g.heldByLiving)
}

func (g *guide) sendAway(ctx context.Context) error {
	if err := g.kubectlAll(ctx,
		`patch -n kube-system daemonset spiderpool-agent -p '{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":"true"}}}}}'`,
		"scale -n kube-system deployment/spiderpool-controller --replicas=0",
	); err != nil {
		return err
	}
	return g.eventually(ctx, "neither agent nor controller is left", slow, func(ctx context.Context) error {
		var pods corev1.PodList
		if err := g.get(ctx, "pods -n kube-system -l 'app.kubernetes.io/component in (agent, controller)'", &pods); err != nil {
			return err
		}
		if len(pods.Items) > 0 {
			return fmt.Errorf("%d pods are, such as %s", len(pods.Items), pods.Items[0].Name)
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
	return g.eventually(ctx, "the programs of Spiderpool are back", slow, g.installed)
}

// whileAway returns the name of a pod that it deleted.
func (g *guide) whileAway(ctx context.Context) (doomed string, err error) {
	for _, c := range g.claims() {
		if err := g.verify(ctx, c); err != nil {
			return "", fmt.Errorf("%s: %w", c.title, err)
		}
	}
	pods, err := g.runningPods(ctx, "run=several", 2)
	if err != nil {
		return "", err
	}
	doomed = pods[0].Name
	if err := g.kubectlAll(ctx, "apply -f "+g.claimManifest("late.yaml"), "delete --wait=false pod "+doomed); err != nil {
		return "", err
	}
	for _, pod := range []string{"late", doomed} {
		if err := g.eventually(ctx, "an event of pod "+pod+" says that the agent is away", slow, func(ctx context.Context) error {
			return g.eventSays(ctx, pod, "spiderpool-agent does not answer")
		}); err != nil {
			return "", err
		}
	}
	// Nobody can say yet whether the addresses are free.
	held, err := g.leases(ctx)
	if err != nil {
		return "", err
	}
	kept := 0
	for _, lease := range held {
		if lease.Pod == "default/"+doomed {
			kept++
		}
	}
	if kept != 6 {
		return "", fmt.Errorf("pod %s holds %d addresses before its network is taken down, want 6", doomed, kept)
	}
	return doomed, nil
}

// eventSays returns an error if no event of a pod holds a text.
func (g *guide) eventSays(ctx context.Context, pod, text string) error {
	var events corev1.EventList
	if err := g.get(ctx, "events --field-selector involvedObject.name="+pod, &events); err != nil {
		return err
	}
	for _, e := range events.Items {
		if strings.Contains(e.Message, text) {
			fmt.Fprintf(g.Out, "  %s %s: %s\n", e.Type, e.Reason, e.Message)
			return nil
		}
	}
	return fmt.Errorf("none of its %d events does", len(events.Items))
}

// heldByLiving compares the addresses that are held with those that pods have.
func (g *guide) heldByLiving(ctx context.Context) error {
	held, err := g.leases(ctx)
	if err != nil {
		return err
	}
	var pods corev1.PodList
	if err := g.get(ctx, "pods -A", &pods); err != nil {
		return err
	}
	has := map[string]string{} // by address: UID of the pod
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
				continue // from another plugin
			}
			for _, a := range addresses {
				has[a.String()] = string(pod.UID)
			}
		}
	}
	var errs []error
	for _, lease := range held {
		if has[lease.IP] != lease.PodUID {
			errs = append(errs, fmt.Errorf("%s is held by %s (%s), and pod %q has it", lease.IP, lease.Pod, lease.PodUID, has[lease.IP]))
		}
		delete(has, lease.IP)
	}
	for address, uid := range has {
		errs = append(errs, fmt.Errorf("pod %s has %s, which nobody holds", uid, address))
	}
	return errors.Join(errs...)
}
