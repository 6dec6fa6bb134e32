// Package ifacer is the CNI plugin "ifacer". As the first plugin of a chain, it
// makes the main plugin's master interface on the node: a bond of several
// interfaces, a VLAN interface, or a VLAN interface of a bond.
//
// ADD creates missing interfaces, adopts existing ones that fit, and refuses
// others with an error that names the difference. It holds a lock, so concurrent
// calls create an interface once. The interfaces belong to the node and serve many
// pods, so DEL removes nothing. CHECK fails unless they exist as configured.
package ifacer

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/wire"
)

const (
	maxVLAN = 4094 // IEEE 802.1Q
	maxName = unix.IFNAMSIZ - 1
)

// lockFile serializes the calls on a node, because a bond takes several steps.
const lockFile = "/run/spiderpool-ifacer.lock"

// Main serves the CNI call of the process. See plugin.Program.
func Main(about string) {
	plugin.Program{Name: cniconf.TypeIfacer, About: about, Load: func(call *plugin.Call) (plugin.Handlers, error) {
		w, err := parse(call.StdinData)
		if err != nil {
			return plugin.Handlers{}, err
		}
		return plugin.Handlers{Add: w.add, Check: w.check}, nil
	}}.Run()
}

// wanted are the interfaces to make, the bond first.
type wanted struct {
	bond *linux.Bond
	vlan *linux.VLAN
}

// parse reads the configuration. Its error names the field.
func parse(stdin []byte) (wanted, error) {
	var c cniconf.Ifacer
	if err := plugin.Decode(stdin, &c); err != nil {
		return wanted{}, err
	}
	w, err := wantedOf(c)
	if err != nil {
		return wanted{}, types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	}
	return w, nil
}

func wantedOf(c cniconf.Ifacer) (wanted, error) {
	var w wanted
	if len(c.Interfaces) == 0 {
		return w, errors.New("interfaces: name an interface of the node")
	}
	if c.VlanID < 0 || c.VlanID > maxVLAN {
		return w, fmt.Errorf("vlanID %d: use 0 (no VLAN) to %d", c.VlanID, maxVLAN)
	}
	master := c.Interfaces[0]
	switch {
	case len(c.Interfaces) > 1 && (c.Bond == nil || c.Bond.Name == ""):
		return w, fmt.Errorf("bond.name: interfaces has %d entries; name the bond to make of them", len(c.Interfaces))
	case len(c.Interfaces) > 1:
		options, err := parseOptions(c.Bond.Options)
		if err != nil {
			return w, err
		}
		w.bond = &linux.Bond{Name: c.Bond.Name, Mode: int(c.Bond.Mode), Ports: c.Interfaces, Options: options}
		master = c.Bond.Name
	}
	if c.VlanID != 0 {
		w.vlan = &linux.VLAN{Name: fmt.Sprintf("%s.%d", master, c.VlanID), Parent: master, ID: int(c.VlanID)}
		master = w.vlan.Name
	}
	if len(master) > maxName {
		return w, fmt.Errorf("interface name %s is longer than %d bytes: use a shorter bond or interface name", master, maxName)
	}
	return w, nil
}

func parseOptions(text *string) (map[string]string, error) {
	options := map[string]string{}
	if text == nil {
		return options, nil
	}
	for pair := range strings.SplitSeq(*text, ";") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("bond.options: %q is not key=value", pair)
		}
		options[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return options, nil
}

func (w wanted) add(call *plugin.Call) error {
	if err := w.ensure(); err != nil {
		return failure(err)
	}
	if call.RawPrevResult == nil {
		return call.Print(&types100.Result{CNIVersion: types100.ImplementedSpecVersion})
	}
	previous, err := call.Previous()
	if err != nil {
		return err
	}
	return call.Print(previous)
}

// ensure makes the interfaces in the namespace of the process, i.e. the node's.
func (w wanted) ensure() error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	host, err := linux.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	if w.bond != nil {
		if err := host.EnsureBond(*w.bond); err != nil {
			return err
		}
	}
	if w.vlan != nil {
		return host.EnsureVLAN(*w.vlan)
	}
	return nil
}

func failure(err error) error {
	if errors.Is(err, linux.ErrUnfit) {
		return types.NewError(wire.CodeConflict, err.Error(), "remove the interface or change the configuration")
	}
	return err
}

// lock waits for the other calls on the node.
func lock() (unlock func(), err error) {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", lockFile, err)
	}
	return func() { _ = f.Close() }, nil
}

func (w wanted) check(*plugin.Call) error {
	host, err := linux.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	return failure(host.CheckMasters(w.bond, w.vlan))
}
