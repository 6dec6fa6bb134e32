// Package plugin is the frame of Spiderpool's CNI plugins. It decodes the call,
// runs the handler of its command, logs the outcome and prints errors with the
// codes of the CNI specification.
//
// A plugin calls Run from main. A process serves one call, so nothing here is
// safe for concurrent use. It links no Kubernetes packages, because the runtime
// starts a plugin for every interface of every pod.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
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

// Handlers are the commands of a plugin. A command without a handler succeeds.
type Handlers struct {
	Add, Del, Check, GC, Status Handler
	// Record, if not nil, logs the outcome of the call. See Log.Record.
	Record func(call *Call, took time.Duration, outcome error)
}

// Call is one call of a plugin: the environment and the common keys of the
// network configuration.
type Call struct {
	*skel.CmdArgs
	types.PluginConf
	Command string // e.g. "ADD"
	Detail  string // the changes that the handler made, for the log
}

// Run serves the call in the process's environment and standard input, and exits
// with status 1 after an error. Without CNI_COMMAND it prints about. load reads
// the plugin's own keys of the network configuration.
func Run(about string, load func(config []byte) (Handlers, error)) {
	serve := func(command string, pick func(Handlers) Handler) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error {
			handlers, err := load(args.StdinData)
			if err != nil {
				return coded(err)
			}
			call := &Call{CmdArgs: args, Command: command}
			if err := Decode(args.StdinData, &call.PluginConf); err != nil {
				return err
			}
			return call.serve(handlers, pick(handlers))
		}
	}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    serve("ADD", func(h Handlers) Handler { return h.Add }),
		Del:    serve("DEL", func(h Handlers) Handler { return h.Del }),
		Check:  serve("CHECK", func(h Handlers) Handler { return h.Check }),
		GC:     serve("GC", func(h Handlers) Handler { return h.GC }),
		Status: serve("STATUS", func(h Handlers) Handler { return h.Status }),
	}, version.PluginSupports(cniconf.Versions...), about)
}

func (c *Call) serve(handlers Handlers, handler Handler) error {
	if handler == nil {
		return nil
	}
	began := time.Now()
	err := handler(c)
	if handlers.Record != nil {
		handlers.Record(c, time.Since(began), err)
	}
	return coded(err)
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

// AgentStatus returns the STATUS handler of a plugin that needs the agent. If the
// agent is away, the plugin is not available (code 50).
func AgentStatus(agent rpc.Client) Handler {
	return func(*Call) error {
		err := agent.Status(context.Background())
		var failure *wire.Error
		if errors.As(err, &failure) && failure.Code == wire.CodeTryAgainLater {
			return types.NewError(types.ErrPluginNotAvailable, failure.Msg, failure.Details)
		}
		return err
	}
}
