// Package ifacer is the CNI plugin "ifacer": first in the chain of an
// attachment, it makes on the node the interface that the main plugin works on,
// a bond of several interfaces, a VLAN interface, or a VLAN interface of a bond.
//
// ADD creates what is missing, once also for callers at the same time, adopts
// what is there and fits, and refuses, with the difference, what does not. The
// interfaces belong to the node and serve many pods: DEL removes nothing. CHECK
// wants them to be there as configured.
package ifacer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/wire"
)

const (
	maxVLAN = 4094 // IEEE 802.1Q
	maxName = unix.IFNAMSIZ - 1
)

// lockFile serialises the callers on a node: a bond takes several steps to make.
const lockFile = "/run/spiderpool-ifacer.lock"

// Main runs the plugin on the process's environment, standard input and output
// and exits with status 1 after an error. Without CNI_COMMAND it prints about.
func Main(about string) {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    add,
		Del:    nothing,
		Check:  check,
		GC:     nothing,
		Status: nothing,
	}, version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), about)
}

type conf struct {
	types.PluginConf
	Interfaces []string  `json:"interfaces"`
	VlanID     int       `json:"vlanID"`
	Bond       *bondConf `json:"bond"`
}

type bondConf struct {
	Name    string `json:"name"`
	Mode    int    `json:"mode"`
	Options string `json:"options"` // "key=value", separated by ";"
}

// wanted are the interfaces to make, in this order.
type wanted struct {
	bond *linux.Bond
	vlan *linux.VLAN
}

// parse reads the configuration; an error names the field.
func parse(stdin []byte) (*conf, wanted, error) {
	var c conf
	if err := json.Unmarshal(stdin, &c); err != nil {
		return nil, wanted{}, types.NewError(wire.CodeDecodingFailure, "the network configuration is not what ifacer understands", err.Error())
	}
	w, err := c.wanted()
	if err != nil {
		return nil, wanted{}, types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	}
	return &c, w, nil
}

func (c *conf) wanted() (wanted, error) {
	var w wanted
	if len(c.Interfaces) == 0 {
		return w, errors.New("interfaces: name an interface of the node")
	}
	if c.VlanID < 0 || c.VlanID > maxVLAN {
		return w, fmt.Errorf("vlanID %d: want 0 (none) to %d", c.VlanID, maxVLAN)
	}
	parent := c.Interfaces[0]
	switch {
	case len(c.Interfaces) > 1 && (c.Bond == nil || c.Bond.Name == ""):
		return w, fmt.Errorf("bond.name: interfaces has %d entries, name the bond to make of them", len(c.Interfaces))
	case len(c.Interfaces) > 1:
		options, err := parseOptions(c.Bond.Options)
		if err != nil {
			return w, err
		}
		w.bond = &linux.Bond{Name: c.Bond.Name, Mode: c.Bond.Mode, Ports: c.Interfaces, Options: options}
		parent = c.Bond.Name
	}
	if c.VlanID != 0 {
		w.vlan = &linux.VLAN{Name: fmt.Sprintf("%s.%d", parent, c.VlanID), Parent: parent, ID: c.VlanID}
		parent = w.vlan.Name
	}
	if len(parent) > maxName {
		return w, fmt.Errorf("interface name %s is longer than %d bytes: choose a shorter name for what it is made of", parent, maxName)
	}
	return w, nil
}

func parseOptions(text string) (map[string]string, error) {
	options := map[string]string{}
	for pair := range strings.SplitSeq(text, ";") {
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

func add(args *skel.CmdArgs) error {
	c, w, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if err := ensure(w); err != nil {
		return failure(err)
	}
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	if c.RawPrevResult != nil {
		if err := version.ParsePrevResult(&c.PluginConf); err != nil {
			return types.NewError(wire.CodeDecodingFailure, "decode prevResult", err.Error())
		}
		return types.PrintResult(c.PrevResult, c.CNIVersion)
	}
	return types.PrintResult(result, c.CNIVersion)
}

// ensure makes the interfaces in the namespace of the process, which is the node's.
func ensure(w wanted) error {
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
		return types.NewError(wire.CodeConflict, err.Error(), "remove the interface, or change the configuration")
	}
	return types.NewError(wire.CodeInternal, err.Error(), "")
}

// lock waits for the node's other callers.
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

func check(args *skel.CmdArgs) error {
	_, w, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	host, err := linux.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	if err := host.CheckMasters(w.bond, w.vlan); err != nil {
		return failure(err)
	}
	return nil
}

// nothing is what DEL, GC and STATUS have to do.
func nothing(*skel.CmdArgs) error { return nil }
