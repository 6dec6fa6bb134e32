package monitoring

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/promqltest"
)

// ofFlows matches a query about metrics that the agents serve.
var ofFlows = regexp.MustCompile(`hubble_(flows_processed|drop|tcp_flags|port_distribution|icmp|lost_events)_total`)

// hubbleQueries returns the queries about flows in the dashboards that Cilium publishes, in the version of test/hubble.
func hubbleQueries(t *testing.T) (queries []string) {
	t.Helper()
	module := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cilium/cilium")
	module.Dir = "../hubble"
	dir, err := module.Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "install/kubernetes/cilium/files/hubble/dashboards/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d dashboards in %s: %v", len(files), dir, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`"expr": ("(?:[^"\\]|\\.)*")`).FindAllSubmatch(raw, -1) {
			var query string
			if err := json.Unmarshal(match[1], &query); err != nil {
				t.Fatal(err)
			}
			if ofFlows.MatchString(query) {
				queries = append(queries, query)
			}
		}
	}
	return queries
}

// TestHubbleDashboardsShowFlows evaluates every query about flows in Hubble's own dashboards on the time series of agents.
func TestHubbleDashboardsShowFlows(t *testing.T) {
	raw, err := os.ReadFile("../../internal/observe/testdata/flows.txt")
	if err != nil {
		t.Fatal(err)
	}
	var load strings.Builder
	for line := range strings.Lines(string(raw)) {
		step := "2" // fewer answers than requests: some panels show the difference
		if strings.Contains(line, "SYN-ACK") || strings.Contains(line, "EchoReply") {
			step = "1"
		}
		load.WriteString("\t" + strings.Replace(strings.TrimSpace(line), "{", `{pod="spiderpool-agent-x",`, 1) + " 0+" + step + "x20\n")
	}
	storage := promqltest.LoadedStorage(t, "load 15s\n"+load.String())
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 100_000)
	variables := strings.NewReplacer("$__rate_interval", "1m", "$cluster", ".*", "$source_namespace", ".*", "$destination_namespace", ".*")
	queries := hubbleQueries(t)
	if len(queries) < 20 {
		t.Fatalf("found %d queries only", len(queries))
	}
	for _, query := range queries {
		if strings.Contains(query, `type="L7"`) {
			continue // we have no flows of layer 7
		}
		q, err := engine.NewInstantQuery(t.Context(), storage, nil, variables.Replace(query), time.Unix(240, 0))
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if result, err := q.Exec(t.Context()).Vector(); err != nil || len(result) == 0 {
			t.Errorf("%s: %d series, %v", query, len(result), err)
		}
	}
}
