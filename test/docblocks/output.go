package docblocks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

var spaces = regexp.MustCompile(` +`)

// outputMarker is the line above a block with the output of a program. The file of a test names the output.
var outputMarker = regexp.MustCompile(`^<!-- output: (\S+) of (\S+) -->$`)

// Output returns the name of the output that the block shows, and the file of a test that compares it. ok is false for other blocks.
func (b Block) Output() (name, file string, ok bool) {
	m := outputMarker.FindStringSubmatch(b.Above)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// Shows compares what a program printed with the pages. The block below "<!-- output: pool-full of FILE -->" shows the output
// pool-full: each of its lines is in the printed text, in the same order. "…" in the block stands for values that differ in each
// run, e.g. a UID, and a space for spaces of any number, because columns of a table are as wide as their longest value.
func Shows(name, printed string) error {
	blocks, err := pages()
	if err != nil {
		return err
	}
	for _, b := range blocks {
		if shown, _, ok := b.Output(); ok && shown == name {
			return b.compare(printed)
		}
	}
	return fmt.Errorf("no page has a block below <!-- output: %s of FILE -->", name)
}

// pages reads the blocks of all pages once: a test may compare again and again until a condition holds.
var pages = sync.OnceValues(func() ([]Block, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	return Read(root)
})

// compare returns the first line of the block that the printed text lacks.
func (b Block) compare(printed string) error {
	rest := printed
	for i, line := range strings.Split(strings.TrimRight(b.Code, "\n"), "\n") {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(line)), "…", ".*")
		found := regexp.MustCompile(spaces.ReplaceAllString(pattern, " +")).FindStringIndex(rest)
		if found == nil {
			return fmt.Errorf("%s:%d: the program does not print, after the lines above: %s\nit prints:\n%s", b.Page, b.Line+i, line, printed)
		}
		rest = rest[found[1]:]
	}
	return nil
}

// moduleRoot returns the nearest directory with the pages, from the working directory upwards.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "docs", "guides")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("neither this directory nor one above it has docs/guides")
		}
		dir = parent
	}
}
