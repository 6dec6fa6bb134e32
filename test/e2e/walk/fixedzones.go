package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// cutOff stops the kubelet of the node of both pods, and deletes them by force. Their containers keep running there.
func (f *fixed) cutOff(ctx context.Context) error {
	own, _, err := f.nodesOf(ctx, "db-0")
	if err != nil {
		return err
	}
	f.lost = own
	if _, err := f.Kubectl(ctx, "cordon "+f.lost); err != nil {
		return err
	}
	if _, err := f.Sh(ctx, f.Binary+" daemon "+f.lost+"/kubelet stop"); err != nil {
		return err
	}
	start := time.Now()
	if _, err := f.Kubectl(ctx, "delete pod -l app=db --force --grace-period=0"); err != nil {
		return err
	}
	pods, err := f.ready(ctx, start)
	if err != nil {
		return err
	}
	if n, err := f.formerSandboxes(ctx); err != nil || n != 2*len(pods) {
		return fmt.Errorf("%d former sandboxes are known, want one for each address: %w", n, err)
	}
	// The former node still has a route of its own to each former pod.
	return f.followed(ctx, pods, f.lost)
}

// comeBack starts the kubelet again, and waits until it has removed the former pods.
func (f *fixed) comeBack(ctx context.Context) error {
	if _, err := f.Sh(ctx, f.Binary+" daemon "+f.lost+"/kubelet start"); err != nil {
		return err
	}
	if _, err := f.Kubectl(ctx, "wait node/"+f.lost+" --for=condition=Ready --timeout=5m"); err != nil {
		return err
	}
	if err := f.eventually(ctx, "no former sandbox has an address", slow, func(ctx context.Context) error {
		n, err := f.formerSandboxes(ctx)
		if err == nil && n > 0 {
			err = fmt.Errorf("the SpiderIPBlocks have %d", n)
		}
		return err
	}); err != nil {
		return err
	}
	pods, err := f.ready(ctx, time.Now())
	if err != nil {
		return err
	}
	return errors.Join(f.followed(ctx, pods), f.kubectlAll(ctx, "uncordon "+f.lost))
}

// formerSandboxes returns the number of addresses whose former sandbox may still run.
func (f *fixed) formerSandboxes(ctx context.Context) (n int, err error) {
	var blocks v2beta1.SpiderIPBlockList
	err = f.Get(ctx, "spideripblocks", &blocks)
	for _, b := range blocks.Items {
		n += len(b.Spec.Former)
	}
	return n, err
}

// pinned has the scheduler keep db-0 away from the free node of the other zone.
func (f *fixed) pinned(ctx context.Context) error {
	if err := f.kubectlAll(ctx, "cordon "+strings.Join(homes, " "), "delete pod db-0"); err != nil {
		return err
	}
	if err := f.eventually(ctx, "the scheduler says why db-0 has no node", slow, func(ctx context.Context) error {
		return f.eventSays(ctx, "db-0", "didn't match Pod's node affinity")
	}); err != nil {
		return err
	}
	zones, err := f.Kubectl(ctx, `get pod db-0 -o jsonpath='{.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms}{"\n"}'`)
	if err == nil && !strings.Contains(zones, homeZone) {
		err = fmt.Errorf("pod db-0 does not require zone %s: %s", homeZone, zones)
	}
	start := time.Now()
	if err := errors.Join(err, f.kubectlAll(ctx, "uncordon "+strings.Join(homes, " "))); err != nil {
		return err
	}
	pods, err := f.ready(ctx, start)
	if err != nil {
		return err
	}
	return f.followed(ctx, pods)
}

// refused has db-1 come to the other zone while the webhook does not answer.
func (f *fixed) refused(ctx context.Context) error {
	if err := f.scaleController(ctx, 0); err != nil {
		return err
	}
	if err := f.kubectlAll(ctx, "cordon "+strings.Join(homes, " "), "delete pod db-1"); err != nil {
		return err
	}
	former := f.former["db-1"]
	if err := f.eventually(ctx, "an event of db-1 names both zones", slow, func(ctx context.Context) error {
		return f.eventSays(ctx, "db-1", fmt.Sprintf("its fixed addresses %s and %s work in zone %s only, and the node is in zone %q", former[0], former[1], homeZone, otherZone))
	}); err != nil {
		return err
	}
	return errors.Join(f.showPods(ctx, "-l app=db"), f.scaleController(ctx, 1))
}

// scaleController waits until the controllers are as many as wanted.
func (f *fixed) scaleController(ctx context.Context, replicas int) error {
	if _, err := f.Kubectl(ctx, fmt.Sprintf("scale %s --replicas=%d", controllerDeployment, replicas)); err != nil {
		return err
	}
	return f.eventually(ctx, fmt.Sprintf("%d controllers are ready", replicas), slow, func(ctx context.Context) error {
		var pods corev1.PodList
		if err := f.Get(ctx, "pods "+controllers, &pods); err != nil {
			return err
		}
		if len(pods.Items) != replicas {
			return fmt.Errorf("there are %d", len(pods.Items))
		}
		return f.installed(ctx)
	})
}

// released follows the message of db-1 until the pod has addresses of its node's zone.
func (f *fixed) released(ctx context.Context) error {
	start := time.Now()
	former := f.former["db-1"]
	if err := f.eventually(ctx, "an event of db-1 has the way out for both addresses", slow, func(ctx context.Context) error {
		return f.eventSays(ctx, "db-1", fmt.Sprintf("run spiderpoolctl release %s --force, the same for %s, and", former[0], former[1]))
	}); err != nil {
		return err
	}
	for _, addr := range former {
		if _, err := f.Sh(ctx, "bin/spiderpoolctl release "+addr.String()+" --force"); err != nil {
			return err
		}
	}
	pods, err := f.ready(ctx, start)
	if err != nil {
		return err
	}
	v4, v6, err := addressesOf(pods[1])
	if err != nil {
		return err
	}
	if node := pods[1].Spec.NodeName; node != outside || slices.Contains(former[:], v4) || slices.Contains(former[:], v6) {
		return fmt.Errorf("pod db-1 is on %s with %s and %s, want other addresses than %s on %s", node, v4, v6, former, outside)
	}
	f.former["db-1"] = [2]netip.Addr{v4, v6}
	return errors.Join(f.followed(ctx, pods), f.kubectlAll(ctx, "uncordon "+strings.Join(homes, " ")))
}

// coolDown deletes the StatefulSet, and waits until no interface has a fixed address.
func (f *fixed) coolDown(ctx context.Context) error {
	if _, err := f.Kubectl(ctx, "delete statefulset db"); err != nil {
		return err
	}
	if err := f.eventually(ctx, "the pods are gone", slow, func(ctx context.Context) error {
		var pods corev1.PodList
		err := f.Get(ctx, "pods -l app=db", &pods)
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("there are %d", len(pods.Items))
		}
		return err
	}); err != nil {
		return err
	}
	start := time.Now()
	if err := f.eventually(ctx, "no interface has a fixed address", slow, f.noneIsAssigned); err != nil {
		return err
	}
	fmt.Fprintf(f.Out, "  the last address had left its interface %s after the last pod\n", since(start))
	return nil
}

// forget removes the client and the pools, and assigns the topology's prefixes again.
func (f *fixed) forget(ctx context.Context) error {
	if _, err := f.Kubectl(ctx, "delete pod client"); err != nil {
		return err
	}
	if err := f.forgetAll(ctx); err != nil {
		return err
	}
	return f.eventually(ctx, "no pool is left", slow, func(ctx context.Context) error {
		var pools v2beta1.SpiderIPPoolList
		err := f.Get(ctx, "spiderippools", &pools)
		if err == nil && len(pools.Items) > 0 {
			err = fmt.Errorf("%d are, e.g. %s", len(pools.Items), pools.Items[0].Name)
		}
		return err
	})
}
