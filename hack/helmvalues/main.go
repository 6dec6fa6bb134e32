// Command helmvalues writes what follows from the chart's values.yaml: the
// schema values.schema.json and the reference docs/reference/helm-values.md.
//
// In values.yaml a comment that begins with ## titles a group; any other comment
// describes the value below it, which may be a map or a list as a whole. Every
// value has one. Directives stand at the end of a comment:
//
//	@enum a|b   the value is one of these
//	@numeric    text that may look like a number
//	@closed     a group, and the groups below it, have no other keys
//	@open       the opposite, below a closed group
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

const (
	valuesFile = "charts/spiderpool/values.yaml"
	schemaFile = "charts/spiderpool/values.schema.json"
	docsFile   = "docs/reference/helm-values.md"
)

func main() {
	out := flag.String("out", ".", "directory to write into, laid out as the repository")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "helmvalues:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	raw, err := os.ReadFile(valuesFile)
	if err != nil {
		return err
	}
	root, err := parse(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", valuesFile, err)
	}
	schema, err := root.schema()
	if err != nil {
		return err
	}
	for file, content := range map[string][]byte{schemaFile: schema, docsFile: root.docs()} {
		path := filepath.Join(out, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
