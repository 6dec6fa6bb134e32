//go:build apiserver

package definitions

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// kubectl runs the lab's kubectl as a user with the role spiderpool-reader.
type kubectl struct {
	*testing.T
	config, home string
}

func newKubectl(t *testing.T) kubectl {
	t.Helper()
	k := kubectl{t, filepath.Join(t.TempDir(), "kubeconfig"), t.TempDir()}
	if err := os.WriteFile(k.config, kubetest.Kubeconfig(t, kubetest.User(t, "spiderpool-reader")), 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k kubectl) run(arguments string) (string, error) {
	cmd := exec.CommandContext(k.Context(), filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), strings.Fields("--kubeconfig "+k.config+" "+arguments)...)
	cmd.Env = append(os.Environ(), "HOME="+k.home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// prints fails unless the command succeeds with the text.
func (k kubectl) prints(arguments, want string) {
	k.Helper()
	if out, err := k.run(arguments); err != nil || !strings.Contains(out, want) {
		k.Errorf("kubectl %s: %v, want %q in\n%s", arguments, err, want, out)
	}
}

// TestKubectlWaitsForConditions waits for the objects of testdata/tables.txtar, by short names.
func TestKubectlWaitsForConditions(t *testing.T) {
	tables, err := txtar.ParseFile("testdata/tables.txtar")
	if err != nil {
		t.Fatal(err)
	}
	createObjects(t, tables.Files[0].Data)
	k := newKubectl(t)
	for _, object := range []string{"sp/blue", "sr/printers", "smc/ipvlan", "scc/default", "scn/aws"} {
		k.prints("wait --for=condition=Ready --timeout=30s "+object, "condition met")
	}
	k.prints("wait --for=condition=Ready=false --timeout=30s ss/racks", "condition met")
	refuses := func(object string) {
		t.Helper()
		if out, err := k.run("wait --for=condition=Ready --timeout=1s " + object); err == nil || !strings.Contains(out, "timed out waiting") {
			t.Errorf("%s: %v\n%s", object, err, out)
		}
	}
	refuses("ss/racks")
	refuses("sp/new") // without a condition yet
	c, blue := kubetest.Client(t), &v2beta1.SpiderIPPool{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "blue"}, blue); err != nil {
		t.Fatal(err)
	}
	blue.Spec.IPs = v2beta1.AddressRanges{"10.18.0.2-10.18.0.20"}
	if err := c.Update(t.Context(), blue); err != nil {
		t.Fatal(err)
	}
	refuses("sp/blue") // its condition is about the former specification
	blue.Status.Conditions[0].ObservedGeneration = blue.Generation
	if err := c.Status().Update(t.Context(), blue); err != nil {
		t.Fatal(err)
	}
	k.prints("wait --for=condition=Ready --timeout=30s sp/blue", "condition met")
}

// TestKubectlExplainsKinds asks for each kind and its specification or status.
func TestKubectlExplainsKinds(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	k := newKubectl(t)
	for _, definition := range all {
		plural, _, _ := strings.Cut(definition.GetName(), ".")
		field := plural + ".spec"
		if plural == "spiderendpoints" {
			field = plural + ".status"
		}
		for _, path := range []string{plural, field} {
			if out, err := k.run("explain " + path); err != nil || !strings.Contains(out, "DESCRIPTION:") || strings.Contains(out, "<empty>") || strings.Contains(out, "no description") {
				t.Errorf("kubectl explain %s: %v\n%s", path, err, out)
			}
		}
	}
}
