package pool

import (
	"strings"
	"testing"
)

func TestResourceNamesItsAttachment(t *testing.T) {
	long := strings.Repeat("a", 60)
	for _, test := range []struct {
		of   NetworkAttachment
		want string
	}{
		{NetworkAttachment{"kube-system", "ipvlan-ens5"}, "addresses.ipam.spidernet.io/kube-system.ipvlan-ens5"},
		{NetworkAttachment{"x", long + "."}, "addresses.ipam.spidernet.io/x." + long + "."}, // no valid name, and 63 characters
		{NetworkAttachment{"xy", long + "b"}, "addresses.ipam.spidernet.io/xy." + long[:43] + "-"},
	} {
		got := test.of.Resource()
		if !strings.HasPrefix(got, test.want) || len(got) > len("addresses.ipam.spidernet.io/")+63 {
			t.Errorf("%s: %s, want %s", test.of, got, test.want)
		}
	}
	if one, two := (NetworkAttachment{"xy", long + "b"}).Resource(), (NetworkAttachment{"xy", long + "c"}).Resource(); one == two {
		t.Errorf("two attachments share the resource %s", one)
	}
}
