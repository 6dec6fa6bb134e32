//go:build e2e

package cyclonus

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mattfenwick/cyclonus/pkg/generator"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/test/e2e/walk"
)

var (
	labBinary = flag.String("lab", "../../bin/lab", "path of the lab program")
	sampled   = flag.Int("cases", 20, "number of cases")
	seed      = flag.Uint64("seed", 0, "seed of the choice of cases; 0 for a new one")
)

const (
	// effectLimit bounds the time until a change has effect on all verdicts.
	effectLimit = 2 * time.Minute
	// startLimit bounds the start of pods and the end of namespaces.
	startLimit = 10 * time.Minute
)

// labCluster is the cluster of a lab, with the objects of one test case.
type labCluster struct {
	*cluster
	t   *testing.T
	lab *walk.Lab
}

// TestPacketsEqualModel applies random cases to the lab's cluster. After each step, it sends packets between all pods,
// from and to both of their addresses, and compares with the verdicts of package policy.
func TestPacketsEqualModel(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	lab, err := walk.Open(t.Context(), *labBinary, root, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.LoadPackets(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &labCluster{&cluster{}, t, lab}
	t.Cleanup(func() {
		r.kubectl(context.WithoutCancel(t.Context()), "delete namespaces --ignore-not-found "+strings.Join(slices.Collect(maps.Keys(r.namespaces)), " "))
	})
	r.reset()
	podIP := r.pods[policy.Name{Namespace: "z", Name: "c"}].Status.PodIPs[0].IP
	cases := generator.NewTestCaseGenerator(true, podIP, namespaces, nil, nil).GenerateAllTestCases()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("%d of %d cases, -seed %d", *sampled, len(cases), *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	random.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
	var steps, packets, denied int
	for _, tc := range cases[:min(*sampled, len(cases))] {
		r.reset()
		for i, step := range tc.Steps {
			for _, action := range step.Actions {
				r.apply(action)
			}
			r.read()
			name := fmt.Sprintf("%s, step %d", tc.Description, i)
			r.compare(t, name) // the model with cyclonus
			n, d := r.verify(name)
			steps, packets, denied = steps+1, packets+n, denied+d
		}
	}
	t.Logf("%d steps, %d connections, %d of them denied", steps, packets, denied)
	if denied == 0 || denied == packets {
		t.Error("all verdicts are the same")
	}
}

func (r *labCluster) kubectl(ctx context.Context, arguments string) {
	r.t.Helper()
	if _, err := r.lab.Kubectl(ctx, arguments); err != nil {
		r.t.Fatal(err)
	}
}

// create applies an object.
func (r *labCluster) create(object any) {
	r.t.Helper()
	content, err := json.Marshal(object)
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(r.t.TempDir(), "object.json")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.kubectl(r.t.Context(), "apply -f "+file)
}

// reset brings the cluster into the state at the beginning of a case.
func (r *labCluster) reset() {
	r.t.Helper()
	want := newCluster()
	for namespace := range r.namespaces {
		if _, keep := want.namespaces[namespace]; !keep {
			r.kubectl(r.t.Context(), "delete namespace "+namespace)
		}
	}
	for name := range r.policies {
		r.kubectl(r.t.Context(), fmt.Sprintf("delete networkpolicy --ignore-not-found -n %s %s", name.Namespace, name.Name))
	}
	for namespace, labels := range want.namespaces {
		if r.namespaces[namespace] == nil {
			r.createNamespace(namespace, labels)
		}
		r.setLabels("namespace "+namespace, r.namespaces[namespace], labels)
	}
	for name := range r.pods {
		if want.pods[name] == nil && want.namespaces[name.Namespace] != nil {
			r.kubectl(r.t.Context(), fmt.Sprintf("delete pod --grace-period=1 -n %s %s", name.Namespace, name.Name))
		}
	}
	for name, pod := range want.pods {
		if present := r.pods[name]; present == nil {
			r.createPod(name, pod.Labels)
		} else {
			r.setLabels(fmt.Sprintf("-n %s pod %s", name.Namespace, name.Name), present.Labels, pod.Labels)
		}
	}
	r.cluster = want
	r.read()
}

func (r *labCluster) createNamespace(name string, labels map[string]string) {
	r.create(corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
}

func (r *labCluster) createPolicy(p networkingv1.NetworkPolicy) {
	p.TypeMeta = metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}
	r.create(p)
}

// createPod creates a pod that serves like those of cyclonus.
func (r *labCluster) createPod(name policy.Name, labels map[string]string) {
	container := corev1.Container{Name: "server", Image: walk.PacketsImage, Args: []string{"serve"}}
	for _, port := range ports {
		container.Args = append(container.Args, fmt.Sprint(port))
		for protocol := range protocols {
			container.Ports = append(container.Ports, corev1.ContainerPort{Name: portName(port, protocol), ContainerPort: port, Protocol: protocol})
		}
	}
	grace := int64(1)
	r.create(corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, Labels: labels},
		Spec:       corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{container}},
	})
}

// setLabels replaces the labels of an object, but for those of Kubernetes.
func (r *labCluster) setLabels(object string, present, labels map[string]string) {
	r.t.Helper()
	command := "label --overwrite " + object
	for key := range present {
		if _, keep := labels[key]; !keep && !strings.HasPrefix(key, "kubernetes.io/") {
			command += " " + key + "-"
		}
	}
	for key, value := range labels {
		command += fmt.Sprintf(" %s=%s", key, value)
	}
	r.kubectl(r.t.Context(), command)
}

// apply does an action in the cluster and in the model.
func (r *labCluster) apply(action *generator.Action) {
	r.t.Helper()
	switch a := action; {
	case a.CreatePolicy != nil:
		r.createPolicy(*a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		r.createPolicy(*a.UpdatePolicy.Policy)
	case a.DeletePolicy != nil:
		r.kubectl(r.t.Context(), fmt.Sprintf("delete networkpolicy -n %s %s", a.DeletePolicy.Namespace, a.DeletePolicy.Name))
	case a.CreateNamespace != nil:
		r.createNamespace(a.CreateNamespace.Namespace, a.CreateNamespace.Labels)
	case a.SetNamespaceLabels != nil:
		r.setLabels("namespace "+a.SetNamespaceLabels.Namespace, r.namespaces[a.SetNamespaceLabels.Namespace], a.SetNamespaceLabels.Labels)
	case a.DeleteNamespace != nil:
		r.kubectl(r.t.Context(), "delete namespace "+a.DeleteNamespace.Namespace)
	case a.CreatePod != nil:
		r.createPod(policy.Name{Namespace: a.CreatePod.Namespace, Name: a.CreatePod.Pod}, a.CreatePod.Labels)
	case a.SetPodLabels != nil:
		name := policy.Name{Namespace: a.SetPodLabels.Namespace, Name: a.SetPodLabels.Pod}
		r.setLabels(fmt.Sprintf("-n %s pod %s", name.Namespace, name.Name), r.pods[name].Labels, a.SetPodLabels.Labels)
	case a.DeletePod != nil:
		r.kubectl(r.t.Context(), fmt.Sprintf("delete pod --grace-period=1 -n %s %s", a.DeletePod.Namespace, a.DeletePod.Pod))
	}
	r.act(r.t, action)
}

// read waits until all pods of the model run, and takes labels and addresses from the cluster.
func (r *labCluster) read() {
	r.t.Helper()
	err := r.eventually(startLimit, func(ctx context.Context) error {
		var spaces corev1.NamespaceList
		var pods corev1.PodList
		if err := errors.Join(r.lab.Get(ctx, "namespaces", &spaces), r.lab.Get(ctx, "pods -A", &pods)); err != nil {
			return err
		}
		for _, namespace := range spaces.Items {
			if r.namespaces[namespace.Name] != nil {
				r.namespaces[namespace.Name] = namespace.Labels
			}
		}
		running := 0
		for _, pod := range pods.Items {
			name := policy.Name{Namespace: pod.Namespace, Name: pod.Name}
			if r.pods[name] == nil {
				continue
			}
			if pod.Status.Phase != corev1.PodRunning || len(pod.Status.PodIPs) != 2 || pod.DeletionTimestamp != nil {
				return fmt.Errorf("pod %s/%s is %s with the addresses %v", pod.Namespace, pod.Name, pod.Status.Phase, pod.Status.PodIPs)
			}
			r.pods[name] = &pod
			running++
		}
		if running != len(r.pods) {
			return fmt.Errorf("%d of %d pods run", running, len(r.pods))
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// verify waits until the packets between all pods have the verdicts of the model, and returns the number of
// connections, and of those that are denied.
func (r *labCluster) verify(step string) (connections, denied int) {
	r.t.Helper()
	err := r.eventually(effectLimit, func(ctx context.Context) error {
		var mu sync.Mutex
		var errs []error
		var asking sync.WaitGroup
		model := r.compiled(r.t)
		connections, denied = 0, 0
		for _, from := range r.pods {
			asking.Go(func() {
				n, d, err := r.askFrom(ctx, model, from)
				mu.Lock()
				defer mu.Unlock()
				connections, denied, errs = connections+n, denied+d, append(errs, err)
			})
		}
		asking.Wait()
		return errors.Join(errs...)
	})
	if err != nil {
		r.t.Fatalf("%s: %v", step, err)
	}
	return connections, denied
}

// askFrom connects from one pod to all others, and compares with the model.
func (r *labCluster) askFrom(ctx context.Context, model *policy.Cluster, from *corev1.Pod) (connections, denied int, err error) {
	var targets []walk.Target
	var allowed []bool
	for _, to := range r.pods {
		if to == from {
			continue
		}
		for i, ip := range to.Status.PodIPs {
			for protocol, number := range protocols {
				for _, port := range ports {
					address := netip.AddrPortFrom(netip.MustParseAddr(ip.IP), uint16(port))
					targets = append(targets, walk.Target{Protocol: strings.ToLower(string(protocol)), AddrPort: address})
					allowed = append(allowed, model.Verdict(policy.Packet{
						From: netip.MustParseAddr(from.Status.PodIPs[i].IP), To: address.Addr(), Protocol: number, Port: address.Port(),
					}).Allowed())
				}
			}
		}
	}
	verdicts, err := r.lab.AskAll(ctx, from.Namespace, from.Name, targets)
	if err != nil {
		return 0, 0, err
	}
	var wrong []string
	for i, verdict := range verdicts {
		connections++
		if !allowed[i] {
			denied++
		}
		if (verdict == walk.Answered) != allowed[i] {
			wrong = append(wrong, fmt.Sprintf("%s/%s to %s is %s, want allowed %v", from.Namespace, from.Name, targets[i], verdict, allowed[i]))
		}
	}
	if len(wrong) > 0 {
		err = fmt.Errorf("%d of %d verdicts are wrong, e.g. %s", len(wrong), connections, wrong[0])
	}
	return connections, denied, err
}

func (r *labCluster) eventually(limit time.Duration, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, last)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
