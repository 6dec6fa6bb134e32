package dad

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStatesOfInterfaceAreRead(t *testing.T) {
	t.Parallel()
	const text = `fe800000000000000042acfffe110002 02 40 20 80 eth0
20010db8000000000000000000000010 02 40 00 c0 eth0
20010db8000000000000000000000011 02 40 00 c8 eth0
00000000000000000000000000000001 01 80 10 80       lo
`
	want := []Addr{
		{netip.MustParseAddr("fe80::42:acff:fe11:2"), false, false},
		{netip.MustParseAddr("2001:db8::10"), true, false},
		{netip.MustParseAddr("2001:db8::11"), true, true},
	}
	got, err := parse(text, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b Addr) bool { return a == b })); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestMalformedLineIsReported(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"fe80 02 40 20 80 eth0", "fe800000000000000042acfffe110002 02 40 20 -- eth0"} {
		if got, err := parse(line, "eth0"); err == nil {
			t.Errorf("%q gives %v", line, got)
		}
	}
}
