package main

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
)

// report returns a JSON report of Ginkgo with the specs, with that many chosen.
func report(chosen string, specs ...string) []byte {
	return []byte(`[{"PreRunStats": {"TotalSpecs": 7000, "SpecsThatWillRun": ` + chosen + `},
		"SpecReports": [` + strings.Join(specs, ",") + `]}]`)
}

const (
	setUp    = `{"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed", "NumAttempts": 1}`
	notSetUp = `{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed", "NumAttempts": 1, "Failure": {"Message": "no node is ready"}}`
	passed   = `{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "resolves",
		"State": "passed", "NumAttempts": 1}`
	failed = `{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "answers",
		"State": "timedout", "NumAttempts": 1, "Failure": {"Message": "no answer"}}`
	skipped = `{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "runs on Windows",
		"State": "skipped", "NumAttempts": 1, "Failure": {"Message": "not Windows"}}`
	notChosen = `{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeText": "start",
		"State": "skipped", "NumAttempts": 0}`
)

func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, says, err string
		report          []byte
	}{
		{"all pass", "1 passed, 0 failed, 0 skipped, of 1", "", report("1", setUp, passed, notChosen)},
		{"one skipped at run time", "SKIPPED [sig-network] DNS runs on Windows\n    not Windows\n", "", report("2", setUp, passed, skipped)},
		{"one failed", "FAILED [sig-network] DNS answers\n    no answer\n", "1 failed", report("2", setUp, passed, failed)},
		{"nothing began", "FAILED SynchronizedBeforeSuite\n    no node is ready\n", "1 failed", report("2", notSetUp)},
		{"it ended early", "1 passed, 0 failed, 0 skipped, of 2", "1 of 2 tests did not run", report("2", setUp, passed)},
		{"none was chosen", "0 passed", "no test was chosen", report("0", notChosen)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v, err := judge(test.report)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			v.write(&out)
			if !strings.Contains(out.String(), test.says) {
				t.Errorf("wrote:\n%swant it to contain %q", out.String(), test.says)
			}
			got := ""
			if err := v.err(); err != nil {
				got = err.Error()
			}
			if got != test.err {
				t.Errorf("error %q, want %q", got, test.err)
			}
		})
	}
	v, err := judge(report("1", strings.ReplaceAll(failed, "no answer", strings.Repeat("no answer\\n", 100))))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(v.failed[0], "\n"); lines > 10 {
		t.Errorf("a reason of 100 lines takes %d lines", lines)
	}
	if v, err := judge([]byte("{")); err == nil {
		t.Errorf("judge accepted half a report: %+v", v)
	}
}

func TestProgressNamesEachEndedTest(t *testing.T) {
	t.Parallel()
	const log = `Will run 2 of 7579 specs
------------------------------
• [4.278 seconds]
[sig-network] DNS should provide DNS for the cluster [Conformance] [sig-network, Conformance]
k8s.io/kubernetes@v1.36.3/test/e2e/network/dns.go:54
  STEP: Creating a kubernetes client
------------------------------
• [FAILED] [9.096 seconds]
[sig-network] Services [It] should serve a basic endpoint from pods [Conformance] [sig-network, Conformance]
  [sig-network] is no name here
`
	const want = `   1 • [4.278 seconds] [sig-network] DNS should provide DNS for the cluster [Conformance] [sig-network, Conformance]
   2 • [FAILED] [9.096 seconds] [sig-network] Services [It] should serve a basic endpoint from pods [Conformance] [sig-network, Conformance]
`
	var out strings.Builder
	p := &progress{out: &out}
	for _, part := range []string{log[:100], log[100:]} {
		if _, err := p.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != want {
		t.Errorf("progress:\n%swant:\n%s", out.String(), want)
	}
}

func TestFlagsReplaceDefaultsOfSet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		set, mode string
		nodes     int
		want      choice
		err       string
	}{
		{"conformance", "", 0, choice{labels: "sig-network && Conformance", serviceMode: "kubeproxy", nodes: 2, topology: "l2"}, ""},
		{"services", "", 0, choice{labels: sets["services"].labels, skip: sets["services"].skip, serviceMode: "ebpf", nodes: 3, topology: "l2"}, ""},
		{"services", "kubeproxy", 6, choice{labels: sets["services"].labels, skip: sets["services"].skip, serviceMode: "kubeproxy", nodes: 6, topology: "l2"}, ""},
		{"dns", "", 0, choice{}, `unknown set "dns": want conformance, services or policy`},
	} {
		got, err := choose(test.set, "", test.mode, test.nodes, "l2")
		if said := fmt.Sprint(err); said != cmp.Or(test.err, "<nil>") {
			t.Errorf("%+v: error %v", test, err)
		}
		if got != test.want {
			t.Errorf("%+v: got %+v", test, got)
		}
	}
}

func TestGoTestsAreJudged(t *testing.T) {
	t.Parallel()
	const report = `{"Action":"run","Test":"TestClusterNetworkPolicy"}
{"Action":"run","Test":"TestClusterNetworkPolicy/Gress"}
{"Action":"run","Test":"TestClusterNetworkPolicy/Gress/deny"}
{"Action":"output","Test":"TestClusterNetworkPolicy/Gress/deny","Output":"=== RUN   TestClusterNetworkPolicy/Gress/deny\n"}
{"Action":"output","Test":"TestClusterNetworkPolicy/Gress/deny","Output":"    helper.go:99: expected a timeout\n"}
{"Action":"output","Test":"TestClusterNetworkPolicy/Gress/deny","Output":"    helper.go:99: expected a timeout\n"}
{"Action":"fail","Test":"TestClusterNetworkPolicy/Gress/deny"}
{"Action":"fail","Test":"TestClusterNetworkPolicy/Gress"}
{"Action":"run","Test":"TestClusterNetworkPolicy/NodePeers"}
{"Action":"output","Test":"TestClusterNetworkPolicy/NodePeers","Output":"    suite.go:9: not supported\n"}
{"Action":"skip","Test":"TestClusterNetworkPolicy/NodePeers"}
{"Action":"run","Test":"TestClusterNetworkPolicy/Priority"}
{"Action":"pass","Test":"TestClusterNetworkPolicy/Priority"}
{"Action":"fail","Test":"TestClusterNetworkPolicy"}
`
	v, err := judgeGoTest([]byte(report))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	v.write(&out)
	const want = `FAILED Gress
    helper.go:99: expected a timeout
SKIPPED NodePeers
    suite.go:9: not supported

1 passed, 1 failed, 1 skipped, of 3
`
	if out.String() != want {
		t.Errorf("wrote:\n%swant:\n%s", out.String(), want)
	}
	// Nothing began.
	v, err = judgeGoTest([]byte(`{"Action":"output","Test":"TestClusterNetworkPolicy","Output":"no pod is ready\n"}
{"Action":"fail","Test":"TestClusterNetworkPolicy"}
`))
	if err != nil || len(v.failed) != 1 || !strings.Contains(v.failed[0], "no pod is ready") {
		t.Errorf("got %+v, %v", v, err)
	}
	if v, err := judgeGoTest([]byte("{")); err == nil {
		t.Errorf("judgeGoTest accepted half a report: %+v", v)
	}
}
