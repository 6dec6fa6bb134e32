package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// notCommands are words after the name of the program in messages that are about the program itself.
var notCommands = []string{"of", "is", "in", "and", "that", "can", "%s", "%"}

// TestMessagesNameRealCommands looks at each spiderpoolctl command in the strings of our programs and of the chart: it exists, and has the
// flags that follow. It also demands what the command does: the one for a node runs in its agent, reclaim takes --dry-run, and without --force,
// the controller releases only what would end soon.
func TestMessagesNameRealCommands(t *testing.T) {
	t.Setenv(nodeVariable, "")
	checked := 0
	for place, text := range messages(t) {
		for _, words := range mentioned(text) {
			if slices.Contains(notCommands, words[0]) {
				continue
			}
			checked++
			if fault := misnamed(words, strings.Contains(place, "internal/cli/")); fault != "" {
				t.Errorf("%s: spiderpoolctl %s: %s", place, strings.Join(words, " "), fault)
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d commands checked", checked)
	}
}

// messages returns the strings of the programs and of the chart by their place. The pages and help texts have tests of their own.
func messages(t *testing.T) map[string]string {
	t.Helper()
	found, files := map[string]string{}, token.NewFileSet()
	for _, root := range []string{"../../internal", "../../api", "../../cmd", "../../charts/spiderpool/templates"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "testdata") {
				return err
			}
			if !strings.HasSuffix(path, ".go") {
				content, err := os.ReadFile(path)
				found[path] = string(content)
				return err
			}
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil {
						found[files.Position(literal.Pos()).String()] = text
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// command finds the words after the name of the program, up to the end of the sentence.
var command = regexp.MustCompile(`spiderpoolctl ((?:[-a-zA-Z0-9%./:"]+ ?)+)`)

func mentioned(text string) (all [][]string) {
	for _, match := range command.FindAllStringSubmatch(strings.ReplaceAll(text, "\n", " "), -1) {
		all = append(all, strings.Fields(match[1]))
	}
	return all
}

// misnamed returns the fault of a command in a sentence, "" for none. Words after the command and its flags may go on with the sentence.
func misnamed(words []string, help bool) string {
	cmd, rest := newRoot(), words
	for len(rest) > 0 {
		name := strings.TrimRight(rest[0], ".:")
		k := slices.IndexFunc(cmd.Commands(), func(sub *cobra.Command) bool { return sub.Name() == name })
		if k < 0 {
			break
		}
		cmd, rest = cmd.Commands()[k], rest[1:]
	}
	if !cmd.HasParent() {
		return "no such command"
	}
	if cmd.Name() == "release" && len(rest) > 0 && rest[0] == "%s" && (len(rest) == 1 || !strings.HasPrefix(rest[1], "--force")) {
		return "a retained address whose owner may come back needs --force"
	}
	if cmd.Name() == "node" && !help && !strings.HasPrefix(strings.Join(rest, " "), "in ") {
		return "it runs in the agent of the node only; say so"
	}
	if cmd.Name() == "reclaim" && len(rest) > 0 && rest[0] != "--dry-run" {
		return "it needs --dry-run"
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(nil); err != nil { // adds the flags of all commands
		return err.Error()
	}
	for _, word := range rest {
		name, isFlag := strings.CutPrefix(strings.TrimRight(word, ".:"), "--")
		name, _, _ = strings.Cut(name, "=")
		name = strings.TrimSuffix(name, "%s")
		if isFlag && cmd.Flags().Lookup(name) == nil {
			return "no flag --" + name
		}
	}
	return ""
}

func TestMisnamedCommandsAreFound(t *testing.T) {
	t.Setenv(nodeVariable, "")
	for text, want := range map[string]string{
		"spiderpoolctl pool usage web names the workloads":       "",
		"spiderpoolctl check --repair makes it look now":         "",
		"run spiderpoolctl release %s --force, and try again":    "",
		"run spiderpoolctl release %s":                           "needs --force",
		"spiderpoolctl chek tells why":                           "no such command",
		"spiderpoolctl check --repare makes it look now":         "no flag --repare",
		"spiderpoolctl pool list names the full ones":            "",
		"spiderpoolctl node shows the runtime":                   "in the agent",
		"spiderpoolctl node in that agent shows the runtime":     "",
		"spiderpoolctl node show %s":                             "",
		"spiderpoolctl reclaim names them":                       "--dry-run",
		"run spiderpoolctl capacity --node NODE for the reasons": "",
	} {
		words := mentioned(text)
		if len(words) != 1 {
			t.Fatalf("%q has %d commands", text, len(words))
		}
		if got := misnamed(words[0], false); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
