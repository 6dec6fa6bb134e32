// Package plugin is the frame of Spiderpool's CNI plugins. It decodes the call,
// runs the handler of its command, logs the outcome and prints errors with the
// codes of the CNI specification.
//
// A plugin calls Program.Run from main. A process serves one call, so nothing here is
// safe for concurrent use. It links no Kubernetes packages, because the runtime
// starts a plugin for every interface of every pod.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/rpc"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Handler runs one CNI command.
type Handler func(*Call) error

// Program is a plugin.
type Program struct {
	Name  string // of the log file, e.g. "spiderpool"
	About string // for a call without a command
	// Load reads the plugin's own keys of the network configuration.
	Load func(*Call) (Handlers, error)
	// Del undoes ADD; nil if there is nothing to undo. It works without Load, because a
	// pod whose ADD failed for a wrong configuration must still be deleted.
	Del Handler
}

// Handlers are the commands of a plugin with a valid configuration. A command without
// a handler succeeds.
type Handlers struct {
	Add, Check, GC, Status Handler
	// Log receives the outcome of the call.
	Log Log
}

// Call is one call of a plugin: the environment and the common keys of the
// network configuration.
type Call struct {
	*skel.CmdArgs
	types.PluginConf
	Command  string       // e.g. "ADD"
	Node     cniconf.Node // the paths of the installation
	Detail   string       // the changes that the handler made, for the log
	warnings []string
}

// Agent is the node's agent.
func (c *Call) Agent() rpc.Client { return rpc.Client{Socket: c.Node.Socket} }

// Warnf reports a problem that does not fail the call, on standard error and in the log
// file. Runtimes print a plugin's standard error into their own log.
func (c *Call) Warnf(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// Run serves the call in the process's environment and standard input, and exits
// with status 1 after an error. Without CNI_COMMAND it prints p.About.
func (p Program) Run() {
	if os.Getenv("CNI_COMMAND") == "DEL" {
		p.serveDel()
		return
	}
	serve := func(command string, pick func(Handlers) Handler) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error { return coded(p.serve(&Call{CmdArgs: args, Command: command}, pick)) }
	}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    serve("ADD", func(h Handlers) Handler { return h.Add }),
		Check:  serve("CHECK", func(h Handlers) Handler { return h.Check }),
		GC:     serve("GC", func(h Handlers) Handler { return h.GC }),
		Status: serve("STATUS", func(h Handlers) Handler { return h.Status }),
	}, version.PluginSupports(cniconf.Versions...), p.About)
}

func (p Program) serve(call *Call, pick func(Handlers) Handler) (err error) {
	if call.Node, err = readNode(); err != nil {
		return types.NewError(wire.CodeInvalidConfig, err.Error(), "the installer writes this file; install Spiderpool again")
	}
	handlers, err := p.Load(call)
	if err != nil {
		return err
	}
	if err := Decode(call.StdinData, &call.PluginConf); err != nil {
		return err
	}
	handler := pick(handlers)
	if handler == nil {
		return nil
	}
	began := time.Now()
	err = handler(call)
	handlers.Log.record(call, time.Since(began), err)
	return err
}

// serveDel runs DEL and always succeeds: after an error, the kubelet would repeat the
// DEL for ever, and the pod would stay Terminating (CNI specification 1.1.0, section
// 2, "DEL"). So it does without package skel, which refuses a configuration that its
// ADD refused. What DEL leaves behind, the agent removes.
func (p Program) serveDel() {
	if p.Del == nil {
		return
	}
	call := &Call{Command: "DEL", CmdArgs: &skel.CmdArgs{
		ContainerID: os.Getenv("CNI_CONTAINERID"), Netns: os.Getenv("CNI_NETNS"), IfName: os.Getenv("CNI_IFNAME"),
		Args: os.Getenv("CNI_ARGS"), Path: os.Getenv("CNI_PATH"),
	}}
	if call.ContainerID == "" || call.IfName == "" {
		return // no ADD can have succeeded
	}
	var err error
	if call.StdinData, err = io.ReadAll(os.Stdin); err != nil {
		call.Warnf("read the network configuration: %v", err)
	}
	if call.Node, err = readNode(); err != nil {
		call.Warnf("%v; DEL uses the default paths", err)
		call.Node = cniconf.DefaultNode()
	}
	handlers, err := p.Load(call)
	if err != nil {
		call.Warnf("%v", err)
		handlers.Log, _ = NewLog(call, LogFile{Name: p.Name})
	}
	_ = json.Unmarshal(call.StdinData, &call.PluginConf) // prevResult is optional
	began := time.Now()
	err = p.Del(call)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: DEL succeeds in spite of: %v\n", p.Name, err)
	}
	handlers.Log.record(call, time.Since(began), err)
}

// readNode reads the paths of the installation. Without the file, they are the defaults.
func readNode() (cniconf.Node, error) {
	path := os.Getenv(cniconf.NodeFileVariable)
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return cniconf.Node{}, err
		}
		path = filepath.Join(filepath.Dir(self), cniconf.NodeFile)
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return cniconf.DefaultNode(), nil
	}
	if err != nil {
		return cniconf.Node{}, err
	}
	node, err := cniconf.ParseNode(content)
	if err != nil {
		return cniconf.Node{}, fmt.Errorf("file %s: %w", path, err)
	}
	return node, nil
}

// IgnoreSocket warns about a socket in the network configuration other than the
// installation's.
func (c *Call) IgnoreSocket(key, socket string) {
	if socket != "" && filepath.Clean(socket) != filepath.Clean(c.Node.Socket) {
		c.Warnf("%s %q is ignored: the agent of this node listens on %s; remove the key", key, socket, c.Node.Socket)
	}
}

// Decode reads keys of a network configuration into a struct. The error has code 6.
func Decode(config []byte, into any) error {
	if err := json.Unmarshal(config, into); err != nil {
		return types.NewError(wire.CodeDecodingFailure, "invalid network configuration", err.Error())
	}
	return nil
}

// coded gives an error its CNI code: that of the agent, 7 for a wrong field, 999
// for an error without a code.
func coded(err error) error {
	var cni *types.Error
	var remote *wire.Error
	var field *netplan.FieldError
	switch {
	case err == nil, errors.As(err, &cni):
		return err
	case errors.As(err, &remote):
		return types.NewError(remote.Code, remote.Msg, remote.Details)
	case errors.As(err, &field):
		return types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	default:
		return types.NewError(wire.CodeInternal, err.Error(), "")
	}
}

// podArgs are the keys that a Kubernetes runtime puts into CNI_ARGS.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // the names are the runtime's
	K8S_POD_NAME      types.UnmarshallableString //nolint:revive
	K8S_POD_UID       types.UnmarshallableString //nolint:revive
}

// Attachment returns the interface and the pod of the call. CNI_ARGS without a pod
// is an error with code 4.
func (c *Call) Attachment() (wire.Attachment, error) {
	pod := podArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(c.Args, &pod); err != nil {
		return wire.Attachment{}, types.NewError(wire.CodeInvalidEnvironment, "CNI_ARGS is malformed", err.Error())
	}
	if pod.K8S_POD_NAMESPACE == "" || pod.K8S_POD_NAME == "" {
		return wire.Attachment{}, types.NewError(wire.CodeInvalidEnvironment,
			"CNI_ARGS names no pod: K8S_POD_NAMESPACE and K8S_POD_NAME are required", fmt.Sprintf("CNI_ARGS is %q", c.Args))
	}
	return wire.Attachment{
		ContainerID: c.ContainerID, NetNS: c.Netns, Interface: c.IfName,
		PodNamespace: string(pod.K8S_POD_NAMESPACE), PodName: string(pod.K8S_POD_NAME), PodUID: string(pod.K8S_POD_UID),
	}, nil
}

// Previous returns the result of the plugins earlier in the chain or, for CHECK and
// DEL, of ADD. A missing result is an error with code 7.
func (c *Call) Previous() (*types100.Result, error) {
	if c.RawPrevResult == nil {
		return nil, types.NewError(wire.CodeInvalidConfig, "the network configuration has no prevResult",
			"CHECK needs the result of ADD; a chained plugin needs a main plugin before it")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(wire.CodeDecodingFailure, "invalid prevResult", err.Error())
	}
	previous, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, types.NewError(wire.CodeDecodingFailure, "invalid prevResult", err.Error())
	}
	return previous, nil
}

// Addresses returns the addresses of a result.
func Addresses(result *types100.Result) (addrs []netip.Addr) {
	for _, ip := range result.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// Print prints the result in the version of the network configuration.
func (c *Call) Print(result types.Result) error { return types.PrintResult(result, c.CNIVersion) }

// AgentStatus is the STATUS handler of a plugin that needs the agent. If the agent is
// away, the plugin is not available (code 50).
func AgentStatus(call *Call) error {
	err := call.Agent().Status(context.Background())
	var failure *wire.Error
	if errors.As(err, &failure) && failure.Code == wire.CodeTryAgainLater {
		return types.NewError(types.ErrPluginNotAvailable, failure.Msg, failure.Details)
	}
	return err
}
