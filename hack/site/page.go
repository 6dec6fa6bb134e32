package main

import (
	"bytes"
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// markdown reads the dialect of GitHub.
var markdown = goldmark.New(goldmark.WithExtensions(extension.GFM))

// page is one Markdown file.
type page struct {
	name     string // its path, e.g. "docs/guides/aws.md"
	source   []byte
	document ast.Node
	title    string // the text of the first heading
	headings []heading
	links    []link
	faults   []fault
}

// heading is a heading with its anchor, e.g. "Add a subnet" with "add-a-subnet".
type heading struct {
	level      int
	text, slug string
	node       *ast.Heading
}

// link is a link or an image.
type link struct {
	line        int
	destination string // as written, e.g. "../adr/0012-clusterip-through-the-node.md#consequences"
	text        string
	node        ast.Node // *ast.Link or *ast.Image
}

// parsePage reads the headings and links of a page.
func parsePage(name string, source []byte) *page {
	p := &page{name: name, source: source, document: markdown.Parser().Parse(text.NewReader(source))}
	taken := map[string]int{}
	_ = ast.Walk(p.document, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			words := p.textOf(n)
			p.headings = append(p.headings, heading{n.Level, words, unique(slugOf(words), taken), n})
		case *ast.Link:
			p.links = append(p.links, link{p.lineOf(n), string(n.Destination), p.textOf(n), n})
		case *ast.Image:
			p.links = append(p.links, link{p.lineOf(n), string(n.Destination), p.textOf(n), n})
		case *ast.HTMLBlock:
			p.allow(n, string(n.Lines().Value(source)))
		case *ast.RawHTML:
			p.allow(n, string(n.Segments.Value(source)))
		}
		return ast.WalkContinue, nil
	})
	p.title = strings.TrimSuffix(path.Base(name), ".md")
	if len(p.headings) > 0 {
		p.title = p.headings[0].text
	}
	return p
}

// allow reports HTML in a page, except comments: the site leaves it out.
func (p *page) allow(n ast.Node, html string) {
	if html = strings.TrimSpace(html); strings.HasPrefix(html, "<!--") {
		return
	}
	p.faults = append(p.faults, fault{p.name, p.lineOf(n), fmt.Sprintf("HTML %q; write Markdown, or put it into backticks", html)})
}

// textOf returns the text below a node without its markup.
func (p *page) textOf(n ast.Node) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		switch n := n.(type) {
		case *ast.Text:
			if entering {
				b.Write(n.Segment.Value(p.source))
				if n.SoftLineBreak() {
					b.WriteByte(' ')
				}
			}
		case *ast.String:
			if entering {
				b.Write(n.Value)
			}
		case *ast.AutoLink:
			if entering {
				b.Write(n.Label(p.source))
			}
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// lineOf returns the line of the block with a node.
func (p *page) lineOf(n ast.Node) int {
	for ; n != nil; n = n.Parent() {
		if n.Type() != ast.TypeInline && n.Lines() != nil && n.Lines().Len() > 0 {
			return 1 + bytes.Count(p.source[:n.Lines().At(0).Start], []byte("\n"))
		}
		if t, ok := n.FirstChild().(*ast.Text); ok {
			return 1 + bytes.Count(p.source[:t.Segment.Start], []byte("\n"))
		}
	}
	return 1
}

// slugOf returns the anchor that GitHub gives to a heading: "Amazon EKS (beta)" becomes "amazon-eks-beta".
func slugOf(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), unicode.IsMark(r), r == '-', r == '_':
			b.WriteRune(r)
		case r == ' ':
			b.WriteByte('-')
		}
	}
	return b.String()
}

// unique numbers equal anchors like GitHub: "example", "example-1", "example-2".
func unique(slug string, taken map[string]int) string {
	n := taken[slug]
	taken[slug]++
	if n > 0 {
		return fmt.Sprintf("%s-%d", slug, n)
	}
	return slug
}

// has reports whether the page has an anchor.
func (p *page) has(anchor string) bool {
	for _, h := range p.headings {
		if h.slug == anchor {
			return true
		}
	}
	return false
}

// target splits the destination of a link into the path in the repository, and the anchor. An external link, e.g. to
// https://kubernetes.io, has no path.
func (p *page) target(destination string) (name, anchor string, external bool) {
	parsed, err := url.Parse(destination)
	if err != nil {
		return destination, "", false
	}
	if parsed.Scheme != "" || parsed.Host != "" {
		return "", "", true
	}
	if parsed.Path == "" {
		return p.name, parsed.Fragment, false
	}
	return path.Join(path.Dir(p.name), parsed.Path), parsed.Fragment, false
}
