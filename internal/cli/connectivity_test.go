package cli

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/reach"
)

// TestConnectivityInEveryFormat plays testdata/connectivity.txtar: the probes and findings of the
// section "test", then an output for each further section.
func TestConnectivityInEveryFormat(t *testing.T) {
	var result connectivityResult
	playTables(t, "testdata/connectivity.txtar", func(t *testing.T, out *bytes.Buffer, section txtar.File) error {
		if section.Name == "test" {
			out.Write(section.Data)
			var tested struct {
				Parties  []reach.Party
				Probes   []reach.Probe
				Findings []reach.Finding
				Notes    []string
			}
			if err := yaml.UnmarshalStrict(section.Data, &tested); err != nil {
				return err
			}
			result = connectivityResult{Namespace: "spiderpool-connectivity-x7k2p", Findings: tested.Findings, Notes: tested.Notes}
			result.take(&reach.World{Cluster: reach.Cluster{Parties: tested.Parties}, Probes: tested.Probes})
			return nil
		}
		return connectivityAnswer(&result).print(out, section.Name, threeAM)
	})
}

// threeAM is the time of the outputs, which do not show it.
var threeAM = time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)

func TestConnectivityArguments(t *testing.T) {
	refuses(t, "connectivity", []testCase{
		{"test here", "unknown command"},
		{"test -o xml", `--output "xml": write table, wide, json, yaml or name`},
		{"test --attachment lan", `--attachment "lan": write NAMESPACE/NAME, e.g. kube-system/macvlan-ens5`},
		{"test --kubeconfig /does/not/exist", "--kubeconfig"},
		{"serve --port 70000", "--port"},
	})
	cmd := newRoot()
	cmd.SetIn(strings.NewReader("{"))
	cmd.SetArgs([]string{"connectivity", "probe"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), `write e.g. {"questions":`) {
		t.Errorf("half a request: got %v", err)
	}
}

func TestReadyNodesAreChosen(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus, unschedulable bool) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Unschedulable: unschedulable}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
	}
	nodes := []corev1.Node{node("c", corev1.ConditionTrue, false), node("a", corev1.ConditionTrue, false), node("b", corev1.ConditionFalse, false), node("d", corev1.ConditionTrue, true)}
	for _, tc := range []struct {
		flags, want, err string
	}{
		{"", "a c", ""},
		{"d b b", "b d", ""}, // the user knows better
		{"e", "", "--node e: there is no such node"},
	} {
		test := &connectivityTest{connectivityOptions: &connectivityOptions{nodes: strings.Fields(tc.flags)}}
		chosen, err := test.choose(nodes)
		if got := strings.Join(chosen, " "); got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("--node %q: got %q, %v; want %q, %q", tc.flags, got, err, tc.want, tc.err)
		}
	}
	var many []corev1.Node
	for i := range maxNodes + 2 {
		many = append(many, node(string(rune('a'+i)), corev1.ConditionTrue, false))
	}
	test := &connectivityTest{connectivityOptions: &connectivityOptions{}}
	if chosen, err := test.choose(many); err != nil || len(chosen) != maxNodes || len(test.result.Notes) != 1 {
		t.Errorf("of %d nodes: got %v, %v, notes %q", len(many), chosen, err, test.result.Notes)
	}
}

func TestProgressIsLinesWithoutTerminal(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	done := p.during("creating the pods", 2*time.Minute)
	p.detail("3 of 6 run")
	done()
	p.clear()
	if got, want := out.String(), "… creating the pods (at most 2m0s)\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNodeAddressesAreInternal(t *testing.T) {
	n := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeInternalIP, Address: "10.6.0.10"}, {Type: corev1.NodeHostName, Address: "n1"},
	}}}
	if got := nodeAddrs(n); len(got) != 1 || got[0] != netip.MustParseAddr("10.6.0.10") {
		t.Errorf("got %v", got)
	}
}

func TestNewServicesAreAskedAgain(t *testing.T) {
	cluster := &reach.Cluster{Services: []reach.Service{{Name: "web"}}}
	for _, tc := range []struct {
		name      string
		fault     reach.Fault
		after     int // the question that the Service answers
		questions int
	}{
		{"endpoints known at once", "", 1, 0},
		{"endpoints known after three seconds", reach.Refused, 3, 3},
		{"Service known after two seconds", reach.Silent, 2, 2},
		{"no endpoints", reach.Refused, 1000, 15},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				probes := []reach.Probe{{To: "web", Answer: reach.Answer{Fault: tc.fault}}, {To: "pod", Answer: reach.Answer{Fault: reach.Refused}}}
				asked := 0
				err := settle(t.Context(), cluster, probes, func(wanted func(*reach.Probe) bool) error {
					if asked++; !wanted(&probes[0]) || wanted(&probes[1]) {
						t.Error("other questions than that of the Service are asked again")
					}
					if asked == tc.after {
						probes[0].Answer.Fault = ""
					}
					return nil
				})
				if err != nil || asked != tc.questions {
					t.Errorf("asked again %d times, want %d; error %v", asked, tc.questions, err)
				}
			})
		})
	}
}
