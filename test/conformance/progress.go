package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// progress reads the output of e2e.test and writes one line for each completed test.
type progress struct {
	out   io.Writer
	line  []byte // the incomplete line
	test  string // the running test
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

// read handles one line. A test begins with its name. It ends with a mark, its duration
// and, unless it passed, its result.
func (p *progress) read(line string) {
	switch {
	case strings.HasPrefix(line, "[sig-"):
		p.test, _, _ = strings.Cut(line, " [Conformance]")
	case strings.HasPrefix(line, "• ["), strings.HasPrefix(line, "S ["):
		p.ended++
		fmt.Fprintf(p.out, "  %2d %s %s\n", p.ended, line, p.test)
	}
}
