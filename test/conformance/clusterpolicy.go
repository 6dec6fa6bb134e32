package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

const (
	policyPackage = "./test/conformance/clusterpolicy"
	// policyImage is the image of the pods. Ours is the agnhost of Kubernetes' tests.
	policyImage = "registry.k8s.io/e2e-test-images/agnhost:2.45"
	policyLog   = results + "/clusterpolicy.json"
)

// judgedClusterPolicies runs the tests of network-policy-api, and returns the verdict. images is the directory with the
// archives of the images.
func judgedClusterPolicies(ctx context.Context, lab *walk.Lab, images string, c choice, sctp bool) (v verdict, err error) {
	fmt.Print("\n== Run the tests of ClusterNetworkPolicy\n")
	if _, err := lab.Sh(ctx, fmt.Sprintf("%s image load %s/*agnhost*.tar --name %s", lab.Binary, images, policyImage)); err != nil {
		return v, err
	}
	log, err := os.Create(policyLog)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	args := []string{"test", "-tags", "e2e", "-count=1", "-timeout=90m", "-json", "-run", "TestClusterNetworkPolicy/" + c.run, policyPackage, "-args", fmt.Sprintf("-sctp=%v", sctp)}
	fmt.Printf("$ go %s\n", strings.Join(args, " "))
	inLab := []string{"-c", `eval "$("$0" env)" && exec "$@"`, lab.Binary, "go"}
	cmd := exec.CommandContext(ctx, "sh", append(inLab, args...)...)
	cmd.Dir = lab.Root
	cmd.Stdout, cmd.Stderr = log, os.Stderr
	failure := cmd.Run() // fails if a test fails; the log has the details
	content, err := os.ReadFile(filepath.Join(lab.Root, policyLog))
	if err != nil {
		return v, errors.Join(failure, err)
	}
	v, err = judgeGoTest(content)
	if err == nil && failure != nil && len(v.failed) == 0 {
		err = fmt.Errorf("the tests of ClusterNetworkPolicy: %w; see %s", failure, policyLog)
	}
	return v, err
}

// judgeGoTest reads the output of `go test -json`. A test is a direct subtest.
func judgeGoTest(report []byte) (v verdict, err error) {
	type event struct{ Action, Test, Output string }
	said := map[string][]string{} // by test
	for decoder := json.NewDecoder(bytes.NewReader(report)); ; {
		var e event
		switch err := decoder.Decode(&e); {
		case errors.Is(err, io.EOF):
			slices.Sort(v.failed)
			return v, nil
		case err != nil:
			return v, fmt.Errorf("parse the report of go test: %w", err)
		}
		parts := strings.Split(e.Test, "/")
		if len(parts) < 2 {
			if e.Action == "fail" && e.Test != "" && v.chosen == 0 {
				v.chosen, v.failed = 1, append(v.failed, e.Test+"\n"+reasonIn(said[e.Test]))
			}
			said[e.Test] = append(said[e.Test], e.Output)
			continue
		}
		name := parts[1]
		said[name] = append(said[name], e.Output)
		if len(parts) > 2 {
			continue
		}
		reason := name + "\n" + reasonIn(said[name])
		switch e.Action {
		case "run":
			v.chosen++
		case "pass":
			v.passed++
		case "fail":
			v.failed = append(v.failed, reason)
		case "skip":
			v.skipped = append(v.skipped, reason)
		}
	}
}

// reasonIn returns the lines that explain a failure or a skip, at most a few.
func reasonIn(output []string) string {
	var lines []string
	for _, line := range output {
		line = strings.TrimSpace(line)
		// Of several attempts, the first is enough.
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return beginning(strings.Join(lines, "\n"))
}

// join adds the counts of another verdict.
func (v *verdict) join(other verdict) {
	v.chosen, v.passed = v.chosen+other.chosen, v.passed+other.passed
	v.failed, v.skipped = append(v.failed, other.failed...), append(v.skipped, other.skipped...)
}
