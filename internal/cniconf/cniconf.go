// Package cniconf defines the JSON of CNI network configurations: the keys that
// Spiderpool writes into network attachments, and the keys that the agent and the
// CNI plugins read back.
//
// Values that need a parser of their own, such as networks and durations, are text
// here. Their readers parse them, so that an error can name the field. Keys keep
// their names forever, because written attachments outlive a release.
package cniconf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Versions are the versions of the CNI specification that Spiderpool's plugins
// and attachments support.
var Versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// DefaultVersion is the version of an attachment that names none.
const DefaultVersion = "0.3.1"

// Types of Spiderpool's own plugins, i.e. the names of their programs.
const (
	TypeIPAM        = "spiderpool"
	TypeCoordinator = "coordinator"
	TypeIfacer      = "ifacer"
)

// List is a network configuration list (CNI specification 1.1.0, section 1).
type List struct {
	CNIVersion string            `json:"cniVersion"`
	Name       string            `json:"name"`
	Plugins    []json.RawMessage `json:"plugins"`
}

// Parse reads a network configuration. A single plugin becomes a list of one; in
// that form, version and name are keys of the plugin, e.g.
// {"cniVersion":"1.0.0","name":"net","type":"macvlan","master":"eth0"}.
func Parse(config []byte) (List, error) {
	var list List
	if err := json.Unmarshal(config, &list); err != nil {
		return List{}, err
	}
	if len(list.Plugins) == 0 {
		list.Plugins = []json.RawMessage{config}
	}
	return list, nil
}

// Marshal encodes a configuration or a part of one. Unlike json.Marshal, it does
// not escape HTML. It panics on a value that JSON cannot hold, e.g. a channel.
func Marshal(v any) json.RawMessage {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return bytes.TrimSpace(out.Bytes())
}

// IPAM is the key "ipam" of a main plugin's configuration.
type IPAM struct {
	Type              string      `json:"type"`
	Socket            string      `json:"ipam_unix_socket_path,omitempty"` // ignored; see Node
	DefaultIPv4Pools  []string    `json:"default_ipv4_ippool,omitempty"`
	DefaultIPv6Pools  []string    `json:"default_ipv6_ippool,omitempty"`
	CleanGateway      bool        `json:"clean_gateway,omitempty"` // no default route; only users write it
	MatchMasterSubnet bool        `json:"match_master_subnet,omitempty"`
	Detect            Detect      `json:"detectOptions,omitzero"`
	LogLevel          string      `json:"log_level,omitempty"`
	LogFile           *string     `json:"log_file_path,omitempty"`     // below Node.LogDir, or "" for none
	LogFileMaxSize    json.Number `json:"log_file_max_size,omitempty"` // MiB
	LogFileMaxAge     json.Number `json:"log_file_max_age,omitempty"`  // days
	LogFileMaxCount   json.Number `json:"log_file_max_count,omitempty"`
}

// Detect configures the probes for address conflicts and gateways.
type Detect struct {
	Retries  json.Number `json:"retries,omitempty"`
	Interval string      `json:"interval,omitempty"` // e.g. "100ms"
	Timeout  string      `json:"timeout,omitempty"`
}

// Whole converts a number, which may be quoted in JSON: both 7 and "7" are in use.
// The empty number becomes fallback. Negative numbers and fractions are errors.
func Whole(n json.Number, fallback int) (int, error) {
	if n == "" {
		return fallback, nil
	}
	value, err := strconv.Atoi(n.String())
	if err != nil || value < 0 {
		return 0, fmt.Errorf("%q: use a whole number, 0 or more", n.String())
	}
	return value, nil
}

// Main holds the keys of a main plugin that Spiderpool reads, whatever its type.
// They are also all keys that it writes for macvlan, ipvlan and ipoib.
type Main struct {
	Type            string `json:"type"`
	Master          string `json:"master,omitempty"`
	Mode            string `json:"mode,omitempty"`            // ipvlan: l2 (the default), l3 or l3s; macvlan: bridge
	LinkInContainer bool   `json:"linkInContainer,omitempty"` // Master is in the pod's network namespace
	MTU             int32  `json:"mtu,omitempty"`             // bytes; 0 means the master's
	IPAM            *IPAM  `json:"ipam,omitempty"`            // nil for an interface without addresses
}

// VLAN configures the main plugin vlan.
type VLAN struct {
	Type   string `json:"type"`
	Master string `json:"master"`
	VlanID int32  `json:"vlanId"`
	MTU    int32  `json:"mtu,omitempty"`
	IPAM   *IPAM  `json:"ipam,omitempty"`
}

// SRIOV configures the main plugin sriov.
type SRIOV struct {
	Type      string `json:"type"`
	VLAN      *int32 `json:"vlan,omitempty"`
	MinTxRate *int   `json:"min_tx_rate,omitempty"` // Mbit/s
	MaxTxRate *int   `json:"max_tx_rate,omitempty"` // Mbit/s
	IPAM      *IPAM  `json:"ipam,omitempty"`
}

// IBSRIOV configures the main plugin ib-sriov.
type IBSRIOV struct {
	Type          string `json:"type"`
	Pkey          string `json:"pkey,omitempty"`
	LinkState     string `json:"link_state"`
	RDMAIsolation bool   `json:"rdmaIsolation"`
	IBKubernetes  bool   `json:"ibKubernetesEnabled"`
	IPAM          *IPAM  `json:"ipam,omitempty"`
}

// OVS configures the main plugin ovs.
type OVS struct {
	Type     string  `json:"type"`
	Bridge   string  `json:"bridge"`
	VLAN     *int32  `json:"vlan,omitempty"`
	Trunk    []Trunk `json:"trunk,omitempty"`
	DeviceID string  `json:"deviceID,omitempty"`
	IPAM     *IPAM   `json:"ipam,omitempty"`
}

// Trunk is a VLAN ID or a range of VLAN IDs.
type Trunk struct {
	MinID *uint `json:"minID,omitempty"`
	MaxID *uint `json:"maxID,omitempty"`
	ID    *uint `json:"id,omitempty"`
}

// Tuning configures the plugin tuning, which sets the MTU for a main plugin that cannot.
type Tuning struct {
	Type string `json:"type"`
	MTU  int32  `json:"mtu"`
}

// Typed is the configuration of a plugin without keys of its own, e.g. rdma.
type Typed struct {
	Type string `json:"type"`
}

// Ifacer configures the plugin ifacer, which makes a bond, a VLAN interface, or a
// VLAN interface of a bond for the main plugin.
type Ifacer struct {
	Type       string   `json:"type"`
	Interfaces []string `json:"interfaces"` // two or more become a bond
	VlanID     int32    `json:"vlanID,omitempty"`
	Bond       *Bond    `json:"bond,omitempty"`
}

// Bond is the bond that ifacer makes of several interfaces.
type Bond struct {
	Name    string  `json:"name"`
	Mode    int32   `json:"mode"`              // the kernel's number, 0 to 6
	Options *string `json:"options,omitempty"` // e.g. "miimon=100;lacp_rate=1"
}

// Coordinator configures the plugin coordinator. It inherits each key that is
// missing (nil) from the cluster's SpiderCoordinator.
type Coordinator struct {
	Type               string   `json:"type"`
	Socket             string   `json:"ipam_unix_socket_path,omitempty"` // ignored; see Node
	Mode               *string  `json:"mode,omitempty"`
	HijackCIDR         []string `json:"hijackCIDR,omitempty"`
	OverlayPodCIDR     []string `json:"overlayPodCIDR,omitempty"`
	ServiceCIDR        []string `json:"serviceCIDR,omitempty"`
	PolicyRoutes       []Route  `json:"policyRoutes,omitempty"`
	PodMACPrefix       *string  `json:"podMACPrefix,omitempty"`
	TunePodRoutes      *bool    `json:"tunePodRoutes,omitempty"`
	PodDefaultRouteNIC *string  `json:"podDefaultRouteNic,omitempty"`
	HostRuleTable      *int     `json:"hostRuleTable,omitempty"`
	PodRPFilter        *int     `json:"podRPFilter,omitempty"`
	TxQueueLen         *int     `json:"txQueueLen,omitempty"`
	VethLinkAddress    *string  `json:"vethLinkAddress,omitempty"`
	VethMTU            *int     `json:"vethMTU,omitempty"`
	AntiSpoof          *bool    `json:"antiSpoof,omitempty"`
	// PodDefaultCNINIC is the pod's first interface, eth0 by default.
	PodDefaultCNINIC string `json:"podDefaultCniNic,omitempty"`
	// MultusNICPrefix starts the names of the pod's further interfaces, e.g. net for net1.
	MultusNICPrefix string        `json:"multusNicPrefix,omitempty"`
	Log             LogOptions    `json:"logOptions,omitzero"`
	Capabilities    *Capabilities `json:"capabilities,omitempty"`
	// Runtime is what the container runtime adds to the configuration for Capabilities.
	Runtime RuntimeConfig `json:"runtimeConfig,omitzero"`
}

// Capabilities are the conventions that a plugin asks the container runtime for
// (https://www.cni.dev/docs/conventions/).
type Capabilities struct {
	Bandwidth bool `json:"bandwidth,omitempty"`
}

// RuntimeConfig holds the runtime's values for Capabilities.
type RuntimeConfig struct {
	Bandwidth Bandwidth `json:"bandwidth,omitzero"`
}

// Bandwidth holds the rates of one attachment in bits per second; 0 means no limit. The
// coordinator chooses the bursts itself, so it ignores ingressBurst and egressBurst.
type Bandwidth struct {
	IngressRate int64 `json:"ingressRate,omitempty"`
	EgressRate  int64 `json:"egressRate,omitempty"`
}

// Route is a destination and its next hop, e.g. {"dst":"10.0.0.0/8","gw":"192.0.2.1"}.
type Route struct {
	Dst string `json:"dst"`
	Gw  string `json:"gw"`
}

// LogOptions configure the coordinator's log file, like the keys log_… of IPAM.
type LogOptions struct {
	Level    string      `json:"logLevel,omitempty"`
	File     *string     `json:"logFile,omitempty"`    // below Node.LogDir, or "" for none
	MaxSize  json.Number `json:"logMaxSize,omitempty"` // MiB
	MaxAge   json.Number `json:"logMaxAge,omitempty"`  // days
	MaxCount json.Number `json:"logMaxCount,omitempty"`
}
