package packetfilter

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/policy"
)

// layer says where a table meets packets, and how they reach their side.
type layer interface {
	judge
	family() nftables.TableFamily
	// base adds the chains and maps of a new table.
	base(b *batch)
	// addChain adds the first chain of a side.
	addChain(b *batch, s *side)
	// dispatch returns the map of an entry.
	dispatch(b *batch, e entry) *nftables.Set
	// detach ends the effect of a side.
	detach(b *batch, p *program)
}

var acceptByDefault = nftables.ChainPolicyAccept

// addBase adds a base chain. It accepts by default, because it is in effect before its rules are.
func (b *batch) addBase(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, device string) *nftables.Chain {
	b.first = true
	return b.conn.AddChain(&nftables.Chain{
		Name: name, Table: b.present, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority, Policy: &acceptByDefault, Device: device,
	})
}

// dispatched is a layer with maps.
type dispatched struct{ packets }

func (dispatched) family() nftables.TableFamily { return nftables.TableFamilyINet }

func (dispatched) addChain(b *batch, s *side) {
	b.first = true
	b.conn.AddChain(&nftables.Chain{Name: s.name, Table: b.present})
}

func (dispatched) dispatch(b *batch, e entry) *nftables.Set {
	return &nftables.Set{Table: b.present, Name: e.dispatch, IsMap: true, DataType: nftables.TypeVerdict}
}

func (d dispatched) detach(b *batch, p *program) {
	for _, e := range p.entries {
		b.switches = append(b.switches, func() { b.deleteElements(d.dispatch(b, e), e.element(p.name)) })
	}
}

// addDispatch adds a map to the first chains of sides.
func (b *batch) addDispatch(name string, key nftables.SetDatatype, concatenation bool) *nftables.Set {
	return b.addSet(&nftables.Set{
		Table: b.present, Name: name, IsMap: true, KeyType: key, DataType: nftables.TypeVerdict, Concatenation: concatenation,
	})
}

// inPod judges what interfaces of a pod receive and send, as the network sees it: before a translation in the pod on
// the way in, and behind it on the way out.
type inPod struct {
	dispatched
	silences bool // sides may be silent
}

func (l inPod) base(b *batch) {
	if l.silences {
		b.fail(b.addSilence(b.present))
	}
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		hook, priority, key := nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, expr.MetaKeyIIFNAME
		if d == policy.Egress {
			hook, priority, key = nftables.ChainHookPostrouting, nftables.ChainPriorityFilter, expr.MetaKeyOIFNAME
		}
		m := b.addDispatch(podMap(d), nftables.TypeIFName, false)
		b.addRules(b.addBase(d.String(), hook, priority, ""), [][]expr.Any{
			establishedRule(),
			{&expr.Meta{Key: key, Register: register}, toVerdict(m)},
		})
	}
}

func podMap(d policy.Direction) string { return d.String() + "-interfaces" }

// podEntry leads the packets of an interface to a side.
func podEntry(d policy.Direction, name string) entry { return entry{podMap(d), interfaceKey(name)} }

// interfaceKey is the name as nftables compares it, of IFNAMSIZ bytes.
func interfaceKey(name string) string {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	return string(key)
}

// onNode judges what a node forwards from and to the pairs of pods, behind the translation of services and before a
// masquerade. The hook is postrouting, because packets of IPVS do not pass the hook forward.
type onNode struct{ dispatched }

var families = []inet.Family{inet.IPv4, inet.IPv6}

func (onNode) base(b *batch) {
	rules := [][]expr.Any{
		append(meta(expr.MetaKeyIIF, 0, 0, 0, 0), accept), // from the node itself
		establishedRule(),
	}
	// The sender is judged first. Its verdict "pass" leads to the receiver.
	for _, d := range []policy.Direction{policy.Egress, policy.Ingress} {
		link := expr.MetaKeyIIFNAME
		if d == policy.Ingress {
			link = expr.MetaKeyOIFNAME
		}
		for _, f := range families {
			addr := nftables.TypeIPAddr
			if f == inet.IPv6 {
				addr = nftables.TypeIP6Addr
			}
			m := b.addDispatch(nodeMap(d, f), nftables.MustConcatSetType(nftables.TypeIFName, addr), true)
			rules = append(rules, slices.Concat(isFamily(f), []expr.Any{
				&expr.Meta{Key: link, Register: register}, addressOf(d == policy.Egress, f, second), toVerdict(m),
			}))
		}
	}
	b.addRules(b.addBase("forwarded", nftables.ChainHookPostrouting, nftables.ChainPriorityFilter, ""), rules)
}

func nodeMap(d policy.Direction, f inet.Family) string {
	if f == inet.IPv6 {
		return d.String() + "-pairs-6"
	}
	return d.String() + "-pairs-4"
}

// onInterface judges the frames that leave interfaces of a pod, with a base chain for each.
type onInterface struct{ frames }

func (onInterface) family() nftables.TableFamily { return nftables.TableFamilyNetdev }

func (onInterface) base(*batch) {}

func (onInterface) addChain(b *batch, s *side) {
	b.addBase(s.name, nftables.ChainHookEgress, nftables.ChainPriorityFilter, s.drops.Interface)
}

func (onInterface) dispatch(*batch, entry) *nftables.Set { return nil }

func (onInterface) detach(b *batch, p *program) { b.switchRules(p.entrance(b.present), nil) }
