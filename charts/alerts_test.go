//go:build apiserver

package charts

import (
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
