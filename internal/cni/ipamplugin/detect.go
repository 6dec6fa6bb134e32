package ipamplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/linux/probe"
	"spiderpool.dev/spiderpool/internal/wire"
)

const (
	// maxConflicts limits the conflicts of one ADD. With more, the interface is
	// probably not in the pool's network. The agent has limits of its own.
	maxConflicts = 5
	// carrierTimeout limits the wait for a carrier after setting a link up. A
	// virtual function takes a moment.
	carrierTimeout = 2 * time.Second
)

// addresses gets addresses from the agent. If configured, it probes the network
// for other machines with these addresses, and for the gateways. This happens
// before the main plugin assigns the addresses, so a machine with one of them is
// not disturbed. The agent quarantines such an address and returns another one, unless
// the answers prove nothing; then the ADD fails.
func (c *conf) addresses(call *plugin.Call, req wire.AddRequest) (wire.AddReply, error) {
	ctx := context.Background()
	var found *conflict
	for range maxConflicts {
		reply, err := call.Agent().Add(ctx, req)
		if err != nil {
			return reply, err
		}
		skipErr := c.skipDAD(call, reply)
		if skipErr != nil {
			call.Warnf("the pod starts later, because the kernel's duplicate address detection stays on: %v", skipErr)
		}
		if reply.Detect != (wire.Detection{}) {
			err = c.detect(call, reply)
		}
		if err == nil {
			if err := c.announce(call, reply); err != nil {
				call.Warnf("other machines may send to a former user of the address for a while: %v", err)
			}
			if skipErr == nil && c.onlyConfigures() {
				reply = withoutSettling(reply)
			}
			return reply, nil
		}
		if !errors.As(err, &found) {
			return reply, err
		}
		err = call.Agent().Conflict(ctx, wire.ConflictRequest{
			Attachment: req.Attachment, Address: found.addr, MAC: found.mac.String(), Control: found.control})
		if err != nil {
			return wire.AddReply{}, err
		}
	}
	return wire.AddReply{}, types.NewError(wire.CodeTryAgainLater,
		fmt.Sprintf("other machines use %d addresses in turn; the last conflict: %s", maxConflicts, found),
		"check that the interface is in the pool's network; add the others' addresses to a SpiderReservedIP or to excludeIPs of the pool")
}

// conflict is an address that another machine uses.
type conflict struct {
	addr    netip.Addr
	mac     net.HardwareAddr
	control netip.Addr // see probe.Control
}

func (e *conflict) Error() string {
	return fmt.Sprintf("%s is in use by the machine with hardware address %s", e.addr, e.mac)
}

// detect returns a *conflict for an address that another machine uses, and a CNI
// error for a gateway that does not answer. It leaves out shared addresses: their other
// user would answer, and a probe would turn the gateway's cache to this pod.
func (c *conf) detect(call *plugin.Call, reply wire.AddReply) error {
	probed := slices.DeleteFunc(slices.Clone(reply.Addresses), func(a wire.Address) bool { return a.Shared })
	return c.onLink(call, func(ifi *net.Interface) error {
		if reply.Detect.IPConflict {
			for _, a := range probed {
				if mac, err := probe.Resolve(ifi, a.Prefix.Addr(), netip.Addr{}, c.probe); err != nil {
					return err
				} else if mac != nil {
					control, err := probe.Control(ifi, a.Prefix, c.probe)
					if err != nil {
						return err
					}
					return &conflict{a.Prefix.Addr(), mac, control}
				}
			}
		}
		if reply.Detect.Gateway {
			for _, a := range probed {
				if err := reach(ifi, a, c.probe); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// reach returns an error unless the gateway answers. The probe comes from the
// address itself, because some networks drop probes from other senders.
func reach(ifi *net.Interface, a wire.Address, o probe.Options) error {
	if !a.Gateway.IsValid() {
		return nil
	}
	mac, err := probe.Resolve(ifi, a.Gateway, a.Prefix.Addr(), o)
	if mac != nil || err != nil {
		return err
	}
	return types.NewError(wire.CodeTryAgainLater,
		fmt.Sprintf("gateway %s of pool %s does not answer on %s after %d attempts", a.Gateway, a.Pool, ifi.Name, o.Attempts),
		"check spec.gateway of the pool, and the VLAN and the cable of the node's interface")
}

// onLink calls f with the interface that will use the addresses. The main plugin
// has made it by now and will assign the addresses. An ipvlan interface receives
// nothing without an address, but it shares the hardware address of its master,
// so we probe from the master. Without an interface, onLink does not call f.
func (c *conf) onLink(call *plugin.Call, f func(*net.Interface) error) error {
	if c.withoutARP() {
		return nil
	}
	name, isInPod := call.IfName, true
	if c.Type == "ipvlan" {
		name, isInPod = c.Master, c.LinkInContainer
	}
	switch {
	case name == "":
		return nil
	case isInPod:
		return inPod(call, func() error { return onUp(name, f) })
	}
	return onUp(name, f)
}

// withoutARP reports whether no machine is asked for addresses on the interface: ipvlan
// in the modes l3 and l3s.
func (c *conf) withoutARP() bool { return c.Type == "ipvlan" && c.Mode != "" && c.Mode != "l2" }

// onUp sets an interface up, like the main plugin will, and calls f when it has
// a carrier.
func onUp(name string, f func(*net.Interface) error) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil // a main plugin that makes its interface later, or none
	}
	if err := setUp(name); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		if ifi.Flags&net.FlagRunning != 0 || time.Since(began) > carrierTimeout {
			return f(ifi)
		}
	}
}

// setUp sets an interface up.
func setUp(name string) error {
	return withFlags(name, func(fd int, r *unix.Ifreq) error {
		r.SetUint16(r.Uint16() | unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	})
}

// isUp reports whether an interface is up. It asks for one interface, unlike package net.
func isUp(name string) (up bool, err error) {
	err = withFlags(name, func(_ int, r *unix.Ifreq) error {
		up = r.Uint16()&unix.IFF_UP != 0
		return nil
	})
	return up, err
}

// withFlags calls f with the flags of an interface (netdevice(7)). Without the interface,
// the error is unix.ENODEV.
func withFlags(name string, f func(fd int, r *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	return f(fd, r)
}
