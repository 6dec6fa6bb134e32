//go:build apiserver

package charts

import (
	"fmt"
	"strings"
	"testing"
)

// Targets without the chart's ServiceMonitor have another label job, so an alert on the absence of ours would fire for ever.
func TestDownAlertsNeedServiceMonitor(t *testing.T) {
	for program, alert := range map[string]string{"spiderpoolAgent": "SpiderpoolAgentDown", "spiderpoolController": "SpiderpoolControllerDown"} {
		for _, install := range []string{"true", "false"} {
			prometheus := program + ".prometheus."
			rendered := string(render(t, "--set", prometheus+"enabled=true,"+prometheus+"prometheusRule.install=true,"+prometheus+"serviceMonitor.install="+install))
			if got := strings.Contains(rendered, "alert: "+alert+"\n"); got != (install == "true") {
				t.Errorf("%sserviceMonitor.install=%s: the alert %s is rendered: %v", prometheus, install, alert, got)
			}
		}
	}
}

func TestPoolAlertsFollowSelector(t *testing.T) {
	const rule = "spiderpoolController.prometheus.prometheusRule."
	for selector, want := range map[string]string{
		`node=""`: `{pool!="(other)",node=""}`, `node="",pool!~"db-.*"`: `{pool!="(other)",node="",pool!~"db-.*"}`, "": `{pool!="(other)"}`,
	} {
		manifest := render(t, "--set", "spiderpoolController.prometheus.enabled=true,"+rule+"install=true", "--set-literal", rule+"poolSelector="+selector)
		rules := fmt.Sprint(objectsOf[map[string]any](t, manifest, "PrometheusRule")["spiderpool-controller"])
		if count := strings.Count(rules, "_addresses"+want+")"); count != 8 { // two metrics in each of four alerts
			t.Errorf("poolSelector %q: %d times %s in %s", selector, count, want, rules)
		}
	}
}
