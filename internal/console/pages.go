package console

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/view"
)

// pages are those for signed-in users, by the path.
var pages = map[string]page{
	"/{$}":                     {"pools", (*site).poolsPage},
	"/pools/{name}":            {"pool", (*site).poolPage},
	"/addresses/{address}":     {"address", (*site).addressPage},
	"/nodes":                   {"nodes", (*site).nodesPage},
	"/nodes/{name}":            {"node", (*site).nodePage},
	"/pods/{namespace}/{name}": {"pod", (*site).podPage},
	"/events":                  {"events", (*site).eventsPage},
	"/flows":                   {"flows", (*site).flowsPage},
	"/search":                  {"search", (*site).searchPage},
}

// poolRow is a pool with its outlook.
type poolRow struct {
	view.Pool
	Outlook outlook
}

// outlook tells when a pool is full.
type outlook struct {
	Left  time.Duration
	Grows bool
	// Since is the length of the history. The console keeps it itself, since its start.
	Since time.Duration
}

func (s *site) row(p view.Pool) poolRow {
	left, grows, since := s.Board.outlook(p)
	return poolRow{p, outlook{left, grows, since}}
}

type poolsContent struct {
	Hidden bool
	Pools  []poolRow
	More   int
}

func (poolsContent) title() string { return "Pools" }

// maxRows limits the rows of a table. Search finds the others.
const maxRows = 1000

func (s *site) poolsPage(v *visit) (any, error) {
	if !v.sight.pools() {
		return poolsContent{Hidden: true}, nil
	}
	all := v.state.Pools()
	slices.SortStableFunc(all, func(a, b view.Pool) int { return cmp.Compare(ratio(a.Free, a.Total), ratio(b.Free, b.Total)) })
	c := poolsContent{More: max(0, len(all)-maxRows)}
	for _, p := range all[:min(len(all), maxRows)] {
		c.Pools = append(c.Pools, s.row(p))
	}
	return c, nil
}

func ratio(part, all int64) float64 {
	if all == 0 {
		return 2 // pools without addresses come last
	}
	return float64(part) / float64(all)
}

type poolContent struct {
	poolRow
	Details          view.PoolDetails
	Map              []mapGroup
	Next             string
	Workloads, Nodes []view.Count
	HiddenWorkloads  int
	Holders          []view.Address
	MoreHolders      int
	HiddenHolders    int
}

func (c poolContent) title() string { return "Pool " + c.Name }

// Lists of the page of a pool are shorter than the tables of other pages: the map has everything.
const maxHolders, maxCounts = 200, 50

func (s *site) poolPage(v *visit) (any, error) {
	name := v.PathValue("name")
	if !v.sight.pools() {
		return nil, errHidden
	}
	details, ok := v.state.PoolDetails(name)
	if !ok {
		return nil, errHidden
	}
	from, _ := parseAddr(v.URL.Query().Get("from"))
	drawn, _ := v.state.AddressMap(name, from, maxCells)
	c := poolContent{poolRow: s.row(details.Pool), Details: details, Map: groups(drawn.Spans, v.sight)}
	if drawn.Next.IsValid() {
		c.Next = drawn.Next.String()
	}
	usage, _ := v.state.PoolUsage(name)
	for _, w := range usage.Workloads {
		if v.sight.workload(w.Name) {
			c.Workloads = append(c.Workloads, w)
		} else {
			c.HiddenWorkloads++
		}
	}
	if v.sight.nodes() && v.sight.everyHolder() {
		c.Nodes = usage.Nodes
	}
	c.Workloads, c.Nodes = c.Workloads[:min(len(c.Workloads), maxCounts)], c.Nodes[:min(len(c.Nodes), maxCounts)]
	holders, hidden := v.sight.addresses(v.state.Addresses(view.Filter{Pool: name}))
	c.Holders, c.MoreHolders, c.HiddenHolders = holders[:min(len(holders), maxHolders)], max(0, len(holders)-maxHolders), hidden
	return c, nil
}

type addressContent struct {
	view.Who
	Hidden bool
}

func (c addressContent) title() string { return "Address " + c.Addr.String() }

func (s *site) addressPage(v *visit) (any, error) {
	addr, ok := parseAddr(v.PathValue("address"))
	if !ok || !v.sight.pools() {
		return nil, errHidden
	}
	return v.who(addr), nil
}

// parseAddr returns an address without a zone, or false. A zone is any text, e.g. HTML, and no address of a pool has one.
func parseAddr(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

func (v *visit) who(addr netip.Addr) addressContent {
	who := v.state.WhoHas(addr, v.podState)
	c := addressContent{Who: who}
	c.Findings = v.sight.findings(who.Findings, who.Holders)
	c.Holders = nil
	for _, h := range who.Holders {
		c.Hidden = c.Hidden || !v.sight.sees(h)
		c.Holders = append(c.Holders, v.sight.address(h))
	}
	return c
}

type nodeRow struct {
	Name, Agent        string
	Ready, AgentReady  bool
	IPs                []string
	Addresses, Bound   int
	Findings, Networks int
}

type nodesContent struct {
	Hidden bool
	Nodes  []nodeRow
	More   int
}

func (nodesContent) title() string { return "Nodes" }

func (s *site) nodesPage(v *visit) (any, error) {
	if !v.sight.nodes() {
		return nodesContent{Hidden: true}, nil
	}
	names := slices.Sorted(maps.Keys(v.nodes))
	c := nodesContent{More: max(0, len(names)-maxRows)}
	for _, name := range names[:min(len(names), maxRows)] {
		if err := v.Context().Err(); err != nil { // the reader is gone
			return nil, err
		}
		d := s.node(v, name)
		row := nodeRow{Name: name, Agent: d.Agent, Ready: d.Ready, AgentReady: d.AgentReady, IPs: d.IPs, Addresses: len(d.Addresses), Findings: len(d.Findings), Networks: len(d.Networks)}
		for _, p := range d.Pools {
			if p.Bound {
				row.Bound++
			}
		}
		c.Nodes = append(c.Nodes, row)
	}
	return c, nil
}

// node returns the details that the user may see: no holders, pods and findings about them in other namespaces.
func (s *site) node(v *visit, name string) view.NodeDetails {
	q := view.NodeQuestion{Node: v.nodes[name], Pods: v.onNode[name], Agent: view.AgentOf(v.onNode[name], v.agents), Families: s.Config.IPAM.Families()}
	if v.sight.events("default") { // where Kubernetes keeps those about nodes
		q.Events = v.aboutNode[name]
	}
	d := v.state.Node(q)
	d.Findings = v.sight.findings(d.Findings, d.Addresses)
	d.Addresses, _ = v.sight.addresses(d.Addresses)
	d.Pods = slices.DeleteFunc(d.Pods, func(p view.NodePod) bool { return !v.sight.pods(lease.ParsePodKey(p.Pod).Namespace) })
	if !v.sight.pools() {
		d.Pools, d.Networks, d.Free = nil, nil, nil
	}
	return d
}

// attachment is a network attachment of a node, with the master interface of its configuration.
type attachment struct{ Name, Master, Problem string }

// podInterface is a pod's interface on a node.
type podInterface struct {
	Name      string // e.g. "net1"
	Addresses []view.Address
}

type nodeContent struct {
	view.NodeDetails
	Attachments  []attachment
	Interfaces   []podInterface
	MoreFindings int
}

// maxFindings is the number of findings on the page of a node: a lost one has one for each address.
const maxFindings = 20

func (c nodeContent) title() string { return "Node " + c.Name }

func (s *site) nodePage(v *visit) (any, error) {
	name := v.PathValue("name")
	if !v.sight.nodes() || v.nodes[name] == nil {
		return nil, errHidden
	}
	c := nodeContent{NodeDetails: s.node(v, name)}
	c.MoreFindings = max(0, len(c.Findings)-maxFindings)
	c.Findings = c.Findings[:min(len(c.Findings), maxFindings)]
	for _, entry := range c.Networks {
		c.Attachments = append(c.Attachments, v.attached(entry)...)
	}
	of := map[string][]view.Address{}
	for _, a := range c.Addresses {
		of[cmp.Or(a.Interface, "none")] = append(of[cmp.Or(a.Interface, "none")], a)
	}
	for _, name := range slices.Sorted(maps.Keys(of)) {
		c.Interfaces = append(c.Interfaces, podInterface{name, of[name]})
	}
	return c, nil
}

// attached returns the attachments of an entry of spec.multusName: "namespace/name", or a name for those of all namespaces.
func (v *visit) attached(entry string) (all []attachment) {
	namespace, name, named := strings.Cut(entry, "/")
	for key := range v.networks {
		if named && (key.Namespace != namespace || key.Name != name) || !named && key.Name != entry || !v.sight.networks(key.Namespace) {
			continue
		}
		a := attachment{Name: key.String()}
		network, err := v.network(key)
		if err != nil {
			a.Problem = err.Error()
		}
		a.Master = network.Master
		all = append(all, a)
	}
	if all == nil {
		return []attachment{{Name: entry, Problem: "there is no such NetworkAttachmentDefinition, or you may not see it"}}
	}
	slices.SortFunc(all, func(a, b attachment) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// eventRow is one event.
type eventRow struct {
	At                            time.Time
	Kind, Namespace, Name, Reason string
	Warning                       bool
	Text                          string
	Count                         int32
}

// eventRows returns the newest events that the user may see.
func (v *visit) eventRows(wanted func(*corev1.Event) bool, limit int) (rows []eventRow) {
	for i := range v.events {
		e := &v.events[i]
		if !wanted(e) || !v.sight.events(e.Namespace) {
			continue
		}
		rows = append(rows, eventRow{
			At: view.TimeOf(*e), Kind: e.InvolvedObject.Kind, Namespace: e.InvolvedObject.Namespace, Name: e.InvolvedObject.Name, Reason: e.Reason,
			Warning: e.Type == corev1.EventTypeWarning, Text: e.Message, Count: e.Count,
		})
		if len(rows) == limit {
			break
		}
	}
	return rows
}

type eventsContent struct {
	Allocations                 []view.Address
	Failures, Reclaims, Further []eventRow
}

func (eventsContent) title() string { return "Latest" }

// reclaimReasons are the reasons of events about reclaimed addresses.
var reclaimReasons = []string{observe.ReclaimedIP(reclaim.Change{}).Reason, observe.ReleaseRefused("").Reason}

// maxLatest is the number of rows of each list of the latest.
const maxLatest = 100

func (s *site) eventsPage(v *visit) (any, error) {
	c := eventsContent{}
	c.Allocations, _ = v.sight.addresses(v.state.Newest(maxLatest * 10))
	c.Allocations = c.Allocations[:min(len(c.Allocations), maxLatest)]
	reclaims := func(e *corev1.Event) bool { return slices.Contains(reclaimReasons, e.Reason) }
	warns := func(e *corev1.Event) bool { return e.Type == corev1.EventTypeWarning }
	c.Reclaims = v.eventRows(reclaims, maxLatest)
	c.Failures = v.eventRows(func(e *corev1.Event) bool { return warns(e) && !reclaims(e) }, maxLatest)
	c.Further = v.eventRows(func(e *corev1.Event) bool { return !warns(e) && !reclaims(e) }, maxLatest)
	return c, nil
}

type flowsContent struct {
	Enabled bool
	Fault   string
	Flows   []view.Flow
	Edges   []view.FlowEdge
	Graph   graph
	Total   int
	// Limited is whether the user may not list the pods of all namespaces.
	Limited bool
}

func (flowsContent) title() string { return "Flows" }

// maxFlowRows is the number of rows in the table of flows. The graph has all in memory.
const maxFlowRows = 200

func (s *site) flowsPage(v *visit) (any, error) {
	c := flowsContent{Enabled: s.Flows.enabled()}
	if !c.Enabled {
		return c, nil
	}
	all, fault := s.Flows.latest()
	flows := v.sight.flows(all)
	c.Limited = !v.sight.pods("")
	c.Fault, c.Total, c.Edges = fault, len(flows), view.FlowEdges(flows)
	c.Graph = drawGraph(c.Edges)
	c.Edges, c.Flows = c.Edges[:min(len(c.Edges), maxCounts)], flows[:min(len(flows), maxFlowRows)]
	return c, nil
}
