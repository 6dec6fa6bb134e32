package scenarios

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

// commands are the commands of a script. README.md explains each with an example.
var commands = map[string]struct {
	usage string
	run   func(*stage, arguments) error
}{
	"option":    {"option statefulset|kubevirt|ipv4-off|ipv6-off|default-network=NS/NAME", option},
	"apply":     {"apply SECTION", func(s *stage, a arguments) error { return s.apply(a.name(0)) }},
	"unreserve": {"unreserve SPIDERRESERVEDIP", unreserve},
	"deleteendpoint": {"deleteendpoint NAME", func(s *stage, a arguments) error {
		s.DeleteEndpoint("default/" + a.name(0))
		return nil
	}},
	"deletepool": {"deletepool NAME", func(s *stage, a arguments) error { s.DeletePool(a.name(0)); return nil }},
	"add": {
		"add POD [if=eth0] [container=POD] [uid=…] [node=…] [ipv4=POOL,…] [ipv6=POOL,…] [clean=true] [master=LINK]",
		add,
	},
	"check":    {"check POD IP… [if=eth0] [container=POD]", check},
	"del":      {"del POD [if=eth0] [container=POD] [node=…]", del},
	"kill":     {"kill POD: delete the pod object", kill},
	"recreate": {"recreate POD [node=…]: replace the pod by a new one with another UID", recreate},
	"conflict": {"conflict POD IP MAC [if=eth0] [container=POD]", conflict},
	"gc":       {"gc NODE [valid=CONTAINER,…]", gc},
	"sandbox":  {"sandbox NODE CONTAINER [of=POD]: add a sandbox to the runtime", sandbox},
	"endsandbox": {"endsandbox NODE CONTAINER: remove a sandbox from the runtime", func(s *stage, a arguments) error {
		s.EndSandbox(a.name(0), a.name(1))
		return nil
	}},
	"notready": {"notready NODE", func(s *stage, a arguments) error {
		s.SetNodeReady(a.name(0), false)
		return nil
	}},
	"finish":      {"finish POD Succeeded|Failed", finish},
	"terminate":   {"terminate POD DURATION: delete the pod with this grace period", terminate},
	"addressless": {"addressless POD: remove the address from the pod's status", addressless},
	"runtime": {"runtime NODE away|back", func(s *stage, a arguments) error {
		s.SetRuntimeAway(a.name(0), a.name(1) == "away")
		return nil
	}},
	"reclaim": {
		"reclaim NODE [zombies=ready,notready] [delay=DURATION] [addressless=true] [fixed=off]: the node's agent reclaims",
		doReclaim,
	},
	"sweep": {
		"sweep [zombies=ready,notready] [delay=DURATION] [addressless=true] [fixed=off]: the controller reclaims",
		sweep,
	},
	"deletenode": {"deletenode NODE", deleteNode},
	"fence":      {"fence NODE: add the taint node.kubernetes.io/out-of-service", fence},
	"scale":      {"scale STATEFULSET REPLICAS: create or scale the StatefulSet with the UID x", scale},
	"deleteset":  {"deleteset STATEFULSET", deleteSet},
	"instance":   {"instance NAME [POD…]: create the VirtualMachineInstance with the UID x and these active pods", instance},
	"pool":       {"pool NAME: print the pool's status", status},
	"restart":    {"restart NODE: kill and start the agent", restart},
	"replay":     {"replay NODE: retry the releases kept on disk", replay},
	"repair": {"repair NODE", func(s *stage, a arguments) error {
		s.Service(a.name(0)).Repair()
		return nil
	}},
	"api": {"api away|back", func(s *stage, a arguments) error {
		s.SetAway(a.name(0) == "away")
		return nil
	}},
	"advance":  {"advance DURATION", advance},
	"fill":     {"fill POD… N: run ADD for N copies of the pods", fill},
	"leases":   {"leases", leases},
	"endpoint": {"endpoint NAME", endpoint},
}

func option(s *stage, a arguments) error {
	for _, name := range a.names {
		switch name {
		case "statefulset":
			s.Options.FixStatefulSet = true
		case "kubevirt":
			s.Options.FixVirtualMachine = true
		case "ipv4-off":
			s.Options.EnableIPv4 = false
		case "ipv6-off":
			s.Options.EnableIPv6 = false
		default:
			return errUsage
		}
	}
	if network, ok := a.options["default-network"]; ok {
		namespace, name, _ := strings.Cut(network, "/")
		s.Options.ClusterNetwork.Default = pool.NetworkAttachment{Namespace: namespace, Name: name}
	}
	return nil
}

func unreserve(s *stage, a arguments) error {
	delete(s.reserved, a.name(0))
	s.SetReserved(s.allReserved())
	return nil
}

func attachmentOf(p ipam.Pod, a arguments) wire.Attachment {
	return wire.Attachment{
		ContainerID: a.or("container", p.Name), Interface: a.or("if", "eth0"),
		PodNamespace: p.Namespace, PodName: p.Name, PodUID: a.or("uid", p.UID),
	}
}

func add(s *stage, a arguments) error {
	p, err := s.pod(a.name(0))
	if err != nil {
		return err
	}
	at := attachmentOf(p.Pod, a)
	reply, err := s.Service(a.or("node", p.Node)).Add(context.Background(), wire.AddRequest{
		Attachment: at, Network: "n", Master: a.or("master", ""),
		DefaultIPv4Pools: a.list("ipv4"), DefaultIPv6Pools: a.list("ipv6"),
		CleanGateway: a.or("clean", "") == "true", MatchMasterSubnet: a.or("master", "") != "",
	})
	if err != nil {
		s.sayError(err)
		return nil
	}
	for _, address := range reply.Addresses {
		gateway := "no gateway"
		if address.Gateway.IsValid() {
			gateway = "gateway " + address.Gateway.String()
		}
		s.say("%s %s from %s, %s", at.Interface, address.Prefix, address.Pool, gateway)
	}
	for _, r := range reply.Routes {
		s.say("route %s via %s", r.Dst, r.Via)
	}
	if dns := reply.DNS; len(dns.Nameservers)+len(dns.Search) > 0 || dns.Domain != "" {
		s.say("dns %v %s %v %v", dns.Nameservers, dns.Domain, dns.Search, dns.Options)
	}
	return nil
}

func check(s *stage, a arguments) error {
	p, err := s.pod(a.name(0))
	if err != nil {
		return err
	}
	req := wire.CheckRequest{Attachment: attachmentOf(p.Pod, a)}
	for _, text := range a.names[1:] {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		req.Addresses = append(req.Addresses, addr)
	}
	if err := s.Service(p.Node).Check(context.Background(), req); err != nil {
		s.sayError(err)
		return nil
	}
	s.say("ok")
	return nil
}

func del(s *stage, a arguments) error {
	// The pod object may already be gone when its sandbox is removed.
	p := ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: a.name(0)}}
	node := defaultNode
	if known, err := s.pod(a.name(0)); err == nil {
		p, node = known.Pod, known.Node
	}
	if err := s.Service(a.or("node", node)).Delete(context.Background(), wire.DeleteRequest{Attachment: attachmentOf(p, a)}); err != nil {
		s.sayError(err)
		return nil
	}
	s.say("ok")
	return nil
}

func kill(s *stage, a arguments) error {
	p, err := s.pod(a.name(0))
	if err != nil {
		return err
	}
	s.DeletePod(p.PodKey)
	return nil
}

func recreate(s *stage, a arguments) error {
	p, err := s.pod(a.name(0))
	if err != nil {
		return err
	}
	fresh := *p
	s.uids++
	fresh.UID = fmt.Sprintf("uid-%d", s.uids)
	fresh.Node = a.or("node", p.Node)
	s.SetPod(fresh)
	return nil
}

func conflict(s *stage, a arguments) error {
	p, err := s.pod(a.name(0))
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(a.name(1))
	if err != nil {
		return err
	}
	err = s.Service(p.Node).Conflict(context.Background(), wire.ConflictRequest{
		Attachment: attachmentOf(p.Pod, a), Address: addr, MAC: a.name(2),
	})
	if err != nil {
		s.sayError(err)
	}
	return nil
}

func gc(s *stage, a arguments) error {
	req := wire.GCRequest{Network: "n"}
	for _, container := range a.list("valid") {
		req.Valid = append(req.Valid, wire.AttachmentKey{ContainerID: container, Interface: "eth0"})
	}
	if err := s.Service(a.name(0)).GC(context.Background(), req); err != nil {
		s.sayError(err)
	}
	return nil
}

func doReclaim(s *stage, a arguments) error {
	policy, err := policyOf(a)
	if err != nil {
		return err
	}
	return s.Service(a.name(0)).Reclaim(context.Background(), policy)
}

func finish(s *stage, a arguments) error {
	p, err := s.pod(a.name(0))
	if err == nil {
		p.State.Phase = a.name(1)
	}
	return err
}

func addressless(s *stage, a arguments) error {
	p, err := s.pod(a.name(0))
	if err == nil {
		p.State.HasAddress = false
	}
	return err
}

func terminate(s *stage, a arguments) error {
	p, err := s.pod(a.name(0))
	if err != nil {
		return err
	}
	grace, err := time.ParseDuration(a.name(1))
	if err != nil {
		return errUsage
	}
	p.State.Terminating, p.State.Grace = true, grace
	s.terminated[p.PodKey] = s.Now()
	// The watch of the agent reports it at once.
	_, err = s.Service(p.Node).ReclaimOf(context.Background(), reclaim.Policy{}, p.UID)
	return err
}

func restart(s *stage, a arguments) error {
	s.Restart(a.name(0))
	return nil
}

func replay(s *stage, a arguments) error {
	service := s.Service(a.name(0))
	if !service.Allocator.Loaded() {
		if err := service.Allocator.Load(context.Background()); err != nil {
			s.say("not ready: %v", err)
			return nil
		}
	}
	left, err := service.Replay(context.Background())
	if err != nil {
		s.say("%d left: %v", left, err)
		return nil
	}
	s.say("%d left", left)
	return nil
}

func advance(s *stage, a arguments) error {
	d, err := time.ParseDuration(a.name(0))
	if err != nil {
		return errUsage
	}
	s.Advance(d)
	return nil
}

// fill runs ADD for new pods, copies of the named pods in turn, and counts addresses and errors.
func fill(s *stage, a arguments) error {
	n := len(a.names) - 1
	var count int
	if n < 1 {
		return errUsage
	}
	if _, err := fmt.Sscan(a.names[n], &count); err != nil {
		return errUsage
	}
	given := map[string]bool{}
	failed := 0
	for i := range count {
		like, err := s.pod(a.names[i%n])
		if err != nil {
			return err
		}
		p := *like
		s.uids++
		p.Name, p.UID = fmt.Sprintf("%s-%d", like.Name, i), fmt.Sprintf("uid-%d", s.uids)
		s.SetPod(p)
		reply, err := s.Service(p.Node).Add(context.Background(), wire.AddRequest{Attachment: attachmentOf(p.Pod, arguments{})})
		if err != nil {
			failed++
			continue
		}
		for _, address := range reply.Addresses {
			if given[address.Prefix.Addr().String()] {
				return fmt.Errorf("%s was allocated twice", address.Prefix.Addr())
			}
			given[address.Prefix.Addr().String()] = true
		}
	}
	s.TakeEvents()
	s.say("%d addresses allocated, %d pods without", len(given), failed)
	return nil
}

func leases(s *stage, _ arguments) error {
	empty := true
	for _, b := range s.Store.All() {
		for _, l := range b.Leases {
			if l.State == lease.Released {
				continue
			}
			empty = false
			text := fmt.Sprintf("%s %s %s", l.Addr, l.State, l.Pool)
			if l.State != lease.Quarantined {
				text += fmt.Sprintf(" %s %s %s on %s", l.Pod, l.Interface, l.ContainerID, l.Node)
			} else {
				text += fmt.Sprintf(" %s until %s", l.MAC, l.Until.Format(time.TimeOnly))
			}
			s.say("%s", text)
		}
		for _, f := range b.Former {
			empty = false
			s.say("%s may still be used by %s of %s on %s", f.Addr, f.ContainerID, f.Pod, f.Node)
		}
	}
	if empty {
		s.say("none")
	}
	return nil
}

func endpoint(s *stage, a arguments) error {
	endpoints := s.Endpoints()
	if a.name(0) == "" {
		for _, name := range slices.Sorted(maps.Keys(endpoints)) {
			s.say("%s", name)
		}
		return nil
	}
	name := a.name(0)
	if !strings.Contains(name, "/") {
		name = "default/" + name
	}
	e, ok := endpoints[name]
	if !ok {
		s.say("none")
		return nil
	}
	s.say("of %s %s, pod %s on %s", e.Owner.Kind, e.Owner.Name, e.PodUID, e.Node)
	for _, i := range e.Interfaces {
		s.say("%s %v", i.Interface, addressesOf(i))
	}
	return nil
}

func addressesOf(i ipam.EndpointInterface) []string {
	var texts []string
	for _, address := range i.Addresses {
		texts = append(texts, address.Prefix.String())
	}
	return texts
}

func sandbox(s *stage, a arguments) error {
	uid := ""
	if of, ok := a.options["of"]; ok {
		p, err := s.pod(of)
		if err != nil {
			return err
		}
		uid = p.UID
	}
	s.Sandbox(a.name(0), a.name(1), uid)
	return nil
}
