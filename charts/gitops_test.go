//go:build apiserver && gitops

package charts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// valuesForGitOps have only kinds that the API server serves, as in TestAPIServerAcceptsEveryObject.
var valuesForGitOps = map[string][]string{
	"default": nil,
	"most": {"-f", "testdata/everything.values.yaml",
		"--set", "spiderpoolController.tls.method=auto,global.ciliumConfigMap=kube-system/cilium-config",
		"--set", "spiderpoolAgent.prometheus.serviceMonitor.install=false,spiderpoolAgent.prometheus.prometheusRule.install=false",
		"--set", "spiderpoolController.prometheus.serviceMonitor.install=false,spiderpoolController.prometheus.prometheusRule.install=false"},
}

// TestFluxSeesNoDrift applies the chart as a Kustomization of Flux, runs the controller, and applies it again.
func TestFluxSeesNoDrift(t *testing.T) {
	flux := gitOpsProgram(t, "flux")
	for name, args := range valuesForGitOps {
		t.Run(name, func(t *testing.T) {
			access, manifest := kubeconfig(t), manifestFile(t, render(t, slices.Concat(args, []string{"--no-hooks"})...))
			removeAll(t, manifest)
			eachLine(t, tell(t, flux, "apply", access, manifest), "created")
			runInstallation(t, manifest)
			eachLine(t, tell(t, flux, "apply", access, manifest), "unchanged")
			scaleController(t)
			seesScale(t, tell(t, flux, "apply", access, manifest))
		})
	}
}

// TestFluxSeesNoDriftOfHelmRelease installs the chart with Helm, runs the controller, and compares as helm-controller does
// with driftDetection.
func TestFluxSeesNoDriftOfHelmRelease(t *testing.T) {
	flux := gitOpsProgram(t, "flux")
	for name, args := range valuesForGitOps {
		t.Run(name, func(t *testing.T) {
			access := kubeconfig(t)
			release := []string{"spiderpool", "--namespace", "kube-system", "--kubeconfig", access}
			if _, failure := helm(t, slices.Concat([]string{"install", "--no-hooks", "spiderpool", "spiderpool"}, release[1:], args)...); failure != "" {
				t.Fatal(failure)
			}
			text, failure := helm(t, append([]string{"get", "manifest"}, release...)...)
			if failure != "" {
				t.Fatal(failure)
			}
			manifest := manifestFile(t, text)
			removeAll(t, manifest)
			runInstallation(t, manifest)
			eachLine(t, tell(t, flux, "drift", access, manifest), "none")
			scaleController(t)
			seesScale(t, tell(t, flux, "drift", access, manifest))
			if _, failure := helm(t, append([]string{"uninstall", "--no-hooks"}, release...)...); failure != "" {
				t.Error(failure)
			}
		})
	}
}

// TestArgoCDSeesNoDifference synchronizes the chart, runs the controller, and compares. The engine alone does not follow hooks, so
// TestHooksAreKnownToArgoCD looks at these.
func TestArgoCDSeesNoDifference(t *testing.T) {
	argocd := gitOpsProgram(t, "argocd")
	for name, args := range valuesForGitOps {
		for _, mode := range [][]string{nil, {"server-side"}} {
			t.Run(strings.Join(append(slices.Clone(mode), name), " "), func(t *testing.T) {
				access, manifest := kubeconfig(t), manifestFile(t, render(t, slices.Concat(args, []string{"--no-hooks"})...))
				removeAll(t, manifest)
				call := func(verb string) string {
					return tell(t, argocd, slices.Concat([]string{verb, access, manifest}, mode)...)
				}
				call("sync")
				runInstallation(t, manifest)
				eachLine(t, call("diff"), "same")
				call("sync")
				eachLine(t, call("diff"), "same")
				scaleController(t)
				seesScale(t, call("diff"))
			})
		}
	}
}

// gitOpsProgram builds a program of test/gitops.
func gitOpsProgram(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join("..", "test", "gitops", name)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return program
}

// tell runs a program and returns what it prints.
func tell(t *testing.T, program string, args ...string) string {
	t.Helper()
	var failure bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(program), args[0], err, out, failure.Bytes())
	}
	return string(out)
}

// eachLine checks the last word of each line.
func eachLine(t *testing.T, lines, want string) {
	t.Helper()
	count := 0
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); !strings.HasSuffix(line, " "+want) {
			t.Errorf("not %s: %s", want, line)
		}
		count++
	}
	if count < 30 {
		t.Errorf("only %d objects", count)
	}
}

// scaleController makes a difference, as a user does with kubectl.
func scaleController(t *testing.T) {
	t.Helper()
	controller := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "spiderpool-controller"}}
	replicas := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"replicas":7}}`))
	if err := kubetest.Client(t).Patch(t.Context(), controller, replicas); err != nil {
		t.Fatal(err)
	}
}

// seesScale checks that a line tells the difference of scaleController.
func seesScale(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		name, state, _ := strings.Cut(strings.Replace(line, "Deployment ", "Deployment/", 1), " ")
		if name == "Deployment/kube-system/spiderpool-controller" {
			if state = strings.TrimSpace(state); state == "unchanged" || state == "none" || state == "same" {
				t.Errorf("the changed number of replicas is not seen: %s", line)
			}
			return
		}
	}
	t.Errorf("no Deployment in\n%s", lines)
}

func manifestFile(t *testing.T, manifest []byte) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// removeAll removes the objects of a manifest at the end of the test.
func removeAll(t *testing.T, manifest string) {
	t.Helper()
	c := kubetest.Client(t)
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			t.Fatal(err)
		}
		if object.GetKind() != "" && object.GetKind() != "Namespace" {
			t.Cleanup(func() { kubetest.Remove(t, c, object) })
		}
	}
}

// runInstallation runs the controller with the configuration and the rights of the chart, and stands in for the
// controllers of workloads, until all have written what they write into the objects of the chart.
func runInstallation(t *testing.T, manifest string) {
	t.Helper()
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	standIn(t)
	startController(t, configuration(t, text))
	c := kubetest.Client(t)
	kubetest.Eventually(t, func(ctx context.Context) error {
		mutating, validating := &admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}
		key := client.ObjectKey{Name: "spiderpool-controller"}
		if err := errors.Join(c.Get(ctx, key, mutating), c.Get(ctx, key, validating)); err != nil {
			return err
		}
		for _, hook := range mutating.Webhooks {
			if len(hook.ClientConfig.CABundle) == 0 {
				return fmt.Errorf("webhook %s has no CA bundle", hook.Name)
			}
		}
		for _, hook := range validating.Webhooks {
			if len(hook.ClientConfig.CABundle) == 0 {
				return fmt.Errorf("webhook %s has no CA bundle", hook.Name)
			}
		}
		var sets appsv1.DaemonSetList
		if err := c.List(ctx, &sets, client.InNamespace("kube-system")); err != nil {
			return err
		}
		for _, set := range sets.Items {
			if set.Status.NumberReady == 0 {
				return fmt.Errorf("DaemonSet %s has no status", set.Name)
			}
		}
		return nil
	})
}

// startController runs the program under the account of the chart.
func startController(t *testing.T, file *config.File) {
	t.Helper()
	p := &file.ControllerProcess
	p.HealthPort, p.Webhook.Port, p.Metrics.Port, p.Metrics.Secure = kubetest.FreePort(t), kubetest.FreePort(t), kubetest.FreePort(t), false
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	access := kubetest.Kubeconfig(t, kubetest.Account(t, "kube-system", "spiderpool-controller", "node-1"))
	if err := errors.Join(os.WriteFile(dir+"/config.yaml", text, 0o600), os.WriteFile(dir+"/kubeconfig", access, 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(kubetest.Program(t, "spiderpool-controller"), "--config", dir+"/config.yaml", "--kubeconfig", dir+"/kubeconfig", "--bind-address", "127.0.0.1")
	cmd.Env = append(os.Environ(), config.EnvPodName+"=controller", config.EnvPodNamespace+"=kube-system")
	var output bytes.Buffer
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the controller wrote\n%s", output.String())
		}
	})
}

// standIn writes the status of workloads, as if there were nodes and kube-controller-manager: each pod of a Deployment
// and a DaemonSet is ready.
func standIn(t *testing.T) {
	t.Helper()
	c := kubetest.Client(t)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			// Objects come and go, so the next round has more luck.
			_ = errors.Join(readyDeployments(ctx, c), readyDaemonSets(ctx, c))
			time.Sleep(200 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { stop(); <-done })
}

func readyDeployments(ctx context.Context, c client.Client) error {
	var all appsv1.DeploymentList
	err := c.List(ctx, &all, client.InNamespace("kube-system"))
	for i := range all.Items {
		d := &all.Items[i]
		if d.Status.ObservedGeneration == d.Generation {
			continue
		}
		revision := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"1"}}}`))
		err = errors.Join(err, c.Patch(ctx, d, revision))
		n := *d.Spec.Replicas
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
			Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue}}}
		err = errors.Join(err, c.Status().Update(ctx, d))
	}
	return err
}

func readyDaemonSets(ctx context.Context, c client.Client) error {
	var all appsv1.DaemonSetList
	err := c.List(ctx, &all, client.InNamespace("kube-system"))
	for i := range all.Items {
		d := &all.Items[i]
		if d.Status.ObservedGeneration == d.Generation {
			continue
		}
		d.Status = appsv1.DaemonSetStatus{ObservedGeneration: d.Generation, CurrentNumberScheduled: 1, DesiredNumberScheduled: 1, UpdatedNumberScheduled: 1, NumberReady: 1, NumberAvailable: 1}
		err = errors.Join(err, c.Status().Update(ctx, d))
	}
	return err
}
