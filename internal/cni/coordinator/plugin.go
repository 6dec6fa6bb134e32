package coordinator

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// settleTimeout bounds the wait for the main plugin's IPv6 addresses: the
// kernel needs one to two seconds for duplicate address detection.
const settleTimeout = 10 * time.Second

// Main serves the CNI call of the process. See plugin.Program.
func Main(about string) {
	plugin.Program{Name: cniconf.TypeCoordinator, About: about, Del: del, Load: func(call *plugin.Call) (plugin.Handlers, error) {
		c, err := parseConf(call)
		if err != nil {
			return plugin.Handlers{}, err
		}
		// GC does nothing: the state on the node ends with the pod's namespace, and the
		// valid attachments of one network say nothing about pods of other networks.
		return plugin.Handlers{Add: c.add, Check: c.check, Status: plugin.AgentStatus, Log: c.log}, nil
	}}.Run()
}

func (c *conf) add(call *plugin.Call) error {
	o, err := open(c, call)
	if err != nil {
		return err
	}
	defer o.close()
	if o.settings.Mode != netplan.ModeDisabled {
		if o.keepLimit != "" {
			return types.NewError(wire.CodeInvalidConfig, "the bandwidth of the pod is invalid", o.keepLimit)
		}
		if err := o.prepare(); err != nil {
			return err
		}
		err := o.arrange()
		call.Detail = o.log()
		if err != nil {
			return err
		}
	}
	return call.Print(o.previous)
}

func (c *conf) check(call *plugin.Call) error {
	o, err := open(c, call)
	if err != nil {
		return err
	}
	defer o.close()
	if o.settings.Mode == netplan.ModeDisabled {
		return nil
	}
	missing, err := o.differences()
	if err != nil || missing == "" {
		return err
	}
	call.Detail = missing
	return types.NewError(wire.CodeConflict, "the pod's network differs from coordinator's plan", missing)
}

// gatewaysOf returns the default gateways of the interface in the main plugin's
// result.
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

// checkNIC refuses a default-route interface that the pod cannot have. An
// annotation of the pod must name one of its attachments. A configuration serves
// many pods, so any name of the usual form is valid.
func (o *operation) checkNIC(pod netplan.Pod) error {
	wish := o.settings.DefaultNIC
	var names []string
	for _, nic := range pod.NICs {
		names = append(names, nic.Name)
	}
	if wish == "" || slices.Contains(names, wish) || slices.Contains(o.interfaces, wish) {
		return nil
	}
	if o.podChoseNIC && o.interfaces != nil {
		return &netplan.FieldError{Field: "annotation ipam.spidernet.io/default-route-nic", Value: wish,
			Reason: fmt.Sprintf("the pod has no such interface; its attachments are %v", o.interfaces)}
	}
	if wish == o.conf.PodDefaultCNINIC || isNumbered(wish, o.conf.MultusNICPrefix) {
		return nil
	}
	return &netplan.FieldError{Field: "podDefaultRouteNIC", Value: wish,
		Reason: fmt.Sprintf("the pod has no such interface; it has %v, and further attachments are named %[2]s1, %[2]s2, …", names, o.conf.MultusNICPrefix)}
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
