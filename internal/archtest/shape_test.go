package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// parsedFile is a Go file and its length.
type parsedFile struct {
	*ast.File
	set   *token.FileSet
	lines int
}

func parse(t *testing.T, path string) parsedFile {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return parsedFile{file, set, set.File(file.Pos()).LineCount()}
}

const (
	maxFile     = 500
	maxTestFile = 700
	maxFunction = 60
)

func TestFilesAndFunctionsStayShort(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && skippedDirectory(d.Name()):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		if file := parse(t, path); !ast.IsGenerated(file.File) {
			checkLength(t, path, file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkLength(t *testing.T, path string, file parsedFile) {
	t.Helper()
	limit, isTest := maxFile, strings.HasSuffix(path, "_test.go")
	if isTest {
		limit = maxTestFile
	}
	if file.lines > limit {
		t.Errorf("%s has %d lines, more than %d: look for the seam", path, file.lines, limit)
	}
	if isTest {
		return
	}
	for _, declaration := range file.Decls {
		f, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		start := file.set.Position(f.Pos())
		if lines := file.set.Position(f.End()).Line - start.Line + 1; lines > maxFunction {
			t.Errorf("%s: %s has %d lines, more than %d: look for the seam", start, f.Name.Name, lines, maxFunction)
		}
	}
}

func TestPackageNamesAreUnique(t *testing.T) {
	paths := map[string][]string{}
	for _, p := range list(t) {
		if p.Name != "main" && !strings.HasSuffix(p.Name, "_test") {
			paths[p.Name] = append(paths[p.Name], strings.TrimPrefix(p.ImportPath, module+"/"))
		}
	}
	for name, same := range paths {
		if len(same) > 1 {
			slices.Sort(same)
			t.Errorf("package %s: one name for %s", name, strings.Join(same, ", "))
		}
	}
}
