package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"
)

// TestPolicyTables plays testdata/policy.txtar: a section is named after the arguments of a command.
func TestPolicyTables(t *testing.T) {
	const file = "testdata/policy.txtar"
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var p *policies
	var changed *policyBuilder
	got := &txtar.Archive{Comment: archive.Comment}
	for _, section := range archive.Files {
		fields := strings.Fields(section.Name)
		var out bytes.Buffer
		err = nil
		switch fields[0] {
		case "cluster":
			p = policiesOf(t, section.Data)
			out.Write(section.Data)
		case "file":
			content, _, _ := bytes.Cut(section.Data, []byte("error: "))
			changed, err = parsePolicies(content, "shop")
			out.Write(content)
		case "show":
			err = printShow(&out, p, fields[1])
		case "trace":
			err = printTrace(&out, p, fields[1:])
		case "diff":
			err = showPolicyDiff(&out, p.diff(changed), "table")
		default:
			t.Fatalf("section %q", section.Name)
		}
		if err != nil {
			fmt.Fprintf(&out, "error: %v\n", err)
		}
		got.Files = append(got.Files, txtar.File{Name: section.Name, Data: out.Bytes()})
	}
	if text := txtar.Format(got); *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(text, txtar.Format(archive)) {
		t.Errorf("%s differs; run with -update and read it. Got:\n%s", file, text)
	}
}

func printShow(out io.Writer, p *policies, pod string) error {
	name, err := podName(pod)
	if err != nil {
		return err
	}
	view, err := p.show(name)
	if err != nil {
		return err
	}
	return showPodPolicy(out, view, "table")
}

func printTrace(out io.Writer, p *policies, args []string) error {
	asked, err := parseQuestion(args[0], args[1], args[2])
	if err != nil {
		return err
	}
	traces, err := p.trace(asked)
	if err != nil {
		return err
	}
	return showTraces(out, traces, "table")
}

// policiesOf reads a YAML stream.
func policiesOf(t *testing.T, stream []byte) *policies {
	t.Helper()
	var b policyBuilder
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return b.build()
		}
		var meta metav1.TypeMeta
		if err := errors.Join(err, yaml.Unmarshal(document, &meta)); err != nil {
			t.Fatal(err)
		}
		switch meta.Kind {
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
		case "ClusterNetworkPolicy":
			var object npv1beta1.ClusterNetworkPolicy
			parse(t, document, &object)
			b.addClusterPolicy(&object)
		}
	}
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
	if err := showTraces(&out, traces, "json"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 2 || got[0].Allowed || got[0].To != "10.6.0.1 (shop/web)" || got[1].Port != 80 {
		t.Errorf("got %+v (%v)", got, err)
	}
}

func TestPolicyArguments(t *testing.T) {
	for _, tc := range []struct{ command, want string }{
		{"show web", `pod "web": write NAMESPACE/NAME`},
		{"show shop/web -o yaml", `"yaml": write table or json`},
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
	} {
		t.Run(tc.command, func(t *testing.T) {
			cmd := newRoot()
			cmd.SetArgs(append([]string{"policy"}, strings.Fields(tc.command)...))
			if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
