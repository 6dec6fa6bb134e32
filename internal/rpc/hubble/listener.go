package hubble

import (
	"net"
	"net/netip"
	"sync"
)

// maxOfAddress is the number of connections from one IP address at a time: a pod without a certificate cannot keep all
// places busy with handshakes.
const maxOfAddress = 8

// fairListener closes connections beyond maxOfAddress. Those of a unix socket have no address, and no limit.
type fairListener struct {
	net.Listener
	mu struct {
		sync.Mutex
		open map[netip.Addr]int
	}
}

func fair(l net.Listener) *fairListener {
	f := &fairListener{Listener: l}
	f.mu.open = map[netip.Addr]int{}
	return f
}

// Accept implements net.Listener.
func (f *fairListener) Accept() (net.Conn, error) {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		remote, ok := conn.RemoteAddr().(*net.TCPAddr)
		if !ok {
			return conn, nil
		}
		addr := remote.AddrPort().Addr().Unmap()
		if f.enter(addr) {
			return &fairConn{Conn: conn, leave: sync.OnceFunc(func() { f.leave(addr) })}, nil
		}
		_ = conn.Close()
	}
}

func (f *fairListener) enter(addr netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.open[addr] >= maxOfAddress {
		return false
	}
	f.mu.open[addr]++
	return true
}

func (f *fairListener) leave(addr netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.open[addr]--; f.mu.open[addr] == 0 {
		delete(f.mu.open, addr)
	}
}

type fairConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *fairConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
