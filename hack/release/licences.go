package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/licensecheck"
	"golang.org/x/mod/module"
)

// permitted are the licences (SPDX) of modules in our programs: none asks for more than
// its text, except MPL-2.0 for changed files, and we change none.
var permitted = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "Unlicense"}

// licences knows the licences of modules, from their files in the module cache.
type licences struct {
	modules, standardLibrary string // directories
	seen                     map[string][]string
}

func newLicences() (*licences, error) {
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 2 {
		return nil, fmt.Errorf("go env printed %q, want two directories", out)
	}
	return &licences{modules: lines[0], standardLibrary: lines[1], seen: map[string][]string{}}, nil
}

// dir returns the directory of the module's sources.
func (l *licences) dir(m debug.Module) (string, error) {
	if m.Path == standardLibrary {
		return l.standardLibrary, nil
	}
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return "", err
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return "", fmt.Errorf("module %s: %w", m.Path, err)
	}
	return filepath.Join(l.modules, path+"@"+version), nil
}

// of returns the licences (SPDX) of the module, sorted. It fails for a licence that is
// not permitted or not known.
func (l *licences) of(m debug.Module) ([]string, error) {
	dir, err := l.dir(m)
	if err != nil {
		return nil, err
	}
	if ids, ok := l.seen[dir]; ok {
		return ids, nil
	}
	files, err := licenceFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("module %s %s: %w", m.Path, m.Version, err)
	}
	found := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		coverage := licensecheck.Scan(text)
		for _, match := range coverage.Match {
			if !match.IsURL {
				found[match.ID] = true
			}
		}
	}
	ids := slices.Sorted(maps.Keys(found))
	if len(ids) == 0 {
		return nil, fmt.Errorf("module %s %s: the licence in %s is unknown", m.Path, m.Version, strings.Join(files, ", "))
	}
	for _, id := range ids {
		if !slices.Contains(permitted, id) {
			return nil, fmt.Errorf("module %s %s: the licence %s is not permitted; permitted are %s", m.Path, m.Version, id, strings.Join(permitted, ", "))
		}
	}
	l.seen[dir] = ids
	return ids, nil
}

// text returns the licences and notices of the module.
func (l *licences) text(m debug.Module) (string, error) {
	dir, err := l.dir(m)
	if err != nil {
		return "", err
	}
	files, err := licenceFiles(dir)
	if err != nil {
		return "", fmt.Errorf("module %s %s: %w", m.Path, m.Version, err)
	}
	notices, err := filepath.Glob(filepath.Join(dir, "NOTICE*"))
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, file := range append(files, notices...) {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		all.Write(text)
		all.WriteString("\n")
	}
	return all.String(), nil
}

var licenceName = regexp.MustCompile(`(?i)^(licen[cs]e|copying)([-.](apache|bsd|mit|md|txt|libyaml).*)?$`)

// licenceFiles returns the files of the directory that hold a licence.
func licenceFiles(dir string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() && licenceName.MatchString(entry.Name()) {
			files = append(files, filepath.Join(dir, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no licence", dir)
	}
	return files, nil
}

// checkLicences checks the modules of the programs in the directories, which are roots
// of Go modules.
func checkLicences(roots []string, out io.Writer) error {
	known, err := newLicences()
	if err != nil {
		return err
	}
	modules := map[debug.Module]bool{}
	for _, root := range roots {
		if err := modulesBelow(root, modules); err != nil {
			return err
		}
	}
	var failures []error
	count := map[string]int{}
	for _, m := range sortedModules(modules) {
		ids, err := known.of(m)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		count[strings.Join(ids, " AND ")]++
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(out, "%4d modules %s\n", count[id], id)
	}
	return nil
}

// modulesBelow adds the modules that the programs of the module in root use: those of
// cmd, or else its tools.
func modulesBelow(root string, modules map[debug.Module]bool) error {
	pattern := "./cmd/..."
	if _, err := os.Stat(filepath.Join(root, "cmd")); err != nil {
		pattern = "tool"
	}
	cmd := exec.Command("go", "list", "-deps", "-json=Module", pattern)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	listed, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go list in %s: %w", root, err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(listed))); ; {
		var dependency struct {
			Module *struct {
				Path, Version string
				Main          bool
				Replace       *struct{ Path, Version string }
			}
		}
		if err := decoder.Decode(&dependency); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("go list in %s: %w", root, err)
		}
		switch m := dependency.Module; {
		case m == nil || m.Main:
		case m.Replace != nil:
			modules[debug.Module{Path: m.Replace.Path, Version: m.Replace.Version}] = true
		default:
			modules[debug.Module{Path: m.Path, Version: m.Version}] = true
		}
	}
}
