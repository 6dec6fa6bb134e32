package compile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"spiderpool.dev/spiderpool/internal/cniconf"
)

// compileCustom returns the user's configuration, with version and name if they
// are missing, and with the chain appended.
func compileCustom(path *field.Path, config *string, list cniconf.List, chain []any) (string, field.ErrorList) {
	if config == nil || strings.TrimSpace(*config) == "" {
		if len(chain) > 0 {
			return "", field.ErrorList{field.Required(path, "chainCNIJsonData has plugins, but there is none to follow; write the main plugin")}
		}
		return "", nil
	}
	var written map[string]json.RawMessage
	if err := json.Unmarshal([]byte(*config), &written); err != nil {
		return "", field.ErrorList{field.Invalid(path, *config, fmt.Sprintf(`is not a JSON object (%v); write a CNI configuration, e.g. {"type": "macvlan", "master": "eth0"}`, err))}
	}
	if fault := customFault(*config, written); fault != "" {
		return "", field.ErrorList{field.Invalid(path, *config, fault)}
	}
	_, hasVersion := written["cniVersion"]
	_, hasName := written["name"]
	if hasVersion && hasName && len(chain) == 0 {
		return *config, nil
	}
	if !hasVersion {
		written["cniVersion"] = cniconf.Marshal(list.CNIVersion)
	}
	if !hasName {
		written["name"] = cniconf.Marshal(list.Name)
	}
	if len(chain) == 0 {
		return string(cniconf.Marshal(written)), nil
	}
	return string(cniconf.Marshal(withChain(written, chain))), nil
}

// customFault returns why no runtime accepts the configuration (CNI
// specification 1.1.0, section 1), "" if it is valid. written holds the keys of
// the configuration.
func customFault(config string, written map[string]json.RawMessage) string {
	var conf struct {
		CNIVersion string            `json:"cniVersion"`
		Name       string            `json:"name"`
		Type       string            `json:"type"`
		Plugins    []json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(config), &conf); err != nil {
		return typeFault("", err)
	}
	_, isList := written["plugins"]
	_, hasVersion := written["cniVersion"]
	switch {
	case hasVersion && !slices.Contains(cniconf.Versions, conf.CNIVersion):
		return fmt.Sprintf(`has cniVersion %q; write one of %s, or leave it out`, conf.CNIVersion, strings.Join(cniconf.Versions, ", "))
	case !isList && conf.Type == "":
		return `has neither "type" nor "plugins"; write a CNI configuration, e.g. {"type": "macvlan", "master": "eth0"}`
	case isList && len(conf.Plugins) == 0:
		return `has no plugin in "plugins"; write at least one, e.g. {"plugins": [{"type": "macvlan", "master": "eth0"}]}`
	}
	for i, raw := range conf.Plugins {
		var plugin cniconf.Typed
		if err := json.Unmarshal(raw, &plugin); err != nil {
			return typeFault(fmt.Sprintf("plugins[%d]", i), err)
		}
		if plugin.Type == "" {
			return fmt.Sprintf(`names no plugin in plugins[%d]; write its program as "type", e.g. {"type": "tuning"}`, i)
		}
		if fault := coordinatorFault(raw); fault != "" {
			return fmt.Sprintf("plugins[%d] %s", i, fault)
		}
	}
	return ""
}

// typeFault names the JSON value of a wrong type. path is the position of the
// decoded part in the configuration, e.g. "plugins[1]".
func typeFault(path string, err error) string {
	var mismatch *json.UnmarshalTypeError
	if !errors.As(err, &mismatch) {
		return err.Error()
	}
	at, wanted := strings.TrimPrefix(path+"."+mismatch.Field, "."), "a string"
	switch mismatch.Field {
	case "":
		at, wanted = path, "the configuration of a plugin"
	case "plugins":
		wanted = "a list of plugins"
	}
	return fmt.Sprintf("has a JSON %s in %s; write %s", mismatch.Value, at, wanted)
}

// withChain returns a valid configuration as a list that ends with the plugins
// of the chain.
func withChain(written map[string]json.RawMessage, chain []any) map[string]json.RawMessage {
	all := []json.RawMessage{}
	if plugins, isList := written["plugins"]; isList {
		// customFault has checked that it is a list.
		_ = json.Unmarshal(plugins, &all)
	} else {
		main := maps.Clone(written)
		delete(main, "cniVersion")
		delete(main, "name")
		all = append(all, cniconf.Marshal(main))
		written = map[string]json.RawMessage{"cniVersion": written["cniVersion"], "name": written["name"]}
	}
	for _, plugin := range chain {
		all = append(all, cniconf.Marshal(plugin))
	}
	written["plugins"] = cniconf.Marshal(all)
	return written
}
