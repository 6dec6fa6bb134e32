package view

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

func TestOfferIsHeldClaimsAndRoom(t *testing.T) {
	held, waiting := func(n int64) Claim { return Claim{n, true} }, func(n int64) Claim { return Claim{n, false} }
	for name, test := range map[string]struct {
		room   int64
		claims []Claim
		want   int64
	}{
		"empty":               {0, nil, 0},
		"unused":              {14, nil, 14},
		"all held":            {0, []Claim{held(1), held(2)}, 3},
		"some held":           {11, []Claim{held(1), held(2)}, 14},
		"waiting":             {14, []Claim{waiting(1), waiting(1)}, 14},
		"more wait than room": {1, []Claim{held(3), waiting(1), waiting(1)}, 5}, // never less than all claims
		"huge":                {1 << 60, []Claim{held(1 << 60), waiting(1 << 60)}, maxOffer},
		"negative":            {2, []Claim{held(-5)}, 2},
	} {
		if got := Offer(test.room, test.claims); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// modelPod is a pod that the scheduler has placed.
type modelPod struct {
	count       int64
	held, ended bool // ended: its sandbox is gone
}

// modelNode is a node with a scheduler: it places a pod if all requests fit into the offer.
type modelNode struct {
	usable, foreign int64 // addresses, and those of pods that request none
	pods            []*modelPod
}

func (n *modelNode) room() int64 {
	room := n.usable - n.foreign
	for _, p := range n.pods {
		if p.held {
			room -= p.count
		}
	}
	return room
}

func (n *modelNode) offer() int64 {
	var claims []Claim
	for _, p := range n.pods {
		claims = append(claims, Claim{p.count, p.held})
	}
	return Offer(n.room(), claims)
}

func (n *modelNode) requested() (sum int64) {
	for _, p := range n.pods {
		sum += p.count
	}
	return sum
}

// The kinds of steps.
const (
	orderly = iota // a pod of the scheduler came, started, ended or went
	lost           // a pod went before its sandbox did, or addresses came back
	foreign        // a pod without a request took an address
)

// step does one thing at random.
func (n *modelNode) step(t *rapid.T) (kind int) {
	action := rapid.SampledFrom([]string{"place", "start", "end", "remove", "come", "go"}).Draw(t, "action")
	switch {
	case action == "place":
		count := rapid.Int64Range(1, 3).Draw(t, "count")
		if n.requested()+count <= n.offer() {
			n.pods = append(n.pods, &modelPod{count: count})
		}
		return orderly
	case action == "come" && n.room() > 0:
		n.foreign++
		return foreign
	case action == "go":
		n.foreign = 0
		return lost
	case len(n.pods) == 0 || action == "come":
		return orderly
	}
	at := rapid.IntRange(0, len(n.pods)-1).Draw(t, "pod")
	p := n.pods[at]
	switch {
	case action == "start":
		p.held = p.held || !p.ended && n.room() >= p.count
	case action == "end":
		p.held, p.ended = false, true
	default:
		n.pods = append(n.pods[:at], n.pods[at+1:]...)
		if p.held {
			n.foreign += p.count // until it is reclaimed
			return lost
		}
	}
	return orderly
}

func TestSchedulerKeepsToOffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, alone := &modelNode{usable: rapid.Int64Range(0, 12).Draw(t, "usable")}, true
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			before := n.offer()
			kind := n.step(t)
			alone = alone && kind != foreign
			var waiting int64
			for _, p := range n.pods {
				if !p.held {
					waiting += p.count
				}
			}
			if alone && kind == orderly && n.offer() != before {
				t.Fatalf("the offer went from %d to %d, although no address came or went", before, n.offer())
			}
			if n.offer() < n.requested() {
				t.Fatalf("the offer %d is less than the %d that pods request", n.offer(), n.requested())
			}
			if alone && waiting > n.room() {
				t.Fatalf("%d addresses for pods that wait for %d", n.room(), waiting)
			}
			if seen := n.offer() - n.requested(); seen != max(0, n.room()-waiting) {
				t.Fatalf("the scheduler sees %d, want %d", seen, n.room()-waiting)
			}
		}
	})
}

func TestOffersLeftCountPods(t *testing.T) {
	list := func(pairs map[string]string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for name, text := range pairs {
			out[corev1.ResourceName(name)] = resource.MustParse(text)
		}
		return out
	}
	node := &corev1.Node{Status: corev1.NodeStatus{Allocatable: list(map[string]string{"a": "7", "b": "1"})}}
	got := OffersLeft(node, list(map[string]string{"a": "2", "b": "3"}), list(map[string]string{"a": "2", "b": "1", "c": "1", "d": "0"}))
	want := []OfferLeft{{"a", 2, 7, 2}, {"b", 0, 1, 3}, {"c", 0, 0, 0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// BenchmarkRooms counts the rooms of 500 nodes with 20,000 leases: two interfaces each, with three /28s.
func BenchmarkRooms(b *testing.B) {
	const nodes = 500
	var objects Objects
	var facts []pool.NodeFacts
	for i := range nodes {
		name := fmt.Sprint("n", i)
		facts = append(facts, pool.NodeFacts{Name: name})
		for device := range 2 {
			base := netip.AddrFrom4([4]byte{10, byte(device), byte(i / 5), byte(i % 5 * 48)})
			p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("aws-%s-%d-v4", name, device)}}
			p.Spec.Subnet, p.Spec.Default = fmt.Sprintf("10.%d.0.0/16", device), new(true)
			p.Spec.NodeName, p.Spec.MultusName = []string{name}, []string{fmt.Sprintf("kube-system/ens%d", 5+device)}
			for piece := range 3 {
				first := netip.AddrFrom4([4]byte{10, byte(device), base.As4()[2], base.As4()[3] + byte(16*piece)})
				p.Spec.IPs = append(p.Spec.IPs, fmt.Sprintf("%s-10.%d.%d.%d", first, device, first.As4()[2], first.As4()[3]+15))
				block := lease.Block{Base: first, Node: name}
				addr := first
				for k := range 7 {
					uid := fmt.Sprintf("%s-%d-%d-%d", name, device, piece, k)
					block.Leases = append(block.Leases, lease.Lease{Addr: addr, State: lease.InUse, Pool: p.Name, Since: now, Holder: lease.Holder{
						Pod: lease.PodKey{Namespace: "a", Name: uid}, PodUID: uid, Node: name, Attachment: lease.Attachment{ContainerID: uid, Interface: "eth0"},
					}})
					addr = addr.Next()
				}
				objects.Blocks = append(objects.Blocks, compile.BlockObject(block))
			}
			objects.Pools = append(objects.Pools, p)
		}
	}
	for b.Loop() {
		s := NewState(objects, now)
		rooms := s.Rooms([]inet.Family{4, 6})
		for _, node := range facts {
			if got := rooms.Of(node)[pool.NetworkAttachment{Namespace: "kube-system", Name: "ens5"}]; got != 27 && got != 26 && got != 25 {
				b.Fatalf("node %s: %d", node.Name, got)
			}
		}
		if n := len(s.Holders()); n != nodes*2*3*7 {
			b.Fatalf("%d holders", n)
		}
	}
}
