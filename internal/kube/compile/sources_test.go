package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

var permitted = map[string]string{names.LabelNamespaceSources: "true"}

func TestSourcesNeedPermittedNamespace(t *testing.T) {
	for name, test := range map[string]struct {
		text   string
		labels map[string]string
		want   string // the networks, or a part of the error
	}{
		"addresses":     {`["172.31.16.50","fd00::5"]`, permitted, "[172.31.16.50/32 fd00::5/128]"},
		"networks":      {`["10.9.1.2/16","::/0"]`, permitted, "[10.9.0.0/16 ::/0]"},
		"empty":         {`[]`, permitted, "[]"},
		"not permitted": {`["172.31.16.50"]`, nil, `annotation ipam.spidernet.io/source-addresses: "[\"172.31.16.50\"]": the namespace does not permit it`},
		"other value":   {`["172.31.16.50"]`, map[string]string{names.LabelNamespaceSources: "yes"}, `does not permit it`},
		"not JSON":      {`172.31.16.50`, permitted, `is not a JSON list of strings`},
		"not a network": {`["172.31.16"]`, permitted, `[0] "172.31.16" is not a network in CIDR notation or an address`},
		"zone":          {`["fe80::1%eth0"]`, permitted, `is not a network`},
		"mapped":        {`["::ffff:10.0.0.1"]`, permitted, `is not a network`},
		"many":          {"[" + strings.Repeat(`"10.0.0.1",`, 64) + `"10.0.0.1"]`, permitted, `has 65 entries; write at most 64`},
		"long":          {strings.Repeat(" ", 9<<10), permitted, `has 9216 bytes; write at most 8192`},
	} {
		got, err := compile.Sources(map[string]string{names.AnnotationPodSources: test.text}, test.labels)
		if text := fmt.Sprint(got); err == nil && text != test.want || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %s, %v; want %s", name, text, err, test.want)
		}
	}
	if got, err := compile.Sources(nil, nil); got != nil || err != nil {
		t.Errorf("without annotation: %v, %v", got, err)
	}
}

func FuzzSources(f *testing.F) {
	for _, seed := range []string{`["172.31.16.50","fd00::5/64"]`, `["0.0.0.0/0"]`, `[1]`, `["::ffff:1.2.3.4/96"]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sources, err := compile.Sources(map[string]string{names.AnnotationPodSources: text}, permitted)
		if err != nil && len(err.Error()) > 2048 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		for _, p := range sources {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
				t.Errorf("%s", p)
			}
		}
	})
}
