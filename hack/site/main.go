// Command site builds the documentation site from the Markdown files of the repository:
//
//	site --out bin/site     # check all links, and write the site
//	site                    # check all links only
//
// The site mirrors the tree: docs/guides/aws.md becomes docs/guides/aws.html, and README.md becomes index.html. So the
// relative links of the files hold on GitHub and on the site, from a web server, below any path, and from the disk.
// Linked sources become pages, too, so no page of the site needs the network. The navigation is the list in docs/README.md.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	root := flag.String("root", ".", "directory of the repository")
	out := flag.String("out", "", "directory to write, e.g. bin/site; it is replaced. Empty: check only")
	flag.Parse()
	if err := run(*root, *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run checks the links of all pages and, with out, writes the site there.
func run(root, out string) error {
	t, err := readTree(root)
	if err != nil {
		return err
	}
	faults := t.check()
	sections, more := t.navigation()
	if faults = append(faults, more...); len(faults) > 0 {
		return faults
	}
	if out == "" {
		return nil
	}
	files, err := t.render(sections)
	if err != nil {
		return err
	}
	if err := write(out, files); err != nil {
		return err
	}
	fmt.Printf("%s: %d files; open %s/index.html\n", out, len(files), out)
	return nil
}
