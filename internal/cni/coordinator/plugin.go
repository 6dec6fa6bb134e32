package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// settleTimeout bounds the wait for the main plugin's IPv6 addresses: the
// kernel needs one to two seconds for duplicate address detection.
const settleTimeout = 10 * time.Second

// Main runs the plugin on the process's environment, standard input and output
// and exits with status 1 after an error. Without CNI_COMMAND it prints about.
func Main(about string) {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    recorded("ADD", add),
		Del:    recorded("DEL", del),
		Check:  recorded("CHECK", check),
		GC:     recorded("GC", gc),
		Status: recorded("STATUS", status),
	}, version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), about)
}

// call is one CNI command; what it returns besides the error is for the log.
type call func(c *conf, args *skel.CmdArgs) (detail string, err error)

// recorded parses the configuration, runs the command, logs the outcome and
// gives an error its CNI form.
func recorded(command string, run call) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		began := time.Now()
		c, err := parseConf(args.StdinData)
		if err != nil {
			return err
		}
		detail, err := run(c, args)
		record(c, command, args, began, detail, err)
		return asCNI(err)
	}
}

// asCNI gives an error the code that tells the runtime what kind it is.
func asCNI(err error) error {
	var coded *types.Error
	var remote *wire.Error
	var field *netplan.FieldError
	switch {
	case err == nil, errors.As(err, &coded):
		return err
	case errors.As(err, &remote):
		return types.NewError(remote.Code, remote.Msg, remote.Details)
	case errors.As(err, &field):
		return types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	default:
		return types.NewError(wire.CodeInternal, err.Error(), "")
	}
}

func add(c *conf, args *skel.CmdArgs) (string, error) {
	previous, err := c.previous()
	if err != nil {
		return "", err
	}
	t, err := open(c, args, previous)
	if err != nil {
		return "", err
	}
	defer t.close()
	if t.mode != modeDisabled {
		if err := t.prepare(); err != nil {
			return "", err
		}
		if err := t.arrange(); err != nil {
			return t.log(), err
		}
	}
	return t.log(), types.PrintResult(previous, c.CNIVersion)
}

func check(c *conf, args *skel.CmdArgs) (string, error) {
	previous, err := c.previous()
	if err != nil {
		return "", err
	}
	t, err := open(c, args, previous)
	if err != nil {
		return "", err
	}
	defer t.close()
	if t.mode == modeDisabled {
		return "", nil
	}
	missing, err := t.differences()
	if err != nil || missing == "" {
		return "", err
	}
	return missing, types.NewError(wire.CodeConflict, "the pod's network is not what coordinator made of it", missing)
}

func gc(*conf, *skel.CmdArgs) (string, error) {
	// What ADD made on the node ends with the pod's namespace, and the valid
	// attachments of one network say nothing about pods of other networks.
	return "", nil
}

func status(c *conf, _ *skel.CmdArgs) (string, error) {
	err := c.agent().Status(context.Background())
	var failure *wire.Error
	if errors.As(err, &failure) && failure.Code == wire.CodeTryAgainLater {
		return "", types.NewError(types.ErrPluginNotAvailable, failure.Msg, failure.Details)
	}
	return "", err
}

// podArgs are what a Kubernetes runtime puts into CNI_ARGS.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // the names are the runtime's
	K8S_POD_NAME      types.UnmarshallableString //nolint:revive
	K8S_POD_UID       types.UnmarshallableString //nolint:revive
}

func attachmentOf(args *skel.CmdArgs) (wire.Attachment, error) {
	pod := podArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return wire.Attachment{}, types.NewError(wire.CodeInvalidEnvironment, "CNI_ARGS is malformed", err.Error())
	}
	return wire.Attachment{
		ContainerID: args.ContainerID, NetNS: args.Netns, Interface: args.IfName,
		PodNamespace: string(pod.K8S_POD_NAMESPACE), PodName: string(pod.K8S_POD_NAME), PodUID: string(pod.K8S_POD_UID),
	}, nil
}

// gatewaysOf returns the default gateways that the main plugin's result has for
// the interface.
func gatewaysOf(r *types100.Result, ifName string) []netip.Addr {
	var out []netip.Addr
	for _, ip := range r.IPs {
		if ip.Interface != nil && (*ip.Interface < 0 || *ip.Interface >= len(r.Interfaces) || r.Interfaces[*ip.Interface].Name != ifName) {
			continue
		}
		if gw, ok := netip.AddrFromSlice(ip.Gateway); ok {
			out = append(out, gw.Unmap())
		}
	}
	return out
}

// unknownNIC explains a default-route interface that the pod cannot have. The
// pod's own wish has to name one of its attachments; that of a configuration,
// which serves many pods, one that a pod may have.
func (t *task) unknownNIC(pod netplan.Pod) error {
	wish := t.settings.DefaultNIC
	var names []string
	for _, nic := range pod.NICs {
		names = append(names, nic.Name)
	}
	if wish == "" || slices.Contains(names, wish) || slices.Contains(t.interfaces, wish) {
		return nil
	}
	if t.ownWish && t.interfaces != nil {
		return &netplan.FieldError{Field: "annotation ipam.spidernet.io/default-route-nic", Value: wish,
			Reason: fmt.Sprintf("the pod has no such interface; its attachments are %v", t.interfaces)}
	}
	if wish == t.conf.PodDefaultCNINIC || isNumbered(wish, t.conf.MultusNICPrefix) {
		return nil
	}
	return &netplan.FieldError{Field: "podDefaultRouteNIC", Value: wish,
		Reason: fmt.Sprintf("the pod has no such interface; it has %v, and further attachments are named %[2]s1, %[2]s2, …", names, t.conf.MultusNICPrefix)}
}

func isNumbered(name, prefix string) bool {
	digits := len(name) - len(prefix)
	if digits < 1 || name[:len(prefix)] != prefix {
		return false
	}
	for _, r := range name[len(prefix):] {
		if r < '0' || r > '9' {
			return false
		}
	}
	return true
}
