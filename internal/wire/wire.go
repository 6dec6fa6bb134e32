// Package wire defines the protocol between the CNI plugins and the agent: JSON
// over HTTP on the agent's unix socket.
//
// A request is a POST of a request type to its path. The answer is 200 with the
// reply type, or another status with an Error. Addresses are netip values in
// canonical text form.
//
// During an upgrade, plugins and agents of two successive releases talk to each
// other. So a field keeps its name and meaning, both sides ignore unknown fields, and
// a missing field means the behavior of the release before.
// TestPreviousReleaseIsUnderstood compares the format with that of the last release.
package wire

import (
	"fmt"
	"net/netip"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// Paths of the agent's requests.
const (
	PathAdd         = "/v1/ipam/add"         // AddRequest → AddReply
	PathDelete      = "/v1/ipam/delete"      // DeleteRequest → Empty
	PathCheck       = "/v1/ipam/check"       // CheckRequest → Empty
	PathGC          = "/v1/ipam/gc"          // GCRequest → Empty
	PathConflict    = "/v1/ipam/conflict"    // ConflictRequest → Empty
	PathStatus      = "/v1/status"           // Empty → Empty
	PathRuntime     = "/v1/runtime"          // Empty → RuntimeReply
	PathCoordinator = "/v1/coordinator/plan" // CoordinatorRequest → CoordinatorReply
)

// MaxRequestBytes is the maximum length of a request.
const MaxRequestBytes = 1 << 20

// Empty is a request or a reply without content.
type Empty struct{}

// Attachment identifies one interface of one sandbox (CNI specification 1.1.0,
// section 2, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME and CNI_ARGS).
type Attachment struct {
	ContainerID  string `json:"containerID"`
	NetNS        string `json:"netns,omitempty"`
	Interface    string `json:"interface"`
	PodNamespace string `json:"podNamespace"`
	PodName      string `json:"podName"`
	// PodUID is K8S_POD_UID; empty if the runtime does not pass it.
	PodUID string `json:"podUID,omitempty"`
}

// maxContainerID is the limit for container IDs in bytes. The specification has none;
// container runtimes write 64 hexadecimal digits.
const maxContainerID = 128

// Validate returns an *Error for a container ID (CNI specification 1.1.0, section 2,
// CNI_CONTAINERID) or an interface name that no sandbox can have. Both go into SpiderIPBlocks, which must stay small.
func (a Attachment) Validate() error {
	refuse := func(name, value, reason string) error {
		return &Error{Code: CodeInvalidEnvironment, Msg: fmt.Sprintf("%s %.40q %s", name, value, reason)}
	}
	if len(a.ContainerID) > maxContainerID {
		return refuse("CNI_CONTAINERID", a.ContainerID, fmt.Sprintf("has %d bytes; use at most %d", len(a.ContainerID), maxContainerID))
	}
	odd := func(r rune) bool { return !isAlphanumeric(r) && !strings.ContainsRune("_.-", r) }
	if a.ContainerID == "" || !isAlphanumeric(rune(a.ContainerID[0])) || strings.ContainsFunc(a.ContainerID, odd) {
		return refuse("CNI_CONTAINERID", a.ContainerID, "is not a letter or digit followed by letters, digits, '_', '.' and '-'")
	}
	if fault := netplan.InterfaceNameFault(a.Interface); fault != "" {
		return refuse("CNI_IFNAME", a.Interface, fault)
	}
	return nil
}

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// AddRequest asks for the addresses of an interface.
type AddRequest struct {
	Attachment
	// Network is the name of the CNI configuration ("name" of the network configuration list).
	Network string `json:"network,omitempty"`
	// Master is the master interface of the main plugin, for matchMasterSubnet.
	Master string `json:"master,omitempty"`
	// DefaultIPv4Pools and DefaultIPv6Pools are the pools of the CNI configuration.
	DefaultIPv4Pools []string `json:"defaultIPv4Pools,omitempty"`
	DefaultIPv6Pools []string `json:"defaultIPv6Pools,omitempty"`
	// CleanGateway omits the default route.
	CleanGateway bool `json:"cleanGateway,omitempty"`
	// MatchMasterSubnet excludes pools with other subnets than Master's.
	MatchMasterSubnet bool `json:"matchMasterSubnet,omitempty"`
}

// Address is one address of an interface.
type Address struct {
	// Prefix is the address with the prefix length of its subnet.
	Prefix netip.Prefix `json:"prefix"`
	// Gateway is the default gateway; the zero value if the pool has none.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// Pool is the name of the SpiderIPPool.
	Pool string `json:"pool"`
	// Shared means that another sandbox of the pod or its owner may have the address, too,
	// e.g. during the live migration of a virtual machine. Do not probe for it or with it.
	Shared bool `json:"shared,omitempty"`
}

// DNS holds the name server settings of a CNI result.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// IsZero reports whether no field is set, so that a reply omits the settings.
func (d DNS) IsZero() bool {
	return len(d.Nameservers) == 0 && d.Domain == "" && len(d.Search) == 0 && len(d.Options) == 0
}

// AddReply holds at most one address of each IP family and the routes of the
// interface. They include the default routes unless CleanGateway is set.
type AddReply struct {
	Addresses []Address    `json:"addresses"`
	Routes    []inet.Route `json:"routes,omitempty"`
	DNS       DNS          `json:"dns,omitzero"`
	// Detect selects the probes before the addresses are used.
	Detect Detection `json:"detect,omitzero"`
}

// Detection holds the installation's switches for probes.
type Detection struct {
	IPConflict bool `json:"ipConflict,omitempty"` // whether another machine uses an address
	Gateway    bool `json:"gateway,omitempty"`    // whether the gateways answer
}

// DeleteRequest releases the addresses of an interface. Unknown interfaces are
// no error.
type DeleteRequest struct {
	Attachment
}

// CheckRequest asks whether the interface still holds exactly these addresses.
type CheckRequest struct {
	Attachment
	Addresses []netip.Addr `json:"addresses"`
}

// AttachmentKey is an entry of cni.dev/valid-attachments (CNI specification 1.1.0, GC).
type AttachmentKey struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
}

// GCRequest releases every address of this node on Network whose attachment is
// not in Valid.
type GCRequest struct {
	Network string          `json:"network"`
	Valid   []AttachmentKey `json:"valid"`
}

// ConflictRequest reports that another machine uses one of the interface's
// addresses. The agent takes the address back and quarantines it, and the next ADD of
// the pod gets another one. Or the agent returns an error, because the answer proves
// nothing; then the ADD fails.
type ConflictRequest struct {
	Attachment
	Address netip.Addr `json:"address"`
	// MAC is the hardware address that answered.
	MAC string `json:"mac"`
	// Control is an address that no machine can have, e.g. 203.0.113.7, and for which
	// a machine answered all the same; zero if no machine did.
	Control netip.Addr `json:"control,omitzero"`
}

// RuntimeReply says whether the agent can ask the node's container runtime for its
// sandboxes. Exactly one of the fields is set, or none before the first answer.
type RuntimeReply struct {
	Socket string `json:"socket,omitempty"` // socket of the runtime that answers
	Fault  string `json:"fault,omitempty"`  // reason why none answers, and the way out
}

// CoordinatorRequest asks for the coordinator plugin's settings for an
// interface.
type CoordinatorRequest struct {
	Attachment
}

// CoordinatorReply holds the cluster's settings (SpiderCoordinator) and the
// pod's annotations.
type CoordinatorReply struct {
	Config netplan.Settings `json:"config"`
	// PodDefaultRouteNIC is the pod's annotation
	// ipam.spidernet.io/default-route-nic. It overrides every configuration.
	PodDefaultRouteNIC string `json:"podDefaultRouteNIC,omitempty"`
	// PodInterfaces are the interfaces in the pod's annotations, including those
	// not attached yet; nil if unknown.
	PodInterfaces []string `json:"podInterfaces,omitempty"`
	// Rates are the limits of the bandwidth in the pod's annotations, by interface.
	Rates map[string]netplan.Rates `json:"rates,omitempty"`
	// PodRates are the rates in the annotations of Kubernetes. The container runtime
	// passes them, too, for the first interface, and Multus for all.
	PodRates netplan.Rates `json:"podRates,omitzero"`
	// RatesFault is the reason why an annotation for the bandwidth is invalid, with the
	// way out. The pod's ADD fails with it.
	RatesFault string `json:"ratesFault,omitempty"`
	// Sources are the networks that the pod may send from besides its own addresses.
	Sources []netip.Prefix `json:"sources,omitempty"`
	// SourcesFault is the reason why the annotation for Sources is invalid or not
	// permitted, with the way out. With antiSpoof, the pod's ADD fails with it.
	SourcesFault string `json:"sourcesFault,omitempty"`
}

// Codes of CNI errors (CNI specification 1.1.0, section 5, "Error"; 100 and
// above are the plugin's own).
const (
	CodeInvalidEnvironment = 4   // a CNI_* variable is missing or malformed
	CodeDecodingFailure    = 6   // the request or the network configuration is not valid JSON
	CodeInvalidConfig      = 7   // the configuration is well-formed and wrong
	CodeTryAgainLater      = 11  // a passing condition: the agent or the API server is away
	CodeInternal           = 999 // none of the others
	CodeNoAddress          = 100 // no pool can give an address; the details say why, pool by pool
	CodeConflict           = 101 // the addresses held are not the ones that were asked about
	CodeRefused            = 102 // the caller or its pod has no business here
)

// Error is a failed request, with the fields of a CNI error.
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
	// Cause is the error behind a failure. It does not leave the agent.
	Cause error `json:"-"`
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Error returns the message, the details and the code in one line.
func (e *Error) Error() string {
	if e.Details == "" {
		return fmt.Sprintf("%s (CNI code %d)", e.Msg, e.Code)
	}
	return fmt.Sprintf("%s: %s (CNI code %d)", e.Msg, e.Details, e.Code)
}
