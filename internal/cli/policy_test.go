package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
)

// TestPolicyTables plays testdata/policy*.txtar: a section is named after the arguments of a command.
func TestPolicyTables(t *testing.T) {
	var p *policies
	var changed *policyBuilder
	playTables(t, "testdata/policy*.txtar", func(t *testing.T, out *bytes.Buffer, section txtar.File) (err error) {
		fields := strings.Fields(section.Name)
		switch fields[0] {
		case "cluster":
			p = policiesOf(t, section.Data)
			out.Write(section.Data)
			return nil
		case "file":
			content, _, _ := bytes.Cut(section.Data, []byte("error: "))
			changed, err = parsePolicies(content, "shop")
			out.Write(content)
			return err
		case "show":
			return printShow(out, p, fields[1], strings.Join(fields[2:], ""))
		case "trace":
			return printTrace(out, p, fields[1:])
		case "diff":
			return policyDiffAnswer(p.diff(changed)).print(out, "table", threeAtNight())
		}
		t.Fatalf("section %q", section.Name)
		return nil
	})
}

func printShow(out io.Writer, p *policies, pod, only string) error {
	name, err := podName(pod)
	if err != nil {
		return err
	}
	view, err := p.show(name, only)
	if err != nil {
		return err
	}
	return podPolicyAnswer(view).print(out, "table", threeAtNight())
}

func printTrace(out io.Writer, p *policies, args []string) error {
	asked, err := parseQuestion(args[0], args[1], args[2])
	if err != nil {
		return err
	}
	asked.at = strings.Join(args[3:], "")
	traces, err := p.trace(asked)
	if err != nil {
		return err
	}
	return tracesAnswer(traces).print(out, "table", threeAtNight())
}

// policiesOf reads a YAML stream.
func policiesOf(t *testing.T, stream []byte) *policies {
	t.Helper()
	var b policyBuilder
	eachObject(t, stream, func(kind string, document []byte) {
		switch kind {
		case "Namespace":
			var object corev1.Namespace
			parse(t, document, &object)
			b.addNamespace(&object)
		case "Pod":
			var object corev1.Pod
			parse(t, document, &object)
			b.addPod(&object)
		case "NetworkPolicy":
			var object networkingv1.NetworkPolicy
			parse(t, document, &object)
			b.addPolicy(&object)
		case "SpiderEndpoint":
			var object v2beta1.SpiderEndpoint
			parse(t, document, &object)
			b.addEndpoint(&object)
		case "MultiNetworkPolicy":
			var object multipolicy.MultiNetworkPolicy
			parse(t, document, &object)
			b.addMultiPolicy(&object)
		case "ClusterNetworkPolicy":
			var object npv1beta1.ClusterNetworkPolicy
			parse(t, document, &object)
			b.addClusterPolicy(&object)
		}
	})
	return b.build()
}

func TestPolicyJSON(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/policy.txtar")
	if err != nil {
		t.Fatal(err)
	}
	p := policiesOf(t, archive.Files[0].Data)
	asked, err := parseQuestion("shop/client", "shop/web:80", "tcp")
	if err != nil {
		t.Fatal(err)
	}
	traces, err := p.trace(asked)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var got []traceView
	if err := tracesAnswer(traces).print(&out, "json", threeAtNight()); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 2 || got[0].Allowed || got[0].To != "10.6.0.1 (shop/web)" || got[1].Port != 80 {
		t.Errorf("got %+v (%v)", got, err)
	}
}

func TestPolicyArguments(t *testing.T) {
	refuses(t, "policy", []testCase{
		{"show web", `pod "web": write NAMESPACE/NAME`},
		{"show shop/web -o xml", `--output "xml": write table, wide, json, yaml or name`},
		{"trace --from shop/client --to shop/web:80 -o name", `--output "name": write table, json or yaml`},
		{"trace --from shop/client", "name a source and a destination"},
		{"trace --from shop/client --to shop/web", "write a port from 1 to 65535"},
		{"trace --from shop/client --to shop/web:0", "write a port from 1 to 65535"},
		{"trace --from shop/client --to web:80", `--to: pod "web": write NAMESPACE/NAME`},
		{"trace --from client --to shop/web:80", `--from: pod "client": write NAMESPACE/NAME`},
		{"trace --from shop/client --to shop/web:80 --protocol icmp", `--protocol "icmp": write TCP, UDP or SCTP`},
		{"trace --from shop/client --to [fd00::1]:80 --kubeconfig /does/not/exist", "--kubeconfig"},
		{"diff", "--file: name a YAML file"},
		{"diff --file /does/not/exist", "no such file"},
		{"diff --file testdata/service.txtar", "--file testdata/service.txtar:"},
	})
}
