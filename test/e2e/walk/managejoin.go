package walk

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// joining is the node that leaves and joins again.
const joining = "worker1"

// join has a node leave and join again, without prefixes, while a pod waits for it.
func (m *manage) join(ctx context.Context) error {
	// The controller must not run on the node, and no pod may have an address of it.
	if err := m.kubectlAll(ctx, "scale -n kube-system deployment/coredns --replicas=0", "delete --timeout=5m deployment nginx-lb",
		"cordon "+joining, "delete pod --timeout=2m "+controllers); err != nil {
		return err
	}
	if err := errors.Join(m.eventually(ctx, "Spiderpool's programs are ready", slow, m.installed), m.noneInUse(ctx)); err != nil {
		return err
	}
	if _, err := m.Sh(ctx, m.Binary+" daemon "+joining+"/kubelet stop"); err != nil {
		return err
	}
	if err := m.kubectlAll(ctx, "delete node "+joining, "delete pods --all-namespaces --field-selector spec.nodeName="+joining+" --force --wait=false"); err != nil {
		return err
	}
	if err := m.noPools(ctx, joining); err != nil {
		return err
	}
	state, err := m.cloud(ctx)
	if err != nil {
		return err
	}
	if err := m.take(ctx, state, joining); err != nil {
		return err
	}
	if _, err := m.Kubectl(ctx, "apply -f "+m.manifest("manage/40-early.yaml")); err != nil {
		return err
	}
	if _, err := m.Sh(ctx, m.Binary+" daemon "+joining+"/kubelet start"); err != nil {
		return err
	}
	if _, err := m.Kubectl(ctx, "wait pod/early --for=condition=Ready --timeout=10m"); err != nil {
		return err
	}
	err = errors.Join(m.printJoin(ctx), m.eventually(ctx, "Spiderpool's programs are ready", slow, m.installed))
	_, deleted := m.Kubectl(ctx, "delete --timeout=5m pod early")
	return errors.Join(err, deleted)
}

// printJoin prints when the node, its pool and its pod were ready.
func (m *manage) printJoin(ctx context.Context) error {
	var node corev1.Node
	var pool v2beta1.SpiderIPPool
	var pod corev1.Pod
	if err := errors.Join(m.Get(ctx, "node "+joining, &node), m.Get(ctx, "spiderippool "+m.poolOf(joining, 4), &pool), m.Get(ctx, "pod early", &pod)); err != nil {
		return err
	}
	var ready time.Time
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			ready = c.LastTransitionTime.Time
		}
	}
	fmt.Fprintf(m.Out, "  node %s registered at %s, and was Ready %s later; its pool came %s after Ready\n", joining,
		node.CreationTimestamp.Format(time.TimeOnly), ready.Sub(node.CreationTimestamp.Time), pool.CreationTimestamp.Sub(ready))
	for _, c := range pod.Status.Conditions {
		fmt.Fprintf(m.Out, "  its first pod was %s %s after the node's Ready\n", c.Type, c.LastTransitionTime.Sub(ready))
	}
	return m.addressesAreRouted(ctx, []corev1.Pod{pod})
}
