package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	sigsyaml "sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
	"spiderpool.dev/spiderpool/test/scenariotest"
)

// TestScenarios plays testdata/*.txtar; the package comment has the grammar.
func TestScenarios(t *testing.T) {
	scenariotest.Play(t, "testdata/*.txtar", func(t *testing.T, sections []txtar.File) (played []txtar.File) {
		s := newScenario()
		for _, section := range sections {
			played = append(played, txtar.File{Name: section.Name, Data: []byte(s.play(t, section.Name, section.Data))})
		}
		return played
	})
}

// output separates the input of a section from its output.
const output = "=>"

// scenario is the state of one test.
type scenario struct {
	namespaces map[string]policy.Namespace
	pods       map[policy.Name]*policy.Pod
	policies   map[policy.Name]*policy.Policy
	tiers      map[policy.Name]*policy.ClusterPolicy
	uids       map[types.UID]*policy.Pod
}

func newScenario() *scenario {
	return &scenario{
		map[string]policy.Namespace{}, map[policy.Name]*policy.Pod{}, map[policy.Name]*policy.Policy{}, map[policy.Name]*policy.ClusterPolicy{}, map[types.UID]*policy.Pod{},
	}
}

func (s *scenario) cluster() *policy.Cluster {
	return policy.NewCluster(slices.Collect(maps.Values(s.namespaces)), slices.Collect(maps.Values(s.pods)), slices.Collect(maps.Values(s.policies)),
		slices.Collect(maps.Values(s.tiers)))
}

// play returns the section as the code completes it.
func (s *scenario) play(t *testing.T, name string, data []byte) string {
	t.Helper()
	verb, argument, _ := strings.Cut(name, " ")
	switch verb {
	case "cluster":
		faults := s.apply(t, data)
		return withOutput(data, faults)
	case "apply":
		before := s.sets()
		faults := s.apply(t, data)
		return withOutput(data, faults+changes(before, s.sets()))
	case "show":
		return s.show(t, argument)
	case "trace":
		return s.trace(t, string(data))
	}
	t.Fatalf("section %q: write cluster, apply, show or trace", name)
	return ""
}

// withOutput replaces the lines that begin with the sign of outputs.
func withOutput(data []byte, text string) string {
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, output) {
			out.WriteString(line)
		}
	}
	for line := range strings.Lines(text) {
		out.WriteString(output + " " + line)
	}
	return out.String()
}

// sets returns the sets of all pods, and those of their further interfaces, e.g. of "shop/web net1".
func (s *scenario) sets() map[string]policy.Sets {
	all := map[string]policy.Sets{}
	c := s.cluster()
	for name, pod := range s.pods {
		f := c.Decide(pod)
		all[name.String()] = f.Sets()
		for i := range pod.Interfaces {
			if at := &pod.Interfaces[i]; !at.Default {
				f := c.DecideInterface(pod, at)
				all[name.String()+" "+at.Name] = f.Sets()
			}
		}
	}
	return all
}

func changes(before, after map[string]policy.Sets) string {
	var lines []string
	for name, sets := range after {
		for _, change := range sets.DiffFrom(before[name]) {
			sign, rest, _ := strings.Cut(change, " ")
			lines = append(lines, fmt.Sprintf("%s %s %s\n", sign, name, rest))
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[1:]+a[:1], b[1:]+b[:1]) })
	if len(lines) == 0 {
		return "no changes\n"
	}
	return strings.Join(lines, "")
}

func (s *scenario) show(t *testing.T, text string) string {
	t.Helper()
	text, at, _ := strings.Cut(text, " ")
	namespace, name, _ := strings.Cut(text, "/")
	pod := s.pods[policy.Name{Namespace: namespace, Name: name}]
	if pod == nil {
		t.Fatalf("there is no pod %s", text)
	}
	f := s.cluster().Decide(pod)
	if at != "" {
		i := slices.IndexFunc(pod.Interfaces, func(i policy.Interface) bool { return i.Name == at })
		f = s.cluster().DecideInterface(pod, &pod.Interfaces[i])
	}
	var out strings.Builder
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		side := f.Side(d)
		for _, m := range slices.Concat(side.Admin, side.Allows, side.Baseline) {
			fmt.Fprintf(&out, "%s[%d] of %s: %s %v", d, m.Rule, m.Policy, m.Action, m.Ports)
			if len(m.Missing) > 0 {
				fmt.Fprintf(&out, " missing %v", m.Missing)
			}
			fmt.Fprintf(&out, " %s: %s\n", m.Peer, policy.Addresses(m.Peers))
		}
	}
	for line := range strings.Lines(f.Sets().String()) {
		out.WriteString("= " + line)
	}
	return out.String()
}

func (s *scenario) trace(t *testing.T, packets string) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(packets) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(line, output) {
			continue
		}
		if len(fields) != 4 {
			t.Fatalf("packet %q: write PROTOCOL FROM TO PORT", line)
		}
		port, err := strconv.ParseUint(fields[3], 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		protocol := map[string]service.Protocol{"TCP": service.TCP, "UDP": service.UDP, "SCTP": service.SCTP, "ICMP": 1}[fields[0]]
		v := s.cluster().Verdict(policy.Packet{From: netip.MustParseAddr(fields[1]), To: netip.MustParseAddr(fields[2]), Protocol: protocol, Port: uint16(port)})
		fmt.Fprintf(&out, "%s\n%s egress %s\n%s ingress %s\n", strings.TrimSpace(line), output, v.Egress.Explain(policy.Egress), output, v.Ingress.Explain(policy.Ingress))
	}
	return out.String()
}

// apply adds or replaces the objects of a YAML stream and returns their faults.
func (s *scenario) apply(t *testing.T, stream []byte) string {
	t.Helper()
	stream = []byte(withOutput(stream, ""))
	var faults strings.Builder
	reader := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(stream)))
	for {
		document := make([]byte, len(stream)+1)
		n, err := reader.Read(document)
		if errors.Is(err, io.EOF) {
			return faults.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		s.applyOne(t, document[:n], &faults)
	}
}

func (s *scenario) applyOne(t *testing.T, document []byte, faults io.Writer) {
	t.Helper()
	var meta metav1.PartialObjectMetadata
	if err := sigsyaml.Unmarshal(document, &meta); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	switch meta.Kind {
	case "Namespace":
		object := decode[corev1.Namespace](t, document)
		s.namespaces[object.Name] = policy.Namespace{Name: object.Name, Labels: object.Labels}
	case "Pod":
		object := decode[corev1.Pod](t, document)
		name := policy.Name{Namespace: object.Namespace, Name: object.Name}
		delete(s.pods, name)
		if pod := compile.PolicyPod(object); pod != nil {
			s.pods[name] = pod
			s.uids[object.UID] = pod
		}
	case "SpiderEndpoint":
		object := decode[v2beta1.SpiderEndpoint](t, document)
		if pod := s.uids[types.UID(object.Status.Current.UID)]; pod != nil {
			pod.Interfaces = nil
			compile.AddPolicyInterfaces(pod, object)
		}
	case "NetworkPolicy":
		compiled, errs := compile.NetworkPolicy(decode[networkingv1.NetworkPolicy](t, document))
		s.policies[compiled.Name] = compiled
		for _, err := range errs {
			fmt.Fprintf(faults, "! %s: %v\n", compiled.Name, err)
		}
	case "MultiNetworkPolicy":
		compiled, errs := compile.MultiNetworkPolicy(decode[multipolicy.MultiNetworkPolicy](t, document))
		s.policies[compiled.Name] = compiled
		for _, err := range errs {
			fmt.Fprintf(faults, "! %s: %v\n", compiled.Name, err)
		}
	case "ClusterNetworkPolicy":
		compiled, errs := compile.ClusterNetworkPolicy(decode[npv1beta1.ClusterNetworkPolicy](t, document))
		s.tiers[compiled.Name] = compiled
		for _, err := range errs {
			fmt.Fprintf(faults, "! %s: %v\n", compiled.Name, err)
		}
	default:
		t.Fatalf("kind %q: write Namespace, Pod, SpiderEndpoint, NetworkPolicy, MultiNetworkPolicy or ClusterNetworkPolicy", meta.Kind)
	}
}

func decode[T any](t *testing.T, document []byte) *T {
	t.Helper()
	into := new(T)
	if err := sigsyaml.UnmarshalStrict(document, into); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	return into
}
