//go:build apiserver

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// TestViewCommandsInEveryFormat plays testdata/view/*.txtar against a real API server: the
// objects of the section "cluster", then a command for each further section.
func TestViewCommandsInEveryFormat(t *testing.T) {
	kubeconfig := writeKubeconfig(t, kubetest.User(t, "spiderpool-reader"))
	admin := writeKubeconfig(t, administrator(t)) // before an installation, there is no other role
	var uids []string                             // pairs of a UID and its stand-in
	playTables(t, "testdata/view/*.txtar", func(t *testing.T, out *bytes.Buffer, section txtar.File) error {
		if section.Name == "cluster" {
			out.Write(section.Data)
			uids = createCluster(t, section.Data)
			return nil
		}
		var printed bytes.Buffer
		user := kubeconfig
		if strings.HasPrefix(section.Name, "preflight") {
			user = admin
		}
		err := runView(t, &printed, user, section.Name)
		out.WriteString(strings.NewReplacer(uids...).Replace(printed.String()))
		return err
	})
}

// runView runs a command at threeAtNight. The output ends with the exit code, unless it is 0.
func runView(t *testing.T, out *bytes.Buffer, kubeconfig, command string) error {
	t.Helper()
	cmd := newRootAt(threeAtNight)
	cmd.SetOut(out)
	cmd.SetArgs(append(strings.Fields(command), "--kubeconfig", kubeconfig))
	err := cmd.ExecuteContext(t.Context())
	if errors.Is(err, errFound) {
		fmt.Fprintf(out, "exit code %d\n", exitCode(err))
		return nil
	}
	return err
}

func writeKubeconfig(t *testing.T, config *rest.Config) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, kubetest.Kubeconfig(t, config), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// createCluster creates the objects of a YAML stream with their status. UID(namespace/name) in a
// later object stands for the UID of a pod. createCluster returns the UIDs of the pods, each with a
// stand-in of the same length.
func createCluster(t *testing.T, stream []byte) (standIns []string) {
	t.Helper()
	c := kubetest.Client(t)
	var uids []string
	eachObject(t, stream, func(_ string, document []byte) {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(strings.NewReplacer(uids...).Replace(string(document))), &object.Object); err != nil {
			t.Fatal(err)
		}
		status, hasStatus := object.Object["status"]
		kubetest.Create(t, c, object)
		if hasStatus {
			object.Object["status"] = status
			if err := c.Status().Update(t.Context(), object); err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
		}
		if object.GetKind() == "Node" { // as a kubelet that became ready
			unstructured.RemoveNestedField(object.Object, "spec", "taints")
			if err := c.Update(t.Context(), object); err != nil {
				t.Fatal(err)
			}
		}
		if object.GetKind() == "Pod" {
			uids = append(uids, "UID("+object.GetNamespace()+"/"+object.GetName()+")", string(object.GetUID()))
			standIns = append(standIns, string(object.GetUID()), fmt.Sprintf("00000000-0000-4000-8000-%012d", len(uids)/2))
		}
	})
	return standIns
}

func failsWith(t *testing.T, kubeconfig, command, want string) {
	t.Helper()
	var out bytes.Buffer
	err := runView(t, &out, kubeconfig, command)
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || out.Len() > 0 {
		t.Errorf("%s: got %v, want one line with %q; output %q", command, err, want, out.String())
	}
}

// removeDefinition removes a definition until the end of the test.
func removeDefinition(t *testing.T, name string) {
	t.Helper()
	c := kubetest.Client(t)
	definition := &apiextensionsv1.CustomResourceDefinition{}
	_ = apiextensionsv1.AddToScheme(c.Scheme())
	if err := c.Get(t.Context(), client.ObjectKey{Name: name}, definition); err != nil {
		t.Fatal(err)
	}
	kubetest.Remove(t, c, definition.DeepCopy())
	t.Cleanup(func() {
		again := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: definition.Spec}
		if err := c.Create(context.Background(), again); err != nil {
			t.Error(err)
		}
	})
}
