package netfilter

import "testing"

func TestMissingJumpIsAdded(t *testing.T) {
	jumps := []Jump{{"PREROUTING", "LB-IN"}, {"POSTROUTING", "LB-OUT"}}
	saved := "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j LB-IN\n-A POSTROUTING -j LB-OUTER\nCOMMIT\n"
	want := `*nat
:LB-IN - [0:0]
:LB-OUT - [0:0]
-A LB-IN -j ACCEPT
-A POSTROUTING -j LB-OUT
COMMIT
`
	if got := chainsText("nat", "-A LB-IN -j ACCEPT\n", saved, jumps); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestEveryTableIsEmptied(t *testing.T) {
	saved := "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:LB - [0:0]\n-A PREROUTING -j LB\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n"
	if got, want := emptyText(saved), "*nat\nCOMMIT\n*filter\nCOMMIT\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
