package netplan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/inet"
)

func parse(t *testing.T, text string) State {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDiffMakesBeforeItBreaks(t *testing.T) {
	have := parse(t, `
route 0.0.0.0/0 via 10.0.0.1 dev eth0
route 10.7.0.0/16 via 169.254.0.1 dev veth0 onlink proto 83
rule ip 2000 from 10.0.9.9/32 lookup 109 proto 83
rule ip 32766 from all lookup 254
`)
	want := parse(t, `
route 0.0.0.0/0 via 10.0.1.1 dev net1 proto 83
rule ip 2000 from 10.0.0.2/32 lookup 100 proto 83
route 0.0.0.0/0 via 10.0.0.1 dev eth0 table 100 proto 83
route 10.0.0.0/24 dev eth0 src 10.0.0.2 table 100 proto 83
link veth0 mtu 1500
up veth0
neighbor 169.254.0.1 mac 02:00:00:00:00:01 dev veth0
sysctl net/ipv4/conf/veth0/rp_filter = 0
`)
	const expected = `+ link veth0 mtu 1500
+ sysctl net/ipv4/conf/veth0/rp_filter = 0
+ up veth0
+ neighbor 169.254.0.1 mac 02:00:00:00:00:01 dev veth0
+ route 10.0.0.0/24 dev eth0 src 10.0.0.2 table 100 proto 83
+ route 0.0.0.0/0 via 10.0.0.1 dev eth0 table 100 proto 83
+ rule ip 2000 from 10.0.0.2/32 lookup 100 proto 83
~ route 0.0.0.0/0 via 10.0.0.1 dev eth0 => route 0.0.0.0/0 via 10.0.1.1 dev net1 proto 83
- rule ip 2000 from 10.0.9.9/32 lookup 109 proto 83
- route 10.7.0.0/16 via 169.254.0.1 dev veth0 onlink proto 83
`
	if got := Diff(have, want, Owned).String(); got != expected {
		t.Errorf("got:\n%s", got)
	}
}

func TestDiffIgnoresUnsetAttributes(t *testing.T) {
	have := parse(t, `
link veth0 kind veth mac 02:00:00:00:00:01 mtu 1500 txqueuelen 1000
route 0.0.0.0/0 via 10.0.0.1 dev eth0 src 10.0.0.2 proto 3
`)
	want := parse(t, `
link veth0 mtu 1500
route 0.0.0.0/0 via 10.0.0.1 dev eth0 proto 83
`)
	if d := Diff(have, want, Owned); len(d) != 0 {
		t.Errorf("got:\n%s", d)
	}
}

// The generators draw from few values, so that states meet in keys.
var (
	genDev   = rapid.SampledFrom([]string{"eth0", "net1", "veth0"})
	genMAC   = rapid.SampledFrom([]MAC{{}, {2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}})
	genAddr  = rapid.SampledFrom(ips("10.0.0.1", "10.0.0.2", "169.254.0.1", "fd00::1", "fd00::2"))
	genPfx   = rapid.SampledFrom(pfx("0.0.0.0/0", "10.0.0.0/24", "10.0.0.2/32", "::/0", "fd00::/64", "fd00::2/128"))
	genTable = rapid.SampledFrom([]int{0, 100, 101, 500})
	genProto = rapid.SampledFrom([]int{0, 3, Protocol})
)

func genItem() *rapid.Generator[Item] {
	optional := func(t *rapid.T, label string) netip.Addr {
		if rapid.Bool().Draw(t, label+"?") {
			return netip.Addr{}
		}
		return genAddr.Draw(t, label)
	}
	return rapid.Custom(func(t *rapid.T) Item {
		switch rapid.IntRange(0, 7).Draw(t, "kind") {
		case 0:
			return Link{Name: genDev.Draw(t, "dev"), MAC: genMAC.Draw(t, "mac"), MTU: rapid.IntRange(0, 2).Draw(t, "mtu") * 1400}
		case 1:
			return Up{Dev: genDev.Draw(t, "dev")}
		case 2:
			return Addr{Prefix: genPfx.Draw(t, "prefix"), Dev: genDev.Draw(t, "dev")}
		case 3:
			return Route{Dst: genPfx.Draw(t, "dst"), Via: optional(t, "via"), Dev: genDev.Draw(t, "dev"), Src: optional(t, "src"),
				Table: genTable.Draw(t, "table"), Metric: rapid.IntRange(0, 1).Draw(t, "metric") * 256, OnLink: rapid.Bool().Draw(t, "onlink"), Proto: genProto.Draw(t, "proto")}
		case 4:
			return Rule{Family: rapid.SampledFrom([]inet.Family{inet.IPv4, inet.IPv6}).Draw(t, "family"), Priority: rapid.IntRange(1, 3).Draw(t, "priority"),
				From: genPfx.Draw(t, "from"), Table: 100, Proto: genProto.Draw(t, "proto")}
		case 5:
			return Neighbor{Addr: genAddr.Draw(t, "addr"), MAC: genMAC.Draw(t, "mac"), Dev: genDev.Draw(t, "dev")}
		case 6:
			return Sysctl{Path: "net/ipv4/conf/" + genDev.Draw(t, "dev") + "/rp_filter", Value: fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "value"))}
		default:
			return Masquerade{Family: inet.IPv4, Links: genDev.Draw(t, "links")}
		}
	})
}

func genState() *rapid.Generator[State] {
	return rapid.Custom(func(t *rapid.T) State {
		// One item a key, as in a kernel.
		return rapid.SliceOfNDistinct(genItem(), 0, 12, Item.Key).Draw(t, "items")
	})
}

func TestTextFormReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genState().Draw(t, "state")
		back, err := Parse(s.String())
		if err != nil || back.String() != s.String() || !slices.Equal(back, s.sorted()) {
			t.Fatalf("%v\n%s\n%s", err, s, back)
		}
	})
}

// enact is a kernel that makes changes one by one.
func enact(t *rapid.T, s State, changes Changes) State {
	at := map[string]Item{}
	for _, it := range s {
		at[it.Key()] = it
	}
	for _, c := range changes {
		if c.Old != nil {
			if at[c.Old.Key()] != c.Old {
				t.Fatalf("%s: the old item is not there", c)
			}
			delete(at, c.Old.Key())
		}
		if c.New != nil {
			if at[c.New.Key()] != nil {
				t.Fatalf("%s: something is there", c)
			}
			at[c.New.Key()] = c.New
		}
	}
	var out State
	for _, it := range at {
		out = append(out, it)
	}
	return out
}

func TestDiffLeadsToTheWantedState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := genState().Draw(t, "have"), genState().Draw(t, "want")
		changes := Diff(have, want, Owned)
		after := enact(t, have, changes)
		if again := Diff(after, want, Owned); len(again) != 0 {
			t.Fatalf("a second diff is not empty:\n%s", again)
		}
		for _, h := range have {
			kept := slices.Contains(after, h)
			wanted := slices.ContainsFunc(want, func(w Item) bool { return w.Key() == h.Key() })
			if !kept && !wanted && !Owned(h) {
				t.Fatalf("%s is not ours and was removed", h)
			}
			if kept && !wanted && Owned(h) {
				t.Fatalf("%s is ours, not wanted, and was kept", h)
			}
		}
		if back := enact(t, after, changes.Inverse()); back.String() != have.String() {
			t.Fatalf("taken back:\n%s\nbefore:\n%s", back, have)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("link a kind veth peer b peermac 02:00:00:00:00:01 mtu 1\nup a\naddr 10.0.0.1/8 dev a\n")
	f.Add("route ::/0 via fe80::1 dev a src fd00::1 table 5 metric 7 onlink proto 83\nrule ip6 1 from all lookup 5\n")
	f.Add("rule ip 1 from all fwmark 0x40000000 lookup 5 proto 83\nreplymark ip6 dev a mark 0x40000000\nlink a group 83\n")
	f.Add("neighbor 10.0.0.1 mac 02:00:00:00:00:01 dev a\nsysctl a/b = 1 2\nmasquerade ip links spv\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		back, err := Parse(s.String())
		if err != nil || back.String() != s.String() {
			t.Errorf("%q reads as\n%s\nand back (%v) as\n%s", text, s, err, back)
		}
	})
}

func TestMalformedTextNamesTheLine(t *testing.T) {
	for _, text := range []string{
		"up", "up a b", "link a frobnicate", "addr 10.0.0.1 dev a", "addr 10.0.0.0/8 on a", "route x dev a",
		"rule ip5 1 from all lookup 2", "rule ip 1 from all", "neighbor 10.0.0.1 mac 02 dev a", "sysctl a 1", "masquerade ip spv", "bridge a",
	} {
		if _, err := Parse("up ok\n" + text); err == nil || !strings.HasPrefix(err.Error(), "line 2, ") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
