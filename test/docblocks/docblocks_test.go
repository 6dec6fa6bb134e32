package docblocks

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBlocksOfPage(t *testing.T) {
	const page = "# Title\n\n    make a\n\n    make b\n\n1. item\n\n   ```yaml\n   a: 1\n     b: 2\n   ```\n\n       etcdutl x\n\n- text\n  goes on\n\n" +
		"<!-- from: x.txtar -->\n```text\nno\n```\n\nEnd\n"
	want := []Block{
		{"p.md", 3, "", "make a\n\nmake b\n", "# Title"},
		{"p.md", 10, "yaml", "a: 1\n  b: 2\n", "1. item"},
		{"p.md", 14, "", "etcdutl x\n", ""},
		{"p.md", 21, "text", "no\n", "<!-- from: x.txtar -->"},
	}
	if diff := cmp.Diff(want, blocksOf("p.md", page)); diff != "" {
		t.Error(diff)
	}
}

func TestCommandsOfBlock(t *testing.T) {
	for name, c := range map[string]struct {
		block Block
		want  [][]string
	}{
		"continuation": {Block{Language: "bash", Code: "helm install x \\\n  --set a='b c'\n"}, [][]string{{"helm", "install", "x", "--set", "a=b c"}}},
		"console":      {Block{Language: "console", Code: "$ kubectl get pods    # all\nNAME\n$ a | b && c\n"}, [][]string{{"kubectl", "get", "pods"}, {"a"}, {"b"}, {"c"}}},
		"heredoc":      {Block{Language: "bash", Code: "cat <<EOF | kubectl apply -f -\nkind: Pod\nEOF\nmake x\n"}, [][]string{{"cat"}, {"EOF"}, {"kubectl", "apply", "-f", "-"}, {"make", "x"}}},
		"substitution": {Block{Code: "source <(spiderpoolctl completion bash)\n"}, [][]string{{"source"}, {"spiderpoolctl", "completion", "bash"}}},
		"other":        {Block{Language: "yaml", Code: "make x\n"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got [][]string
			for _, command := range c.block.Commands() {
				got = append(got, command.Words)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := (Block{Code: "cat <<EOF | kubectl apply -f -\nkind: Pod\nEOF\n"}).Manifests(); len(got) != 1 || got[0] != "kind: Pod\n" {
		t.Errorf("manifests: %q", got)
	}
}

func TestProgramOfCommand(t *testing.T) {
	for text, want := range map[string][]string{
		"sudo spiderpoolctl node":                           {"node"},
		"bin/spiderpoolctl status --wait":                   {"status", "--wait"},
		"kubectl -n x exec pod -- spiderpoolctl node":       {"node"},
		"KUBECONFIG=x spiderpoolctl status":                 {"status"},
		"kubectl get pods":                                  nil,
		"kubectl logs -n kube-system deployment/spiderpool": nil,
	} {
		got, _ := Command{Words: Split(text)[0]}.Program("spiderpoolctl")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestBlockComparesPrintedLines(t *testing.T) {
	b := Block{Page: "p.md", Line: 3, Code: "pod … waits\n10.1.0.1 (full)\n", Above: "<!-- output: full of a_test.go -->"}
	if name, file, ok := b.Output(); name != "full" || file != "a_test.go" || !ok {
		t.Errorf("got %q, %q, %t", name, file, ok)
	}
	for printed, want := range map[string]string{
		"pod a waits: 10.1.0.1 (full)\n": "",
		"10.1.0.1 (full)\npod a waits\n": "p.md:4: the program does not print, after the lines above: 10.1.0.1 (full)",
		"pod a runs":                     "p.md:3: the program does not print, after the lines above: pod … waits",
	} {
		err := b.compare(printed)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", printed, err, want)
		}
	}
	if err := Shows("no-such-output", ""); err == nil {
		t.Error("a missing block is no error")
	}
}
