package view

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/pool"
)

// CapacityQuestion asks how many more pods fit.
type CapacityQuestion struct {
	// Pods is the wanted number.
	Pods int64
	// Like is the question about one of them; its node is ignored.
	Like  PodQuestion
	Nodes []CandidateNode
}

// CandidateNode is a node for new pods.
type CandidateNode struct {
	pool.NodeFacts
	// Closed is why the scheduler places no pod there, e.g. "it is cordoned"; "" if it does.
	Closed string
	// Room is the number of pods until the limit of the kubelet, and Limit that limit.
	Room, Limit int64
	// Offers are what the node offers to the scheduler of the addresses that the pods request.
	Offers []OfferLeft
}

// Capacity tells how many more pods fit.
type Capacity struct {
	Pods int64 `json:"pods"` // wanted
	Fits bool  `json:"fits"`
	// Total counts the pods on all nodes. Nodes share pools, so it is at most the sum of the nodes.
	Total int64          `json:"total"`
	Nodes []NodeCapacity `json:"nodes"`
	// Stop is why not one pod more fits on all nodes.
	Stop     string    `json:"stop,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
	Notes    []string  `json:"notes,omitempty"`
}

// NodeCapacity is the capacity of one node, if all new pods come to it.
type NodeCapacity struct {
	Node string `json:"node"`
	Pods int64  `json:"pods"`
	// Addresses is the number of pods that would get addresses, without the limit of the kubelet.
	Addresses int64 `json:"addresses"`
	// Stop is why not one pod more fits.
	Stop string `json:"stop"`
}

// slot is one address of a pod: the pools in the order of the allocator.
type slot struct {
	ifname string
	family inet.Family
	pools  []string
}

func (s slot) full() string {
	return fmt.Sprintf("%s %s: %s", s.ifname, s.family, isFull(s.pools))
}

func isFull(pools []string) string {
	if len(pools) == 1 {
		return "pool " + pools[0] + " is full"
	}
	return "pools " + some(pools) + " are full"
}

// Capacity places pods with the agent's own selection of pools: each address comes from the first pool of the selection
// with a free one. The error is that of PodQuestion.Network.
func (s *State) Capacity(q CapacityQuestion) (Capacity, error) {
	out := Capacity{Pods: q.Pods, Nodes: []NodeCapacity{}}
	interfaces, err := pool.Interfaces(q.Like.Name.Namespace, q.Like.Facts.Pod.Annotations, q.Like.Cluster)
	if err == nil {
		err = errors.Join(ipam.CheckAnnotations(q.Like.Facts.Pod.Annotations), pool.CheckInterfaces(q.Like.Facts.Pod.Annotations, namesOf(interfaces)))
	}
	if err != nil {
		out.Findings = append(out.Findings, Finding{"pod " + q.Like.Name.String(), oneLine(err), "correct it in the template of the workload"})
		return out, nil
	}
	ours, err := q.networks(&out, interfaces)
	if err != nil {
		return out, err
	}
	f, chooser := filler{free: map[string]int64{}}, chooser{State: s, pools: newNodePools()}
	for _, name := range s.pools.Names() {
		p, _ := s.pools.Get(name)
		chooser.pools.add(p)
		f.free[name] = saturated(s.index.Usage(name).Free, p.Assignable)
	}
	together := map[string]int64{} // addresses that the pods of all nodes take, by pool
	stops := map[string]bool{}
	for _, node := range q.Nodes {
		slots, stop := chooser.slots(&out, q.Like, node.NodeFacts, ours)
		c := NodeCapacity{Node: node.Name, Stop: stop}
		if stop == "" {
			c.Addresses, c.Stop = f.fill(slots, map[string]int64{}, math.MaxInt64)
			c.Pods = c.Addresses
			if node.Room < c.Pods {
				c.Pods, c.Stop = node.Room, fmt.Sprintf("the kubelet's limit of %d pods", node.Limit)
			}
			for _, offer := range node.Offers {
				if offer.Pods < c.Pods {
					c.Pods, c.Stop = offer.Pods, fmt.Sprintf("the scheduler counts %d of %s on the node, and pods request %d of them", offer.Offered, offer.Resource, offer.Requested)
				}
			}
		}
		if node.Closed != "" {
			c.Pods, c.Stop = 0, node.Closed
		}
		out.Nodes = append(out.Nodes, c)
		if c.Pods > 0 {
			placed, full := f.fill(slots, together, c.Pods)
			out.Total = saturated(out.Total, placed)
			c.Stop = cmp.Or(full, c.Stop)
		}
		if node.Closed == "" {
			stops[c.Stop] = true
		}
	}
	out.judge(stops)
	return out, nil
}

// ourInterface is an interface with addresses of ours.
type ourInterface struct {
	pool.PodInterface
	network ipam.Network
}

// networks returns the interfaces of the pods with addresses of ours.
func (q *CapacityQuestion) networks(out *Capacity, interfaces []pool.PodInterface) (ours []ourInterface, err error) {
	for _, i := range interfaces {
		if i.Attachment == (pool.NetworkAttachment{}) {
			out.Notes = append(out.Notes, fmt.Sprintf("Interface %s has its CNI configuration in a file on the node, so its addresses are not counted.", i.Name))
			continue
		}
		network, err := q.Like.Network(i.Attachment)
		if errors.Is(err, ipam.ErrNotFound) {
			out.Findings = append(out.Findings, Finding{"interface " + i.Name, fmt.Sprintf("NetworkAttachmentDefinition %s does not exist, so no pod can start", i.Attachment),
				"create it, e.g. with a SpiderMultusConfig of that name"})
			continue
		}
		if err != nil {
			return nil, err
		}
		if !network.IPAM {
			continue
		}
		if network.MatchMasterSubnet {
			network.MatchMasterSubnet = false
			out.Notes = append(out.Notes, fmt.Sprintf("Interface %s has match_master_subnet, so its agent may reject further pools.", i.Name))
		}
		ours = append(ours, ourInterface{i, network})
	}
	if len(ours) == 0 && len(out.Findings) == 0 {
		out.Notes = append(out.Notes, "No interface of the pod has addresses of Spiderpool, so only the kubelets limit the number of pods.")
	}
	return ours, nil
}

// chooser selects pools for many nodes.
type chooser struct {
	*State
	pools nodePools
	// explained is the number of nodes without a pool that were compared with all pools.
	explained int
}

// maxExplained bounds chooser.explained.
const maxExplained = 50

// errUnexplained is the error of further nodes.
var errUnexplained = errors.New("no pool for this node; spiderpoolctl capacity --node NODE names the reasons")

// selections returns the pools of a node for an interface. The errors are those of pool.SelectAll, and errUnexplained.
func (c *chooser) selections(ofNode *pool.Catalog, request *pool.Request, families []inet.Family) ([]pool.Selection, error) {
	selections, err := pool.SelectAll(ofNode, request, families)
	if none := (pool.NoPools)(nil); !errors.As(err, &none) {
		return selections, err
	}
	if c.explained++; c.explained > maxExplained {
		return nil, errUnexplained
	}
	return pool.SelectAll(c.State.pools, request, families)
}

// slots returns the addresses of one pod on a node, or why it gets none.
func (c *chooser) slots(out *Capacity, like PodQuestion, node pool.NodeFacts, interfaces []ourInterface) (slots []slot, stop string) {
	if len(out.Findings) > 0 {
		return nil, out.Findings[0].Subject + ": " + out.Findings[0].Problem
	}
	facts := like.Facts
	facts.Node = node
	ofNode := c.pools.of(node.Name)
	for _, i := range interfaces {
		request := ipam.InterfaceRequest(facts, i.PodInterface, i.network)
		selections, err := c.selections(ofNode, &request, like.Families)
		var none pool.NoPools
		if err != nil && !errors.As(err, &none) && !errors.Is(err, errUnexplained) {
			out.Findings = append(out.Findings, Finding{"interface " + i.Name, oneLine(err), "correct the annotation, or the CNI configuration of " + i.Attachment.String()})
		}
		if err != nil {
			return nil, strings.TrimPrefix(oneLine(err), "interface ")
		}
		for _, selection := range selections {
			slots = append(slots, slot{i.Name, selection.Family, selection.Names()})
		}
	}
	return slots, ""
}

// filler places pods.
type filler struct{ free map[string]int64 } // by pool

// fill places at most limit pods, and adds their addresses to taken. full is why not one more fits, "" if the limit is the reason.
func (f filler) fill(slots []slot, taken map[string]int64, limit int64) (placed int64, full string) {
	if len(slots) == 0 {
		return limit, ""
	}
	for placed < limit {
		demand := map[string]int64{} // of one pod, by pool
		for _, slot := range slots {
			at := slices.IndexFunc(slot.pools, func(name string) bool { return f.free[name] > taken[name]+demand[name] })
			if at < 0 {
				return placed, slot.full()
			}
			demand[slot.pools[at]]++
		}
		// Further pods take the same pools until one of these is full.
		batch := limit - placed
		for name, count := range demand {
			batch = min(batch, (f.free[name]-taken[name])/count)
		}
		for name, count := range demand {
			taken[name] += batch * count
		}
		placed += batch
	}
	return placed, ""
}

func saturated(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// maxStops is the number of reasons in Capacity.Stop.
const maxStops = 3

// judge compares the total with the wanted number. stops are the reasons of the open nodes.
func (c *Capacity) judge(stops map[string]bool) {
	if len(c.Findings) > 0 {
		return
	}
	reasons := slices.Sorted(maps.Keys(stops))
	c.Stop = strings.Join(reasons[:min(len(reasons), maxStops)], "; ")
	if more := len(reasons) - maxStops; more > 0 {
		c.Stop += fmt.Sprintf("; and %d more reasons", more)
	}
	remedy := "add addresses: kubectl edit spiderippool NAME; spiderpoolctl pool usage NAME tells which workloads have them"
	if c.Stop == "" {
		c.Stop, remedy = "no node is open to the pods", "uncordon a node, or change the taints or the pods' tolerations"
	}
	if c.Fits = c.Total >= c.Pods; !c.Fits {
		c.Findings = append(c.Findings, Finding{"capacity", fmt.Sprintf("%d of %d pods fit; the next one stops at: %s", c.Total, c.Pods, c.Stop), remedy})
	}
}
