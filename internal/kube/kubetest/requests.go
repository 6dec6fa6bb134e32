package kubetest

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// requests are those of all programs under a role, e.g. "spiderpool-agent: get pods".
// Each package with kubetest.Main has a list of its requests in charts/testdata/requests,
// and a hermetic test of the chart compares all lists with the rules.
var requests struct {
	mu              sync.Mutex
	permitted, made map[string]bool
}

// permit records the rules of a program.
func permit(program string, rules []rbacv1.PolicyRule) {
	requests.mu.Lock()
	defer requests.mu.Unlock()
	if requests.permitted == nil {
		requests.permitted, requests.made = map[string]bool{}, map[string]bool{}
	}
	for _, rule := range rules {
		for _, text := range RequestsOf(program, rule) {
			requests.permitted[text] = true
		}
	}
}

// RequestsOf returns the requests that a rule permits, e.g. "spiderpool-agent: get pods". A
// watch begins with a list or sends one first, so both are a list.
func RequestsOf(program string, rule rbacv1.PolicyRule) []string {
	var out []string
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				if verb == "watch" {
					verb = "list"
				}
				out = append(out, strings.TrimSuffix(program+": "+verb+" "+resource+"."+group, "."))
			}
		}
	}
	return out
}

// recorder records the requests of a program.
type recorder struct {
	program string
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	requests.mu.Lock()
	for _, text := range describe(request) {
		requests.made[r.program+": "+text] = true
	}
	requests.mu.Unlock()
	return r.next.RoundTrip(request)
}

// describe returns the requests to permit, each with verb, resource and group, e.g. "get
// statefulsets.apps". A server-side apply may create the object, and the API server asks
// for both rights. The recorder of events.k8s.io patches an event that occurs again; whether a
// test sees this depends on timing, so a new event counts as both.
func describe(request *http.Request) []string {
	group, resource, named, ok := parsePath(request.URL.Path)
	if !ok {
		return nil
	}
	text := func(verb string) string { return strings.TrimSuffix(verb+" "+resource+"."+group, ".") }
	verb := strings.ToLower(request.Method)
	switch {
	case request.Method == http.MethodPost && resource == "events" && group == eventsv1.GroupName:
		return []string{text("create"), text("patch")}
	case request.Method == http.MethodGet && !named:
		verb = "list"
	case request.Method == http.MethodPost:
		verb = "create"
	case request.Method == http.MethodPut:
		verb = "update"
	case request.Header.Get("Content-Type") == "application/apply-patch+yaml" && !strings.Contains(resource, "/"):
		return []string{text("patch"), text("create")}
	}
	return []string{text(verb)}
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

// updateVariable makes Main write the list of the package.
const updateVariable = "SPIDERPOOL_UPDATE_REQUESTS"

// compareRequests returns an error if a program made a request without a rule: some of
// them, e.g. events, fail without a trace in a test. It also compares the requests with
// the list of the package, unless a filter runs a part of the tests.
func compareRequests() error {
	requests.mu.Lock()
	defer requests.mu.Unlock()
	var faults []string
	for made := range requests.made {
		if !requests.permitted[made] {
			faults = append(faults, made+": no rule permits this request; add one to charts/spiderpool/templates/_rules.tpl")
		}
	}
	file, err := requestsFile()
	if err != nil {
		return err
	}
	made := slices.Sorted(maps.Keys(requests.made))
	if os.Getenv(updateVariable) != "" {
		return writeRequests(file, made)
	}
	listed, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(listed)) {
		if line = strings.TrimSpace(line); !requests.made[line] && !filtered() {
			faults = append(faults, line+": the tests do not make this request any more; run them with "+updateVariable+"=1")
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("requests to the API server (%s):\n%s", file, strings.Join(slices.Sorted(slices.Values(faults)), "\n"))
}

// filtered reports whether the process runs a part of the tests.
func filtered() bool {
	return slices.ContainsFunc([]string{"test.run", "test.skip"}, func(name string) bool {
		f := flag.Lookup(name)
		return f != nil && f.Value.String() != "" && f.Value.String() != "."
	})
}

// requestsFile is the list of this package, e.g. internal-agent.txt.
func requestsFile() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	name, err := filepath.Rel(root, dir)
	return filepath.Join(root, "charts", "testdata", "requests", strings.ReplaceAll(name, "/", "-")+".txt"), err
}

func writeRequests(file string, made []string) error {
	if len(made) == 0 {
		if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.Join(made, "\n")+"\n"), 0o644)
}
