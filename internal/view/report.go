package view

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is the result of a check.
type Verdict string

// Verdicts. A Warning does not keep an installation from working.
const (
	OK      Verdict = "OK"
	Warning Verdict = "WARN"
	Failure Verdict = "FAIL"
)

// Check is one finding of a report.
type Check struct {
	Subject string  `json:"subject"` // e.g. "agents"
	Verdict Verdict `json:"verdict"`
	Finding string  `json:"finding"`
	// Remedy is the way out, "" for OK.
	Remedy string `json:"remedy,omitempty"`
}

// Report has the checks of an installation or of a cluster.
type Report struct {
	// Release is the release of the program that checked.
	Release string  `json:"release"`
	Checks  []Check `json:"checks"`
}

// Failures returns the failed checks.
func (r Report) Failures() []Check {
	return slices.DeleteFunc(slices.Clone(r.Checks), func(c Check) bool { return c.Verdict != Failure })
}

func (r *Report) ok(subject, format string, args ...any) {
	r.Checks = append(r.Checks, Check{Subject: subject, Verdict: OK, Finding: fmt.Sprintf(format, args...)})
}

func (r *Report) warn(subject, finding, remedy string) {
	r.Checks = append(r.Checks, Check{subject, Warning, finding, remedy})
}

func (r *Report) fail(subject, finding, remedy string) {
	r.Checks = append(r.Checks, Check{subject, Failure, finding, remedy})
}

// maxNamed is the number of objects that one finding names, and of findings about objects of one kind.
const maxNamed = 10

// some returns the first names, e.g. "n1, n2 and 3 more".
func some(names []string) string {
	text := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if more := len(names) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// plural returns e.g. "1 node" or "2 nodes".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
