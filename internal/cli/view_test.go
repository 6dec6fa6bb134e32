package cli

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// threeAtNight is the time of the golden outputs.
func threeAtNight() time.Time { return time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC) }

func TestViewArguments(t *testing.T) {
	refuses(t, "ip", []testCase{
		{"who", "accepts 1 arg(s)"},
		{"who web-0", `"web-0" is neither an address nor a MAC address: write e.g. 10.6.0.21`},
		{"who 10.6.0.1 -o xml", `--output "xml": write table, wide, json, yaml or name`},
		{"list blue", "unknown command"},
		{"list --kubeconfig /does/not/exist", "--kubeconfig"},
	})
	refuses(t, "pod", []testCase{
		{"explain web-0", `pod "web-0": write NAMESPACE/NAME`},
		{"explain shop/web-0 -o csv", `--output "csv"`},
		{"explain shop/web-0 --kubeconfig /does/not/exist", "--kubeconfig"},
	})
	refuses(t, "check", []testCase{{"blue", "unknown command"}, {"-o csv", `--output "csv"`}, {"--kubeconfig /does/not/exist", "--kubeconfig"}})
	refuses(t, "reclaim", []testCase{{"", "add --dry-run: agents and the controller reclaim by themselves"}, {"--dry-run -o csv", `--output "csv"`}})
	refuses(t, "release", []testCase{{"", "accepts 1 arg(s)"}, {"web-0", `"web-0" is no address: write e.g. 10.6.0.21`}, {"10.6.0.4 -o csv", `--output "csv"`}})
	refuses(t, "pool", []testCase{
		{"show", "accepts 1 arg(s)"},
		{"usage", "accepts 1 arg(s)"},
		{"list -o csv", `--output "csv"`},
		{"show blue --kubeconfig /does/not/exist", "--kubeconfig"},
	})
	refuses(t, "node", []testCase{
		{"show", "accepts 1 arg(s)"},
		{"show n1 -o csv", `--output "csv"`},
		{"show n1 --kubeconfig /does/not/exist", "--kubeconfig"},
	})
	refuses(t, "capacity", []testCase{
		{"--pods 0", "--pods 0: write a number from 1"},
		{"--selector a=b=c", `--selector "a=b=c": write labels, e.g. app=web`},
		{"-o csv", `--output "csv"`},
		{"--kubeconfig /does/not/exist", "--kubeconfig"},
	})
	for _, command := range []string{"status", "preflight"} {
		refuses(t, command, []testCase{
			{"-o name", `--output "name": write table, json or yaml`},
			{"all", "unknown command"},
			{"--kubeconfig /does/not/exist", "--kubeconfig"},
		})
	}
}

func TestPluginHelpSaysKubectl(t *testing.T) {
	root := newRoot()
	asPlugin(root)
	var out strings.Builder
	root.SetOut(&out)
	root.SetArgs([]string{"ip", "who", "--help"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "kubectl spiderpool ip who ADDRESS|MAC [flags]") || strings.Contains(out.String(), "spiderpoolctl") {
		t.Errorf("got\n%s", out.String())
	}
}

func TestEveryCommandHasExample(t *testing.T) {
	for _, cmd := range allCommands(newRoot()) {
		if cmd.Runnable() && (cmd.Example == "" || cmd.Long == "") {
			t.Errorf("%s has no example or no long help", cmd.CommandPath())
		}
	}
}

func TestExitCodesTellFindingsFromErrors(t *testing.T) {
	for err, want := range map[error]int{nil: 0, errFound: 1, errors.Join(nil, errFound): 1, io.EOF: 2} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: got %d, want %d", err, got, want)
		}
	}
}

func allCommands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		all = append(all, allCommands(sub)...)
	}
	return all
}
