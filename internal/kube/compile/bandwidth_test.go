package compile_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/pool"
)

type rates = map[string]netplan.Rates

func TestBandwidthOfAnnotations(t *testing.T) {
	ingress, egress, ours := names.AnnotationPodIngressBandwidth, names.AnnotationPodEgressBandwidth, names.AnnotationPodBandwidth
	for name, test := range map[string]struct {
		annotations map[string]string
		want        rates
		fault       string // in the error; "" for none
	}{
		"none":      {nil, rates{}, ""},
		"both":      {map[string]string{ingress: "10M", egress: "1Gi"}, rates{"eth0": {Ingress: 10_000_000, Egress: 1 << 30}}, ""},
		"plain":     {map[string]string{ingress: "1e6"}, rates{"eth0": {Ingress: 1_000_000}}, ""},
		"fraction":  {map[string]string{ingress: "2.5k"}, rates{"eth0": {Ingress: 2_500}}, ""},
		"least":     {map[string]string{egress: "1k"}, rates{"eth0": {Egress: 1_000}}, ""},
		"most":      {map[string]string{egress: "1P"}, rates{"eth0": {Egress: 1_000_000_000_000_000}}, ""},
		"unit":      {map[string]string{ingress: "10 MB"}, nil, `kubernetes.io/ingress-bandwidth: "10 MB": is not a number of bits`},
		"bytes":     {map[string]string{egress: "10MB"}, nil, `kubernetes.io/egress-bandwidth: "10MB": is not a number of bits`},
		"empty":     {map[string]string{egress: ""}, nil, `is not a number of bits`},
		"negative":  {map[string]string{ingress: "-5M"}, nil, `"-5M": is negative; example: 10M`},
		"milli":     {map[string]string{ingress: "10m"}, nil, `"10m": is less than 1k`},
		"zero":      {map[string]string{ingress: "0"}, nil, `"0": is less than 1k`},
		"too small": {map[string]string{ingress: "999"}, nil, `"999": is less than 1k`},
		"too large": {map[string]string{ingress: "1000000000000001"}, nil, `is more than 1P`},
		"absurd":    {map[string]string{ingress: "1e99"}, nil, `is more than 1P`},
		"long":      {map[string]string{ingress: strings.Repeat("9", 65)}, nil, `is longer than 64 bytes`},
		"interfaces": {map[string]string{ours: `[{"interface":"net1","ingress":"100M"},{"interface":"eth0","egress":"5M"}]`},
			rates{"net1": {Ingress: 100_000_000}, "eth0": {Egress: 5_000_000}}, ""},
		"replaced": {map[string]string{ingress: "10M", egress: "20M", ours: `[{"interface":"eth0","egress":"5M"}]`},
			rates{"eth0": {Ingress: 10_000_000, Egress: 5_000_000}}, ""},
		"not JSON":    {map[string]string{ours: `net1=5M`}, nil, `ipam.spidernet.io/bandwidth: "net1=5M": is not a JSON list`},
		"number":      {map[string]string{ours: `[{"interface":"net1","egress":5}]`}, nil, `is not a JSON list of objects with the strings`},
		"bad rate":    {map[string]string{ours: `[{"interface":"net1","egress":"5 MB"}]`}, nil, `[0].egress "5 MB" is not a number of bits`},
		"no name":     {map[string]string{ours: `[{"egress":"5M"}]`}, nil, `[0].interface "" is empty`},
		"no rate":     {map[string]string{ours: `[{"interface":"net1"}]`}, nil, `[0] has neither ingress nor egress`},
		"twice":       {map[string]string{ours: `[{"interface":"net1","egress":"5M"},{"interface":"net1","egress":"6M"}]`}, nil, `[1].interface "net1" has an entry already`},
		"unknown NIC": {map[string]string{ours: `[{"interface":"net7","egress":"5M"}]`}, nil, `[0] is for interface net7, and the pod has only eth0, net1`},
		"long list":   {map[string]string{ours: "[" + strings.Repeat(`{"interface":"net1","egress":"5M"},`, 64) + `{"interface":"net1","egress":"5M"}]`}, nil, `has 65 entries; write at most 64`},
		"long text":   {map[string]string{ours: strings.Repeat(" ", 9<<10)}, nil, `has 9216 bytes; write at most 8192`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := compile.Bandwidth(test.annotations, []string{"eth0", "net1"})
			var fault *pool.AnnotationError
			if test.fault != "" && (!errors.As(err, &fault) || !strings.Contains(err.Error(), test.fault) || fault.Example == "") {
				t.Errorf("got %v, want %q", err, test.fault)
			}
			if test.fault == "" && err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A pod's annotations neither crash the agent nor give a rate beyond the limits.
func FuzzBandwidth(f *testing.F) {
	for _, seed := range []string{"10M", "-1", "1e99", `[{"interface":"net1","egress":"5M"}]`, `[{"interface":"eth0","ingress":"1k","egress":"1P"}]`, "9223372036854775807", "1n"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, rate, list string) {
		got, err := compile.Bandwidth(map[string]string{names.AnnotationPodIngressBandwidth: rate, names.AnnotationPodBandwidth: list}, nil)
		if err != nil {
			if len(err.Error()) > 2048 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		for name, r := range got {
			if netplan.InterfaceNameFault(name) != "" || r == (netplan.Rates{}) {
				t.Errorf("%q: %+v", name, r)
			}
			for _, bits := range []uint64{r.Ingress, r.Egress} {
				if bits != 0 && (bits < 1_000 || bits > 1_000_000_000_000_000) {
					t.Errorf("%q: %d bits per second", name, bits)
				}
			}
		}
	})
}
