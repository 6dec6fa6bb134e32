package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// progress reads what e2e.test writes and writes a line for each test that has
// ended.
type progress struct {
	out   io.Writer
	line  []byte // the one that has no end yet
	test  string // the one that runs
	ended int
}

// Write implements io.Writer.
func (p *progress) Write(text []byte) (int, error) {
	p.line = append(p.line, text...)
	for {
		line, rest, whole := bytes.Cut(p.line, []byte("\n"))
		if !whole {
			return len(text), nil
		}
		p.read(string(line))
		p.line = rest
	}
}

// read takes a line: a test begins with its name, and ends with a mark, the time
// that it took and, where it did not pass, what became of it.
func (p *progress) read(line string) {
	switch {
	case strings.HasPrefix(line, "[sig-"):
		p.test, _, _ = strings.Cut(line, " [Conformance]")
	case strings.HasPrefix(line, "• ["), strings.HasPrefix(line, "S ["):
		p.ended++
		fmt.Fprintf(p.out, "  %2d %s %s\n", p.ended, line, p.test)
	}
}
