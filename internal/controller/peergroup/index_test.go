package peergroup

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// world is a small cluster with an API server for SpiderPeerGroups, and the index of the leading controller.
type world struct {
	namespaces map[string]policy.Namespace
	pods       map[policy.Name]*policy.Pod
	policies   map[policy.Name]*policy.Policy
	tiers      map[policy.Name]*policy.ClusterPolicy
	objects    map[string]*v2beta1.SpiderPeerGroup
	writes     int
	index      *index
	now        time.Time
}

func newWorld(l limits) *world {
	return &world{
		namespaces: map[string]policy.Namespace{}, pods: map[policy.Name]*policy.Pod{}, policies: map[policy.Name]*policy.Policy{},
		tiers: map[policy.Name]*policy.ClusterPolicy{}, objects: map[string]*v2beta1.SpiderPeerGroup{}, index: newIndex(l),
	}
}

// restart replaces the index like a new leader.
func (w *world) restart() {
	w.index = newIndex(w.index.limits)
	for _, object := range w.objects {
		stored, _ := compile.PeerGroup(object)
		w.index.adopt(stored, object.ResourceVersion, intact(object, stored), w.now)
	}
	for name, n := range w.namespaces {
		w.index.setNamespace(name, n.Labels)
	}
	for name, pod := range w.pods {
		w.index.setPod(name, pod)
	}
	for name, p := range w.policies {
		w.index.setPolicy(name, p.Groups(), w.now)
	}
	for name, p := range w.tiers {
		w.index.setPolicy(name, p.Groups(), w.now)
	}
}

// write takes at most so many steps, and calls check after each. It reports whether all is written.
func (w *world) write(most int, check func()) bool {
	for g := range w.index.dirty {
		for s := range g.steps {
			if most--; most < 0 {
				return false
			}
			w.writes++
			name := compile.PeerGroupName(g.name, s.index)
			if s.put {
				object := compile.PeerGroupObject(g.content(s.index))
				object.ResourceVersion = fmt.Sprint(w.writes)
				w.objects[name] = object
				g.wrote(s.index, object.ResourceVersion)
			} else {
				delete(w.objects, name)
				g.deleted(s.index)
			}
			check()
		}
		delete(w.index.dirty, g)
		w.index.drop(g)
	}
	return true
}

// members returns the stored members of a group, and whether all of its objects are there.
func (w *world) members(group string) (members []policy.Member, complete bool) {
	first := w.objects[group]
	if first == nil {
		return nil, false
	}
	for at := range int(first.Spec.Slices) {
		object := w.objects[compile.PeerGroupName(group, at)]
		if object == nil {
			return nil, false
		}
		stored, _ := compile.PeerGroup(object)
		members = append(members, stored.Members...)
	}
	return members, true
}

// byObjects is a Resolver by the stored objects, like an agent.
type byObjects struct {
	*world
	missing []string
}

func (b *byObjects) Resolve(g policy.Group) policy.Resolved {
	members, complete := b.members(g.Name())
	if !complete {
		b.missing = append(b.missing, g.String())
	}
	return policy.ResolvedOf(members)
}

// byMembers are the members of each group by all pods.
func (w *world) byMembers() map[string]map[policy.Member]bool {
	all := map[string]map[policy.Member]bool{}
	for _, g := range w.groupsInUse() {
		members := map[policy.Member]bool{}
		for name, pod := range w.pods {
			n, exists := w.namespaces[name.Namespace]
			if (g.Namespace != "" || exists) && g.SelectsNamespace(name.Namespace, n.Labels) {
				for _, m := range g.Members(pod) {
					members[m] = true
				}
			}
		}
		all[g.Name()] = members
	}
	return all
}

func (w *world) groupsInUse() (all []policy.Group) {
	for _, p := range w.policies {
		all = append(all, p.Groups()...)
	}
	for _, p := range w.tiers {
		all = append(all, p.Groups()...)
	}
	return all
}

var (
	someNames = rapid.SampledFrom([]string{"a", "b", "c"})
	labelSets = rapid.MapOfN(rapid.SampledFrom([]string{"app", "tier"}), rapid.SampledFrom([]string{"x", "y"}), 0, 2)
	selectors = rapid.Custom(func(t *rapid.T) (s policy.Selector) {
		for range rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "requirements") {
			r := policy.Requirement{Key: rapid.SampledFrom([]string{"app", "tier"}).Draw(t, "key"), Operator: rapid.SampledFrom([]policy.Operator{policy.In, policy.NotIn, policy.Exists, policy.DoesNotExist}).Draw(t, "operator")}
			if r.Operator == policy.In || r.Operator == policy.NotIn {
				r.Values = []string{rapid.SampledFrom([]string{"x", "y"}).Draw(t, "value")}
			}
			s = append(s, r)
		}
		return s
	})
	protocols = rapid.SampledFrom([]service.Protocol{service.TCP, service.UDP})
	rules     = rapid.Custom(func(t *rapid.T) (r policy.Rule) {
		r.AnyPeer = rapid.IntRange(0, 4).Draw(t, "anyone") == 0
		for range rapid.IntRange(0, 2).Draw(t, "peers") {
			var p policy.Peer
			switch which := rapid.IntRange(0, 3).Draw(t, "peer"); which {
			case 0:
				p.Block = &policy.Block{Prefix: netip.MustParsePrefix("10.0.0.0/30")}
			default:
				pods, namespaces := selectors.Draw(t, "pods"), selectors.Draw(t, "namespaces")
				if which&1 != 0 {
					p.Pods = &pods
				}
				if which&2 != 0 {
					p.Namespaces = &namespaces
				}
			}
			if !r.AnyPeer {
				r.Peers = append(r.Peers, p)
			}
		}
		r.AnyPort = rapid.Bool().Draw(t, "any port")
		for range rapid.IntRange(0, 2).Draw(t, "ports") {
			p := policy.Port{Protocol: protocols.Draw(t, "protocol"), From: 80, To: 80}
			if rapid.Bool().Draw(t, "named") {
				p = policy.Port{Protocol: p.Protocol, Name: rapid.SampledFrom([]string{"http", "dns"}).Draw(t, "name")}
			}
			if !r.AnyPort {
				r.Ports = append(r.Ports, p)
			}
		}
		return r
	})
	somePods = rapid.Custom(func(t *rapid.T) *policy.Pod {
		p := &policy.Pod{Labels: labelSets.Draw(t, "labels"), HostNetwork: rapid.IntRange(0, 6).Draw(t, "host") == 0}
		// Few addresses, so that two pods sometimes have one.
		for range rapid.IntRange(0, 2).Draw(t, "addresses") {
			p.Addrs = append(p.Addrs, netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 12).Draw(t, "address"))}))
		}
		for range rapid.IntRange(0, 2).Draw(t, "ports") {
			p.Ports = append(p.Ports, policy.NamedPort{Name: rapid.SampledFrom([]string{"http", "dns"}).Draw(t, "port"), Protocol: protocols.Draw(t, "protocol"), Port: uint16(rapid.IntRange(1, 2).Draw(t, "number"))})
		}
		return p
	})
)

// change changes one object, in the cluster and in the index.
func (w *world) change(t *rapid.T) {
	name := policy.Name{Namespace: someNames.Draw(t, "namespace"), Name: fmt.Sprint(rapid.IntRange(1, 9).Draw(t, "name"))}
	remove := rapid.IntRange(0, 3).Draw(t, "remove") == 0
	switch rapid.SampledFrom([]string{"namespace", "pod", "pod", "pod", "pod", "policy", "tier"}).Draw(t, "kind") {
	case "namespace":
		if remove {
			delete(w.namespaces, name.Namespace)
			w.index.deleteNamespace(name.Namespace)
			return
		}
		n := policy.Namespace{Name: name.Namespace, Labels: labelSets.Draw(t, "labels")}
		w.namespaces[n.Name] = n
		w.index.setNamespace(n.Name, n.Labels)
	case "pod":
		if remove {
			delete(w.pods, name)
			w.index.setPod(name, nil)
			return
		}
		pod := somePods.Draw(t, "pod")
		pod.Name = name
		w.pods[name] = pod
		w.index.setPod(name, pod)
	case "policy":
		if remove {
			delete(w.policies, name)
			w.index.setPolicy(name, nil, w.now)
			return
		}
		p := &policy.Policy{Name: name, Pods: selectors.Draw(t, "selected")}
		p.Ingress = policy.Section{Isolates: rapid.Bool().Draw(t, "ingress"), Rules: rapid.SliceOfN(rules, 0, 2).Draw(t, "ingress rules")}
		p.Egress = policy.Section{Isolates: rapid.Bool().Draw(t, "egress"), Rules: rapid.SliceOfN(rules, 0, 2).Draw(t, "egress rules")}
		w.policies[name] = p
		w.index.setPolicy(name, p.Groups(), w.now)
	case "tier":
		name.Namespace = ""
		if remove {
			delete(w.tiers, name)
			w.index.setPolicy(name, nil, w.now)
			return
		}
		p := &policy.ClusterPolicy{Name: name, Namespaces: selectors.Draw(t, "namespaces"), Pods: selectors.Draw(t, "selected")}
		for range rapid.IntRange(0, 2).Draw(t, "rules") {
			r := policy.TierRule{Rule: rules.Draw(t, "rule"), Action: rapid.SampledFrom([]policy.Action{policy.Accept, policy.Deny, policy.Pass}).Draw(t, "action")}
			p.Egress = append(p.Egress, r)
		}
		w.tiers[name] = p
		w.index.setPolicy(name, p.Groups(), w.now)
	}
}

// compare decides about each pod by all pods and by the stored objects.
func (w *world) compare(t *rapid.T) {
	c := policy.NewCluster(slices.Collect(maps.Values(w.namespaces)), slices.Collect(maps.Values(w.pods)), slices.Collect(maps.Values(w.policies)), slices.Collect(maps.Values(w.tiers)))
	for _, pod := range c.Pods() {
		want, from := c.Decide(pod), &byObjects{world: w}
		got := c.Select(pod, &policy.Interface{Default: true}).Filter(pod, from)
		if len(from.missing) > 0 {
			t.Fatalf("pod %s: objects are missing: %v", pod.Name, from.missing)
		}
		if diff := got.Sets().DiffFrom(want.Sets()); len(diff) > 0 {
			t.Fatalf("pod %s: %v", pod.Name, diff)
		}
	}
}

// keeps checks that no stored group lacks a member that it had when all was written, and still has.
func (w *world) keeps(t *rapid.T, before map[string]map[policy.Member]bool) {
	now := w.byMembers()
	for group, members := range before {
		stored, complete := w.members(group)
		if !complete {
			if now[group] != nil {
				t.Fatalf("group %s is in use, and not complete", group)
			}
			continue
		}
		for m := range members {
			if now[group][m] && !slices.Contains(stored, m) {
				t.Fatalf("group %s lacks %v for a moment", group, m)
			}
		}
	}
}

// TestGroupsEqualAllPods changes a cluster at random, with crashes of the controller between two writes, and compares the
// decisions by the stored groups with those by all pods.
func TestGroupsEqualAllPods(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(limits{slice: rapid.IntRange(1, 4).Draw(t, "slice"), groups: 1000, members: 1000})
		before := map[string]map[policy.Member]bool{}
		check := func() { w.keeps(t, before) }
		for range rapid.IntRange(1, 30).Draw(t, "rounds") {
			for range rapid.IntRange(1, 4).Draw(t, "changes") {
				w.change(t)
			}
			switch rapid.SampledFrom([]string{"write", "write", "crash", "restart", "expire"}).Draw(t, "then") {
			case "crash":
				w.write(rapid.IntRange(0, 3).Draw(t, "steps"), check)
				w.restart()
			case "restart":
				w.restart()
			case "expire":
				w.now = w.now.Add(time.Hour)
				w.index.expire(w.now)
			}
			if !w.write(1<<30, check) {
				t.Fatal("not all is written")
			}
			w.compare(t)
			before = w.byMembers()
			written := w.writes
			w.restart()
			if w.write(1<<30, check); w.writes != written {
				t.Fatalf("a restart without a change writes %d objects", w.writes-written)
			}
		}
		clear(w.policies)
		clear(w.tiers)
		w.restart()
		w.index.expire(w.now)
		w.write(1<<30, func() {})
		if len(w.objects)+len(w.index.groups)+len(w.index.spent) > 0 {
			t.Fatalf("without policies remain %d objects and %d groups", len(w.objects), len(w.index.groups))
		}
	})
}

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// TestOnePodChangesOneSlice limits the writes for a new pod, for a gone one, and for one that is replaced.
func TestOnePodChangesOneSlice(t *testing.T) {
	w := newWorld(limits{slice: 10, groups: 10, members: 1000})
	w.index.setNamespace("a", nil)
	everyone := policy.Group{Namespaces: policy.Selector{}}
	w.index.setPolicy(policy.Name{Namespace: "a", Name: "p"}, []policy.Group{everyone}, w.now)
	pod := func(i int) (policy.Name, *policy.Pod) {
		name := policy.Name{Namespace: "a", Name: fmt.Sprint(i)}
		return name, &policy.Pod{Name: name, Addrs: []netip.Addr{addr(i)}}
	}
	for i := range 35 {
		w.index.setPod(pod(i))
	}
	for _, step := range []struct {
		what   string
		do     func()
		writes int
	}{
		{"the first write", func() {}, 4},
		{"nothing", func() {}, 0},
		{"a new pod", func() { w.index.setPod(pod(35)) }, 1},
		{"a gone pod", func() { name, _ := pod(3); w.index.setPod(name, nil) }, 1},
		{"a pod in its place", func() { w.index.setPod(pod(36)) }, 1},
		{"another label", func() { name, p := pod(5); p.Labels = map[string]string{"a": "b"}; w.index.setPod(name, p) }, 0},
		{"a pod with the address of another", func() {
			name, p := pod(100)
			p.Addrs = []netip.Addr{addr(5)}
			w.index.setPod(name, p)
		}, 0},
		{"the end of that one", func() { name, _ := pod(5); w.index.setPod(name, nil) }, 0},
	} {
		before := w.writes
		step.do()
		w.write(1000, func() {})
		if got := w.writes - before; got != step.writes {
			t.Errorf("%s: %d writes, want %d", step.what, got, step.writes)
		}
	}
}

// TestNamespaceCannotTakeAll limits the groups and members that the policies of a namespace cause.
func TestNamespaceCannotTakeAll(t *testing.T) {
	w := newWorld(limits{slice: 10, groups: 3, members: 20})
	w.index.setNamespace("a", nil)
	add := func(from, to int) {
		for i := from; i < to; i++ {
			name := policy.Name{Namespace: "a", Name: fmt.Sprint(i)}
			w.index.setPod(name, &policy.Pod{Name: name, Addrs: []netip.Addr{addr(i)}})
		}
	}
	group := func(key string) policy.Group {
		return policy.Group{Namespaces: policy.Selector{}, Pods: policy.Selector{{Key: key, Operator: policy.DoesNotExist}}}
	}
	set := func(namespace, name string, keys ...string) int {
		var groups []policy.Group
		for _, key := range keys {
			groups = append(groups, group(key))
		}
		return len(w.index.setPolicy(policy.Name{Namespace: namespace, Name: name}, groups, w.now))
	}
	if refused := set("evil", "many", "1", "2", "3", "4", "5"); refused != 2 {
		t.Errorf("%d groups are refused, want those beyond 3", refused)
	}
	if refused := set("a", "p", "1"); refused != 0 {
		t.Error("a group of another namespace is refused")
	}
	set("evil", "many")
	w.now = w.now.Add(time.Hour)
	w.index.expire(w.now)
	add(0, 8)
	if refused := set("evil", "large", "2", "3", "4"); refused != 1 {
		t.Errorf("%d groups are refused, want that beyond 20 members", refused)
	}
	add(8, 15)
	var users []policy.Name
	for g := range w.index.dirty {
		users = append(users, w.index.overdrawn(g)...)
	}
	if len(users) != 1 || users[0].Namespace != "evil" {
		t.Errorf("the groups of %v are withdrawn, want one", users)
	}
	first := group("1")
	if g := w.index.groups[first.Name()]; g == nil || !g.known || g.size != 15 {
		t.Errorf("the group of another namespace is %+v", g)
	}
	if !w.index.retry() {
		t.Error("nothing is refused any more")
	}
	for i := range 15 {
		w.index.setPod(policy.Name{Namespace: "a", Name: fmt.Sprint(i)}, nil)
	}
	if w.index.retry() {
		t.Error("groups are refused although there is room")
	}
	if refused := set("", "of the administrator", "1", "2", "3", "4", "5", "6"); refused != 0 {
		t.Errorf("%d groups of a ClusterNetworkPolicy are refused", refused)
	}
}
