package main

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// tree is the repository: its Markdown pages, and the files and directories that links may name.
type tree struct {
	root  string
	pages map[string]*page // by path, e.g. "docs/guides/aws.md"
}

// skipped are the directories without sources. Those of testdata hold inputs of tests, which may have broken links.
var skipped = []string{".git", "bin", "dist", "testdata", "node_modules"}

// readTree parses every Markdown file below root.
func readTree(root string) (*tree, error) {
	t := &tree{root: root, pages: map[string]*page{}}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != root && slices.Contains(skipped, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(file) != ".md":
			return nil
		}
		relative, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(relative)
		t.pages[name] = parsePage(name, source)
		return nil
	})
	return t, err
}

// paths returns the paths of the pages in order.
func (t *tree) paths() []string { return slices.Sorted(maps.Keys(t.pages)) }

// published reports whether a page is on the site. The forms of GitHub are checked only.
func published(name string) bool { return !strings.HasPrefix(name, ".github/") }

// read returns the content of a file, and whether the path exists and is a directory.
func (t *tree) read(name string) (content []byte, directory bool, err error) {
	file := filepath.Join(t.root, filepath.FromSlash(name))
	state, err := os.Stat(file)
	if err != nil {
		return nil, false, err
	}
	if state.IsDir() {
		return nil, true, nil
	}
	content, err = os.ReadFile(file)
	return content, false, err
}

// address returns the file of the site that shows a file or directory of the repository.
func (t *tree) address(name string) string {
	switch {
	case t.pages[name] != nil && path.Base(name) == "README.md":
		return path.Join(path.Dir(name), "index.html")
	case t.pages[name] != nil:
		return strings.TrimSuffix(name, ".md") + ".html"
	case t.pages[path.Join(name, "README.md")] != nil:
		return path.Join(name, "index.html")
	}
	return path.Join("source", name) + ".html"
}

// between returns the relative link from one file of the site to another one.
func between(from, to string) string {
	relative, err := filepath.Rel(path.Dir(from), to)
	if err != nil {
		return to
	}
	return filepath.ToSlash(relative)
}
