package inet_test

import (
	"fmt"
	"net/netip"

	"spiderpool.dev/spiderpool/internal/inet"
)

func ExampleParse() {
	ips, _ := inet.Parse([]string{"10.0.0.10-10.0.0.20", "10.0.0.15-10.0.0.30"}, inet.Bounds{})
	excluded, _ := inet.Parse([]string{"10.0.0.16"}, inet.Bounds{})
	usable := ips.Minus(excluded)
	fmt.Println(usable, usable.Count())

	_, err := inet.Parse([]string{"10.0.0.0/24"}, inet.Bounds{})
	fmt.Println(err)
	// Output:
	// 10.0.0.10-10.0.0.15, 10.0.0.17-10.0.0.30 20
	// [0] "10.0.0.0/24": is a CIDR; write the range 10.0.0.0-10.0.0.255
}

func ExampleSet_Blocks() {
	ips, _ := inet.Parse([]string{"10.0.0.14-10.0.0.17"}, inet.Bounds{})
	for base, mask := range ips.Blocks() {
		fmt.Printf("%s %016b\n", inet.BlockPrefix(base), mask)
	}
	// Output:
	// 10.0.0.0/28 1100000000000000
	// 10.0.0.16/28 0000000000000011
}

func ExampleRoute() {
	r := inet.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("192.0.2.1")}
	fmt.Println(r, inet.FamilyOf(r.Via))
	// Output: 10.0.0.0/8 via 192.0.2.1 IPv4
}
