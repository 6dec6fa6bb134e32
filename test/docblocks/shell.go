package docblocks

import (
	"slices"
	"strings"
)

// Command is one simple command of a block or of a text in backticks.
type Command struct {
	Page  string
	Line  int
	Words []string // without quotes, e.g. ["helm", "install", "spiderpool"]
}

// shells are the languages of blocks with commands. Indented blocks have commands, too.
var shells = []string{"", "bash", "sh", "shell", "console"}

// Commands returns the commands of the block. In a console, only lines after "$ " are commands.
func (b Block) Commands() (commands []Command) {
	if !slices.Contains(shells, b.Language) {
		return nil
	}
	console := b.Language == "console" || strings.HasPrefix(b.Code, "$ ")
	var joined, end string
	start := 0
	for i, line := range strings.Split(b.Code, "\n") {
		text, prompt := strings.CutPrefix(line, "$ ")
		switch {
		case end != "":
			if strings.TrimSpace(line) == end {
				end = ""
			}
			continue
		case console && !prompt && joined == "":
			continue
		case joined == "":
			start = i
		}
		if rest, more := strings.CutSuffix(text, `\`); more {
			joined += rest
			continue
		}
		for _, words := range Split(joined + text) {
			commands = append(commands, Command{b.Page, b.Line + start, words})
		}
		end, joined = heredocEnd(joined+text), ""
	}
	return commands
}

// heredocs returns the texts that the block pipes into commands.
func (b Block) heredocs() (texts []string) {
	var end, text string
	for line := range strings.SplitSeq(b.Code, "\n") {
		switch {
		case end == "":
			end, text = heredocEnd(line), ""
		case strings.TrimSpace(line) == end:
			texts, end = append(texts, text), ""
		default:
			text += line + "\n"
		}
	}
	return texts
}

// Manifests returns the YAML documents of the block: those of a block of YAML, and those that it pipes into kubectl.
func (b Block) Manifests() (documents []string) {
	texts := b.heredocs()
	if b.Language == "yaml" {
		texts = append(texts, b.Code)
	}
	for _, text := range texts {
		documents = append(documents, strings.Split(text, "\n---\n")...)
	}
	return documents
}

// heredocEnd returns the word that ends the text after a line with "<<WORD", "" without one.
func heredocEnd(line string) string {
	_, after, ok := strings.Cut(line, "<<")
	if !ok {
		return ""
	}
	word, _, _ := strings.Cut(strings.TrimLeft(after, "-"), " ")
	return strings.Trim(word, `'"`)
}

// Inline returns the commands in backticks of a page that begin with one of the programs.
func Inline(page, content string, programs ...string) (commands []Command) {
	for i, line := range strings.Split(content, "\n") {
		for j, text := range strings.Split(line, "`") {
			program, _, _ := strings.Cut(text, " ")
			if j%2 == 0 || !slices.Contains(programs, program) {
				continue
			}
			for _, words := range Split(text) {
				commands = append(commands, Command{page, i + 1, words})
			}
		}
	}
	return commands
}

// Split returns the simple commands of a line of shell: it knows quotes, comments, and the operators between commands.
func Split(line string) (commands [][]string) {
	var words []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	endWord := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	escaped := false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			inWord, escaped = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			inWord, quote = true, r
		case r == '#' && !inWord:
			endCommand()
			return commands
		case r == ' ' || r == '\t':
			endWord()
		case strings.ContainsRune("|&;()<>", r):
			endCommand()
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	endCommand()
	return commands
}

// Program returns the arguments of a program that the command runs, also behind sudo, a directory, or
// "kubectl exec … --", and false if it runs another one.
func (c Command) Program(name string) (arguments []string, ok bool) {
	words := c.Words
	if i := slices.Index(words, "--"); i >= 0 && slices.Contains(words[:i], "exec") {
		words = words[i+1:]
	}
	for len(words) > 0 && (words[0] == "sudo" || strings.Contains(words[0], "=") && !strings.HasPrefix(words[0], "-")) {
		words = words[1:]
	}
	if len(words) == 0 || words[0] != name && words[0] != "bin/"+name {
		return nil, false
	}
	return words[1:], true
}
