// Package docblocks reads the code blocks of the Markdown pages, so that tests can check them: manifests, commands,
// and messages quoted from other files.
package docblocks

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Block is one code block.
type Block struct {
	Page     string // path below the root, e.g. "docs/guides/aws.md"
	Line     int    // line of the first line of the code
	Language string // after the fence, e.g. "yaml"; empty for an indented block
	Code     string // without the indentation of the block
	Above    string // the last line of text before the block, e.g. "<!-- from: test/scenarios/gc.txtar -->"
}

// Pages returns the Markdown files below root, without inputs of tests.
func Pages(root string) (pages []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(name, ".") || slices.Contains([]string{"bin", "dist", "testdata", "node_modules"}, name)):
			return filepath.SkipDir
		case !d.IsDir() && filepath.Ext(name) == ".md":
			relative, err := filepath.Rel(root, path)
			pages = append(pages, filepath.ToSlash(relative))
			return err
		}
		return nil
	})
	return pages, err
}

// Read returns the code blocks of all pages below root.
func Read(root string) (blocks []Block, err error) {
	pages, err := Pages(root)
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		content, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, blocksOf(page, string(content))...)
	}
	return blocks, nil
}

var (
	fence    = regexp.MustCompile("^( *)```(\\S*)")
	listItem = regexp.MustCompile(`^( *)([-*+]|\d+\.) `)
)

// reader collects the blocks of a page line by line.
type reader struct {
	page    string
	blocks  []Block
	open    *Block // the block under way
	indent  int    // of its lines
	fenced  bool
	list    int // indentation of text in the present list, 0 outside
	blank   bool
	above   string
	pending int // blank lines that belong to an indented block if it goes on
}

func blocksOf(page, content string) []Block {
	r := &reader{page: page, blank: true}
	for i, line := range strings.Split(content, "\n") {
		r.add(i+1, line)
	}
	r.end()
	return r.blocks
}

func (r *reader) add(number int, line string) {
	indent := len(line) - len(strings.TrimLeft(line, " "))
	empty := strings.TrimSpace(line) == ""
	marker := fence.FindStringSubmatch(line)
	switch {
	case r.fenced && marker != nil:
		r.end()
	case r.fenced:
		r.append(line)
	case marker != nil:
		r.end()
		r.begin(Block{Page: r.page, Line: number + 1, Language: marker[2], Above: r.above}, len(marker[1]))
		r.fenced = true
	case empty:
		r.blank = true
		r.pending++
		return
	case r.open != nil && indent >= r.indent, r.blank && indent >= r.list+4 && !listItem.MatchString(line):
		if r.open == nil {
			r.begin(Block{Page: r.page, Line: number, Above: r.above}, r.list+4)
			r.pending = 0
		}
		for range r.pending {
			r.append("")
		}
		r.append(line)
	default:
		r.end()
		r.text(line, indent)
	}
	r.blank, r.pending = false, 0
}

// text notes the list and the last line of text before a block.
func (r *reader) text(line string, indent int) {
	if item := listItem.FindString(line); item != "" {
		r.list = len(item)
	} else if r.blank && indent < r.list {
		r.list = indent
	}
	r.above = strings.TrimSpace(line)
}

func (r *reader) begin(b Block, indent int) { r.open, r.indent = &b, indent }

func (r *reader) append(line string) {
	r.open.Code += line[min(r.indent, len(line)-len(strings.TrimLeft(line, " "))):] + "\n"
}

func (r *reader) end() {
	if r.open != nil {
		r.blocks = append(r.blocks, *r.open)
		r.above = ""
	}
	r.open, r.fenced = nil, false
}
