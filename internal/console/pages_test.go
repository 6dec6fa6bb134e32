package console

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/view"
)

var update = flag.Bool("update", false, "write the golden pages")

const (
	addressesCluster = "../cli/testdata/view/addresses.txtar"
	podCluster       = "../cli/testdata/view/pod.txtar"
)

// furtherObjects are those of the pages that no command draws.
func furtherObjects() []client.Object {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.6.0.100"}}
	event := func(name, namespace, kind, about, reason, level, text string, ago time.Duration) *corev1.Event {
		return &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Reason: reason, Type: level, Message: text, Count: 2,
			InvolvedObject: corev1.ObjectReference{Kind: kind, Namespace: namespace, Name: about}, LastTimestamp: metav1.NewTime(threeAtNight().Add(-ago)), Source: corev1.EventSource{Component: components[0]},
		}
	}
	return []client.Object{
		node,
		event("a", "shop", "Pod", "web-1", "FailedAllocateIP", "Warning", "interface eth0: no SpiderIPPool can provide an IPv4 address: blue: it is full <script>", time.Minute),
		event("b", "blog", "Pod", "old", "ReclaimedIP", "Normal", "10.6.0.7: the pod is gone, and no sandbox has the address", 3*time.Minute),
		event("c", "default", "Node", "n1", "RuntimeUnavailable", "Warning", "no socket answers", 5*time.Minute),
	}
}

// someFlows are received flows.
func someFlows(w *flowWatch) {
	w.cfg.Server = "relay:443"
	end := func(namespace, pod, workload string) *flowpb.Endpoint {
		if pod == "" {
			return &flowpb.Endpoint{}
		}
		return &flowpb.Endpoint{Namespace: namespace, PodName: pod, Workloads: []*flowpb.Workload{{Kind: "Deployment", Name: workload}}}
	}
	add := func(from, to *flowpb.Endpoint, addr string, verdict flowpb.Verdict) {
		f := &flowpb.Flow{
			Time: timestamppb.New(threeAtNight().Add(-time.Minute)), NodeName: "n1", Verdict: verdict, Source: from, Destination: to,
			IP: &flowpb.IP{Source: addr, Destination: "10.6.0.2"}, L4: &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: &flowpb.TCP{SourcePort: 40000, DestinationPort: 80}}},
		}
		//lint:ignore SA1019 the page shows it
		f.Summary = "TCP Flags: SYN"
		if verdict == flowpb.Verdict_DROPPED {
			f.DropReasonDesc = flowpb.DropReason_POLICY_DENIED
			f.IngressDeniedBy = []*flowpb.Policy{{Kind: "NetworkPolicy", Namespace: "shop", Name: "deny"}}
		}
		w.receive(&observerpb.GetFlowsResponse{ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: f}})
	}
	for range 5 {
		add(end("shop", "cart-7f", "cart"), end("shop", "web-0", "web"), "10.6.0.8", flowpb.Verdict_FORWARDED)
	}
	add(end("blog", "crawler-1", "crawler"), end("shop", "web-0", "web"), "10.6.0.9", flowpb.Verdict_DROPPED)
	add(end("", "", ""), end("blog", "blog-0", "blog"), "192.0.2.1", flowpb.Verdict_FORWARDED)
}

func addressesWorld(tb testing.TB) *world {
	w := newWorld(tb, append(clusterOf(tb, addressesCluster), furtherObjects()...)...)
	someFlows(w.Flows)
	return w
}

func TestPagesMatchGoldenFiles(t *testing.T) {
	worlds := map[string]*world{"addresses": addressesWorld(t), "pod": newWorld(t, clusterOf(t, podCluster)...)}
	for file, path := range map[string]string{
		"addresses/pools": "/", "addresses/pool": "/pools/blue", "addresses/gone": "/addresses/10.6.0.3", "addresses/gateway": "/addresses/10.6.0.1",
		"addresses/nodes": "/nodes", "addresses/node": "/nodes/n1", "addresses/latest": "/events", "addresses/flows": "/flows",
		"addresses/mac": "/search?q=02:42:0a:06:00:05", "addresses/name": "/search?q=web", "addresses/nothing": "/search?q=%3Cb%3E",
		"pod/running": "/pods/blog/web-6d4cf56db6-x7k2p", "pod/stuck": "/pods/blog/stuck", "pod/host": "/pods/blog/host", "pod/waiting": "/pods/blog/waiting", "pod/flows": "/flows",
	} {
		t.Run(file, func(t *testing.T) {
			world, _, _ := strings.Cut(file, "/")
			status, got := worlds[world].as(t, "admin").get(path)
			if status != http.StatusOK {
				t.Fatalf("status %d\n%s", status, got)
			}
			goldenPage(t, filepath.Join("testdata", strings.ReplaceAll(file, "/", "-")+".html"), got)
		})
	}
}

func goldenPage(t *testing.T, file, got string) {
	t.Helper()
	got = regexp.MustCompile(`data-generation="\d+"`).ReplaceAllString(got, `data-generation="1"`)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and read it. Got:\n%s", file, got)
	}
}

// TestUsersSeeTheirPartOnly asks for each page as a user of namespace shop, and as a user without rights.
func TestUsersSeeTheirPartOnly(t *testing.T) {
	w := addressesWorld(t)
	w.user("shop", "spiderippools", "pods/shop", "events/shop", "spiderendpoints/shop")
	w.user("blog", "spiderippools", "nodes", "pods/blog", "events/blog", "spiderendpoints/blog")
	w.user("nothing")
	for _, tc := range []struct {
		user, path string
		status     int
		sees, not  string // separated by "|"
	}{
		{"shop", "/", 200, "blue|green", ""},
		{"shop", "/pools/blue", 200, "shop/web-0|StatefulSet/shop/web|1 holder that you may not see", "02:42:0a:06:00:05"},
		{"blog", "/pools/blue", 200, "10.6.0.2 in use\"|3 holders that you may not see", "shop/web-0|shop/gone|StatefulSet|aa:bb:cc"},
		{"blog", "/addresses/10.6.0.3", 200, "You may not see its holder", "shop/gone|0123456789"},
		{"blog", "/nodes/n1", 200, "No pod on the node has an address", "shop/web-0|no socket answers"},
		{"blog", "/pods/shop/web-0", 404, "or you may not see it", "eth0"},
		{"blog", "/pods/shop/no-such", 404, "or you may not see it", ""},
		{"blog", "/search?q=web", 200, "Nothing found", "shop/web-0"},
		{"blog", "/search?q=aa:bb:cc:00:00:02", 200, "Nothing found", "10.6.0.2"},
		{"shop", "/search?q=web", 200, "shop/web-0", ""},
		{"shop", "/events", 200, "FailedAllocateIP|10.6.0.2", "ReclaimedIP|RuntimeUnavailable"},
		{"blog", "/events", 200, "ReclaimedIP", "FailedAllocateIP|10.6.0.2"},
		{"shop", "/flows", 200, "shop/web-0:80|shop/Deployment/cart|10.6.0.9:40000|An end elsewhere has its address only", "crawler|blog|192.0.2.1"},
		{"blog", "/flows", 200, "blog/crawler-1|blog/blog-0:80|10.6.0.2:80", "web-0|cart|NetworkPolicy"},
		{"shop", "/nodes", 200, "Your rights do not show nodes", "10.6.0.100"},
		{"shop", "/nodes/n1", 404, "", "10.6.0.100"},
		{"nothing", "/", 200, "Your rights do not show pools", "blue"},
		{"nothing", "/pools/blue", 404, "", "10.6.0"},
		{"nothing", "/addresses/10.6.0.2", 404, "", "shop"},
		{"nothing", "/pods/shop/web-0", 404, "", "eth0"},
		{"nothing", "/events", 200, "No failure", "FailedAllocateIP|shop"},
		{"nothing", "/flows", 200, "No flows|Your rights do not show the pods of all namespaces", "10.6.0|shop"},
		{"nothing", "/search?q=10.6.0.2", 200, "Nothing found", "shop"},
		{"nothing", "/no/such/page", 404, "There is no such page", ""},
	} {
		status, body := w.as(t, tc.user).get(tc.path)
		main := mainOf(body)
		if status != tc.status {
			t.Errorf("%s %s: status %d, want %d", tc.user, tc.path, status, tc.status)
		}
		for _, part := range strings.Split(tc.sees, "|") {
			if part != "" && !strings.Contains(main, part) {
				t.Errorf("%s %s: no %q in\n%s", tc.user, tc.path, part, main)
			}
		}
		for _, part := range strings.Split(tc.not, "|") {
			if part != "" && strings.Contains(main, part) {
				t.Errorf("%s %s shows %q", tc.user, tc.path, part)
			}
		}
	}
}

// TestSearchAsksBeforeItMatches compares the reviews for a text in a hidden namespace with those for a text nowhere.
func TestSearchAsksBeforeItMatches(t *testing.T) {
	w := addressesWorld(t)
	users := 0
	reviews := func(text string) int {
		users++
		name := fmt.Sprint("tenant", users) // without answers in memory
		w.user(name, "pods/blog", "spiderendpoints/blog")
		b := w.as(t, name)
		before := w.authority.count()
		if _, body := b.get("/search?q=" + text); !strings.Contains(body, "Nothing found") {
			t.Errorf("%s finds something in\n%s", text, mainOf(body))
		}
		return w.authority.count() - before
	}
	for hidden, nowhere := range map[string]string{"web-0": "no-such", "shop/web": "shop/no-such", "aa:bb:cc:00:00:02": "aa:bb:cc:00:00:99"} {
		if got, want := reviews(hidden), reviews(nowhere); got != want {
			t.Errorf("%d reviews for %s in a hidden namespace, %d for %s", got, hidden, want, nowhere)
		}
	}
}

// TestSearchFindsPodByNamespace searches in a cluster with more namespaces than a page asks about.
func TestSearchFindsPodByNamespace(t *testing.T) {
	objects := []client.Object{&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "zoo", Name: "bear"}}}
	for i := range maxNamespaces + 1 {
		objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}})
	}
	w := newWorld(t, objects...)
	w.user("keeper", "pods/zoo")
	if _, body := w.as(t, "keeper").get("/search?q=zoo/be"); !strings.Contains(mainOf(body), "zoo/bear") {
		t.Errorf("no zoo/bear in\n%s", mainOf(body))
	}
}

// mainOf returns the part of a page that depends on its path.
func mainOf(body string) string {
	_, main, _ := strings.Cut(body, "<main")
	main, _, _ = strings.Cut(main, "<footer>")
	return main
}

func TestPodPageKeepsPoolsHidden(t *testing.T) {
	w := newWorld(t, clusterOf(t, podCluster)...)
	w.user("tenant", "pods/blog", "network-attachment-definitions/kube-system")
	w.user("holder", "pods/blog", "network-attachment-definitions/kube-system", "spiderendpoints/blog")
	for _, tc := range []struct{ user, path, sees, not string }{
		{"tenant", "/pods/blog/stuck", "no pool gives it an address", "zone=b"},
		{"tenant", "/pods/blog/web-6d4cf56db6-x7k2p", "10.6.0.2", "blue"},
		{"holder", "/pods/blog/web-6d4cf56db6-x7k2p", "blue", "named by"},
		{"admin", "/pods/blog/stuck", "zone=b", "no pool gives"},
	} {
		if _, body := w.as(t, tc.user).get(tc.path); !strings.Contains(mainOf(body), tc.sees) || strings.Contains(mainOf(body), tc.not) {
			t.Errorf("%s %s: no %q, or %q in\n%s", tc.user, tc.path, tc.sees, tc.not, mainOf(body))
		}
	}
}

// TestNetworksNeedRight asks for the pages of a pod and of a node whose pool is bound to three attachments.
func TestNetworksNeedRight(t *testing.T) {
	bad := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "bad"}, Spec: nadv1.NetworkAttachmentDefinitionSpec{Config: "{"}}
	lame := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "lame", UID: "l", Annotations: map[string]string{"v1.multus-cni.io/default-network": "blog/bad"}}}
	lame.Spec.NodeName = "n7"
	bound := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}
	bound.Spec.Subnet, bound.Spec.NodeName, bound.Spec.MultusName = "10.7.0.0/24", []string{"n7"}, []string{"kube-system/macvlan", "blog/bad", "macvlan"}
	w := newWorld(t, append(clusterOf(t, podCluster), bad, lame, bound)...)
	w.user("stranger", "pods/blog", "spiderippools", "nodes")
	w.user("tenant", "pods/blog", "spiderippools", "nodes", "network-attachment-definitions/blog")
	for _, tc := range []struct{ user, path, sees, not string }{
		{"stranger", "/pods/blog/stuck", "Your rights do not show NetworkAttachmentDefinition kube-system/macvlan", "zone=b"},
		{"stranger", "/pods/blog/lame", "Your rights do not show NetworkAttachmentDefinition blog/bad", "spec.config"},
		{"stranger", "/nodes/n7", "or you may not see it", "<code>eth0</code>"},
		{"tenant", "/pods/blog/lame", "NetworkAttachmentDefinition blog/bad: spec.config", "Your rights"},
		{"tenant", "/nodes/n7", "NetworkAttachmentDefinition blog/bad: spec.config", "<code>eth0</code>"},
		{"admin", "/nodes/n7", "<code>eth0</code>", "or you may not see it"},
	} {
		status, body := w.as(t, tc.user).get(tc.path)
		if main := mainOf(body); status != http.StatusOK || !strings.Contains(main, tc.sees) || strings.Contains(main, tc.not) {
			t.Errorf("%s %s: status %d, no %q, or %q in\n%s", tc.user, tc.path, status, tc.sees, tc.not, main)
		}
	}
}

func TestUserLeavesPlacesToOthers(t *testing.T) {
	p := newPlaces()
	ended, end := context.WithCancel(t.Context())
	end()
	one, other := [sha256.Size]byte{1}, [sha256.Size]byte{2}
	var gives []func()
	for range maxOwnRendering {
		give, ok := p.take(t.Context(), one)
		if !ok {
			t.Fatal("no place")
		}
		gives = append(gives, give)
	}
	if _, ok := p.take(ended, one); ok {
		t.Errorf("a user has more than %d places", maxOwnRendering)
	}
	give, ok := p.take(t.Context(), other)
	if !ok {
		t.Fatal("no place for another user")
	}
	for _, give := range append(gives, give) {
		give()
	}
	if len(p.mu.own) != 0 || len(p.all) != 0 {
		t.Errorf("%d users and %d places are left", len(p.mu.own), len(p.all))
	}
}

// TestEndedPagesAskNothing asks for a right after the end of a request.
func TestEndedPagesAskNothing(t *testing.T) {
	w := newWorld(t)
	user, _, err := w.Access.Identify(t.Context(), "token-admin")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := newSight(ctx, w.Access, user)
	if before := w.authority.count(); s.pods("shop") || !s.cut || w.authority.count() != before {
		t.Error("a page without a reader asks about rights, or does not tell that it lacks objects")
	}
}

func TestHiddenPodsCostSameReviews(t *testing.T) {
	w := addressesWorld(t)
	reviews := map[string]int{}
	for _, pod := range []string{"web-0", "no-such"} {
		w.user("reader of "+pod, "pods/blog")
		b := w.as(t, "reader of "+pod)
		before := w.authority.count()
		b.get("/pods/shop/" + pod)
		reviews[pod] = w.authority.count() - before
	}
	if reviews["web-0"] != reviews["no-such"] {
		t.Errorf("the time of the answer tells whether a pod exists: reviews %v", reviews)
	}
}

func TestHostileNamesAreEscaped(t *testing.T) {
	w := addressesWorld(t)
	for _, path := range []string{"/events", "/search?q=%3Cscript%3Ealert(1)%3C/script%3E", "/pods/%3Cb%3E/x"} {
		if _, body := w.as(t, "admin").get(path); strings.Count(body, "<script") != 1 || strings.Contains(body, "<b>") {
			t.Errorf("%s: the page has markup of a request or an object:\n%s", path, body)
		}
	}
}

// TestZonesOfAddressesAreRefused asks with an address whose zone is markup: "fd00::10%<meta …>".
func TestZonesOfAddressesAreRefused(t *testing.T) {
	six := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "six"}}
	six.Spec.Subnet, six.Spec.IPs = "fd00::/64", []string{"fd00::1-fd00::ff"}
	b := newWorld(t, six).as(t, "admin")
	zoned := url.QueryEscape(`fd00::10%"><meta http-equiv=refresh content=0>`)
	for path, want := range map[string]int{"/pools/six?from=" + zoned: http.StatusOK, "/search?q=" + zoned: http.StatusOK, "/addresses/fd00::10%25eth0": http.StatusNotFound} {
		status, body := b.get(path)
		if status != want || strings.Contains(body, "<meta http-equiv") || strings.Contains(body, "in no pool") {
			t.Errorf("%s: status %d\n%s", path, status, body)
		}
	}
	if _, body := b.get("/pools/six?from=" + zoned); strings.Count(body, `class="c `) != 255 {
		t.Error("the map does not begin at the first address")
	}
	var cell strings.Builder
	addr := netip.MustParseAddr("fd00::10").WithZone(`"><b>`)
	writeCell(&cell, &view.Span{First: addr, Last: addr, Count: 1}, meaning{Class: "none", Words: `"><i>`}, nil)
	if got := cell.String(); strings.Contains(got, "<b>") || strings.Contains(got, "<i>") {
		t.Errorf("a cell has markup: %s", got)
	}
}

// largeCluster has a pool of n addresses, all leased.
func largeCluster(n int) []client.Object {
	objects := []client.Object{
		&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.0.0.0/8", IPs: []string{"10.1.0.0-10.1.255.255"}}}},
	}
	for base := 0; base < n; base += 16 {
		block := &v2beta1.SpiderIPBlock{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("10.1.%d.%d", base/256, base%256)}}
		block.Spec.CIDR = block.Name + "/28"
		for i := base; i < base+16 && i < n; i++ {
			block.Spec.Leases = append(block.Spec.Leases, v2beta1.Lease{
				IP: fmt.Sprintf("10.1.%d.%d", i/256, i%256), State: v2beta1.LeaseInUse, Pool: "large", Pod: fmt.Sprintf("shop/web-%d", i),
				PodUID: fmt.Sprint("u", i), ContainerID: fmt.Sprint("c", i), Interface: "eth0", Node: fmt.Sprint("n", i%50), Since: metav1.NewTime(threeAtNight().Add(-time.Hour)),
			})
		}
		objects = append(objects, block)
	}
	return objects
}

func TestLargePoolsAreDrawnBounded(t *testing.T) {
	w := newWorld(t, append(largeCluster(1600), &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "six"}, Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "fd00::/64", IPs: []string{"fd00::-fd00::ffff:ffff:ffff:ffff"}, ExcludeIPs: []string{"fd00::1:0-fd00::1:f"}}},
	})...)
	b := w.as(t, "admin")
	_, body := b.get("/pools/large")
	if cells := strings.Count(body, `class="c `); cells != 1600 || !strings.Contains(body, "10.1.6.64 – 10.1.255.255") || len(body) > 1<<20 {
		t.Errorf("a /16 with 1,600 leases has %d cells and %d bytes", cells, len(body))
	}
	_, body = b.get("/pools/six")
	if cells := strings.Count(body, `class="c `); cells != 17 || strings.Count(body, `class="folded"`) != 2 {
		t.Errorf("a /64 with 16 excluded addresses has %d cells\n%s", cells, body)
	}
}

func TestMapsContinueOnFurtherPages(t *testing.T) {
	w := newWorld(t, largeCluster(maxCells+100)...)
	b := w.as(t, "admin")
	_, body := b.get("/pools/large")
	if cells := strings.Count(body, `class="c `); cells != maxCells || !strings.Contains(body, `?from=10.1.80.0"`) {
		t.Fatalf("the first page has %d cells", cells)
	}
	_, body = b.get("/pools/large?from=10.1.80.0")
	if cells := strings.Count(body, `class="c `); cells != 100 || !strings.Contains(body, "10.1.80.100 – 10.1.255.255") {
		t.Errorf("the second page has %d cells", cells)
	}
}
