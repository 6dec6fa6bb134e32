package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Attachment is the sandbox interface of a call.
type Attachment struct {
	ContainerID string
	NetNS       string
	Interface   string
	Namespace   string
	Pod         string
	UID         string
}

// Outcome is the result of one call of a plugin.
type Outcome struct {
	// Start and End enclose the life of the plugin's process.
	Start, End time.Time
	// CPU is the user and system time of the plugin's process.
	CPU time.Duration
	// Addresses are the addresses in the result of an ADD.
	Addresses []netip.Prefix
	// Result is the plugin's standard output.
	Result json.RawMessage
	// Err is nil, a *CNIError, or the error from running the plugin.
	Err error
}

// CNIError is an error printed by a plugin (CNI specification 1.1.0, section 5).
type CNIError struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details"`
}

func (e *CNIError) Error() string {
	return fmt.Sprintf("CNI code %d: %s: %s", e.Code, e.Msg, e.Details)
}

// Plugin is an IPAM plugin as seen by a runtime.
type Plugin struct {
	// Binary is the path of the program.
	Binary string
	// Env is the environment beside that of every call, e.g. ["A=b"].
	Env []string
	// Conf is the network configuration, a JSON object.
	Conf json.RawMessage
}

// Call runs the plugin for one command. previous is the result of the ADD. It goes into
// the configuration as prevResult, as runtimes do for DEL and CHECK.
func (p Plugin) Call(ctx context.Context, command string, a Attachment, previous json.RawMessage) Outcome {
	stdin := []byte(p.Conf)
	if len(previous) > 0 {
		stdin = p.with("prevResult", previous)
	}
	out := p.run(ctx, stdin, command,
		"CNI_CONTAINERID="+a.ContainerID,
		"CNI_NETNS="+a.NetNS,
		"CNI_IFNAME="+a.Interface,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE="+a.Namespace+";K8S_POD_NAME="+a.Pod+
			";K8S_POD_INFRA_CONTAINER_ID="+a.ContainerID+";K8S_POD_UID="+a.UID)
	if out.Err == nil && command == "ADD" {
		out.Addresses, out.Err = addresses(out.Result)
	}
	return out
}

// GC runs the plugin's GC (CNI specification 1.1.0): the plugin must release everything
// except the valid attachments.
func (p Plugin) GC(ctx context.Context, valid []Attachment) Outcome {
	keys := []map[string]string{}
	for _, a := range valid {
		keys = append(keys, map[string]string{"containerID": a.ContainerID, "ifname": a.Interface})
	}
	text, err := json.Marshal(keys)
	if err != nil {
		return Outcome{Err: err}
	}
	return p.run(ctx, p.with("cni.dev/valid-attachments", text), "GC")
}

// with returns the configuration with one more key.
func (p Plugin) with(key string, value json.RawMessage) []byte {
	object := bytes.TrimSuffix(bytes.TrimSpace(p.Conf), []byte("}"))
	return slices.Concat(object, []byte(`,"`+key+`":`), value, []byte("}"))
}

func (p Plugin) run(ctx context.Context, stdin []byte, command string, env ...string) Outcome {
	cmd := exec.CommandContext(ctx, p.Binary)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CNI_PATH=/opt/cni/bin", "CNI_COMMAND=" + command}, slices.Concat(p.Env, env)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	out := Outcome{Start: time.Now()}
	err := cmd.Run()
	out.End = time.Now()
	if cmd.ProcessState != nil {
		out.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	out.Result = bytes.TrimSpace(stdout.Bytes())
	if err != nil {
		out.Err = failure(err, out.Result, stderr.String())
	}
	return out
}

// failure returns the plugin's printed error if there is one, otherwise its exit status.
func failure(err error, stdout []byte, stderr string) error {
	printed := &CNIError{}
	if json.Unmarshal(stdout, printed) == nil && printed.Code != 0 {
		return printed
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("the plugin ended with %s and printed %.200q %.200q", exit, stdout, strings.TrimSpace(stderr))
	}
	return err
}

func addresses(result []byte) ([]netip.Prefix, error) {
	var parsed struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(result, &parsed); err != nil {
		return nil, fmt.Errorf("the result %.200q of ADD: %w", result, err)
	}
	if len(parsed.IPs) == 0 {
		return nil, fmt.Errorf("the result %.200q of ADD has no address", result)
	}
	var list []netip.Prefix
	for _, ip := range parsed.IPs {
		list = append(list, ip.Address)
	}
	return list, nil
}
