package charts

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// unusedRoles are roles without a request of ours, with the reason.
var unusedRoles = map[string]string{
	"spiderpool-controller-owner": "the admission plugin OwnerReferencesPermissionEnforcement asks for it",
	"spiderpool-multus":           "Multus is another project",
	"spiderpool-view":             "for users",
	"spiderpool-edit":             "for users",
	"spiderpool-reader":           "for users",
	"spiderpool-metrics-reader":   "for Prometheus",

	"spiderpool-connectivity-test":     "helm test, which the lab runs",
	"spiderpool-connectivity-test-api": "helm test, which the lab runs",
}

// TestEachRuleIsUsed compares the rules of the chart with the requests that our programs
// make in the tests with a real API server. These check the lists in testdata/requests.
func TestEachRuleIsUsed(t *testing.T) {
	permitted := map[string]bool{}
	for _, values := range []string{"default", "secure"} {
		maps.Copy(permitted, permittedRequests(t, "testdata/"+values+".golden.yaml"))
	}
	made := map[string]bool{}
	lists, err := filepath.Glob("testdata/requests/*.txt")
	if err != nil || len(lists) == 0 {
		t.Fatal("no lists of requests", err)
	}
	for _, list := range lists {
		content, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			made[strings.TrimSpace(line)] = true
		}
	}
	for _, request := range slices.Sorted(maps.Keys(permitted)) {
		if !made[request] {
			t.Errorf("%s: no program makes this request in a test; remove the rule, or add a test and run its package with SPIDERPOOL_UPDATE_REQUESTS=1", request)
		}
	}
	for _, request := range slices.Sorted(maps.Keys(made)) {
		if !permitted[request] {
			t.Errorf("%s: no rule permits this request", request)
		}
	}
}

// permittedRequests returns the requests that the rules in a manifest permit.
func permittedRequests(t *testing.T, file string) map[string]bool {
	t.Helper()
	manifest, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	programs, rules := map[string]string{}, map[string][]rbacv1.PolicyRule{} // by kind and name
	for document := range strings.SplitSeq(string(manifest), "\n---\n") {
		var role rbacv1.ClusterRole
		var binding rbacv1.ClusterRoleBinding
		for _, into := range []any{&role, &binding} {
			if err := yaml.Unmarshal([]byte(document), into); err != nil {
				t.Fatal(err)
			}
		}
		switch {
		case unusedRoles[role.Name] != "":
		case strings.HasSuffix(role.Kind, "RoleBinding"):
			programs[binding.RoleRef.Kind+"/"+binding.RoleRef.Name] = binding.Subjects[0].Name
		case strings.HasSuffix(role.Kind, "Role"):
			rules[role.Kind+"/"+role.Name] = role.Rules
		}
	}
	out := map[string]bool{}
	for name, list := range rules {
		if programs[name] == "" {
			t.Errorf("%s is bound to no program", name)
		}
		for _, rule := range list {
			for _, request := range kubetest.RequestsOf(programs[name], rule) {
				out[request] = true
			}
		}
	}
	return out
}
