package netplan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cniconf"
)

func TestNetworksOfSettings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{ // "" means an error
		"10.0.0.1/8":          "10.0.0.0/8",
		"fd00::1/64":          "fd00::/64",
		"169.254.20.10":       "169.254.20.10/32",
		"fd00::1":             "fd00::1/128",
		"::ffff:10.0.0.1":     "",
		"::ffff:10.0.0.0/104": "",
		"fe80::1%eth0":        "",
		"10.0.0":              "",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			s, errs := Default().With(cniconf.Coordinator{HijackCIDR: []string{"192.0.2.0/24", text}})
			if want == "" {
				if diff := cmp.Diff([]FieldError{{"hijackCIDR[1]", text, wantNetwork}}, errs); diff != "" {
					t.Error(diff)
				}
			} else if len(errs) > 0 || len(s.HijackCIDR) != 2 || s.HijackCIDR[1].String() != want {
				t.Errorf("got %v, %v, want %s", s.HijackCIDR, errs, want)
			}
		})
	}
}
