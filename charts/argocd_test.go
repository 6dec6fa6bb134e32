//go:build apiserver

package charts

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/kube/definitions"
)

// Argo CD and Flux's diff render the chart without a cluster, so a template must not ask
// for objects of the cluster, and must give the same text each time.
var asksCluster = regexp.MustCompile(`\b(lookup|genCA|genSelfSignedCert|genSignedCert|genPrivateKey|rand\w+|now|uuidv4|getHostByName)\b *[\s"(.$}]`)

func TestTemplatesRenderWithoutCluster(t *testing.T) {
	count := 0
	err := filepath.WalkDir("spiderpool/templates", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		count++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, action := range regexp.MustCompile(`(?s)\{\{.*?\}\}`).FindAllString(string(text), -1) {
			// Comments and texts in quotation marks are no calls.
			code := regexp.MustCompile(`(?s)/\*.*?\*/|"(\\.|[^"])*"`).ReplaceAllString(action, `""`)
			if found := asksCluster.FindString(code); found != "" {
				t.Errorf("%s calls %s", path, found)
			}
		}
		return nil
	})
	if err != nil || count < 20 {
		t.Errorf("read %d templates, %v", count, err)
	}
}

func TestJobCreatesDefinitionsOfOthers(t *testing.T) {
	others, err := definitions.Others()
	if err != nil || len(others) != 3 {
		t.Fatalf("%d definitions of others, %v", len(others), err)
	}
	known := map[string]bool{}
	for _, definition := range others {
		known[definition.GetName()] = true
	}
	for values, want := range map[string]int{
		"": 1, "multus.multusCNI.install=false": 1, "multus.multusCNI.install=false,multus.enableMultusConfig=false": 0,
		"policy.installCRDs.clusterNetworkPolicy=true": 2, "policy.installCRDs.multiNetworkPolicy=true": 2,
	} {
		job := objectsOf[batchv1.Job](t, render(t, "--set", values), "Job")["spiderpool-init-definitions"]
		var also []string
		for _, arg := range job.Spec.Template.Spec.Containers[0].Args {
			if name, ok := strings.CutPrefix(arg, "--also="); ok {
				also = append(also, name)
			}
		}
		if len(also) != want || slices.ContainsFunc(also, func(name string) bool { return !known[name] }) {
			t.Errorf("%s: the Job creates %q, want %d", values, also, want)
		}
	}
}

// TestArgoCDRendersSameTextTwice renders with the arguments of Argo CD's repository server: util/helm/cmd.go and
// reposerver/repository/repository.go of argo-cd v3.5. Nothing depends on the version of the cluster or on its APIs.
func TestArgoCDRendersSameTextTwice(t *testing.T) {
	for _, values := range []string{"", "everything", "secure", "provided", "nothing"} {
		t.Run(values, func(t *testing.T) {
			var first string
			for _, further := range [][]string{
				{"--kube-version", "1.31.0", "--api-versions", "v1", "--api-versions", "apps/v1"},
				{"--kube-version", "1.36.3", "--api-versions", "v1", "--api-versions", "apps/v1", "--api-versions", "monitoring.coreos.com/v1/ServiceMonitor"},
				{"--kube-version", "1.36.3", "--skip-tests"},
			} {
				args := append([]string{"template", ".", "--name-template", "spiderpool", "--namespace", "kube-system"}, further...)
				if values != "" {
					args = append(args, "--values", filepath.Join("..", "testdata", values+".values.yaml"))
				}
				out, failure := helmIn(t, "spiderpool", append(args, "--include-crds")...)
				if failure != "" {
					t.Fatal(failure)
				}
				text := withoutTests(string(out))
				if first == "" {
					first = text
				}
				if text != first {
					t.Errorf("%v give another text: %s", further, firstDifference(first, text))
				}
			}
		})
	}
}

// withoutTests leaves out the objects of "helm test".
func withoutTests(manifest string) string {
	documents := strings.Split(manifest, "---\n")
	return strings.Join(slices.DeleteFunc(documents, func(document string) bool { return strings.Contains(document, "helm.sh/hook: test") }), "---\n")
}

// TestHooksAreKnownToArgoCD: Argo CD runs these events of Helm only, and knows hooks by the annotation.
// https://argo-cd.readthedocs.io/en/stable/user-guide/helm/#helm-hooks
func TestHooksAreKnownToArgoCD(t *testing.T) {
	known := []string{"pre-install", "pre-upgrade", "post-install", "post-upgrade", "pre-delete", "post-delete", "test"}
	found := map[string]bool{}
	for _, match := range regexp.MustCompile(`helm\.sh/hook: (.*)`).FindAllStringSubmatch(string(render(t, "-f", "testdata/everything.values.yaml")), -1) {
		for event := range strings.SplitSeq(match[1], ",") {
			found[event] = true
			if !slices.Contains(known, event) {
				t.Errorf("Argo CD does not run the hook %s", event)
			}
		}
	}
	if len(found) != len(known) {
		t.Errorf("the chart has the hooks %v", found)
	}
}

// Argo CD creates all objects of a PreDelete hook at once, without the order of Helm: controller/hook.go of argo-cd v3.5.
func TestCleanerWaitsForEndOfAgents(t *testing.T) {
	cleaner := objectsOf[appsv1.DaemonSet](t, render(t), "DaemonSet")["spiderpool-init-clean"].Spec.Template.Spec
	for _, volume := range cleaner.Volumes {
		if volume.ConfigMap == nil {
			continue
		}
		// The kubelet sets up only volumes that a container mounts, and starts no container before.
		mounted := slices.ContainsFunc(cleaner.InitContainers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume.Name })
		if !mounted || volume.ConfigMap.Optional != nil && *volume.ConfigMap.Optional {
			t.Errorf("volume %+v, mounted: %v", volume, mounted)
		}
		return
	}
	t.Error("the pods of the cleaner wait for no ConfigMap")
}
