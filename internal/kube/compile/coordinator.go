package compile

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// Coordinator returns the settings of a SpiderCoordinator or of the coordinator
// section in a SpiderMultusConfig, with defaults. Use them only if there are no
// errors. path is that of spec; the status of a SpiderMultusConfig is empty.
func Coordinator(path *field.Path, spec *v2beta1.CoordinatorSpec, status *v2beta1.SpiderCoordinatorStatus) (netplan.Settings, field.ErrorList) {
	keys := coordinatorKeys(spec)
	if keys.OverlayPodCIDR == nil {
		keys.OverlayPodCIDR = status.OverlayPodCIDR
	}
	if keys.ServiceCIDR == nil {
		keys.ServiceCIDR = status.ServiceCIDR
	}
	settings, faults := netplan.Default().With(keys)
	var errs field.ErrorList
	for _, fault := range faults {
		parent := path
		if strings.HasPrefix(fault.Field, "overlayPodCIDR") || strings.HasPrefix(fault.Field, "serviceCIDR") {
			parent = field.NewPath("status")
		}
		errs = append(errs, field.Invalid(parent.Child(fault.Field), fault.Value, fault.Reason))
	}
	return settings, errs
}

// coordinatorFault returns why the plugin refuses its configuration, "" if it does not
// or if raw is the configuration of another plugin.
func coordinatorFault(raw json.RawMessage) string {
	var plugin cniconf.Typed
	if err := json.Unmarshal(raw, &plugin); err != nil || plugin.Type != cniconf.TypeCoordinator {
		return ""
	}
	var keys cniconf.Coordinator
	if err := json.Unmarshal(raw, &keys); err != nil {
		return fmt.Sprintf("configures the coordinator wrongly: %v", err)
	}
	if keys.HostRuleTable != nil && *keys.HostRuleTable == 0 {
		keys.HostRuleTable = nil // the plugin takes 0 for the default
	}
	if _, faults := netplan.Default().With(keys); len(faults) > 0 {
		return fmt.Sprintf("configures the coordinator wrongly: %v", &faults[0])
	}
	return ""
}
