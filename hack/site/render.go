package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/yuin/goldmark/ast"
)

//go:embed assets
var assets embed.FS

// icon is the picture of the chart. The site has it as icon.svg, the address in Chart.yaml.
const icon = "charts/spiderpool/icon.svg"

var layout = template.Must(template.ParseFS(assets, "assets/layout.html"))

// view is the input of the layout: one page of the site.
type view struct {
	Title, Language, Root string // Root leads to the top of the site, e.g. "../.."
	Body                  template.HTML
	Sections              []viewSection
	Outline               []viewLink // headings of levels 2 and 3
	Previous, Next        *viewLink
	Other                 *viewLink // the page in the other language
}

type viewSection struct {
	Title string
	Open  bool
	Links []viewLink
}

type viewLink struct {
	Title, URL, Language string
	Current              bool
	Level                int
}

// render returns the files of the site by path.
func (t *tree) render(sections []section) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, asset := range []string{"site.css", "site.js"} {
		content, err := assets.ReadFile("assets/" + asset)
		if err != nil {
			return nil, err
		}
		files[asset] = content
	}
	content, _, err := t.read(icon)
	if err != nil {
		return nil, err
	}
	files["icon.svg"] = content
	sources := map[string]bool{}
	var index []indexed
	for _, name := range t.paths() {
		if !published(name) {
			continue
		}
		p := t.pages[name]
		index = append(index, t.index(p)...)
		body, err := t.body(p, sources)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		v := view{Title: p.title, Language: languageOf(p), Body: body, Outline: outline(p)}
		if other, language := t.translation(name); other != "" {
			v.Other = &viewLink{Title: language, URL: between(t.address(name), t.address(other)), Language: languageOf(t.pages[other])}
		}
		if files[t.address(name)], err = t.layOut(v, t.address(name), name, sections); err != nil {
			return nil, err
		}
	}
	for name := range sources {
		if slices.Contains([]string{".png", ".jpg"}, path.Ext(name)) {
			content, _, err := t.read(name)
			if err != nil {
				return nil, err
			}
			files[name] = content // a screenshot, shown as it is
			continue
		}
		body, err := t.listing(name, sources)
		if err != nil {
			return nil, err
		}
		if files[t.address(name)], err = t.layOut(view{Title: name, Language: "en", Body: body}, t.address(name), name, sections); err != nil {
			return nil, err
		}
	}
	words, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	files["search.js"] = slices.Concat([]byte("window.searchIndex="), words, []byte(";\n"))
	return files, nil
}

// layOut puts a page into the layout. at is its file on the site, name its file in the repository.
func (t *tree) layOut(v view, at, name string, sections []section) ([]byte, error) {
	v.Root = between(at, ".")
	var all []viewLink
	for _, s := range sections {
		shown := viewSection{Title: s.title}
		for _, e := range s.entries {
			l := viewLink{Title: e.title, URL: between(at, t.address(e.name)), Current: e.name == name}
			shown.Open = shown.Open || l.Current
			shown.Links = append(shown.Links, l)
			all = append(all, l)
		}
		v.Sections = append(v.Sections, shown)
	}
	if i := slices.IndexFunc(all, func(l viewLink) bool { return l.Current }); i >= 0 {
		if i > 0 {
			v.Previous = &all[i-1]
		}
		if i+1 < len(all) {
			v.Next = &all[i+1]
		}
	}
	var b bytes.Buffer
	err := layout.Execute(&b, v)
	return b.Bytes(), err
}

// outline returns the headings for the list beside the text.
func outline(p *page) (links []viewLink) {
	for _, h := range p.headings {
		if h.level == 2 || h.level == 3 {
			links = append(links, viewLink{Title: h.text, URL: "#" + h.slug, Level: h.level})
		}
	}
	return links
}

// body returns the HTML of a page with links to the files of the site, and notes the linked sources.
func (t *tree) body(p *page, sources map[string]bool) (template.HTML, error) {
	for _, h := range p.headings {
		h.node.SetAttributeString("id", []byte(h.slug))
		anchor := ast.NewLink()
		anchor.Destination, anchor.Title = []byte("#"+h.slug), []byte("Link to this section")
		anchor.SetAttributeString("class", []byte("anchor"))
		anchor.AppendChild(anchor, ast.NewString([]byte("#")))
		h.node.AppendChild(h.node, anchor)
	}
	for _, l := range p.links {
		name, anchor, external := p.target(l.destination)
		if external {
			continue
		}
		if image, ok := l.node.(*ast.Image); ok {
			if path.Ext(name) != ".svg" {
				image.Destination = []byte(between(t.address(p.name), name))
				sources[name] = true
				continue
			}
			picture, err := t.picture(name, l.text)
			if err != nil {
				return "", err
			}
			inline := ast.NewString(picture)
			inline.SetRaw(true)
			inline.SetCode(true)
			image.Parent().ReplaceChild(image.Parent(), image, inline)
			continue
		}
		url := between(t.address(p.name), t.address(name))
		if t.pages[name] == nil && t.pages[path.Join(name, "README.md")] == nil {
			sources[name] = true
		}
		if anchor != "" {
			url += "#" + anchor
		}
		if node, ok := l.node.(*ast.Link); ok {
			node.Destination = []byte(url)
		}
	}
	var b bytes.Buffer
	if err := markdown.Renderer().Render(&b, p.source, p.document); err != nil {
		return "", err
	}
	// A wide table or code block scrolls by itself, also by keyboard.
	html := strings.NewReplacer(
		"<table>", `<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>`, "</table>", "</table></div>",
		"<pre>", `<pre tabindex="0">`, "<!-- raw HTML omitted -->", "",
	).Replace(b.String())
	return template.HTML(html), nil
}

// picture returns an SVG file for use within a page, where it follows the colors of the page.
func (t *tree) picture(name, alternative string) ([]byte, error) {
	content, _, err := t.read(name)
	if err != nil {
		return nil, err
	}
	return bytes.Replace(content, []byte("<svg "), []byte(`<svg role="img" aria-label="`+template.HTMLEscapeString(alternative)+`" `), 1), nil
}

// listing returns the page of a linked source: its text, or the files of a directory.
func (t *tree) listing(name string, sources map[string]bool) (template.HTML, error) {
	content, directory, err := t.read(name)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<h1>%s</h1>\n", template.HTMLEscapeString(name))
	if !directory {
		if !utf8.Valid(content) {
			content = []byte("This file has no text.")
		}
		fmt.Fprintf(&b, "<pre tabindex=\"0\"><code>%s</code></pre>\n", template.HTMLEscapeString(string(content)))
		return template.HTML(b.String()), nil
	}
	children, err := os.ReadDir(filepath.Join(t.root, filepath.FromSlash(name)))
	if err != nil {
		return "", err
	}
	b.WriteString("<ul>\n")
	for _, child := range children {
		label, inner := template.HTMLEscapeString(child.Name()), path.Join(name, child.Name())
		if sources[inner] || t.pages[inner] != nil {
			label = fmt.Sprintf(`<a href="%s">%s</a>`, template.HTMLEscapeString(between(t.address(name), t.address(inner))), label)
		}
		fmt.Fprintf(&b, "<li>%s</li>\n", label)
	}
	b.WriteString("</ul>\n")
	return template.HTML(b.String()), nil
}

// indexed is a section of a page for the search: u is its address, p the page, h the heading, t the text.
type indexed struct {
	URL     string `json:"u"`
	Page    string `json:"p"`
	Heading string `json:"h"`
	Text    string `json:"t"`
}

// index returns the sections of a page.
func (t *tree) index(p *page) (sections []indexed) {
	current := indexed{URL: t.address(p.name), Page: p.title, Heading: p.title}
	var words []string
	end := func() {
		current.Text = strings.Join(strings.Fields(strings.Join(words, " ")), " ")
		if sections = append(sections, current); current.Text == "" {
			sections = sections[:len(sections)-1]
		}
		words = nil
	}
	for n := p.document.FirstChild(); n != nil; n = n.NextSibling() {
		if h, ok := n.(*ast.Heading); ok && h.Level > 1 {
			end()
			at := slices.IndexFunc(p.headings, func(known heading) bool { return known.node == h })
			current = indexed{URL: t.address(p.name) + "#" + p.headings[at].slug, Page: p.title, Heading: p.headings[at].text}
			continue
		}
		words = append(words, p.plain(n))
	}
	end()
	return sections
}

// plain returns the text of a block, code included.
func (p *page) plain(n ast.Node) string {
	var words []string
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		switch n := n.(type) {
		case *ast.Text:
			if entering {
				words = append(words, string(n.Segment.Value(p.source)))
			}
		case *ast.CodeBlock, *ast.FencedCodeBlock:
			if entering {
				words = append(words, string(n.Lines().Value(p.source)))
			}
		}
		return ast.WalkContinue, nil
	})
	return strings.Join(words, " ")
}

// write replaces a directory by the files of the site.
func write(out string, files map[string][]byte) error {
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(out, "search.js")); err != nil {
			return fmt.Errorf("%s has other files than a site; name an empty directory", out)
		}
		if err := os.RemoveAll(out); err != nil {
			return err
		}
	}
	for name, content := range files {
		file := filepath.Join(out, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
