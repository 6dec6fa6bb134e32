package vpc

import (
	"encoding/binary"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// past is a deadline that ends a pending read.
var past = time.Unix(1, 0)

// receive waits for a frame and returns its length and its link.
func receive(socket syscall.RawConn, buffer []byte) (int, *unix.SockaddrLinklayer, error) {
	var length int
	var from unix.Sockaddr
	var received error
	err := socket.Read(func(fd uintptr) bool {
		length, from, received = unix.Recvfrom(int(fd), buffer, 0)
		return received != unix.EAGAIN && received != unix.EINTR
	})
	if err == nil {
		err = received
	}
	link, _ := from.(*unix.SockaddrLinklayer)
	if err == nil && link == nil {
		err = unix.EPROTO
	}
	return length, link, err
}

// send sends a frame on a link.
func send(socket syscall.RawConn, frame []byte, link int) error {
	var sent error
	err := socket.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), frame, 0, &unix.SockaddrLinklayer{Ifindex: link})
		return sent != unix.EAGAIN && sent != unix.EINTR
	})
	if err == nil {
		err = sent
	}
	return err
}

// networkOrder converts a 16-bit value so that its bytes in memory are in network order.
func networkOrder(value uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, value))
}
