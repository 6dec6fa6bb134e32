package kubetest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
)

// calls records the requests of all roles of this process. Main compares them with the
// rules.
var calls struct {
	mu      sync.Mutex
	granted map[string]bool // e.g. "spiderpool-agent: get pods"
	made    map[string]bool
}

// Role returns the configuration of a program of the chart on a node, with the rights
// that the chart gives it, e.g. "spiderpool-agent". namespace is that of the
// installation. Main fails if a program made a request that its rules do not permit.
func Role(tb testing.TB, program, namespace, node string) *rest.Config {
	tb.Helper()
	c := Client(tb)
	config := Account(tb, namespace, program, node)
	name := program + "-" + namespace
	for _, document := range chartDocuments(tb, "default") {
		var head struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			tb.Fatalf("kubetest: read a golden file of the chart: %v", err)
		}
		if head.Metadata.Name != program && !strings.HasPrefix(head.Metadata.Name, program+"-k") && !strings.HasPrefix(head.Metadata.Name, program+"-c") {
			continue
		}
		var role rbacv1.ClusterRole
		switch head.Kind {
		case "ClusterRole", "Role":
			if err := yaml.Unmarshal(document, &role); err != nil {
				tb.Fatalf("kubetest: read %s %s of the chart: %v", head.Kind, head.Metadata.Name, err)
			}
		default:
			continue
		}
		grant(program, role.Rules)
		subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: program}}
		if head.Kind == "ClusterRole" {
			role.Name, role.Labels = name, nil
			for i := range role.Rules {
				// The webhook configurations of the chart have the name of the program; those of
				// tests, the name of the namespace.
				if slices.Contains(role.Rules[i].APIGroups, "admissionregistration.k8s.io") && len(role.Rules[i].ResourceNames) > 0 {
					role.Rules[i].ResourceNames = append(role.Rules[i].ResourceNames, namespace)
				}
			}
			binding := &rbacv1.ClusterRoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: head.Kind, Name: name}, Subjects: subjects}
			binding.Name = name
			createMissing(tb, c, &role)
			createMissing(tb, c, binding)
			continue
		}
		local := &rbacv1.Role{Rules: role.Rules}
		local.Namespace, local.Name = namespace, head.Metadata.Name
		if head.Metadata.Name != program {
			local.Namespace, local.Name = head.Metadata.Namespace, head.Metadata.Name+"-"+namespace
		}
		binding := &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: head.Kind, Name: local.Name}, Subjects: subjects}
		binding.Namespace, binding.Name = local.Namespace, local.Name
		createMissing(tb, c, local)
		createMissing(tb, c, binding)
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return recorder{program, next} })
	return config
}

func grant(program string, rules []rbacv1.PolicyRule) {
	calls.mu.Lock()
	defer calls.mu.Unlock()
	if calls.granted == nil {
		calls.granted, calls.made = map[string]bool{}, map[string]bool{}
	}
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					calls.granted[call(program, verb, group, resource)] = true
				}
			}
		}
	}
}

// call returns the text of a request. A watch begins with a list or with a watch that
// sends the list first, so both count as one.
func call(program, verb, group, resource string) string {
	if verb == "watch" {
		verb = "list"
	}
	return strings.TrimSuffix(program+": "+verb+" "+resource+"."+group, ".")
}

// recorder records the requests of a program.
type recorder struct {
	program string
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	if group, resource, named, ok := parsePath(request.URL.Path); ok {
		calls.mu.Lock()
		calls.made[call(r.program, verbOf(request.Method, named), group, resource)] = true
		calls.mu.Unlock()
	}
	return r.next.RoundTrip(request)
}

func verbOf(method string, named bool) string {
	switch {
	case method == http.MethodGet && !named:
		return "list"
	case method == http.MethodPost:
		return "create"
	case method == http.MethodPut:
		return "update"
	}
	return strings.ToLower(method)
}

// parsePath splits e.g. /apis/apps/v1/namespaces/default/statefulsets/web/status into
// group, resource with subresource, and whether it names an object.
func parsePath(path string) (group, resource string, named, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		group, parts = parts[1], parts[3:]
	default:
		return "", "", false, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	resource = parts[0]
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	return group, resource, len(parts) > 1, true
}

// compareRoles returns the requests without a rule. Some fail without a trace in a test,
// e.g. events.
func compareRoles() error {
	calls.mu.Lock()
	defer calls.mu.Unlock()
	var faults []string
	for c := range calls.made {
		if !calls.granted[c] {
			faults = append(faults, c+": no rule permits this request; add one")
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("charts/spiderpool/templates/_rules.tpl:\n%s", strings.Join(slices.Sorted(slices.Values(faults)), "\n"))
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
