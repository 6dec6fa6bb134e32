package machine

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
)

// Operations of a request.
const (
	opUp     = "up"     // start the contents of the machine; frames
	opExec   = "exec"   // run a program; frames
	opDial   = "dial"   // connect; a reply, then the bytes of the connection
	opStatus = "status" // a Status, as JSON
	opDaemon = "daemon" // stop, start or kill a daemon; frames
)

// request opens a connection to the machine: one line of JSON.
type request struct {
	Op string `json:"op"`
	// Host is a node or another host of the topology; "" is the machine itself.
	Host string `json:"host,omitempty"`
	// Command, Env and Terminal are for opExec.
	Command  []string  `json:"command,omitempty"`
	Env      []string  `json:"env,omitempty"`
	Terminal *terminal `json:"terminal,omitempty"`
	// Network and Address are for opDial.
	Network string `json:"network,omitempty"`
	Address string `json:"address,omitempty"`
	// Daemon and Verb are for opDaemon.
	Daemon string `json:"daemon,omitempty"`
	Verb   string `json:"verb,omitempty"`
}

// terminal is the size of the caller's terminal.
type terminal struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
	Type    string `json:"type"`
}

// reply is the answer to opDial, sent before the bytes of the connection.
type reply struct {
	Error string `json:"error,omitempty"`
}

// Kinds of frames.
const (
	frameStdin  = 'i'
	frameEOF    = 'e' // end of standard input
	frameSignal = 's' // one byte: the signal's number
	frameResize = 'w' // terminal, as JSON
	frameStdout = 'o'
	frameStderr = 'r'
	frameExit   = 'x' // four bytes: the exit code
	frameError  = '!' // the request failed: text
)

// maxFrame limits the memory that one peer can make the other allocate.
const maxFrame = 1 << 20

// frames writes frames to a connection. It is safe for concurrent use.
type frames struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frames) send(kind byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	header := [5]byte{kind}
	binary.BigEndian.PutUint32(header[1:], uint32(len(payload)))
	if _, err := f.w.Write(append(header[:], payload...)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// stream is an io.Writer that sends its bytes as frames of one kind.
type stream struct {
	frames *frames
	kind   byte
}

func (s stream) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, maxFrame)
		if err := s.frames.send(s.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

// receive reads one frame.
func receive(r io.Reader) (kind byte, payload []byte, err error) {
	var header [5]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(header[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes, more than %d", n, maxFrame)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("frame cut off: %w", err)
	}
	return header[0], payload, nil
}

// sendLine writes a value as one line of JSON.
func sendLine(w io.Writer, value any) error {
	line, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// receiveLine reads one line of JSON.
func receiveLine(r *bufio.Reader, value any) error {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, value)
}

// Buffered is a connection with some bytes already in Reader.
type Buffered struct {
	net.Conn
	Reader *bufio.Reader
}

func (b Buffered) Read(p []byte) (int, error) { return b.Reader.Read(p) }

// CloseWrite signals the end of the data to the peer.
func (b Buffered) CloseWrite() error { return closeWrite(b.Conn) }

// closeWrite signals the end of the data to the peer if the connection supports it.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Splice copies both ways until both sides have ended, then closes both.
func Splice(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	var both sync.WaitGroup
	forward := func(to, from net.Conn) {
		// An error ends this direction like an end of file. Both peers see the
		// closed connection.
		_, _ = io.Copy(to, from)
		_ = closeWrite(to)
	}
	both.Go(func() { forward(a, b) })
	forward(b, a)
	both.Wait()
}
