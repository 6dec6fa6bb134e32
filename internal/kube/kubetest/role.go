package kubetest

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
)

// Role returns the configuration of a program of the chart on a node, with the rights
// that the chart gives it by default, e.g. "spiderpool-agent". namespace is that of the
// installation. Main compares the requests of the program with its rules.
func Role(tb testing.TB, program, namespace, node string) *rest.Config {
	tb.Helper()
	return RoleWith(tb, "default", program, namespace, node)
}

// RoleWith is Role with the values of another golden file of the chart, e.g. "secure".
func RoleWith(tb testing.TB, values, program, namespace, node string) *rest.Config {
	tb.Helper()
	c := Client(tb)
	config := Account(tb, namespace, program, node)
	granted := rolesOf(tb, values, program)
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: program}}
	for _, r := range granted.cluster {
		permit(program, r.Rules)
		for i := range r.Rules {
			// The webhook configurations of the chart have the name of the program; those of
			// tests, the name of the namespace.
			if slices.Contains(r.Rules[i].APIGroups, "admissionregistration.k8s.io") && len(r.Rules[i].ResourceNames) > 0 {
				r.Rules[i].ResourceNames = append(r.Rules[i].ResourceNames, namespace)
			}
		}
		meta := metav1.ObjectMeta{Name: strings.Join([]string{r.Name, values, namespace}, "-")}
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name}
		keep(tb, c, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: r.Rules}, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects})
	}
	for _, r := range granted.namespaced {
		permit(program, r.Rules)
		meta := metav1.ObjectMeta{Namespace: r.Namespace, Name: strings.Join([]string{r.Name, values, namespace}, "-")}
		if meta.Namespace == releaseNamespace && !strings.HasPrefix(r.Name, program+"-") {
			meta.Namespace = namespace
		}
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name}
		keep(tb, c, &rbacv1.Role{ObjectMeta: meta, Rules: r.Rules}, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects})
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return recorder{program, next} })
	return config
}

// User returns the configuration of a user with a ClusterRole of the chart, e.g.
// "spiderpool-reader"; with no role, the user has no rights.
func User(tb testing.TB, role string) *rest.Config {
	tb.Helper()
	c, name := Client(tb), "user-"+role
	config := Account(tb, releaseNamespace, strings.TrimSuffix(name, "-"), "")
	for _, document := range chartDocuments(tb, "default") {
		var chart rbacv1.ClusterRole
		if err := yaml.Unmarshal(document, &chart); err != nil {
			tb.Fatalf("kubetest: read a golden file of the chart: %v", err)
		}
		if role == "" || chart.Kind != "ClusterRole" || chart.Name != role {
			continue
		}
		meta := metav1.ObjectMeta{Name: name}
		keep(tb, c, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: chart.Rules}, &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: releaseNamespace, Name: name}},
		})
	}
	return config
}

// releaseNamespace is the namespace of the golden files.
const releaseNamespace = "kube-system"

// keep creates the objects for all tests of the process.
func keep(tb testing.TB, c client.Client, objects ...client.Object) {
	tb.Helper()
	for _, object := range objects {
		if err := c.Create(tb.Context(), object); err != nil && !apierrors.IsAlreadyExists(err) {
			tb.Fatalf("kubetest: create %T %s: %v", object, client.ObjectKeyFromObject(object), err)
		}
	}
}

// roles are those that a service account has by the bindings of the chart.
type roles struct {
	cluster    []rbacv1.ClusterRole
	namespaced []rbacv1.Role
}

// rolesOf reads the roles of a program from a golden file of the chart.
func rolesOf(tb testing.TB, values, program string) roles {
	tb.Helper()
	bound := map[string]bool{} // by kind, namespace and name
	decode := func(document []byte, into any) {
		if err := yaml.Unmarshal(document, into); err != nil {
			tb.Fatalf("kubetest: read a golden file of the chart: %v", err)
		}
	}
	documents := chartDocuments(tb, values)
	for _, document := range documents {
		var binding rbacv1.RoleBinding
		if decode(document, &binding); strings.HasSuffix(binding.Kind, "RoleBinding") && binding.Subjects[0].Name == program {
			bound[binding.RoleRef.Kind+"/"+binding.Namespace+"/"+binding.RoleRef.Name] = true
		}
	}
	var out roles
	for _, document := range documents {
		var cluster rbacv1.ClusterRole
		decode(document, &cluster)
		if !bound[cluster.Kind+"/"+cluster.Namespace+"/"+cluster.Name] {
			continue
		}
		if cluster.Kind == "ClusterRole" {
			out.cluster = append(out.cluster, cluster)
			continue
		}
		var role rbacv1.Role
		decode(document, &role)
		out.namespaced = append(out.namespaced, role)
	}
	if len(out.cluster) == 0 {
		tb.Fatalf("kubetest: the chart has no role for %s", program)
	}
	return out
}

// BlockPolicies creates the chart's ValidatingAdmissionPolicies of SpiderIPBlocks. At the
// end of the test it deletes all blocks.
func BlockPolicies(tb testing.TB) {
	tb.Helper()
	c := Client(tb)
	tb.Cleanup(func() { removeBlocks(tb, c) })
	for _, document := range chartDocuments(tb, "default") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			tb.Fatalf("kubetest: read a golden file of the chart: %v", err)
		}
		if strings.HasPrefix(object.GetKind(), "ValidatingAdmissionPolicy") {
			createMissing(tb, c, object)
		}
	}
}

func removeBlocks(tb testing.TB, c client.Client) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var blocks v2beta1.SpiderIPBlockList
	if err := c.List(ctx, &blocks); err != nil {
		tb.Errorf("kubetest: list the blocks: %v", err)
	}
	override := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"`+names.AnnotationOverride+`":"end of a test"}}}`))
	for i := range blocks.Items {
		if err := client.IgnoreNotFound(c.Patch(ctx, &blocks.Items[i], override)); err != nil {
			tb.Errorf("kubetest: override the policy: %v", err)
		}
		Remove(tb, c, &blocks.Items[i])
	}
}

// chartDocuments returns the objects of a golden file of the chart, e.g. "default".
func chartDocuments(tb testing.TB, rendered string) [][]byte {
	tb.Helper()
	root, err := moduleRoot()
	if err != nil {
		tb.Fatalf("kubetest: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(root, "charts", "testdata", rendered+".golden.yaml"))
	if err != nil {
		tb.Fatalf("kubetest: read a golden file of the chart: %v", err)
	}
	return bytes.Split(text, []byte("\n---\n"))
}
