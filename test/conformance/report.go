package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// suite is the part of a suite in Ginkgo's JSON report that we need.
type suite struct {
	PreRunStats struct{ SpecsThatWillRun int }
	SpecReports []spec
}

// spec is a test, or a node that runs before or after all tests.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	NumAttempts             int
	Failure                 struct{ Message string }
}

// isTest reports whether the spec is a test.
func (s spec) isTest() bool { return s.LeafNodeType == "It" }

func (s spec) name() string {
	if !s.isTest() {
		return s.LeafNodeType
	}
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

// verdict is the result of the chosen tests.
type verdict struct {
	chosen, passed  int
	failed, skipped []string // each with name and reason
}

// judge reads Ginkgo's JSON report.
func judge(report []byte) (verdict, error) {
	var suites []suite
	if err := json.Unmarshal(report, &suites); err != nil {
		return verdict{}, fmt.Errorf("parse Ginkgo's report: %w", err)
	}
	var v verdict
	for _, suite := range suites {
		v.chosen += suite.PreRunStats.SpecsThatWillRun
		for _, s := range suite.SpecReports {
			v.add(s)
		}
	}
	return v, nil
}

func (v *verdict) add(s spec) {
	reason := s.name() + "\n" + beginning(s.Failure.Message)
	switch s.State {
	case "passed":
		if s.isTest() {
			v.passed++
		}
	case "skipped", "pending":
		// Tests outside the choice are "skipped" too, but have no attempts.
		if s.NumAttempts > 0 {
			v.skipped = append(v.skipped, reason)
		}
	default: // failed, timed out, panicked, interrupted, aborted
		v.failed = append(v.failed, reason)
	}
}

// beginning shortens a long message; the log has all of it.
func beginning(message string) string {
	const lines, columns = 8, 300
	parts := strings.SplitN(message, "\n", lines+1)
	for i, part := range parts {
		parts[i] = part[:min(len(part), columns)]
	}
	return strings.Join(parts[:min(len(parts), lines)], "\n")
}

// err returns an error unless all chosen tests ran and none failed.
func (v verdict) err() error {
	switch {
	case v.chosen == 0:
		return errors.New("no test was chosen")
	case len(v.failed) > 0:
		return fmt.Errorf("%d failed", len(v.failed))
	case v.passed+len(v.skipped) < v.chosen:
		return fmt.Errorf("%d of %d tests did not run", v.chosen-v.passed-len(v.skipped), v.chosen)
	}
	return nil
}

// write lists the tests that did not pass, with reasons, and counts.
func (v verdict) write(out io.Writer) {
	for _, list := range []struct {
		title   string
		reasons []string
	}{{"FAILED ", v.failed}, {"SKIPPED ", v.skipped}} {
		for _, reason := range list.reasons {
			fmt.Fprintln(out, list.title+strings.ReplaceAll(strings.TrimSpace(reason), "\n", "\n    "))
		}
	}
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped, of %d\n", v.passed, len(v.failed), len(v.skipped), v.chosen)
}
