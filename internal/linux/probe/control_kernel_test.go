//go:build kernel

package probe

import (
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// claimAll makes a machine answer for every address on its interface y.
func claimAll(t *testing.T, m *linuxtest.Machine) {
	t.Helper()
	m.Must("", "ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo")
	err := m.Do(func() error {
		ifi, err := net.InterfaceByName("y")
		if err != nil {
			return err
		}
		conn, err := listen(ifi, ethernet.EtherTypeIPv6)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			b := make([]byte, 2048)
			for {
				n, _, err := conn.ReadFrom(b)
				if err != nil {
					return // the test has ended
				}
				var received ethernet.Frame
				if received.UnmarshalBinary(b[:n]) != nil {
					continue
				}
				_, message := ndpMessage(received.Payload)
				asked, ok := message.(*ndp.NeighborSolicitation)
				if !ok {
					continue
				}
				if answer, err := announcement(ifi.HardwareAddr, asked.TargetAddress); err == nil {
					_ = send(conn, answer)
				}
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestControlFindsWrongNetwork(t *testing.T) {
	for name, wrong := range map[string]bool{"wrong": true, "sound": false} {
		t.Run(name, func(t *testing.T) {
			a, b := linuxtest.NewMachine(t, "a"), linuxtest.NewMachine(t, "b")
			linuxtest.Wire(a, "x", b, "y")
			b.Addr("y", "10.1.0.1/24", "fd00::1/64")
			if wrong {
				claimAll(t, b)
			}
			for _, near := range []string{"10.1.0.5/24", "fd00::5/64"} {
				err := a.Do(func() error {
					ifi, err := net.InterfaceByName("x")
					if err != nil {
						return err
					}
					claimed, err := Control(ifi, netip.MustParsePrefix(near), Default)
					if claimed.IsValid() != wrong {
						t.Errorf("%s: the network answers for %v", near, claimed)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}
