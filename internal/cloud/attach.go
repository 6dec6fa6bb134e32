package cloud

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Tags of the interfaces that the controller creates. An interface without all of them is never changed or deleted.
const (
	// TagCluster has the UID of the namespace kube-system. Policies of the cloud limit the controller to it.
	TagCluster = "spiderpool.spidernet.io/cluster"
	// TagNetwork has the name of the SpiderCloudNetwork.
	TagNetwork = "spiderpool.spidernet.io/network"
	// TagInstance and TagIndex say where the interface is to be attached, e.g. i-0123456789abcdef0 and 1.
	TagInstance = "spiderpool.spidernet.io/instance"
	TagIndex    = "spiderpool.spidernet.io/device-index"
)

const (
	// Grace is how long an interface must be unneeded before it is deleted.
	Grace = 2 * time.Minute
	// subnetsFresh is how long a description of subnets counts for the choice of one, and subnetsMax how long one without a
	// suitable subnet counts. A description takes a call for each subnet, so a node that joins must not need one.
	subnetsFresh, subnetsMax = time.Hour, 5 * time.Minute
	// listingFresh is how long a listing without an interface for a position counts. Only we create one with our tags: a call of another
	// process that the listing misses has the same token.
	listingFresh = 10 * time.Minute
	// NewNeeds are the addresses that a new interface takes from its subnet: its own, and a prefix.
	NewNeeds = 1 + 16
)

// SubnetMissing: no subnet in the zone of a node has the tags for further interfaces.
const SubnetMissing Reason = "SubnetMissing"

// Position is a device index of an instance.
type Position struct {
	Instance string
	Device   int
}

func (p Position) String() string { return p.Instance + "/" + strconv.Itoa(p.Device) }

// positionOf returns the place for an interface that the controller has created.
func positionOf(i Interface) (Position, bool) {
	device, err := strconv.Atoi(i.Tags[TagIndex])
	p := Position{i.Tags[TagInstance], device}
	return p, err == nil && p.Instance != "" && i.Tags[TagCluster] != "" && i.Tags[TagNetwork] != ""
}

// Wanted is an interface that each node is to have.
type Wanted struct {
	Device         int
	SecurityGroups []string // none for those of the primary interface
	Subnets        []Subnet // with the tags that the user has chosen, in any zone
	SubnetTags     string   // these tags, e.g. pods=yes
}

// Attaching is the input of Attach.
type Attaching struct {
	Now       time.Time
	Network   string            // name of the SpiderCloudNetwork
	Owner     map[string]string // TagCluster and TagNetwork
	Tags      map[string]string // further tags of new interfaces
	Wanted    []Wanted          // if there is none, all unattached interfaces are unneeded
	Members   []Member
	Pools     map[string]bool   // names of the pools that exist
	Limits    map[string]Limits // by instance type
	Found     Listings          // interfaces with the tags Owner
	Made      map[string]bool   // interfaces that we have created, and not attached yet, by ID
	Described time.Time         // when the subnets were described
	Busy      map[string]bool   // nodes with a call whose outcome is not known
	// Stops has refusals by their place: the ID of a subnet, the text of a Position, Everywhere, or Deletion.
	Stops    map[string]Stop
	Unneeded map[string]time.Time // of the former plan
	// Attempts counts the interfaces that were created for a position and had gone before they were attached.
	Attempts map[Position]int
}

// Further places of Attaching.Stops.
const (
	Everywhere = ""
	Deletion   = "deletion of interfaces"
)

// Creation is an interface to create.
type Creation struct {
	NewInterface
	Node string
	Position
}

// Attachment is an interface to attach. If it is attached already, it is to be deleted with its instance.
type Attachment struct {
	Node, Interface string // the node is empty for an instance without one
	Position
}

// AttachPlan is what the cloud is to have. Applying it twice changes nothing more.
type AttachPlan struct {
	Create []Creation
	Attach []Attachment
	Delete []Interface
	// Unneeded says since when interfaces are unneeded, by ID.
	Unneeded map[string]time.Time
	Ask      []string // nodes whose last answer is too old to act on
	Again    []string // nodes whose answers do not agree: ask again after Apart
	List     bool     // the last listing is too old to act on
	Relist   bool     // there is one listing only, or two that do not agree: list again after Apart
	Describe bool     // the description of subnets is too old to choose one
	// Clean says that two listings show nothing that would be left without its instance.
	Clean  bool
	Issues []Issue
}

// Attach plans the interfaces that the controller creates: each node is to have one at each wanted device index.
//
// It creates an interface only if no instance has one there, and two listings show none for it. It deletes one that no instance has
// only after Grace, and if two listings agree. An attached interface is never detached. One without our tags is never changed: at a wanted
// device index it counts like ours.
func Attach(in Attaching) AttachPlan {
	a := &attaching{Attaching: in, claimed: map[string]bool{}, undecided: map[Position]bool{}, placed: map[Position]bool{}, used: map[string]int{}, coming: map[string]int{}, stopped: map[string][]string{}, lacking: map[string]bool{}, tried: map[string]bool{}}
	a.plan.Unneeded = map[string]time.Time{}
	for _, m := range in.Members {
		for _, w := range in.Wanted {
			a.place(m, w)
		}
	}
	a.collect()
	a.reportStops()
	return a.plan
}

type attaching struct {
	Attaching
	claimed   map[string]bool     // interfaces that are to be attached
	undecided map[Position]bool   // nothing there may be deleted
	placed    map[Position]bool   // the plan has a decision
	used      map[string]int      // addresses that the plan takes, by subnet
	coming    map[string]int      // interfaces that the plan adds, by instance
	stopped   map[string][]string // nodes that need an interface, by the place that stops them
	lacking   map[string]bool     // those places that keep a node from an interface
	tried     map[string]bool     // places with a refusal where the plan tries again
	plan      AttachPlan
}

func (a *attaching) issue(reason Reason, degrades bool, format string, args ...any) {
	a.plan.Issues = append(a.plan.Issues, Issue{reason, fmt.Sprintf(format, args...), degrades})
}

// place plans the interface at one position, if there is none.
func (a *attaching) place(m Member, w Wanted) {
	latest := m.Answers.latest
	if latest == nil || latest.Instance == nil {
		return // Discover reports it
	}
	at := Position{latest.Instance.ID, w.Device}
	if _, ok := latest.interfaceAt(w.Device); ok {
		return
	}
	if a.placed[at] {
		return // another node names the same instance
	}
	a.undecided[at], a.placed[at] = true, true
	if a.Busy[m.Node] {
		a.issue(InterfaceMissing, false, "node %s waits for a network interface with device index %d, because the outcome of a call is not known yet", m.Node, w.Device)
		return
	}
	limits, known := a.Limits[latest.Instance.Type]
	switch n := len(latest.Instance.Interfaces) + a.coming[at.Instance]; {
	case !known:
		a.issue(UnknownType, false, "the cloud does not tell the limits of the instance type %q of node %s, so the controller attaches nothing there; check spec.region", latest.Instance.Type, m.Node)
		return
	case n >= limits.Interfaces:
		a.issue(TypeLimit, false, "node %s has all %d network interfaces that its instance type %s allows, and none with device index %d; use a larger type, or leave the interface out of spec.interfaces",
			m.Node, n, latest.Instance.Type, w.Device)
		delete(a.undecided, at) // an interface that was made for it can never be attached
		return
	}
	if !a.isStopped(m.Node, at, true) && !a.hasNoSubnet(m, w, at) && !a.fill(m, w, at) {
		a.issue(InterfaceMissing, false, "node %s gets a network interface with device index %d", m.Node, w.Device)
	}
}

// hasNoSubnet reports whether a new interface would be needed, and there was no subnet for it lately. It adds an issue, and costs no question.
func (a *attaching) hasNoSubnet(m Member, w Wanted, at Position) bool {
	if a.Now.Sub(a.Described) >= subnetsMax || len(a.ownAt(a.Found.latest, at)) > 0 {
		return false
	}
	_, reported := a.subnet(m.Node, m.Answers.latest.Instance, w)
	return reported
}

// fill plans to attach an interface that exists, or to create one. It reports whether it has added an issue.
func (a *attaching) fill(m Member, w Wanted, at Position) (reported bool) {
	age := a.Now.Sub(a.Found.At())
	own := a.ownAt(a.Found.latest, at)
	if a.Found.latest == nil || age >= listingFresh || len(own) > 0 && age >= Apart && !a.Made[own[0].ID] {
		a.plan.List = true
		return false
	}
	if !a.trusted(m, w.Device) {
		return false
	}
	for _, i := range own {
		switch {
		case i.Attached == at.Instance && i.Device == at.Device:
			a.plan.Again = append(a.plan.Again, m.Node) // the answer about the instance is older
			return false
		case i.Attached == "", i.Attached == at.Instance && i.Device == UnknownDevice:
			a.claimed[i.ID] = true
			a.coming[at.Instance]++
			delete(a.undecided, at) // others for the position are too many
			a.attach(m.Node, i.ID, at)
			return false
		}
	}
	if a.Found.earlier == nil || len(a.ownAt(a.Found.earlier, at)) > 0 {
		a.plan.Relist = true
		return false
	}
	age = a.Now.Sub(a.Described)
	if subnet, _, _ := a.choose(m.Answers.latest.Instance, w); age >= subnetsFresh || age >= subnetsMax && subnet == "" {
		a.plan.Describe = true
		return false
	}
	return a.create(m, w, at)
}

// attach plans to attach an interface.
func (a *attaching) attach(node, iface string, at Position) {
	a.tried[Everywhere], a.tried[at.String()] = true, true
	a.plan.Attach = append(a.plan.Attach, Attachment{node, iface, at})
}

// ownAt returns the interfaces of a listing that were created for a position, in the order of their IDs.
func (a *attaching) ownAt(l *Listing, at Position) (found []Interface) {
	if l == nil {
		return nil
	}
	for _, i := range l.Interfaces {
		if p, ok := positionOf(i); ok && p == at {
			found = append(found, i)
		}
	}
	slices.SortFunc(found, func(x, y Interface) int { return cmp.Compare(x.ID, y.ID) })
	return found
}

// trusted reports whether the last answer about a node is fresh, and no earlier one contradicts it: a pool or an answer may tell
// of an interface that the last one lacks.
func (a *attaching) trusted(m Member, device int) bool {
	latest, earlier := m.Answers.latest, m.Answers.earlier
	if a.Now.Sub(latest.At) >= Apart {
		a.plan.Ask = append(a.plan.Ask, m.Node)
		return false
	}
	_, had := earlier.interfaceAt(device)
	if earlier == nil {
		had = a.Pools[PoolName(a.Network, m.Node, device, 4)] || a.Pools[PoolName(a.Network, m.Node, device, 6)]
	}
	if had {
		a.plan.Again = append(a.plan.Again, m.Node)
	}
	return !had
}

// create plans a new interface in the subnet with the most free addresses. It reports whether it has added an issue.
func (a *attaching) create(m Member, w Wanted, at Position) (reported bool) {
	instance := m.Answers.latest.Instance
	primary, ok := m.Answers.latest.interfaceAt(0)
	if !ok && len(w.SecurityGroups) == 0 {
		a.plan.Again = append(a.plan.Again, m.Node)
		return false
	}
	subnet, reported := a.subnet(m.Node, instance, w)
	if subnet == "" {
		return reported
	}
	n := NewInterface{Subnet: subnet, SecurityGroups: w.SecurityGroups, Tags: maps.Clone(a.Owner), Description: fmt.Sprintf("Spiderpool: SpiderCloudNetwork %s, %s", a.Network, at)}
	if len(n.SecurityGroups) == 0 {
		n.SecurityGroups = primary.SecurityGroups
	}
	n.SecurityGroups = slices.Sorted(slices.Values(n.SecurityGroups)) // descriptions have no order
	maps.Copy(n.Tags, a.Tags)
	n.Tags[TagInstance], n.Tags[TagIndex] = at.Instance, strconv.Itoa(at.Device)
	n.Token = token(n, a.Attempts[at])
	a.used[subnet] += NewNeeds
	a.coming[at.Instance]++
	a.tried[Everywhere], a.tried[at.String()], a.tried[subnet] = true, true, true
	a.plan.Create = append(a.plan.Create, Creation{n, m.Node, at})
	return false
}

// token returns the same text for the same request, so that a successor that does not know of a creation repeats it.
func token(n NewInterface, attempt int) string {
	text, _ := json.Marshal(struct {
		NewInterface
		Attempt int
	}{n, attempt})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// choose returns the subnet in the zone and the VPC of the instance with the most free addresses, or one that refuses.
func (a *attaching) choose(at *Instance, w Wanted) (id, refusing string, inZone bool) {
	most := 0
	for _, s := range w.Subnets {
		if s.Zone != at.Zone || s.VPC != at.VPC {
			continue
		}
		inZone = true
		if stop, ok := a.Stops[s.ID]; ok && (!stop.Due || a.tried[s.ID]) {
			refusing = s.ID
			continue
		}
		if free := s.Free - a.used[s.ID]; free > most || free == most && free > 0 && s.ID < id {
			id, most = s.ID, free
		}
	}
	return id, refusing, inZone
}

// subnet chooses a subnet for an instance, or adds an issue.
func (a *attaching) subnet(node string, instance *Instance, w Wanted) (id string, reported bool) {
	id, refusing, inZone := a.choose(instance, w)
	switch {
	case id != "":
		return id, false
	case !inZone:
		a.issue(SubnetMissing, false, "node %s needs a network interface with device index %d, and no subnet of its VPC in its zone %s has the tags %s; tag one", node, w.Device, instance.Zone, w.SubnetTags)
	case refusing != "":
		a.stopped[refusing], a.lacking[refusing] = append(a.stopped[refusing], node), true
	default:
		a.issue("NoCapacity", false, "node %s needs a network interface with device index %d, and no subnet of its VPC in its zone %s with the tags %s has a free address; tag a further subnet", node, w.Device, instance.Zone, w.SubnetTags)
	}
	return "", true
}

// isStopped reports whether a refusal holds for a position, which lacks its interface or not. When its pause is over, one node tries again.
func (a *attaching) isStopped(node string, at Position, lacking bool) bool {
	stopped := a.stops(node, Everywhere, lacking)
	return a.stops(node, at.String(), lacking) || stopped
}

func (a *attaching) stops(who, place string, lacking bool) bool {
	stop, ok := a.Stops[place]
	if ok {
		a.stopped[place] = append(a.stopped[place], who)
		a.lacking[place] = a.lacking[place] || lacking
	}
	return ok && (!stop.Due || a.tried[place])
}

// collect plans to delete what no node needs, and to have the cloud delete the attached interfaces with their instances.
func (a *attaching) collect() {
	if a.Found.latest == nil {
		a.plan.List = true
		return
	}
	clean := !hasLeftovers(a.Found.latest)
	a.plan.Clean = clean && a.Found.earlier != nil && !hasLeftovers(a.Found.earlier)
	a.plan.Relist = a.plan.Relist || len(a.Wanted) == 0 && !a.plan.Clean && (clean || a.Found.earlier == nil)
	members := map[string]Member{}
	for _, m := range a.Members {
		if m.Answers.latest != nil && m.Answers.latest.Instance != nil {
			members[m.Answers.latest.Instance.ID] = m
		}
	}
	for _, i := range a.Found.latest.Interfaces {
		at, ours := positionOf(i)
		m := members[cmp.Or(i.Attached, at.Instance)]
		switch {
		case !ours || a.claimed[i.ID] || a.undecided[at] || a.Busy[m.Node]:
		case i.Attached != "":
			if here := (Position{i.Attached, i.Device}); i.Survives && i.Device != UnknownDevice && !a.isStopped(m.Node, here, false) {
				a.attach(m.Node, i.ID, here)
			}
		case m.Answers.latest.has(i.ID):
			a.plan.Again = append(a.plan.Again, m.Node) // a user has detached it since, and the node may need it
		case !a.isDoubtful(at.Instance):
			a.drop(i)
		}
	}
}

// hasLeftovers reports whether an interface of ours would be left without its instance.
func hasLeftovers(l *Listing) bool {
	return slices.ContainsFunc(l.Interfaces, func(i Interface) bool {
		_, ours := positionOf(i)
		return ours && (i.Attached == "" || i.Survives)
	})
}

// isDoubtful reports whether the answers about an instance do not agree on its end, or are missing.
func (a *attaching) isDoubtful(instance string) bool {
	for _, m := range a.Members {
		if m.Instance != instance {
			continue
		}
		latest, earlier := m.Answers.latest, m.Answers.earlier
		if latest == nil || latest.Instance == nil && (earlier == nil || earlier.Instance != nil) {
			return true
		}
	}
	return false
}

// drop plans to delete an interface that has been unneeded for long enough.
func (a *attaching) drop(i Interface) {
	since, ok := a.Unneeded[i.ID]
	if !ok {
		since = a.Now
	}
	a.plan.Unneeded[i.ID] = since
	if a.Now.Sub(since) < Grace || a.stops(i.ID, Deletion, false) {
		return
	}
	before, ok := a.Found.earlier.named(i.ID)
	switch {
	case a.Now.Sub(a.Found.latest.At) >= Apart:
		a.plan.List = true
	case !ok || before.Attached != "":
		a.plan.Relist = true
	default:
		a.tried[Deletion] = true
		a.plan.Delete = append(a.plan.Delete, i)
	}
}

// reportStops adds an issue for each place that stops nodes.
func (a *attaching) reportStops() {
	for _, place := range slices.Sorted(maps.Keys(a.stopped)) {
		stop, nodes := a.Stops[place], a.stopped[place]
		who := "node " + nodes[0] + " needs a network interface: "
		switch more := len(nodes) - 1; {
		case place == Deletion:
			who = fmt.Sprintf("%d network interfaces without an instance cannot be deleted: ", len(nodes))
		case nodes[0] == "":
			who = "a network interface may be left after its instance: "
		case more > 0:
			who = fmt.Sprintf("node %s and %d others need network interfaces: ", nodes[0], more)
		}
		a.issue(stop.Reason, !a.lacking[place], "%s%s", who, stop.Text)
	}
}
