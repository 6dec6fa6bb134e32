package compile

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// cniName is the form of a network's name (CNI specification 1.1.0, section 1).
var cniName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)

// notInherited lists the annotations that stay on the SpiderMultusConfig and do
// not go to its NetworkAttachmentDefinition.
var notInherited = []string{
	names.AnnotationMultusConfigCRName, names.AnnotationMultusConfigCNIVersion, names.AnnotationCNIConfigName,
	"kubectl.kubernetes.io/last-applied-configuration",
}

// NAD is the NetworkAttachmentDefinition for a SpiderMultusConfig.
type NAD struct {
	Namespace, Name string
	Annotations     map[string]string
	// Config is the CNI configuration in JSON. If it is empty, Multus reads the
	// file with the name of the attachment on the node.
	Config string
	// Ignored names a field without effect and the reason, "" if there is none.
	Ignored string
	// Unsupported is the reason why this release cannot make a valid attachment,
	// "" if it can.
	Unsupported string
}

// AttachmentName returns the name of the NetworkAttachmentDefinition of a SpiderMultusConfig.
func AttachmentName(in *v2beta1.SpiderMultusConfig) string {
	if name := in.Annotations[names.AnnotationMultusConfigCRName]; name != "" {
		return name
	}
	return in.Name
}

// Attachment returns the NetworkAttachmentDefinition for the resource. Use it
// only if there are no errors.
func Attachment(in *v2beta1.SpiderMultusConfig) (NAD, field.ErrorList) {
	out := NAD{Namespace: in.Namespace, Name: AttachmentName(in), Annotations: map[string]string{}}
	errs := checkAttachmentAnnotations(in)
	for key, value := range in.Annotations {
		if !slices.Contains(notInherited, key) {
			out.Annotations[key] = value
		}
	}
	list := cniconf.List{CNIVersion: cniconf.DefaultVersion, Name: out.Name}
	if v := in.Annotations[names.AnnotationMultusConfigCNIVersion]; v != "" {
		list.CNIVersion = v
	}
	if n := in.Annotations[names.AnnotationCNIConfigName]; n != "" {
		list.Name = n
	}
	if v := in.Spec.Vlan; v != nil && v.VlanMode != nil && *v.VlanMode == v2beta1.VlanAuto {
		out.Unsupported = "spec.vlan.vlanMode is auto, but nothing in this cluster tells the VLAN of an address; write vlanMode: manual and vlanID"
	}
	out.Ignored = ignoredBond(&in.Spec)
	plugins, resource, more := compileMain(field.NewPath("spec"), &in.Spec)
	errs = append(errs, more...)
	if resource != "" {
		out.Annotations[names.AnnotationMultusResourceName] = resource
	}
	if in.Spec.Coordinator != nil {
		_, more := Coordinator(field.NewPath("spec", "coordinator"), in.Spec.Coordinator, &v2beta1.SpiderCoordinatorStatus{})
		errs = append(errs, more...)
	}
	chain, more := compileChain(field.NewPath("spec", "chainCNIJsonData"), in.Spec.ChainCNIJSONData)
	errs = append(errs, more...)
	if cniType(&in.Spec) == v2beta1.CNICustom {
		config, more := compileCustom(field.NewPath("spec", "customCNI"), in.Spec.CustomCNI, list, chain)
		out.Config = config
		return out, append(errs, more...)
	}
	if in.Spec.EnableCoordinator == nil || *in.Spec.EnableCoordinator {
		plugins = append(plugins, coordinatorKeys(in.Spec.Coordinator))
	}
	for _, plugin := range append(plugins, chain...) {
		list.Plugins = append(list.Plugins, cniconf.Marshal(plugin))
	}
	out.Config = string(cniconf.Marshal(list))
	return out, errs
}

// ignoredBond returns why the field bond has no effect, "" if it has or is missing.
func ignoredBond(spec *v2beta1.SpiderMultusConfigSpec) string {
	sections := map[string]*v2beta1.MasterConfig{"macvlan": spec.Macvlan, "ipvlan": spec.IPvlan}
	if spec.Vlan != nil {
		sections["vlan"] = &spec.Vlan.MasterConfig
	}
	kind := string(cniType(spec))
	if m := sections[kind]; m != nil && m.Bond != nil && len(m.Master) == 1 {
		return fmt.Sprintf("spec.%s.bond has no effect, because spec.%s.master names one interface; name the others too, or omit bond", kind, kind)
	}
	return ""
}

func cniType(spec *v2beta1.SpiderMultusConfigSpec) v2beta1.CNIType {
	if spec.CNIType == nil {
		return v2beta1.CNICustom
	}
	return *spec.CNIType
}

func checkAttachmentAnnotations(in *v2beta1.SpiderMultusConfig) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata", "annotations")
	if v := in.Annotations[names.AnnotationMultusConfigCNIVersion]; v != "" && !slices.Contains(cniconf.Versions, v) {
		errs = append(errs, field.NotSupported(path.Key(names.AnnotationMultusConfigCNIVersion), v, cniconf.Versions))
	}
	if n := in.Annotations[names.AnnotationMultusConfigCRName]; n != "" {
		if faults := validation.IsDNS1123Subdomain(n); len(faults) > 0 {
			errs = append(errs, field.Invalid(path.Key(names.AnnotationMultusConfigCRName), n, strings.Join(faults, "; ")))
		}
	}
	if n := in.Annotations[names.AnnotationCNIConfigName]; n != "" && !cniName.MatchString(n) {
		errs = append(errs, field.Invalid(path.Key(names.AnnotationCNIConfigName), n,
			"is not the name of a CNI network; begin with a letter or digit and go on with letters, digits, '_', '.' and '-'"))
	}
	return errs
}

// SameAttachmentAnnotations reports whether two SpiderMultusConfigs agree on the
// annotations that go into an attachment.
func SameAttachmentAnnotations(a, b *v2beta1.SpiderMultusConfig) bool {
	return !slices.ContainsFunc([]string{
		names.AnnotationMultusConfigCNIVersion, names.AnnotationMultusConfigCRName, names.AnnotationCNIConfigName,
	}, func(key string) bool { return a.Annotations[key] != b.Annotations[key] })
}

// compileMain returns the first plugins of the chain: ifacer, if an interface
// has to be made, the main plugin and its companions. resource is the extended
// resource of its devices, if any.
func compileMain(spec *field.Path, in *v2beta1.SpiderMultusConfigSpec) (plugins []any, resource string, errs field.ErrorList) {
	kind := cniType(in)
	missing := func(section string) field.ErrorList {
		return field.ErrorList{field.Required(spec.Child(section), fmt.Sprintf("cniType is %s: write the section %s", kind, section))}
	}
	disabled := in.DisableIPAM != nil && *in.DisableIPAM
	switch kind {
	case v2beta1.CNIMacvlan:
		if in.Macvlan == nil {
			return nil, "", missing("macvlan")
		}
		ifacer, master, errs := compileMaster(spec.Child("macvlan"), in.Macvlan, true)
		return append(ifacer, cniconf.Main{Type: "macvlan", Master: master, Mode: "bridge", MTU: ptr.Deref(in.Macvlan.MTU, 0), IPAM: ipamOf(disabled, in.Macvlan.IPPools)}), "", errs
	case v2beta1.CNIIPvlan:
		if in.IPvlan == nil {
			return nil, "", missing("ipvlan")
		}
		ifacer, master, errs := compileMaster(spec.Child("ipvlan"), in.IPvlan, true)
		return append(ifacer, cniconf.Main{Type: "ipvlan", Master: master, Mode: "l2", MTU: ptr.Deref(in.IPvlan.MTU, 0), IPAM: ipamOf(disabled, in.IPvlan.IPPools)}), "", errs
	case v2beta1.CNIVlan:
		if in.Vlan == nil {
			return nil, "", missing("vlan")
		}
		return compileVlan(spec.Child("vlan"), in.Vlan, disabled)
	case v2beta1.CNISriov:
		if in.Sriov == nil {
			return nil, "", missing("sriov")
		}
		return sriovPlugins(in.Sriov, disabled), in.Sriov.ResourceName, nil
	case v2beta1.CNIIBSriov:
		if in.IBSriov == nil {
			return nil, "", missing("ibsriov")
		}
		return []any{ibSriovPlugin(in.IBSriov, disabled)}, in.IBSriov.ResourceName, nil
	case v2beta1.CNIIPoIB:
		if in.IPoIB == nil {
			return nil, "", missing("ipoib")
		}
		return []any{cniconf.Main{Type: "ipoib", Master: in.IPoIB.Master, IPAM: ipamOf(disabled, in.IPoIB.IPPools)}}, "",
			checkInterfaceName(spec.Child("ipoib", "master"), in.IPoIB.Master)
	case v2beta1.CNIOvs:
		if in.Ovs == nil {
			return nil, "", missing("ovs")
		}
		return []any{ovsPlugin(in.Ovs, disabled)}, "", nil
	case v2beta1.CNICustom:
		return nil, "", nil
	}
	return nil, "", field.ErrorList{field.NotSupported(spec.Child("cniType"), kind, []v2beta1.CNIType{
		v2beta1.CNIMacvlan, v2beta1.CNIIPvlan, v2beta1.CNIVlan, v2beta1.CNISriov, v2beta1.CNIOvs, v2beta1.CNIIBSriov, v2beta1.CNIIPoIB, v2beta1.CNICustom,
	})}
}

// compileMaster returns the ifacer plugin, if a bond or a VLAN interface has to
// be made, and the master interface of the main plugin.
func compileMaster(path *field.Path, in *v2beta1.MasterConfig, makeVLAN bool) (ifacer []any, master string, errs field.ErrorList) {
	if len(in.Master) == 0 {
		return nil, "", field.ErrorList{field.Required(path.Child("master"), "name an interface of the node")}
	}
	for i, name := range in.Master {
		errs = append(errs, checkInterfaceName(path.Child("master").Index(i), name)...)
	}
	master = in.Master[0]
	plugin := cniconf.Ifacer{Type: cniconf.TypeIfacer, Interfaces: in.Master}
	if len(in.Master) > 1 {
		if in.Bond == nil {
			return nil, "", append(errs, field.Required(path.Child("bond"), "master names several interfaces: name the bond to make of them, or name one master"))
		}
		errs = append(errs, checkInterfaceName(path.Child("bond", "name"), in.Bond.Name)...)
		if fault := bondOptionsFault(in.Bond.Options); fault != "" {
			errs = append(errs, field.Invalid(path.Child("bond", "options"), *in.Bond.Options, fault))
		}
		master = in.Bond.Name
		plugin.Bond = (*cniconf.Bond)(in.Bond)
	}
	if id := ptr.Deref(in.VlanID, 0); makeVLAN && id != 0 {
		plugin.VlanID = id
		parent := master
		master = fmt.Sprintf("%s.%d", parent, id)
		if fault := netplan.InterfaceNameFault(master); fault != "" {
			errs = append(errs, field.Invalid(path.Child("vlanID"), id, fmt.Sprintf("the interface name %s %s; give %s a shorter name", master, fault, parent)))
		}
	}
	if plugin.Bond == nil && plugin.VlanID == 0 {
		return nil, master, errs
	}
	return []any{plugin}, master, errs
}

func checkInterfaceName(path *field.Path, name string) field.ErrorList {
	if fault := netplan.InterfaceNameFault(name); fault != "" {
		return field.ErrorList{field.Invalid(path, name, fault+"; list the node's interfaces with 'ip link'")}
	}
	return nil
}

// bondOptionsFault returns an error text for the first option that ifacer cannot
// parse.
func bondOptionsFault(options *string) string {
	if options == nil {
		return ""
	}
	for option := range strings.SplitSeq(*options, ";") {
		option = strings.TrimSpace(option)
		if option != "" && strings.Index(option, "=") < 1 {
			return fmt.Sprintf("has %q, which is not key=value; e.g. \"miimon=100;lacp_rate=1\"", option)
		}
	}
	return ""
}

func compileVlan(path *field.Path, in *v2beta1.VlanConfig, disabled bool) (plugins []any, resource string, errs field.ErrorList) {
	ifacer, master, errs := compileMaster(path, &in.MasterConfig, false)
	switch auto := in.VlanMode != nil && *in.VlanMode == v2beta1.VlanAuto; {
	case auto && in.VlanID != nil:
		errs = append(errs, field.Invalid(path.Child("vlanID"), *in.VlanID, "vlanMode is auto, which finds it out; leave vlanID out, or write vlanMode: manual"))
	case !auto && in.VlanID == nil:
		errs = append(errs, field.Required(path.Child("vlanID"), "vlanMode is not auto: write the VLAN ID"))
	}
	return append(ifacer, cniconf.VLAN{Type: "vlan", Master: master, VlanID: ptr.Deref(in.VlanID, 0), MTU: ptr.Deref(in.MTU, 0), IPAM: ipamOf(disabled, in.IPPools)}), "", errs
}

func sriovPlugins(in *v2beta1.SriovConfig, disabled bool) []any {
	plugins := []any{cniconf.SRIOV{
		Type: "sriov", VLAN: in.VlanID, MinTxRate: in.MinTxRateMbps, MaxTxRate: in.MaxTxRateMbps,
		IPAM: ipamOf(disabled, in.IPPools),
	}}
	// The SR-IOV plugin does not set the MTU of the virtual function.
	if mtu := ptr.Deref(in.MTU, 0); mtu != 0 {
		plugins = append(plugins, cniconf.Tuning{Type: "tuning", MTU: mtu})
	}
	if ptr.Deref(in.RDMAIsolation, false) {
		plugins = append(plugins, cniconf.Typed{Type: "rdma"})
	}
	return plugins
}

func ibSriovPlugin(in *v2beta1.IBSriovConfig, disabled bool) cniconf.IBSRIOV {
	return cniconf.IBSRIOV{
		Type: "ib-sriov", LinkState: ptr.Deref(in.LinkState, "enable"), RDMAIsolation: ptr.Deref(in.RDMAIsolation, true),
		IBKubernetes: ptr.Deref(in.EnableIBKubernetes, false), Pkey: ptr.Deref(in.Pkey, ""), IPAM: ipamOf(disabled, in.IPPools),
	}
}

func ovsPlugin(in *v2beta1.OvsConfig, disabled bool) cniconf.OVS {
	plugin := cniconf.OVS{Type: "ovs", Bridge: in.BrName, VLAN: in.VlanTag, DeviceID: in.DeviceID, IPAM: ipamOf(disabled, in.IPPools)}
	for _, trunk := range in.Trunk {
		plugin.Trunk = append(plugin.Trunk, cniconf.Trunk(trunk))
	}
	return plugin
}

// compileChain checks that each entry is the configuration of a plugin and
// returns the entries unchanged.
func compileChain(path *field.Path, entries []string) ([]any, field.ErrorList) {
	var plugins []any
	var errs field.ErrorList
	for i, entry := range entries {
		var plugin cniconf.Typed
		if err := json.Unmarshal([]byte(entry), &plugin); err != nil {
			errs = append(errs, field.Invalid(path.Index(i), entry, fmt.Sprintf(`is not a JSON object (%v); write the configuration of a plugin, e.g. {"type": "tuning"}`, err)))
			continue
		}
		if plugin.Type == "" {
			errs = append(errs, field.Invalid(path.Index(i), entry, `names no plugin; write its program as "type", e.g. {"type": "tuning"}`))
			continue
		}
		if fault := coordinatorFault([]byte(entry)); fault != "" {
			errs = append(errs, field.Invalid(path.Index(i), entry, fault))
			continue
		}
		plugins = append(plugins, json.RawMessage(entry))
	}
	return plugins, errs
}
