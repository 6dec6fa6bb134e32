// Package monitoring tests the dashboards and alerts of the chart, as rendered in
// charts/testdata/everything.golden.yaml, against the metrics in
// docs/reference/metrics.md. The programs' own tests keep both files true.
package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"sigs.k8s.io/yaml"
)

// object is the part of a manifest that these tests read.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     json.RawMessage
	Data     map[string]string
}

func rendered(t *testing.T) (objects []object) {
	t.Helper()
	raw, err := os.ReadFile("../../charts/testdata/everything.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range bytes.Split(raw, []byte("\n---\n")) {
		var o object
		if err := yaml.Unmarshal(document, &o); err == nil { // a Secret has other Data
			objects = append(objects, o)
		}
	}
	return objects
}

var promql = parser.NewParser(parser.Options{})

// alerts returns the alerts of all PrometheusRules, by name.
func alerts(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	found := map[string]rulefmt.Rule{}
	for _, o := range rendered(t) {
		if o.Kind != "PrometheusRule" {
			continue
		}
		groups, errs := rulefmt.Parse(o.Spec, false, model.UTF8Validation, promql, slog.New(slog.DiscardHandler))
		if len(errs) > 0 {
			t.Fatalf("PrometheusRule %s: %v", o.Metadata.Name, errs)
		}
		for _, group := range groups.Groups {
			for _, rule := range group.Rules {
				found[rule.Alert] = rule
			}
		}
	}
	return found
}

// panels returns the queries of all dashboards, by dashboard and panel.
func panels(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, o := range rendered(t) {
		for file, content := range o.Data {
			var dashboard struct {
				Title  string
				Panels []struct {
					Title   string
					Targets []struct{ Expr string }
				}
			}
			if o.Kind != "ConfigMap" || json.Unmarshal([]byte(content), &dashboard) != nil || len(dashboard.Panels) == 0 {
				continue
			}
			for _, panel := range dashboard.Panels {
				for _, target := range panel.Targets {
					query := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
					found[file+": "+panel.Title] = append(found[file+": "+panel.Title], query)
				}
			}
		}
	}
	return found
}

// served returns the labels of each metric in the reference, with those that Prometheus
// adds.
func served(t *testing.T) map[string][]string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	metrics := map[string][]string{"up": {"instance", "job", "namespace", "pod"}} // Prometheus itself writes it
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(raw), -1) {
		has := []string{"instance", "job", "namespace", "pod"}
		for _, label := range strings.Split(row[3], ",") {
			has = append(has, strings.Trim(label, " `"))
		}
		if row[2] != "histogram" {
			metrics[row[1]] = has
			continue
		}
		metrics[row[1]+"_bucket"] = append(has, "le")
		metrics[row[1]+"_sum"], metrics[row[1]+"_count"] = has, has
	}
	return metrics
}

// checkQuery reports metrics and labels in the query that no program serves.
func checkQuery(t *testing.T, query string, metrics map[string][]string) {
	t.Helper()
	expr, err := promql.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v", query, err)
		return
	}
	var known []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		has, ok := metrics[selector.Name]
		if !ok {
			t.Errorf("%s: no program serves %s", query, selector.Name)
		}
		known = append(known, has...)
		for _, matcher := range selector.LabelMatchers {
			if matcher.Name != model.MetricNameLabel && !slices.Contains(has, matcher.Name) {
				t.Errorf("%s: %s has no label %s", query, selector.Name, matcher.Name)
			}
		}
		return nil
	})
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if aggregation, ok := node.(*parser.AggregateExpr); ok {
			for _, label := range aggregation.Grouping {
				if !slices.Contains(known, label) {
					t.Errorf("%s: no metric in it has the label %s", query, label)
				}
			}
		}
		return nil
	})
}

func TestDashboardsQueryServedMetrics(t *testing.T) {
	metrics := served(t)
	if len(metrics) < 20 {
		t.Fatalf("the reference lists %d metrics only", len(metrics))
	}
	all := panels(t)
	if len(all) < 8 {
		t.Fatalf("found %d panels only", len(all))
	}
	for panel, queries := range all {
		t.Run(panel, func(t *testing.T) {
			for _, query := range queries {
				checkQuery(t, query, metrics)
			}
		})
	}
}

// scrape returns the time series of one agent and one controller, as their tests recorded
// them. Counters grow by one a minute.
func scrape(t *testing.T) string {
	t.Helper()
	var load strings.Builder
	for _, program := range []string{"agent", "controller"} {
		raw, err := os.ReadFile("testdata/" + program + ".prom")
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]string{} // by name
		for line := range strings.Lines(string(raw)) {
			fields := strings.Fields(line)
			if fields[0] == "#" {
				if fields[1] == "TYPE" {
					kinds[fields[2]] = fields[3]
				}
				continue
			}
			series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
			if name, single, ok := strings.Cut(series, " "); ok && !strings.Contains(series, "{") {
				series, value = name+"{", single
			}
			name, _, _ := strings.Cut(series, "{")
			step := "+1x60"
			if kinds[name] == "gauge" {
				step = "+0x60"
			}
			labels := `instance="n1",job="spiderpool-` + program + `"}`
			if !strings.HasSuffix(series, "{") {
				labels = "," + labels
			}
			load.WriteString("\t" + series + labels + " " + value + step + "\n")
		}
	}
	return load.String()
}

// TestDashboardsShowScrape evaluates every query of the dashboards on a scrape.
func TestDashboardsShowScrape(t *testing.T) {
	storage := promqltest.LoadedStorage(t, "load 1m\n"+scrape(t))
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 100_000)
	for panel, queries := range panels(t) {
		for _, query := range queries {
			q, err := engine.NewInstantQuery(t.Context(), storage, nil, query, time.Unix(1800, 0))
			if err != nil {
				t.Errorf("%s: %s: %v", panel, query, err)
				continue
			}
			if result, err := q.Exec(t.Context()).Vector(); err != nil || len(result) == 0 {
				t.Errorf("%s: %s: %d series, %v", panel, query, len(result), err)
			}
		}
	}
}

func TestAlertsQueryServedMetrics(t *testing.T) {
	metrics := served(t)
	for name, alert := range alerts(t) {
		t.Run(name, func(t *testing.T) { checkQuery(t, alert.Expr, metrics) })
	}
}

// histories are samples of one minute each, for one hour: "0x60" is 60 zeros, "0+1x60"
// counts up. Each alert needs one history that fires it and one that does not.
var histories = map[string]struct{ fires, silent string }{
	"SpiderpoolAddressesNotAssigned": {
		fires: `spiderpool_ipam_allocation_failure_counts_total{instance="n1"} 0+1x60
			spiderpool_ipam_allocation_counts_total{instance="n1"} 0+4x60`,
		silent: `spiderpool_ipam_allocation_failure_counts_total{instance="n1"} 0+1x60
			spiderpool_ipam_allocation_counts_total{instance="n1"} 0+100x60`,
	},
	"SpiderpoolAddressesUsedUp": {
		fires:  `spiderpool_ipam_allocation_err_ip_used_out_counts_total{instance="n1"} 0+1x60`,
		silent: `spiderpool_ipam_allocation_err_ip_used_out_counts_total{instance="n1"} 7x60`,
	},
	"SpiderpoolRuntimeUnavailable": {
		fires:  `spiderpool_container_runtime_up{instance="n1"} 1x10 0x50`,
		silent: `spiderpool_container_runtime_up{instance="n1"} 1x10 0x10 1x40`,
	},
	"SpiderpoolPolicyNotEnforced": {
		fires: `spiderpool_policy_pods{instance="n1",state="failing"} 0x10 2x50`,
		silent: `spiderpool_policy_pods{instance="n1",state="failing"} 0x10 1x3 0x40
			spiderpool_policy_pods{instance="n1",state="enforced"} 12x60`,
	},
	"SpiderpoolServicesOutOfDate": {
		fires:  `spiderpool_service_failure_counts_total{instance="n1"} 0+1x60`,
		silent: `spiderpool_service_failure_counts_total{instance="n1"} 0x9 1x50`,
	},
	"SpiderpoolServiceMapAlmostFull": {
		fires: `spiderpool_service_entries{instance="n1",map="backends"} 250000x60
			spiderpool_service_entries_limit{instance="n1",map="backends"} 262144x60`,
		silent: `spiderpool_service_entries{instance="n1",map="backends"} 0x60
			spiderpool_service_entries_limit{instance="n1",map="backends"} 0x60
			spiderpool_service_entries{instance="n1",map="members"} 1000x60
			spiderpool_service_entries_limit{instance="n1",map="members"} 131072x60`,
	},
	"SpiderpoolAgentDown": {
		fires: `up{job="spiderpool-agent",namespace="kube-system",instance="n1"} 1x9 0x50`,
		silent: `up{job="spiderpool-agent",namespace="kube-system",instance="n1"} 1x9 0x3 1x47
			up{job="other",namespace="kube-system",instance="n1"} 0x60`,
	},
	"SpiderpoolControllerDown": {
		fires: `up{job="spiderpool-controller",namespace="kube-system",instance="n1"} 0x60
			up{job="spiderpool-agent",namespace="kube-system",instance="n1"} 1x60`,
		silent: `up{job="spiderpool-controller",namespace="kube-system",instance="n1"} 0x60
			up{job="spiderpool-controller",namespace="kube-system",instance="n2"} 1x60`,
	},
	// Each request ends after 90 seconds, and the next one begins.
	"SpiderpoolAllocationStuck": {
		fires:  `spiderpool_ipam_oldest_allocation_age_seconds{instance="n1"} 0x9` + strings.Repeat(" 60 30 0", 16),
		silent: `spiderpool_ipam_oldest_allocation_age_seconds{instance="n1"} 0x9 31 84 0x47`,
	},
	"SpiderpoolReleasesWait": {
		fires:  `spiderpool_ipam_oldest_release_age_seconds{instance="n1"} 0+60x60`,
		silent: `spiderpool_ipam_oldest_release_age_seconds{instance="n1"} 0+60x12 0x47`,
	},
	"SpiderpoolAddressConflict": {
		fires:  `spiderpool_ipam_address_conflicts_total{instance="n1"} 0x9 1x50`,
		silent: `spiderpool_ipam_address_conflicts_total{instance="n1"} 5x60`,
	},
	"SpiderpoolPoolFilling":         {fires: poolFree(25), silent: poolFree(26) + fullByDesign},
	"SpiderpoolPoolAlmostFull":      {fires: poolFree(15), silent: poolFree(16) + fullByDesign},
	"SpiderpoolPoolNearlyExhausted": {fires: poolFree(5), silent: poolFree(6) + fullByDesign},
	"SpiderpoolPoolExhausted": {
		fires: poolFree(0),
		silent: poolFree(1) + fullByDesign + `spiderpool_pool_addresses{pool="empty",node=""} 0x60
			spiderpool_pool_free_addresses{pool="empty",node=""} 0x60`,
	},
	"SpiderpoolReclaimBlocked": {
		fires:  `spiderpool_ip_gc_blocked_addresses{instance="n1"} 0x9 3x50`,
		silent: `spiderpool_ip_gc_blocked_addresses{instance="n1"} 0x9 3x10 0x40`,
	},
	"SpiderpoolObjectNotReady": {
		fires: `spiderpool_object_conditions{kind="SpiderIPPool",type="Ready",status="False",reason="Conflict"} 1x60`,
		silent: `spiderpool_object_conditions{kind="SpiderIPPool",type="Ready",status="False",reason="Terminating"} 1x60
			spiderpool_object_conditions{kind="SpiderIPPool",type="Ready",status="True",reason="InUse"} 7x60`,
	},
	"SpiderpoolCloudDegraded": {
		fires:  `spiderpool_object_conditions{kind="SpiderCloudNetwork",type="Degraded",status="True",reason="TypeLimit"} 1x60`,
		silent: `spiderpool_object_conditions{kind="SpiderCloudNetwork",type="Degraded",status="False",reason="AsExpected"} 1x60`,
	},
	// The clock of the histories starts in 1970.
	"SpiderpoolCertificateExpires": {
		fires:  `spiderpool_certificate_expiry_timestamp_seconds{instance="n1",certificate="webhooks"} 1000000x60`,
		silent: `spiderpool_certificate_expiry_timestamp_seconds{instance="n1",certificate="webhooks"} 2000000x60`,
	},
	// Reclaim tries every ten minutes.
	"SpiderpoolReclaimFails": {
		fires: `spiderpool_ip_gc_failure_counts_total{instance="n1",reason="PodGone"} 0x9 1x10 2x10 3x10 4x10 5x10
			spiderpool_ip_gc_failure_counts_total{instance="n1",reason="PodFailed"} 0x60`,
		silent: `spiderpool_ip_gc_failure_counts_total{instance="n1",reason="PodGone"} 0x9 1x50`,
	},
}

// poolFree is the history of a pool of 100 addresses with as many free.
func poolFree(free int) string { return pool(fmt.Sprintf("p%d", free), "", fmt.Sprintf("%dx60", free)) }

// fullByDesign are the histories of the pool of a network interface in a cloud, and of the pools
// without time series of their own.
var fullByDesign = pool("eni-1", "worker1", "0x60") + pool("(other)", "", "0x60")

// pool is the history of a pool of 100 addresses, which two replicas of the controller serve.
func pool(name, node, free string) string {
	return fmt.Sprintf(`spiderpool_pool_addresses{pool="%[1]s",node="%[2]s",instance="n1"} 100x60
		spiderpool_pool_addresses{pool="%[1]s",node="%[2]s",instance="n2"} 100x60
		spiderpool_pool_free_addresses{pool="%[1]s",node="%[2]s",instance="n1"} %[3]s
		spiderpool_pool_free_addresses{pool="%[1]s",node="%[2]s",instance="n2"} %[3]s
		`, name, node, free)
}

func TestEveryAlertHasRunbook(t *testing.T) {
	raw, err := os.ReadFile("../../docs/guides/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	all := alerts(t)
	for name, alert := range all {
		if !strings.Contains(string(raw), "\n## "+name+"\n") {
			t.Errorf("docs/guides/alerts.md has no section %s", name)
		}
		if _, anchor, _ := strings.Cut(alert.Annotations["runbook_url"], "#"); anchor != strings.ToLower(name) {
			t.Errorf("%s links %q", name, alert.Annotations["runbook_url"])
		}
	}
	for _, section := range regexp.MustCompile(`(?m)^## (Spiderpool\w+)$`).FindAllStringSubmatch(string(raw), -1) {
		if _, ok := all[section[1]]; !ok {
			t.Errorf("docs/guides/alerts.md has a section about %s, but there is no such alert", section[1])
		}
	}
}

func TestAlertsFireAndStaySilent(t *testing.T) {
	for name, alert := range alerts(t) {
		t.Run(name, func(t *testing.T) {
			history, ok := histories[name]
			if !ok {
				t.Fatal("the alert has no histories")
			}
			if !fires(t, alert, history.fires) {
				t.Errorf("%s for %s does not fire on\n%s", alert.Expr, alert.For, history.fires)
			}
			if fires(t, alert, history.silent) {
				t.Errorf("%s for %s fires on\n%s", alert.Expr, alert.For, history.silent)
			}
		})
	}
}

// TestFillingPoolFiresEachAlert: a pool that loses an address a minute stays between two
// thresholds for ten minutes, less than the time of an alert.
func TestFillingPoolFiresEachAlert(t *testing.T) {
	all := alerts(t)
	for _, name := range []string{"SpiderpoolPoolFilling", "SpiderpoolPoolAlmostFull", "SpiderpoolPoolNearlyExhausted", "SpiderpoolPoolExhausted"} {
		if history := pool("a", "", "40-1x40 0x19"); !fires(t, all[name], history) {
			t.Errorf("%s: %s for %s does not fire on\n%s", name, all[name].Expr, all[name].For, history)
		}
	}
}

// fires evaluates the alert every minute, as Prometheus does, and reports whether it holds
// for its time.
func fires(t *testing.T, alert rulefmt.Rule, history string) bool {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m\n\t"+history)
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 100_000)
	var since time.Time
	for minute := range 60 {
		now := time.Unix(int64(minute)*60, 0)
		query, err := engine.NewInstantQuery(t.Context(), storage, nil, alert.Expr, now)
		if err != nil {
			t.Fatal(err)
		}
		result, err := query.Exec(t.Context()).Vector()
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case len(result) == 0:
			since = time.Time{}
		case since.IsZero():
			since = now
		}
		if !since.IsZero() && now.Sub(since) >= time.Duration(alert.For) {
			return true
		}
	}
	return false
}
