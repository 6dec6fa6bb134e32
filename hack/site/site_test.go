package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// treeOf writes files to a directory and reads them.
func treeOf(t *testing.T, files map[string]string) *tree {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read, err := readTree(root)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func TestFaultsNameLineAndWayOut(t *testing.T) {
	for name, c := range map[string]struct{ page, want string }{
		"missing file":      {"a\n\n[x](b.md)\n", `docs/a.md:3: the link "b.md" names no file; correct the path`},
		"missing anchor":    {"# Top\n\n[x](#bottom)\n", `docs/a.md:3: the link "#bottom" names no heading of docs/a.md; it has #top`},
		"anchor of source":  {"[x](../go.mod#L3)\n", `docs/a.md:1: the link "../go.mod#L3" has an anchor, and go.mod is no Markdown page; leave the anchor out`},
		"outside":           {"[x](../../etc)\n", `docs/a.md:1: the link "../../etc" leaves the repository; link to a file in it`},
		"missing picture":   {"![x](p.svg)\n", `docs/a.md:1: the link "p.svg" names no file; correct the path`},
		"link in a table":   {"| a |\n| --- |\n| [x](b.md) |\n", `docs/a.md:3: the link "b.md" names no file; correct the path`},
		"HTML":              {"one<br>two\n", `docs/a.md:1: HTML "<br>"; write Markdown, or put it into backticks`},
		"comment":           {"<!-- from: x -->\ntext\n", ""},
		"right anchor":      {"## One `code` (two)\n\n[x](#one-code-two)\n", ""},
		"second equal":      {"## Same\n\n## Same\n\n[x](#same-1)\n", ""},
		"Chinese heading":   {"## 安装 Spiderpool\n\n[x](#安装-spiderpool)\n", ""},
		"external":          {"[x](https://example.com/b.md#c)\n", ""},
		"in a code block":   {"```\n[x](b.md)\n```\n", ""},
		"page without list": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			found := treeOf(t, map[string]string{"docs/a.md": c.page, "go.mod": ""}).check()
			got := ""
			if len(found) > 0 {
				got, _, _ = strings.Cut(found.Error(), "\n")
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestUnlistedPageIsAFault(t *testing.T) {
	tree := treeOf(t, map[string]string{
		"docs/README.md":     "# Contents\n\n## Start\n\n- [A](a.md), first\n- [Decisions](adr/README.md)\n",
		"docs/a.md":          "# A",
		"docs/b.md":          "# B",
		"docs/adr/README.md": "[one](0001.md)",
		"docs/adr/0001.md":   "# One",
	})
	sections, found := tree.navigation()
	want := "docs/b.md:1: no list leads to this page; add it to docs/README.md, the navigation of the site\nsite: 1 faults in Markdown files"
	if found.Error() != want {
		t.Errorf("got %q, want %q", found.Error(), want)
	}
	if len(sections) != 1 || len(sections[0].entries) != 2 || sections[0].entries[1].name != "docs/adr/README.md" {
		t.Errorf("the navigation is %v", sections)
	}
}

// repository returns the files of the real site.
func repository(t *testing.T) map[string][]byte {
	t.Helper()
	tree, err := readTree(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	sections, found := tree.navigation()
	if found = append(found, tree.check()...); len(found) > 0 {
		t.Fatal(found)
	}
	files, err := tree.render(sections)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var (
	reference = regexp.MustCompile(`<(a|link|script|img|iframe|source)\b[^>]*?\b(?:href|src)="([^"]*)"`)
	anchorID  = regexp.MustCompile(` id="([^"]*)"`)
)

// Every page of the site works from file:// and below any path: its references are relative files of the site with
// their anchors, and only a click leads outside.
func TestSiteIsCompleteAndLocal(t *testing.T) {
	files := repository(t)
	ids := map[string][]string{}
	for name, content := range files {
		for _, id := range anchorID.FindAllSubmatch(content, -1) {
			ids[name] = append(ids[name], string(id[1]))
		}
	}
	for name, content := range files {
		if strings.HasSuffix(name, ".js") {
			continue
		}
		if regexp.MustCompile(`(?i)@import|url\(`).Match(content) && !strings.HasPrefix(name, "source/") && strings.HasSuffix(name, ".css") {
			t.Errorf("%s loads another file", name)
		}
		for _, found := range reference.FindAllSubmatch(content, -1) {
			element, target := string(found[1]), string(found[2])
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				if element != "a" {
					t.Errorf("%s: <%s> loads %s", name, element, target)
				}
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			to := filepath.Join(filepath.Dir(name), file)
			if file == "" {
				to = name
			}
			if files[to] == nil {
				t.Errorf("%s: <%s> names %s, and the site has no such file", name, element, target)
			} else if anchor != "" && !slices.Contains(ids[to], anchor) && !slices.Contains(ids[to], unescaped(anchor)) {
				t.Errorf("%s: %s has no anchor %s", name, to, anchor)
			}
		}
	}
}

// unescaped undoes the percent encoding of an anchor with Chinese text.
func unescaped(anchor string) string {
	p := &page{name: "x.md"}
	_, text, _ := p.target("#" + anchor)
	return text
}

// The chart names pages of the site. They are on it, at the same address.
func TestSiteHasAddressesOfChart(t *testing.T) {
	files := repository(t)
	const site = "https://spiderpool.dev/"
	found := 0
	for _, name := range []string{"Chart.yaml", "values.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "charts", "spiderpool", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range regexp.MustCompile(site+`[^\s"]+`).FindAllString(string(text), -1) {
			found++
			file := strings.TrimPrefix(address, site)
			if strings.HasSuffix(file, "/") {
				file += "index.html"
			}
			if files[file] == nil {
				t.Errorf("%s names %s, and the site has no %s", name, address, file)
			}
		}
	}
	if found < 3 {
		t.Errorf("found %d addresses, want those of the icon, the documentation and the runbooks", found)
	}
}

func TestSameTreeGivesSameSite(t *testing.T) {
	first, second := repository(t), repository(t)
	if !maps.EqualFunc(first, second, func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Error("two builds of one tree differ")
	}
}

func TestGuideSwitchesLanguage(t *testing.T) {
	files := repository(t)
	for file, want := range map[string]string{
		"docs/guides/aws.html":    `<a href="aws.zh.html" lang="zh-CN" hreflang="zh-CN">中文</a>`,
		"docs/guides/aws.zh.html": `<a href="aws.html" lang="en" hreflang="en">English</a>`,
	} {
		if !strings.Contains(string(files[file]), want) {
			t.Errorf("%s lacks %s", file, want)
		}
	}
	if !strings.Contains(string(files["docs/guides/aws.zh.html"]), `<html lang="zh-CN">`) {
		t.Error("the Chinese page does not say its language")
	}
}

func TestForeignDirectoryIsNotReplaced(t *testing.T) {
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "thesis.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := write(out, map[string][]byte{"index.html": nil}); err == nil || !strings.Contains(err.Error(), "name an empty directory") {
		t.Errorf("the error is %v", err)
	}
}
