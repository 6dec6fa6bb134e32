package ifacer

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestInterfacesOfConfiguration(t *testing.T) {
	for _, c := range []struct {
		name, conf string
		want       wanted
	}{
		{"one interface needs nothing", `{"interfaces":["ens5"]}`, wanted{}},
		{"VLAN of an interface", `{"interfaces":["ens5"],"vlanID":100}`,
			wanted{vlan: &linux.VLAN{Name: "ens5.100", Parent: "ens5", ID: 100}}},
		{"bond with options", `{"interfaces":["ens5","ens6"],"bond":{"name":"bond0","mode":1,"options":"primary=ens5; miimon=100;"}}`,
			wanted{bond: &linux.Bond{Name: "bond0", Mode: 1, Ports: []string{"ens5", "ens6"}, Options: map[string]string{"primary": "ens5", "miimon": "100"}}}},
		{"VLAN of a bond", `{"interfaces":["ens5","ens6"],"vlanID":7,"bond":{"name":"bond0","mode":4}}`,
			wanted{
				bond: &linux.Bond{Name: "bond0", Mode: 4, Ports: []string{"ens5", "ens6"}, Options: map[string]string{}},
				vlan: &linux.VLAN{Name: "bond0.7", Parent: "bond0", ID: 7},
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse([]byte(c.conf))
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestBadConfigurationNamesTheField(t *testing.T) {
	for conf, want := range map[string]string{
		`{}`:                                 "interfaces",
		`{"interfaces":["a"],"vlanID":4095}`: "vlanID 4095",
		`{"interfaces":["a"],"vlanID":-1}`:   "vlanID -1",
		`{"interfaces":["a","b"]}`:           "bond.name",
		`{"interfaces":["enp129s0f1np1"],"vlanID":4000}`:                      "longer than 15 bytes",
		`{"interfaces":["a","b"],"bond":{"name":"bond0","options":"miimon"}}`: `"miimon" is not key=value`,
	} {
		_, err := parse([]byte(conf))
		var coded *types.Error
		if !errors.As(err, &coded) || coded.Code != wire.CodeInvalidConfig || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want code %d with %q", conf, err, wire.CodeInvalidConfig, want)
		}
	}
}

// TestDelSucceedsWhateverConfigurationSays: Main would exit with status 1 otherwise.
func TestDelSucceedsWhateverConfigurationSays(t *testing.T) {
	t.Setenv("CNI_COMMAND", "DEL")
	Main("ifacer under test")
}
