package linux

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// judge evaluates rules like the kernel. It returns whether the rules decide, and how.
func judge(t *testing.T, frame []byte, rules, targets [][]expr.Any) (passes, decided bool) {
	t.Helper()
	for _, rule := range rules {
		var register []byte
	next:
		for _, e := range rule {
			switch e := e.(type) {
			case *expr.Payload:
				if int(e.Offset+e.Len) > len(frame) {
					break next
				}
				register = slices.Clone(frame[e.Offset : e.Offset+e.Len])
			case *expr.Bitwise:
				for i := range register {
					register[i] = register[i]&e.Mask[i] ^ e.Xor[i]
				}
			case *expr.Cmp:
				if bytes.Equal(register, e.Data) != (e.Op == expr.CmpOpEq) {
					break next
				}
			case *expr.Counter, *expr.Limit, *expr.Log:
			case *expr.Verdict:
				switch e.Kind {
				case expr.VerdictAccept, expr.VerdictDrop:
					return e.Kind == expr.VerdictAccept, true
				case expr.VerdictReturn:
					return false, false
				case expr.VerdictJump:
					if passes, decided := judge(t, frame, targets, nil); decided {
						return passes, true
					}
				}
			default:
				t.Fatalf("unknown expression %T", e)
			}
		}
	}
	return false, false
}

func guardOfPod() netplan.Guard {
	return netplan.NewGuard("eth0", netplan.MAC{2, 0, 0, 0, 0, 5}, []netip.Prefix{
		netip.MustParsePrefix("172.31.28.17/32"), netip.MustParsePrefix("2406:da1e:c4:ed01:c57d::1/128"),
		netip.MustParsePrefix("fe80::5/128"), netip.MustParsePrefix("172.31.16.96/28"),
	})
}

// The kernel tests of the coordinator send the same frames.
func TestGuardJudgesForgeries(t *testing.T) {
	g := guardOfPod()
	sender := linuxtest.Sender{MAC: net.HardwareAddr(g.MAC[:]), IPv4: "172.31.28.17", IPv6: "2406:da1e:c4:ed01:c57d::1", Permitted: "172.31.16.99"}
	rules, targets := guardRules(g, "targets", true)
	for _, f := range sender.Forgeries() {
		passes, decided := judge(t, append(f.Frame, make([]byte, 64)...), rules, targets)
		if !decided || passes != f.Passes {
			t.Errorf("%s: passes %v, want %v", f.Name, passes, f.Passes)
		}
		for length := 0; length < 14; length++ { // cut frames
			if passes, _ := judge(t, f.Frame[:length], rules, targets); passes {
				t.Errorf("%d bytes of %s pass", length, f.Name)
			}
		}
	}
}

// A guard of many networks is read back from the comments of its rules.
func TestGuardIsReadFromComments(t *testing.T) {
	var from []netip.Prefix
	for i := range 192 {
		from = append(from, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x24, 6, 14: 1, 15: byte(i)}), 128))
	}
	for _, g := range []netplan.Guard{guardOfPod(), netplan.NewGuard("eth0", netplan.MAC{2}, nil), netplan.NewGuard("eth0", netplan.MAC{2}, from)} {
		rules, _ := guardRules(g, "targets", true)
		texts := commentsOf(g)
		if len(texts) > len(rules) {
			t.Fatalf("%d comments for %d rules", len(texts), len(rules))
		}
		var read []*nftables.Rule
		for i := range rules {
			r := &nftables.Rule{}
			if i < len(texts) {
				r.UserData = comment(texts[i])
			}
			read = append(read, r)
		}
		if got, ok := guardOf("eth0", read); !ok || got != g {
			t.Errorf("got %s, want %s", got, g)
		}
	}
	if _, ok := guardOf("eth0", []*nftables.Rule{{UserData: comment(strings.Replace(commentsOf(guardOfPod())[0], guardVersion, "v0: ", 1))}}); ok {
		t.Error("rules of another version are accepted")
	}
}
