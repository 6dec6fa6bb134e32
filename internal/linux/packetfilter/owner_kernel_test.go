//go:build kernel

package packetfilter

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// rootIn returns a connection of root in the pod's namespace.
func (n *network) rootIn(t *testing.T) *nftables.Conn {
	t.Helper()
	var root *nftables.Conn
	if err := n.pod.Do(func() (err error) {
		root, err = nftables.New(nftables.AsLasting())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.CloseLasting() })
	return root
}

// tables returns our tables in the pod.
func (n *network) tables(t *testing.T) []*nftables.Table {
	t.Helper()
	all, err := n.rootIn(t).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var ours []*nftables.Table
	for _, table := range all {
		if strings.HasPrefix(table.Name, tablePrefix) {
			ours = append(ours, table)
		}
	}
	return ours
}

// TestPodCannotRemoveTable acts as root in the pod's namespace.
func TestPodCannotRemoveTable(t *testing.T) {
	n := newNetwork(t)
	f := n.open(t)
	f.must(t, closed, closed)
	if !f.socket.owns {
		t.Skip("this kernel lacks the flags owner and persist; TryOwnership reports it")
	}
	root := n.rootIn(t)
	for _, table := range n.tables(t) {
		root.DelTable(table)
		if err := root.Flush(); !errors.Is(err, unix.EPERM) {
			t.Errorf("deletion by the pod: %v", err)
		}
		root.FlushTable(table)
		if err := root.Flush(); !errors.Is(err, unix.EPERM) {
			t.Errorf("flush by the pod: %v", err)
		}
	}
	root.FlushRuleset()
	if err := root.Flush(); err != nil {
		t.Errorf("nft flush ruleset: %v", err)
	}
	n.compare(t, clusterWith(closed, closed), "after the attempts")
}

// TestTableOutlivesFilter closes the filter, as a killed agent does, and takes over.
func TestTableOutlivesFilter(t *testing.T) {
	n := newNetwork(t)
	rule := allowing("10.6.0.3/32", service.TCP, 80)
	f := n.open(t)
	f.must(t, rule, closed)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	n.compare(t, clusterWith(rule, closed), "without an owner")
	f = n.open(t)
	n.compare(t, clusterWith(rule, closed), "before the first Apply of the next owner")
	f.must(t, rule, closed)
	if f.Takeover() != "" {
		t.Errorf("equal rules are reported: %s", f.Takeover())
	}
	f.must(t, rule, open)
	n.compare(t, clusterWith(rule, open), "after it")
	f.must(t, open, open)
	if left := n.tables(t); len(left) > 0 {
		t.Errorf("an open pod has tables: %v", left)
	}
	f.must(t, closed, closed)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = n.open(t)
	f.must(t, open, open)
	if left := n.tables(t); len(left) > 0 {
		t.Errorf("the tables of a former agent are left in an open pod: %v", left)
	}
}

// TestNextAgentRestoresRules lets root in the pod change the rules while no agent runs.
func TestNextAgentRestoresRules(t *testing.T) {
	rule := allowing("10.6.0.3/32", service.TCP, 80)
	for name, tamper := range map[string]func(root *nftables.Conn, table *nftables.Table){
		"deletes the table": func(root *nftables.Conn, table *nftables.Table) { root.DelTable(table) },
		"empties a chain": func(root *nftables.Conn, table *nftables.Table) {
			root.FlushChain(&nftables.Chain{Table: table, Name: "eth0-" + policy.Egress.String()})
		},
		"deletes all rules": func(root *nftables.Conn, table *nftables.Table) { root.FlushTable(table) },
		"adds a peer": func(root *nftables.Conn, table *nftables.Table) {
			sets, err := root.GetSets(table)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sets {
				if strings.Contains(s.Name, "-always-4.") {
					if err := root.SetAddElements(s, []nftables.SetElement{{Key: addrOf("10.6.0.4").AsSlice()}}); err != nil {
						t.Fatal(err)
					}
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			f := n.open(t)
			f.must(t, rule, closed)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			root := n.rootIn(t)
			for _, table := range n.tables(t) {
				tamper(root, table)
				if err := root.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			f = n.open(t)
			f.must(t, rule, closed)
			n.compare(t, clusterWith(rule, closed), "restored")
			if left := n.tables(t); len(left) > 2 {
				t.Errorf("more than one table of each family: %v", left)
			}
			if f.Takeover() == "" && name != "deletes the table" {
				t.Error("the change is not reported")
			}
		})
	}
}

// TestPodHoldingTableChangesNothing lets root in the pod own the table of a former agent.
func TestPodHoldingTableChangesNothing(t *testing.T) {
	n := newNetwork(t)
	rule := allowing("10.6.0.3/32", service.TCP, 80)
	f := n.open(t)
	f.must(t, open, closed)
	if !f.socket.owns {
		t.Skip("this kernel lacks the flags owner and persist; TryOwnership reports it")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	root, err := openSocket(n.ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range n.tables(t) {
		if err := root.sendTable(table, flagOwner|flagPersist); err != nil {
			t.Fatal(err)
		}
		root.conn.FlushTable(table)
		if err := root.flush(); err != nil {
			t.Fatal(err)
		}
	}
	f = n.open(t)
	f.must(t, rule, closed)
	n.compare(t, clusterWith(rule, closed), "while root in the pod owns a table")
	if !strings.Contains(f.Takeover(), "owns a table") {
		t.Errorf("reported: %q", f.Takeover())
	}
	if err := root.close(); err != nil {
		t.Fatal(err)
	}
	f.must(t, rule, closed)
	if left := n.tables(t); len(left) > 2 {
		t.Errorf("the table stays behind its owner: %v", left)
	}
}

// TestTwoAgentsHandOver opens a second filter before the first one ends, as a rolling update may.
func TestTwoAgentsHandOver(t *testing.T) {
	n := newNetwork(t)
	rule := allowing("10.6.0.3/32", service.TCP, 80)
	former := n.open(t)
	former.must(t, rule, closed)
	next := n.open(t)
	next.must(t, rule, closed)
	n.compare(t, clusterWith(rule, closed), "two owners")
	former.must(t, rule, closed)
	if err := former.Close(); err != nil {
		t.Fatal(err)
	}
	next.must(t, rule, open)
	n.compare(t, clusterWith(rule, open), "the next owner alone")
}

// TestFilterSurvivesLostTable lets a process delete the table under the agent, on kernels without owners.
func TestFilterSurvivesLostTable(t *testing.T) {
	n := newNetwork(t)
	f := n.open(t)
	f.must(t, closed, closed)
	for _, table := range n.tables(t) {
		f.socket.conn.DelTable(table)
	}
	if err := f.socket.flush(); err != nil {
		t.Fatal(err)
	}
	rule := allowing("10.6.0.3/32", service.TCP, 80)
	f.must(t, rule, rule)
	n.compare(t, clusterWith(rule, rule), "after the loss")
}
