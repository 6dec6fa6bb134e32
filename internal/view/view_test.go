package view

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/test/scenariotest"
)

// now is the time of all scenarios.
var now = time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)

// TestScenarios plays testdata/*.txtar: a section "cluster" has objects, another one is named
// after a question and has the answer.
func TestScenarios(t *testing.T) {
	scenariotest.Play(t, "testdata/*.txtar", func(t *testing.T, sections []txtar.File) (played []txtar.File) {
		c := &scenario{t: t}
		for _, section := range sections {
			data := section.Data
			if section.Name == "cluster" {
				c = scenarioOf(t, section.Data)
			} else {
				data = c.answer(strings.Fields(section.Name))
			}
			played = append(played, txtar.File{Name: section.Name, Data: data})
		}
		return played
	})
}

// scenario is a cluster.
type scenario struct {
	t       *testing.T
	objects Objects
	pods    map[lease.PodKey]*corev1.Pod
	meta    map[string]*metav1.ObjectMeta // of Namespaces and Nodes
	around  Surroundings
	nads    map[pool.NetworkAttachment]parsedNetwork
	state   *State
}

// parsedNetwork is a NetworkAttachmentDefinition, or its error.
type parsedNetwork struct {
	ipam.Network
	err error
}

func scenarioOf(t *testing.T, stream []byte) *scenario {
	t.Helper()
	c := &scenario{t: t, pods: map[lease.PodKey]*corev1.Pod{}, meta: map[string]*metav1.ObjectMeta{}, nads: map[pool.NetworkAttachment]parsedNetwork{}}
	c.around = Surroundings{Pods: map[lease.PodKey]ReportingPod{}, Nodes: map[string]reclaim.Node{}}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			c.state = NewState(c.objects, now)
			return c
		}
		var meta metav1.TypeMeta
		if err := errors.Join(err, yaml.Unmarshal(document, &meta)); err != nil {
			t.Fatal(err)
		}
		c.add(meta.Kind, document)
	}
}

func (c *scenario) add(kind string, document []byte) {
	c.t.Helper()
	switch kind {
	case "SpiderIPPool":
		c.objects.Pools = append(c.objects.Pools, parse[v2beta1.SpiderIPPool](c.t, document))
	case "SpiderReservedIP":
		c.objects.Reserved = append(c.objects.Reserved, parse[v2beta1.SpiderReservedIP](c.t, document))
	case "SpiderIPBlock":
		c.objects.Blocks = append(c.objects.Blocks, parse[v2beta1.SpiderIPBlock](c.t, document))
	case "SpiderEndpoint":
		c.objects.Endpoints = append(c.objects.Endpoints, parse[v2beta1.SpiderEndpoint](c.t, document))
	case "Pod":
		pod := parse[corev1.Pod](c.t, document)
		c.pods[lease.PodKey{Namespace: pod.Namespace, Name: pod.Name}] = pod
		c.around.Pods[lease.PodKey{Namespace: pod.Namespace, Name: pod.Name}] = ReportOf(pod, now)
	case "Node":
		node := parse[corev1.Node](c.t, document)
		c.meta[kind+"/"+node.Name], c.around.Nodes[node.Name] = &node.ObjectMeta, NodeOf(node)
	case "Namespace":
		object := parse[metav1.PartialObjectMetadata](c.t, document)
		c.meta[kind+"/"+object.Name] = &object.ObjectMeta
	case "NetworkAttachmentDefinition":
		object := parse[nadv1.NetworkAttachmentDefinition](c.t, document)
		network, err := agentclient.ParseNetwork(object.Spec.Config)
		c.nads[pool.NetworkAttachment{Namespace: object.Namespace, Name: object.Name}] = parsedNetwork{network, err}
	default:
		c.t.Fatalf("kind %q", kind)
	}
}

func parse[T any](t *testing.T, document []byte) *T {
	t.Helper()
	into := new(T)
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	return into
}

func (c *scenario) podOf(key lease.PodKey) reclaim.Pod {
	pod, ok := c.pods[key]
	if !ok {
		return reclaim.Pod{Presence: reclaim.Gone}
	}
	return reclaim.Pod{Presence: reclaim.Exists, UID: string(pod.UID), Phase: string(pod.Status.Phase)}
}

// answer returns the answer to a question as YAML.
func (c *scenario) answer(question []string) []byte {
	c.t.Helper()
	verb, argument := question[0], question[len(question)-1]
	var value any
	switch verb {
	case "who":
		if mac, err := net.ParseMAC(argument); err == nil {
			for _, pod := range c.pods {
				c.state.AddInterfaces(pod)
			}
			value = c.state.WithMAC(mac)
		} else {
			value = c.state.WhoHas(netip.MustParseAddr(argument), c.podOf)
		}
	case "pools":
		value = c.state.Pools()
	case "pool":
		value, _ = c.state.PoolDetails(argument)
	case "usage":
		value, _ = c.state.PoolUsage(argument)
	case "explain":
		explanation, err := c.state.Explain(c.questionAbout(lease.ParsePodKey(argument)))
		if err != nil {
			c.t.Fatal(err)
		}
		value = explanation
	case "check":
		value = c.state.Check(c.around)
	case "reclaims":
		value = c.state.Reclaims(c.around, ownersOf(question[1:]), policy())
	case "release", "release-forced":
		value = c.state.Release(netip.MustParseAddr(question[1]), verb == "release-forced", c.around, ownersOf(question[2:]), policy())
	case "capacity":
		value = c.capacity(question[1], lease.ParsePodKey(argument))
	case "rooms":
		value = c.rooms(argument)
	case "addresses":
		value = c.state.Addresses(filterOf(question[1:]))
	default:
		c.t.Fatalf("question %q", question)
	}
	text, err := yaml.Marshal(value)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// questionAbout returns the question about a pod whose default network is kube-system/default.
func (c *scenario) questionAbout(key lease.PodKey) PodQuestion {
	c.t.Helper()
	pod, ok := c.pods[key]
	if !ok {
		c.t.Fatalf("no pod %s", key)
	}
	facts := agentclient.PodFacts(pod)
	q := PodQuestion{
		Name: key, UID: string(pod.UID), Phase: string(pod.Status.Phase), HostNetwork: pod.Spec.HostNetwork, Families: []inet.Family{4, 6},
		Cluster: pool.ClusterNetwork{Namespace: "kube-system", Default: pool.NetworkAttachment{Namespace: "kube-system", Name: "default"}},
		Facts:   pool.Request{Pod: pool.PodFacts{Namespace: key.Namespace, Name: key.Name, Labels: facts.Labels, Annotations: facts.Annotations, App: ipam.AppOf(key.Namespace, facts.Owner)}},
		Network: func(name pool.NetworkAttachment) (ipam.Network, error) {
			network, ok := c.nads[name]
			if !ok {
				return ipam.Network{}, ipam.ErrNotFound
			}
			return network.Network, network.err
		},
		Agent: func() (*corev1.Pod, error) { return c.agentOn(pod.Spec.NodeName), nil },
	}
	q.Facts.Namespace.Name = key.Namespace
	if meta := c.meta["Namespace/"+key.Namespace]; meta != nil {
		q.Facts.Namespace.Labels, q.Facts.Namespace.Annotations = meta.Labels, meta.Annotations
	}
	q.Facts.Node.Name = pod.Spec.NodeName
	if meta := c.meta["Node/"+pod.Spec.NodeName]; meta != nil {
		q.Facts.Node.Labels = meta.Labels
	}
	return q
}

// agentOn returns the agent of a node: a ready one, unless its annotation agent says otherwise.
func (c *scenario) agentOn(node string) *corev1.Pod {
	agent := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent-" + node}}
	agent.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if meta := c.meta["Node/"+node]; meta != nil {
		switch meta.Annotations["agent"] {
		case "none":
			return nil
		case "not ready":
			agent.Status.Conditions = nil
		}
	}
	return agent
}

func policy() reclaim.Policy {
	return reclaim.Policy{
		Enabled: true, ZombieOnReadyNode: true, ZombieOnNotReadyNode: true, FixedForStatefulSet: true, FixedForKubeVirt: true,
		MinAge: reclaim.DefaultMinAge, ScaledDownRetention: reclaim.DefaultScaledDownRetention,
	}
}

// ownersOf reads e.g. "wanted=Pod/shop/web-0 down=Pod/shop/web-1"; others are unknown.
func ownersOf(terms []string) func(lease.Owner) reclaim.Owner {
	states := map[string]reclaim.Owner{"wanted": reclaim.OwnerWanted, "down": reclaim.OwnerScaledDown, "gone": reclaim.OwnerGone}
	owners := map[lease.Owner]reclaim.Owner{}
	for _, term := range terms {
		state, owner, _ := strings.Cut(term, "=")
		owners[lease.ParseOwner(owner)] = states[state]
	}
	return func(owner lease.Owner) reclaim.Owner { return owners[owner] }
}

// capacity asks for pods like one. The annotations of a node are its room, its limit and why it is closed.
func (c *scenario) capacity(pods string, like lease.PodKey) Capacity {
	c.t.Helper()
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		return n
	}
	q := CapacityQuestion{Pods: number(pods), Like: c.questionAbout(like)}
	for _, key := range slices.Sorted(maps.Keys(c.meta)) {
		if name, ok := strings.CutPrefix(key, "Node/"); ok {
			node := c.meta[key]
			q.Nodes = append(q.Nodes, CandidateNode{
				NodeFacts: pool.NodeFacts{Name: name, Labels: node.Labels}, Closed: node.Annotations["closed"],
				Room: number(node.Annotations["room"]), Limit: number(node.Annotations["limit"]),
			})
		}
	}
	capacity, err := c.state.Capacity(q)
	if err != nil {
		c.t.Fatal(err)
	}
	return capacity
}

// rooms returns the room of a node by resource.
func (c *scenario) rooms(node string) map[string]int64 {
	rooms := map[string]int64{}
	for attachment, room := range c.state.Rooms([]inet.Family{4, 6}).Of(pool.NodeFacts{Name: node, Labels: c.meta["Node/"+node].Labels}) {
		rooms[attachment.Resource()] = room
	}
	return rooms
}

// filterOf reads e.g. "pool=blue node=n1".
func filterOf(terms []string) (f Filter) {
	for _, term := range terms {
		key, value, _ := strings.Cut(term, "=")
		switch key {
		case "pool":
			f.Pool = value
		case "node":
			f.Node = value
		case "namespace":
			f.Namespace = value
		default:
			panic(fmt.Sprintf("term %q", term))
		}
	}
	return f
}

// TestOnlyLastingDifferencesCount looks twice at a cluster that moves.
func TestOnlyLastingDifferencesCount(t *testing.T) {
	lasting := Discrepancy{Code: codeLeaseWithoutPod, Address: "10.6.0.3", holder: "u2/c2"}
	repaired := Discrepancy{Code: codeEndpointDiffers, Finding: Finding{Subject: "SpiderEndpoint shop/web-0"}, holder: "u1"}
	fresh := Discrepancy{Code: codeLeaseWithoutPod, Address: "10.6.0.3", holder: "u3/c3"} // of the next holder
	if diff := cmp.Diff([]Discrepancy{lasting}, Confirmed([]Discrepancy{lasting, repaired}, []Discrepancy{fresh, lasting}), cmp.AllowUnexported(Discrepancy{})); diff != "" {
		t.Errorf("differences that count (-want +got):\n%s", diff)
	}
	if got := Confirmed([]Discrepancy{repaired}, []Discrepancy{fresh}); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
	after := AfterRepair([]Discrepancy{lasting, repaired}, []Discrepancy{lasting})
	if after[0].Repaired || !after[1].Repaired {
		t.Errorf("after the repair: %+v", after)
	}
}

func TestUnknownPoolIsNotFound(t *testing.T) {
	s := NewState(Objects{}, now)
	if _, ok := s.PoolDetails("blue"); ok {
		t.Error("PoolDetails found an unknown pool")
	}
	if _, ok := s.PoolUsage("blue"); ok {
		t.Error("PoolUsage found an unknown pool")
	}
}

// TestCapacityIsThatOfAllocator compares the batches of fill with pods that come one by one.
func TestCapacityIsThatOfAllocator(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c", "d"}
		f := filler{free: map[string]int64{}}
		for _, name := range names {
			f.free[name] = rapid.Int64Range(0, 20).Draw(t, "free")
		}
		var slots []slot
		for range rapid.IntRange(1, 4).Draw(t, "slots") {
			slots = append(slots, slot{pools: rapid.Permutation(names).Draw(t, "pools")[:rapid.IntRange(1, len(names)).Draw(t, "length")]})
		}
		limit := rapid.Int64Range(0, 60).Draw(t, "limit")
		taken := map[string]int64{}
		placed, full := f.fill(slots, taken, limit)

		left := maps.Clone(f.free)
		want, stopped := int64(0), false
	pods:
		for ; want < limit; want++ {
			before := maps.Clone(left)
			for _, slot := range slots {
				at := slices.IndexFunc(slot.pools, func(name string) bool { return left[name] > 0 })
				if at < 0 {
					left, stopped = before, true
					break pods
				}
				left[slot.pools[at]]--
			}
		}
		if placed != want || (full != "") != stopped {
			t.Fatalf("placed %d (full %q), one by one %d (stopped %v)", placed, full, want, stopped)
		}
		for _, name := range names {
			if f.free[name]-taken[name] != left[name] {
				t.Fatalf("pool %s: %d left, one by one %d", name, f.free[name]-taken[name], left[name])
			}
		}
	})
}
