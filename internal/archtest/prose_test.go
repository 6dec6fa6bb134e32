package archtest

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
	"unicode"
)

// passage is prose of one file: lines read together, such as a comment or a paragraph.
type passage struct {
	file  string
	lines []proseLine
}

type proseLine struct {
	number int
	text   string
}

// text joins the lines with single spaces, so that a pattern matches across a line break.
func (p passage) text() string {
	texts := make([]string, len(p.lines))
	for i, l := range p.lines {
		texts[i] = l.text
	}
	return strings.Join(texts, " ")
}

// lineAt returns the number of the line that holds the byte at offset of text.
func (p passage) lineAt(offset int) int {
	for _, l := range p.lines {
		if offset <= len(l.text) {
			return l.number
		}
		offset -= len(l.text) + 1
	}
	return 0
}

// collector gathers the passages of one file. An empty line ends a passage.
type collector struct {
	file     string
	passages []passage
	open     []proseLine
}

// add appends a line to the open passage. Lines with Chinese text count as empty.
func (c *collector) add(number int, text string) {
	text = strings.Join(strings.Fields(text), " ")
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
		c.end()
		return
	}
	c.open = append(c.open, proseLine{number, text})
}

func (c *collector) end() {
	if len(c.open) > 0 {
		c.passages = append(c.passages, passage{c.file, c.open})
		c.open = nil
	}
}

// readTree returns the prose of every file below root. It skips generated files, testdata and directories
// without sources of this repository.
func readTree(root string) ([]passage, error) {
	var all []passage
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && path != root && (skippedDirectory(name) || name == "crds"):
			return filepath.SkipDir
		case !d.Type().IsRegular() || proseReader(name) == nil:
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		passages, err := readProse(relative, string(content))
		all = append(all, passages...)
		return err
	})
	return all, err
}

// skippedDirectory reports whether a directory holds no sources written by hand.
func skippedDirectory(name string) bool {
	return strings.HasPrefix(name, ".") || slices.Contains([]string{"bin", "testdata", "node_modules", "vendor"}, name)
}

// readProse returns the passages of one file.
func readProse(file, content string) ([]passage, error) {
	c := &collector{file: file}
	err := proseReader(filepath.Base(file))(c, content)
	c.end()
	return c.passages, err
}

// proseReader returns the function that knows the comments and strings of a file, nil for a file without prose.
func proseReader(name string) func(c *collector, content string) error {
	switch filepath.Ext(name) {
	case ".go":
		return readGo
	case ".md":
		return byLine(markdownLines())
	case ".yaml", ".tpl":
		return byLine(templateLines())
	case ".sh":
		return byLine(shellLine)
	}
	switch name {
	case "Makefile":
		return byLine(shellLine)
	case "NOTES.txt":
		return byLine(func(line string) string { return line })
	}
	return nil
}

// byLine reads a file line by line; prose returns the prose of a line, empty for a line without any.
func byLine(prose func(line string) string) func(*collector, string) error {
	return func(c *collector, content string) error {
		for i, line := range strings.Split(content, "\n") {
			text, starts := strings.CutPrefix(prose(line), newPassage)
			if starts {
				c.end()
			}
			c.add(i+1, text)
		}
		return nil
	}
}

// newPassage, at the start of the prose of a line, separates it from the line before, for example a list item.
const newPassage = "\x00"

var (
	markdownItem  = regexp.MustCompile(`^\s*([-*+]|\d+\.) `)
	markdownStart = regexp.MustCompile(`^\s*([-*+]|\d+\.|#+|\||>) ?`)
	linkTarget    = regexp.MustCompile(`\]\([^)]*\)|https?://\S+`)
)

// markdownLines drops code blocks, fenced or indented by four spaces outside a list, and the targets of links.
func markdownLines() func(line string) string {
	var fenced, inList bool
	blank := true
	return func(line string) string {
		trimmed := strings.TrimSpace(line)
		indented := strings.HasPrefix(line, "    ")
		switch {
		case strings.HasPrefix(trimmed, "```"):
			fenced = !fenced
			return ""
		case fenced:
			return ""
		case trimmed == "":
			blank = true
			return ""
		case indented && blank && !inList:
			return "" // blank stays true: the next indented line is code too
		case markdownItem.MatchString(line):
			inList = true
		case !indented && blank:
			inList = false
		}
		blank = false
		text := linkTarget.ReplaceAllString(line, "]")
		if start := markdownStart.FindString(text); start != "" {
			return newPassage + text[len(start):]
		}
		return text
	}
}

var (
	yamlText        = regexp.MustCompile(`^\s*(?:- )?(?:description|message|summary|title): *["']?(.*?)["']?$`)
	wholeComment    = regexp.MustCompile(`^\s*#+ +(.*)`)
	trailingComment = regexp.MustCompile(`\s# +(.*)`)
	makeHelp        = regexp.MustCompile(`^##@ (.*)|^[\w./%$() -]+:.*## (.*)`)
	shellMessage    = regexp.MustCompile(`\b(?:echo|say|fail|die|printf)\b[^"']*(?:"([^"]*)"|'([^']*)')`)
)

// templateLines keeps the comments and descriptions of YAML and of Helm templates.
func templateLines() func(line string) string {
	inComment := false
	return func(line string) string {
		_, after, opens := strings.Cut(line, "{{/*")
		if !opens {
			_, after, opens = strings.Cut(line, "{{- /*")
		}
		if opens || inComment {
			if !opens {
				after = line
			}
			text, _, closes := strings.Cut(after, "*/")
			inComment = !closes
			return text
		}
		return scriptProse(line, yamlText)
	}
}

// shellLine keeps comments, messages and the help texts of a Makefile.
func shellLine(line string) string {
	if strings.HasPrefix(line, "#!") {
		return ""
	}
	return scriptProse(line, makeHelp, shellMessage)
}

// scriptProse returns a comment, else the first match of the patterns. Comments on lines of their own belong together.
func scriptProse(line string, patterns ...*regexp.Regexp) string {
	if text := firstGroup(line, wholeComment); text != "" {
		return text
	}
	return newPassage + firstGroup(line, append(patterns, trailingComment)...)
}

// firstGroup returns the first group that is not empty of the first pattern that matches.
func firstGroup(line string, patterns ...*regexp.Regexp) string {
	for _, pattern := range patterns {
		for i, group := range pattern.FindStringSubmatch(line) {
			if i > 0 && group != "" {
				return group
			}
		}
	}
	return ""
}

// readGo takes the comments and the string literals of at least three words.
func readGo(c *collector, content string) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, c.file, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil || ast.IsGenerated(file) {
		return err
	}
	for _, group := range file.Comments {
		for _, comment := range group.List {
			for i, line := range strings.Split(comment.Text, "\n") {
				c.add(set.Position(comment.Pos()).Line+i, commentText(line))
			}
		}
		c.end()
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field:
			n.Tag = nil
		case *ast.BinaryExpr:
			if lines, ok := concatenated(set, n); ok {
				c.addString(lines)
				return false
			}
		case *ast.BasicLit:
			c.addString(literalLines(set, n))
		}
		return true
	})
	return nil
}

var (
	directive     = regexp.MustCompile(`^//[a-z]+:`)
	marker        = regexp.MustCompile(`^// ?\+\w`)
	markerMessage = regexp.MustCompile(`message="([^"]*)"`)
)

// commentText strips the comment signs. It drops code, directives and markers but for their messages.
func commentText(line string) string {
	switch {
	case directive.MatchString(line):
		return ""
	case marker.MatchString(line):
		return firstGroup(line, markerMessage)
	case strings.HasPrefix(line, "//\t"):
		return ""
	}
	line = strings.TrimPrefix(strings.TrimPrefix(line, "//"), "/*")
	return strings.TrimSuffix(line, "*/")
}

// concatenated returns the text of a sum with at least one string literal; other operands become an ellipsis.
func concatenated(set *token.FileSet, sum *ast.BinaryExpr) (lines []proseLine, ok bool) {
	if sum.Op != token.ADD {
		return nil, false
	}
	for _, operand := range []ast.Expr{sum.X, sum.Y} {
		switch operand := operand.(type) {
		case *ast.BasicLit:
			if operand.Kind == token.STRING {
				lines, ok = append(lines, literalLines(set, operand)...), true
			}
			continue
		case *ast.BinaryExpr:
			if inner, found := concatenated(set, operand); found {
				lines, ok = append(lines, inner...), true
				continue
			}
		}
		lines = append(lines, proseLine{set.Position(operand.Pos()).Line, "…"})
	}
	return lines, ok
}

// literalLines returns the lines of a string, nil for another literal.
func literalLines(set *token.FileSet, literal *ast.BasicLit) []proseLine {
	value, err := strconv.Unquote(literal.Value)
	if literal.Kind != token.STRING || err != nil {
		return nil
	}
	number := set.Position(literal.Pos()).Line
	var lines []proseLine
	for i, text := range strings.Split(value, "\n") {
		if literal.Value[0] == '`' {
			lines = append(lines, proseLine{number + i, text})
		} else {
			lines = append(lines, proseLine{number, text})
		}
	}
	return lines
}

// addString adds the text of a string with at least three words. Of a long text, such as a manifest in a test,
// only the lines with three words count.
func (c *collector) addString(lines []proseLine) {
	const longText = 5
	for _, l := range lines {
		if len(lines) >= longText && plainWords(l.text) < 3 {
			l.text = ""
		}
		c.add(l.number, l.text)
	}
	if plainWords(passage{lines: c.open}.text()) < 3 {
		c.open = nil
	}
	c.end()
}

var plainWord = regexp.MustCompile(`^[("'\x60]*[A-Za-z][A-Za-z'’/-]*[.,;:!?)"'\x60]*$`)

func plainWords(text string) int {
	n := 0
	for _, field := range strings.Fields(text) {
		if plainWord.MatchString(field) {
			n++
		}
	}
	return n
}
