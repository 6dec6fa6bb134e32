// Command stopwatch stands in for a CNI plugin. It runs the real plugin and appends its
// wall clock and CPU time to a log. It is linked under the names of several plugins.
package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Directories of bench-start on a node: the real plugins, and the log.
const (
	plugins = "/opt/cni/bench-start/"
	log     = "/run/bench-start.jsonl"
)

func main() { os.Exit(run(filepath.Base(os.Args[0]))) }

func run(name string) int {
	cmd := exec.Command(plugins+name, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if cmd.ProcessState == nil {
		return 1
	}
	record(map[string]any{
		"plugin": name, "command": os.Getenv("CNI_COMMAND"), "container": os.Getenv("CNI_CONTAINERID"),
		"wall": took, "cpu": cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
	})
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// record appends one line. A plugin that works must not fail for its log.
func record(line map[string]any) {
	content, err := json.Marshal(line)
	if err != nil {
		return
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.Write(append(content, '\n'))
}
