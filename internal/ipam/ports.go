package ipam

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Errors that adapters return, possibly wrapped.
var (
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrElsewhere: the pod does not run on this node.
	ErrElsewhere = errors.New("not a pod of this node")
	// ErrNotReady: the adapter has not read its first snapshot yet.
	ErrNotReady = errors.New("not ready")
)

// Controller is a controller of a pod; the zero value is none.
type Controller struct {
	APIVersion string
	Kind       string
	Name       string
	UID        string
}

// is reports whether the controller is of one of the kinds of the API group.
func (c Controller) is(group string, kinds ...string) bool {
	in, _, _ := strings.Cut(c.APIVersion, "/")
	return in == group && slices.Contains(kinds, c.Kind)
}

// Pod is a pod of this node.
type Pod struct {
	lease.PodKey
	UID                 string
	Labels, Annotations map[string]string
	// Owner is the controller in the pod's owner references.
	Owner Controller
}

// Cluster reads the objects other than blocks and pools. Everything comes from memory
// unless the method says otherwise.
type Cluster interface {
	// Pod returns the pod of this node. If memory lacks the pod, or has another UID, it
	// is read live. ErrNotFound, ErrElsewhere.
	Pod(ctx context.Context, key lease.PodKey, uid string) (Pod, error)
	// PodState returns the facts about a pod that reclaim judges by, read live. No
	// pod of that name is no error, but Gone.
	PodState(ctx context.Context, key lease.PodKey) (reclaim.Pod, error)
	// NodeState returns the facts about this node that reclaim judges by, read live.
	NodeState(ctx context.Context) (reclaim.Node, error)
	// Namespace returns the facts of a namespace. ErrNotFound.
	Namespace(ctx context.Context, name string) (pool.NamespaceFacts, error)
	// Node returns the facts of this node. ErrNotReady.
	Node(ctx context.Context) (pool.NodeFacts, error)
	// TopController follows the pod's owner to the top: a Deployment for the pod of
	// a ReplicaSet. Read live once for an owner and then remembered.
	TopController(ctx context.Context, pod Pod) (Controller, error)
	// Network returns the configuration of a network attachment, read live and
	// remembered for seconds. ErrNotFound.
	Network(ctx context.Context, name pool.NetworkAttachment) (Network, error)
}

// Network is the configuration of a NetworkAttachmentDefinition as far as it
// concerns addresses.
type Network struct {
	// IPAM is false where another IPAM plugin, or none, gives the addresses.
	IPAM              bool
	Name              string
	Master            string
	Pools             pool.Names
	CleanGateway      bool
	MatchMasterSubnet bool
	// Parents are the interfaces of the node below the network: the master, or the
	// interfaces from which the ifacer plugin makes the master.
	Parents []string
	// MTU is the MTU of the pod's interface; 0 means the MTU of the master.
	MTU int
}

// Links reads the links of the node.
type Links interface {
	// Subnets returns the networks of the link's addresses.
	Subnets(link string) ([]netip.Prefix, error)
}

// Runtime is the container runtime of the node.
type Runtime interface {
	// Sandboxes returns the IDs of all sandboxes that there are, running or not, and
	// with each the UID of its pod.
	// ErrNotReady where there is no runtime to ask.
	Sandboxes(ctx context.Context) (map[string]string, error)
}

// Pools reads, live, the pools that this node does not watch: pools bound to other
// nodes, and new pools without a label yet.
type Pools interface {
	// Get returns the pool, or ErrNotFound.
	Get(ctx context.Context, name string) (*pool.Pool, error)
	// List returns at most limit pools.
	List(ctx context.Context, limit int) ([]*pool.Pool, error)
}

// Endpoints keeps the SpiderEndpoints, which are views of the leases, up to date.
type Endpoints interface {
	// Changed says that the result of Service.Endpoint for the key may have changed. It
	// returns at once. After delay, the implementation reads the stored endpoint, calls
	// Service.Endpoint and writes the result, and repeats that until it succeeds. Calls
	// in between are served together.
	Changed(key EndpointKey, delay time.Duration)
}

// EndpointKey identifies the endpoint of a pod.
type EndpointKey struct {
	lease.PodKey // of the endpoint: the pod's, or that of the virtual machine with the addresses
	Pod          lease.PodKey
	PodUID       string
}

// Endpoint is the content of a SpiderEndpoint.
type Endpoint struct {
	EndpointKey
	Node       string
	Owner      Controller // only kind and name are stored
	Interfaces []EndpointInterface
	// New: an ADD of this process granted all the interfaces, and this is the first answer
	// about the pod since. It is not stored.
	New bool
}

// EndpointInterface is one interface with its addresses and routes.
type EndpointInterface struct {
	Interface    string
	Network      pool.NetworkAttachment // the zero value if there is none
	Addresses    []EndpointAddress      // at most one of each IP version
	CleanGateway bool
	Routes       []inet.Route
}

// subnets returns the subnets of the interface's addresses.
func (i EndpointInterface) subnets() []netip.Prefix {
	var subnets []netip.Prefix
	for _, a := range i.Addresses {
		subnets = append(subnets, a.Prefix.Masked())
	}
	return subnets
}

// own returns the addresses of the interface.
func (i EndpointInterface) own() []netip.Addr {
	var own []netip.Addr
	for _, a := range i.Addresses {
		own = append(own, a.Prefix.Addr())
	}
	return own
}

// EndpointAddress is one address of an interface.
type EndpointAddress struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // the zero value where the pool has none
	Pool    string
}

// Events reports to the users of a pod or of this node. Methods return at once.
type Events interface {
	// AllocationFailed says that an interface of the pod got no address, and why.
	AllocationFailed(pod Pod, message string)
	// OwnerNotProven says why the pod's addresses are not fixed for the owner that it
	// names.
	OwnerNotProven(pod Pod, doubt string)
	// AddressConflict says that another host uses an address of the pod.
	AddressConflict(pod Pod, message string)
	// NetworkNotTrusted says why the answers of other hosts on a network of this node
	// prove nothing.
	NetworkNotTrusted(message string)
	// Reclaimed says that an address was reclaimed without a DEL.
	Reclaimed(pod Pod, change reclaim.Change)
	// LeaseRestored says that another client had removed a lease of the pod.
	LeaseRestored(pod Pod, message string)
}

// Journal stores uncommitted releases across restarts. The CNI plugin and other agents
// of the node may use the same store.
type Journal interface {
	// Begin starts the release of an attachment. finish(true) stores it in place of an
	// earlier one of the attachment; when it returns nil, the release is on disk, or
	// Supersede was called since Begin. finish(false) stores nothing.
	Begin(at wire.Attachment) (finish func(keep bool) error)
	// Supersede removes the stored release of the attachment and those begun, and
	// reports whether one was stored. If a Replay is committing it, Supersede waits for
	// the end of that, or of ctx.
	Supersede(ctx context.Context, at wire.Attachment) (kept bool, err error)
	// Replay calls commit for each stored release and removes it on success. It stops at
	// the first error of commit and returns the number of releases left. Other errors
	// are about unreadable releases, which do not count.
	Replay(ctx context.Context, commit func(context.Context, wire.Attachment) error) (left int, err error)
}

// Observer counts what happens, for metrics.
type Observer interface {
	// Reclaimed counts an attempt to reclaim an address without a DEL.
	Reclaimed(reason reclaim.Reason, err error)
}
