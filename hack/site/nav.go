package main

import (
	"fmt"
	"path"
	"strings"
	"unicode"

	"github.com/yuin/goldmark/ast"
)

// contents is the page with the list of all pages. Its headings and lists are the navigation of the site.
const contents = "docs/README.md"

// section is a heading of the contents with its pages.
type section struct {
	title   string
	entries []entry
}

// entry is a page in the navigation.
type entry struct{ title, name string }

// navigation reads the contents. It reports each page below docs that the contents lack; a page is also listed if the
// README of its own directory links to it, e.g. the decisions in docs/adr.
func (t *tree) navigation() (sections []section, found faults) {
	p := t.pages[contents]
	if p == nil {
		return nil, faults{{contents, 1, "the page does not exist; it lists the pages of the site"}}
	}
	listed := map[string]bool{contents: true}
	for n := p.document.FirstChild(); n != nil; n = n.NextSibling() {
		switch n := n.(type) {
		case *ast.Heading:
			if n.Level == 2 {
				sections = append(sections, section{title: p.textOf(n)})
			}
		case *ast.List:
			if len(sections) == 0 {
				break
			}
			for item := n.FirstChild(); item != nil; item = item.NextSibling() {
				if e, ok := t.firstLink(p, item); ok {
					last := &sections[len(sections)-1]
					last.entries = append(last.entries, e)
				}
			}
		}
	}
	for _, l := range p.links {
		name, _, _ := p.target(l.destination)
		listed[name] = true
	}
	for _, name := range t.paths() {
		if !strings.HasPrefix(name, "docs/") || listed[name] || t.listedBeside(name) {
			continue
		}
		found = append(found, fault{name, 1, fmt.Sprintf("no list leads to this page; add it to %s, the navigation of the site", contents)})
	}
	return sections, found
}

// firstLink returns the page of the first link in a list item.
func (t *tree) firstLink(p *page, item ast.Node) (e entry, ok bool) {
	_ = ast.Walk(item, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		link, is := n.(*ast.Link)
		if !is || !entering {
			return ast.WalkContinue, nil
		}
		name, _, external := p.target(string(link.Destination))
		if !external && t.pages[name] != nil {
			e, ok = entry{p.textOf(link), name}, true
		}
		return ast.WalkStop, nil
	})
	return e, ok
}

// listedBeside reports whether the README of the page's directory links to it.
func (t *tree) listedBeside(name string) bool {
	readme := t.pages[path.Join(path.Dir(name), "README.md")]
	if readme == nil {
		return false
	}
	for _, l := range readme.links {
		if to, _, _ := readme.target(l.destination); to == name {
			return true
		}
	}
	return false
}

// translation returns the same page in the other language, e.g. docs/guides/aws.zh.md for docs/guides/aws.md.
func (t *tree) translation(name string) (other, language string) {
	if english, ok := strings.CutSuffix(name, ".zh.md"); ok {
		return english + ".md", "English"
	}
	if chinese := strings.TrimSuffix(name, ".md") + ".zh.md"; t.pages[chinese] != nil {
		return chinese, "中文"
	}
	return "", ""
}

// languageOf returns the language of a page for screen readers and browsers.
func languageOf(p *page) string {
	if strings.HasSuffix(p.name, ".zh.md") || strings.ContainsFunc(p.title, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
		return "zh-CN"
	}
	return "en"
}
