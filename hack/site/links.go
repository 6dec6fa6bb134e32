package main

import (
	"fmt"
	"strings"
)

// fault is one mistake in one line of a page.
type fault struct {
	page string
	line int
	text string
}

// faults is an error with one line for each fault.
type faults []fault

func (f faults) Error() string {
	var b strings.Builder
	for _, one := range f {
		fmt.Fprintf(&b, "%s:%d: %s\n", one.page, one.line, one.text)
	}
	fmt.Fprintf(&b, "site: %d faults in Markdown files", len(f))
	return b.String()
}

// check returns the links of all pages whose file or anchor does not exist.
func (t *tree) check() (found faults) {
	for _, name := range t.paths() {
		p := t.pages[name]
		found = append(found, p.faults...)
		for _, l := range p.links {
			if reason := t.broken(p, l); reason != "" {
				found = append(found, fault{name, l.line, reason})
			}
		}
	}
	return found
}

// broken returns the fault of a link, "" for none.
func (t *tree) broken(p *page, l link) string {
	name, anchor, external := p.target(l.destination)
	if external {
		return ""
	}
	if strings.HasPrefix(name, "../") {
		return fmt.Sprintf("the link %q leaves the repository; link to a file in it", l.destination)
	}
	if _, _, err := t.read(name); err != nil {
		return fmt.Sprintf("the link %q names no file; correct the path", l.destination)
	}
	to := t.pages[name]
	switch {
	case anchor == "":
		return ""
	case to == nil:
		return fmt.Sprintf("the link %q has an anchor, and %s is no Markdown page; leave the anchor out", l.destination, name)
	case !to.has(anchor):
		return fmt.Sprintf("the link %q names no heading of %s; it has %s", l.destination, name, strings.Join(to.anchors(), ", "))
	}
	return ""
}

// anchors returns the anchors of a page in order.
func (p *page) anchors() (all []string) {
	for _, h := range p.headings {
		all = append(all, "#"+h.slug)
	}
	return all
}
