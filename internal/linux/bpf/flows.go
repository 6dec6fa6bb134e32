package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// peer is the service of a connected socket; see bpf/service.c.
type peer struct {
	Service endpoint
	Backend endpoint
	Set     uint32
}

// EndLostFlows destroys the connected UDP sockets of pods whose backend no longer belongs
// to its service, and returns their number. A blocked receive ends with ECONNABORTED, and
// a send fails with EDESTADDRREQ, so the application connects again; otherwise, a client
// that only sends would never notice. An unconnected socket gets another backend with its
// next packet.
//
// namespaces is the directory with the pods' network namespaces, e.g. "/run/netns". The
// method may run concurrently with others. A kernel without CONFIG_INET_DIAG_DESTROY
// fails with EOPNOTSUPP.
func (p *Programs) EndLostFlows(namespaces string) (ended int, err error) {
	entries, err := os.ReadDir(namespaces)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("list the network namespaces of the pods: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(namespaces, e.Name())
		n, err := p.endLostFlowsIn(path)
		ended += n
		if err != nil {
			errs = append(errs, fmt.Errorf("destroy the UDP sockets without a backend in %s: %w", path, err))
		}
	}
	return ended, errors.Join(errs...)
}

func (p *Programs) endLostFlowsIn(path string) (ended int, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || int64(fs.Type) != unix.NSFS_MAGIC {
		return 0, nil // another file, or the pod is gone
	}
	ns, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: int(ns.Fd())})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := c.Execute(diagRequest(netlink.Dump, unix.SOCK_DIAG_BY_FAMILY, family, make([]byte, diagIDSize)))
		if err != nil {
			return ended, err
		}
		for _, s := range sockets {
			if len(s.Data) < 4+diagIDSize {
				continue
			}
			id := s.Data[4 : 4+diagIDSize] // struct inet_diag_msg
			lost, err := p.isLost(binary.NativeEndian.Uint64(id[diagIDSize-8:]))
			if err != nil {
				return ended, err
			}
			if !lost {
				continue
			}
			_, err = c.Execute(diagRequest(netlink.Acknowledge, unix.SOCK_DESTROY, family, id))
			if err != nil && !errors.Is(err, os.ErrNotExist) { // closed meanwhile
				return ended, err
			}
			ended++
		}
	}
	return ended, nil
}

// isLost reports whether the socket with the cookie has a backend that is no member.
func (p *Programs) isLost(cookie uint64) (bool, error) {
	var at peer
	err := p.objects.Peers.Lookup(&cookie, &at)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil // not connected to a service
	}
	if err != nil {
		return false, err
	}
	var drains uint32
	err = p.objects.Members.Lookup(&member{at.Set, at.Backend}, &drains)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return true, nil
	}
	return false, err
}

// diagIDSize is the size of struct inet_diag_sockid, which ends in the cookie.
const diagIDSize = 48

// diagRequest returns a request for connected UDP sockets (struct inet_diag_req_v2 of
// linux/inet_diag.h; sock_diag(7)).
func diagRequest(flags netlink.HeaderFlags, kind netlink.HeaderType, family uint8, id []byte) netlink.Message {
	const established = 1 << 1 // TCP_ESTABLISHED, which the kernel also uses for UDP
	data := []byte{family, unix.IPPROTO_UDP, 0, 0}
	data = binary.NativeEndian.AppendUint32(data, established)
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
		Data:   append(data, id...),
	}
}
