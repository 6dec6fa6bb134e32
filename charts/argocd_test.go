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

	batchv1 "k8s.io/api/batch/v1"

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
