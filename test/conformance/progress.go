package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// progress reads Ginkgo's output and writes one line for each completed test.
type progress struct {
	out   io.Writer
	line  []byte // the incomplete line
	mark  string // mark, duration and result of the test that the next line names
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

// read handles one line. A completed test has a line with a mark, its duration and,
// unless it passed, its result. Its name follows.
func (p *progress) read(line string) {
	switch {
	case strings.HasPrefix(line, "• ["), strings.HasPrefix(line, "S ["):
		p.mark = line
	case p.mark != "" && strings.HasPrefix(line, "[sig-"):
		p.ended++
		fmt.Fprintf(p.out, " %3d %s %s\n", p.ended, p.mark, line)
		p.mark = ""
	}
}
