//go:build kernel

package enforcer

import (
	"errors"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// withStorage adds a second network with both machines.
func (l *lan) withStorage() {
	l.machine.Bridge("br1")
	for _, m := range []struct {
		machine *linuxtest.Machine
		port    string
		addrs   []string
	}{
		{l.friend, "q1", []string{friend4 + "/20", friend6 + "/64"}},
		{l.stranger, "q2", []string{stranger4 + "/20", stranger6 + "/64"}},
	} {
		linuxtest.Wire(l.machine, m.port, m.machine, "eth1")
		l.machine.Enslave(m.port, "br1")
		m.machine.Addr("eth1", m.addrs...)
	}
}

// attachStorage is the main plugin of net1.
func (l *lan) attachStorage(m *linuxtest.Machine) {
	l.machine.Sub("macvlan", "br1", m, "net1")
	m.Addr("net1", net1Addr+"/20", net1Addr6+"/64")
}

// TestSecondInterfaceStartsIsolated follows net1 of a running pod from the ADD of its IPAM plugin to its DEL.
func TestSecondInterfaceStartsIsolated(t *testing.T) {
	l := newLAN(t)
	l.withStorage()
	m, pod, at := l.sandbox("web")
	net1 := second(at)
	all := map[*linuxtest.Machine]bool{l.friend: true, l.stranger: true}
	only := map[*linuxtest.Machine]bool{l.friend: true, l.stranger: false}
	expect := func(when string, onNet1 map[*linuxtest.Machine]bool) {
		t.Helper()
		l.reach(when, all)
		l.reachAt(when, net1Addr, onNet1)
		l.reachAt(when, net1Addr6, onNet1)
	}
	stop := l.run()
	l.admit(pod, at)
	l.attach(m)
	l.view.setStorage(friend4+" "+friend6, nil, pod)
	l.admit(pod, net1)
	if policyTables(m) == 0 {
		t.Error("the IPAM plugin's ADD leaves net1 open")
	}
	l.attachStorage(m)
	expect("without a coordinator", only)
	l.admit(pod, net1)
	expect("behind the coordinator's request", only)

	stop()
	l.view.setStorage(friend4+" "+friend6, errMissing, pod)
	expect("without an agent", only)
	l.restart()
	stop = l.run()
	defer stop()
	asked := l.view.questions()
	await(t, func() error {
		if l.view.questions() == asked {
			return errors.New("the agent has not decided")
		}
		return nil
	})
	expect("before the next agent knows the policies", only)
	l.view.setStorage(friend4+" "+friend6, nil, pod)
	l.Changed(pod.PodKey, l.Now())
	await(t, func() error {
		if states := l.States(); len(states) != 1 || !states[0].Filtered {
			return errors.New("the agent has not decided")
		}
		return nil
	})
	expect("with the next agent", only)

	l.Forget(net1)
	if err := l.bring(l.Enforcer.sandbox(at.ContainerID), pod); err != nil {
		t.Fatal(err)
	}
	expect("after the DEL of net1, before its link is gone", map[*linuxtest.Machine]bool{l.friend: false, l.stranger: false})
	l.admit(pod, net1)
	expect("after its next ADD", only)
	l.view.setStorage("", nil, pod)
	l.Changed(pod.PodKey, l.Now())
	await(t, func() error {
		if left := policyTables(m) + policyTables(l.machine); left > 0 {
			return errors.New("tables are left")
		}
		return nil
	})
	expect("without policies", all)
}

// TestInterfacesAreIsolatedSeparately gives each interface another peer.
func TestInterfacesAreIsolatedSeparately(t *testing.T) {
	l := newLAN(t)
	l.withStorage()
	m, pod, at := l.sandbox("web")
	l.attach(m)
	l.attachStorage(m)
	l.view.set(strangerAddr, nil, pod)
	l.view.setStorage(friend4, nil, pod)
	l.admit(pod, at)
	l.admit(pod, second(at))
	l.reach("on eth0", map[*linuxtest.Machine]bool{l.friend: false, l.stranger: true})
	l.reachAt("on net1", net1Addr, map[*linuxtest.Machine]bool{l.friend: true, l.stranger: false})
	l.reachAt("on net1", net1Addr6, map[*linuxtest.Machine]bool{l.friend: false, l.stranger: false})
	l.view.set("", nil, pod)
	if err := l.bring(l.Enforcer.sandbox(at.ContainerID), pod); err != nil {
		t.Fatal(err)
	}
	l.reach("without policies of eth0", map[*linuxtest.Machine]bool{l.friend: true, l.stranger: true})
	l.reachAt("without policies of eth0", net1Addr, map[*linuxtest.Machine]bool{l.friend: true, l.stranger: false})
	if out := m.Must("", "nft", "list", "ruleset"); strings.Contains(out, "eth0-ingress") {
		t.Errorf("rules of eth0 are left:\n%s", out)
	}
}
