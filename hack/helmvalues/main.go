// Command helmvalues generates two files from the chart's values.yaml: the schema
// values.schema.json and the reference docs/reference/helm-values.md.
//
// In values.yaml, a comment starting with ## is the title of a group. Any other
// comment describes the value below it, which may be a whole map or list. Every
// value needs a comment. A comment may end in directives:
//
//	@enum a|b   the allowed values
//	@numeric    a string that may look like a number
//
// helm-docs and helm-values-schema-json together would do most of this, with two
// notations in each comment, but neither fails on a value without a comment.
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
	out := flag.String("out", ".", "output directory, with the layout of the repository")
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
