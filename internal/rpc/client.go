// Package rpc is the agent's client for the CNI plugins: one request and one reply
// per connection, over the agent's unix socket.
//
// The protocol is HTTP, so you can test the agent with `curl --unix-socket`. But the
// client writes its request by hand instead of using net/http: the runtime starts a
// plugin for every interface of every pod, and linking net/http took about a third
// of a plugin's CPU time. Package rpcserver is the server.
package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"spiderpool.dev/spiderpool/internal/wire"
)

// DefaultTimeout bounds a call whose context has no deadline. It is longer than
// the agent's own limit (rpcserver.RequestTimeout), so that the agent's explanation
// arrives first.
const DefaultTimeout = 100 * time.Second

// maxReplyBytes is the maximum size of a reply.
const maxReplyBytes = 4 << 20

// Client calls the agent that listens on Socket.
//
// Every error is a *wire.Error: the agent's own, or CodeTryAgainLater if the agent
// is unreachable or does not finish in time.
type Client struct {
	// Socket is the path of the agent's unix socket.
	Socket string
}

// Add requests the addresses of an interface.
func (c Client) Add(ctx context.Context, req wire.AddRequest) (wire.AddReply, error) {
	var reply wire.AddReply
	err := c.call(ctx, wire.PathAdd, req, &reply)
	return reply, err
}

// Delete releases the addresses of an interface.
func (c Client) Delete(ctx context.Context, req wire.DeleteRequest) error {
	return c.call(ctx, wire.PathDelete, req, &wire.Empty{})
}

// Check returns an error unless the interface still holds its addresses.
func (c Client) Check(ctx context.Context, req wire.CheckRequest) error {
	return c.call(ctx, wire.PathCheck, req, &wire.Empty{})
}

// GC releases the addresses of attachments that no longer exist.
func (c Client) GC(ctx context.Context, req wire.GCRequest) error {
	return c.call(ctx, wire.PathGC, req, &wire.Empty{})
}

// Conflict reports that a foreign host uses an address of an interface.
func (c Client) Conflict(ctx context.Context, req wire.ConflictRequest) error {
	return c.call(ctx, wire.PathConflict, req, &wire.Empty{})
}

// Status returns an error unless the agent can serve an ADD now.
func (c Client) Status(ctx context.Context) error {
	return c.call(ctx, wire.PathStatus, wire.Empty{}, &wire.Empty{})
}

// Runtime asks whether the agent can ask the node's container runtime.
func (c Client) Runtime(ctx context.Context) (wire.RuntimeReply, error) {
	var reply wire.RuntimeReply
	err := c.call(ctx, wire.PathRuntime, wire.Empty{}, &reply)
	return reply, err
}

// Coordinator requests the cluster's coordinator configuration.
func (c Client) Coordinator(ctx context.Context, req wire.CoordinatorRequest) (wire.CoordinatorReply, error) {
	var reply wire.CoordinatorReply
	err := c.call(ctx, wire.PathCoordinator, req, &reply)
	return reply, err
}

func (c Client) call(ctx context.Context, path string, req, reply any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return &wire.Error{Code: wire.CodeInternal, Msg: "encode the request to spiderpool-agent", Details: err.Error()}
	}
	raw, err := c.exchange(ctx, path, body)
	if err != nil {
		return c.unreachable(err)
	}
	status, content, err := splitReply(raw)
	if err != nil {
		return c.unreachable(err)
	}
	if status == 200 {
		if err := json.Unmarshal(content, reply); err != nil {
			return &wire.Error{Code: wire.CodeDecodingFailure, Msg: "decode the reply of spiderpool-agent", Details: err.Error()}
		}
		return nil
	}
	var failure wire.Error
	if err := json.Unmarshal(content, &failure); err != nil || failure.Code == 0 {
		return &wire.Error{
			Code:    wire.CodeInternal,
			Msg:     fmt.Sprintf("spiderpool-agent answered with status %d", status),
			Details: string(content),
		}
	}
	return &failure
}

// exchange sends one request and reads the reply until the agent closes the connection.
func (c Client) exchange(ctx context.Context, path string, body []byte) ([]byte, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(DefaultTimeout)
	}
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	// HTTP/1.0: the reply is never chunked and ends with the connection.
	var out bytes.Buffer
	out.Grow(len(body) + 128)
	out.WriteString("POST " + path + " HTTP/1.0\r\nHost: spiderpool\r\nContent-Type: application/json\r\nContent-Length: ")
	out.WriteString(strconv.Itoa(len(body)))
	out.WriteString("\r\n\r\n")
	out.Write(body)
	if _, err := conn.Write(out.Bytes()); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(conn, maxReplyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxReplyBytes {
		return nil, fmt.Errorf("the reply is longer than %d bytes", maxReplyBytes)
	}
	return raw, nil
}

// splitReply parses an HTTP/1.x response. A response shorter than its Content-Length
// is an error: the agent died while answering.
func splitReply(raw []byte) (status int, content []byte, err error) {
	head, content, ok := bytes.Cut(raw, []byte("\r\n\r\n"))
	if !ok {
		return 0, nil, errors.New("the connection was closed before the reply was complete")
	}
	statusLine, headers, _ := bytes.Cut(head, []byte("\r\n"))
	fields := bytes.Fields(statusLine)
	if len(fields) < 2 || !bytes.HasPrefix(fields[0], []byte("HTTP/1.")) {
		return 0, nil, fmt.Errorf("%.80q is not an HTTP status line", statusLine)
	}
	status, err = strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0, nil, fmt.Errorf("%.80q is not an HTTP status line", statusLine)
	}
	for line := range bytes.SplitSeq(headers, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if !bytes.EqualFold(name, []byte("Content-Length")) {
			continue
		}
		n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
		if err != nil || n != len(content) {
			return 0, nil, fmt.Errorf("the reply has %d bytes, but its Content-Length is %s", len(content), bytes.TrimSpace(value))
		}
	}
	return status, content, nil
}

func (c Client) unreachable(err error) *wire.Error {
	return &wire.Error{
		Code:    wire.CodeTryAgainLater,
		Msg:     "spiderpool-agent does not answer on " + c.Socket + "; is its pod running on this node?",
		Details: err.Error(),
	}
}
