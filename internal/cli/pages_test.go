package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/test/docblocks"
)

// TestPagesNameRealCommands parses every spiderpoolctl command of the Markdown pages, in code blocks and in backticks:
// the command exists, and accepts the flags and arguments.
func TestPagesNameRealCommands(t *testing.T) {
	t.Setenv(nodeVariable, "")
	const root = "../.."
	blocks, err := docblocks.Read(root)
	if err != nil {
		t.Fatal(err)
	}
	var commands []docblocks.Command
	for _, b := range blocks {
		commands = append(commands, b.Commands()...)
	}
	pages, err := docblocks.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		content, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		commands = append(commands, docblocks.Inline(page, string(content), "spiderpoolctl")...)
	}
	checked := 0
	for _, c := range commands {
		arguments, ok := c.Program("spiderpoolctl")
		if !ok || slices.ContainsFunc(arguments, func(a string) bool { return strings.ContainsAny(a, "…[") || a == "COMMAND" }) {
			continue
		}
		checked++
		if fault := refusal(arguments); fault != "" {
			t.Errorf("%s:%d: spiderpoolctl %s: %s", c.Page, c.Line, strings.Join(arguments, " "), fault)
		}
	}
	if checked < 50 {
		t.Errorf("only %d commands checked; does the test read the pages?", checked)
	}
}

// refusal returns why the program refuses the arguments, "" if it runs. A text may name a command without its
// arguments, e.g. `ip who`.
func refusal(arguments []string) string {
	root := newRoot()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(arguments)
	if err != nil {
		return err.Error()
	}
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return err.Error()
	}
	given := cmd.Flags().Args()
	if !cmd.Runnable() && len(given) > 0 {
		return "unknown command " + given[0]
	}
	if err := cmd.ValidateArgs(given); cmd.Runnable() && len(given) > 0 && err != nil {
		return err.Error()
	}
	return ""
}

func TestPagesWithUnknownCommandFail(t *testing.T) {
	t.Setenv(nodeVariable, "")
	for text, want := range map[string]string{
		"pool list":               "",
		"ip who":                  "",
		"ip who 10.6.0.1 -o json": "",
		"status --wat":            "unknown flag: --wat",
		"pool lst":                `unknown command`,
		"ip who 10.6.0.1 another": "accepts",
	} {
		if got := refusal(strings.Fields(text)); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
