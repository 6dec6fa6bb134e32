// Package rpcserver is the agent's server for the CNI plugins: HTTP on a unix socket
// for root only.
//
// The server checks the peer credentials of each caller (SO_PEERCRED, unix(7)) in
// addition to the socket's mode, because the socket's directory is shared with the
// host. It limits the size (wire.MaxRequestBytes) and the time of each request.
// A panic in a request ends the process (package crash). Package rpc is the client.
package rpcserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/crash"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Service handles the plugins' requests. Plugins receive a *wire.Error unchanged and
// any other error with the code wire.CodeInternal.
type Service interface {
	Add(context.Context, wire.AddRequest) (wire.AddReply, error)
	Delete(context.Context, wire.DeleteRequest) error
	Check(context.Context, wire.CheckRequest) error
	GC(context.Context, wire.GCRequest) error
	Conflict(context.Context, wire.ConflictRequest) error
	Status(context.Context) error
	Runtime(context.Context) (wire.RuntimeReply, error)
	Coordinator(context.Context, wire.CoordinatorRequest) (wire.CoordinatorReply, error)
}

// RequestTimeout is the default of Server.Timeout.
const RequestTimeout = 90 * time.Second

// headerBytes and headerTimeout limit the header of a request.
const (
	headerBytes   = 8 << 10
	headerTimeout = 5 * time.Second
)

// Server serves a Service on a unix socket.
type Server struct {
	// Service handles the requests.
	Service Service
	// Log receives rejected callers and failed requests.
	Log *slog.Logger
	// AllowedUIDs are the user IDs of permitted callers; nil permits root only.
	AllowedUIDs []uint32
	// Timeout limits the work on one request; 0 means RequestTimeout.
	Timeout time.Duration
}

func (s *Server) timeout() time.Duration { return cmp.Or(s.Timeout, RequestTimeout) }

// Listen creates the socket at path with mode 0600, replacing that of an earlier
// agent. It creates missing directories.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create the directory of the socket: %w", err)
	}
	// Bind under another name, restrict the mode, then rename: path never accepts
	// another user, and clients see the old socket or the new one.
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove an earlier socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(temporary, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict the socket: %w", err), listener.Close())
	}
	if err := os.Rename(temporary, path); err != nil {
		return nil, errors.Join(fmt.Errorf("publish the socket: %w", err), listener.Close())
	}
	return listener, nil
}

// Serve handles requests until ctx ends. Then it accepts no new connection, and gives
// the requests in progress the grace period to finish.
func (s *Server) Serve(ctx context.Context, listener net.Listener, grace time.Duration) error {
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       headerTimeout,
		ReadTimeout:       s.timeout() + headerTimeout,
		WriteTimeout:      s.timeout() + headerTimeout,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			uid, err := peerUID(conn)
			return context.WithValue(ctx, peerKey{}, peer{uid: uid, err: err})
		},
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		err := server.Shutdown(closing)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		stopped <- err
	}()
	err := server.Serve(listener)
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	}
	return <-stopped
}

type peerKey struct{}

// peer is the caller on a connection.
type peer struct {
	uid uint32
	err error
}

func peerUID(conn net.Conn) (uint32, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T has no peer credentials", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		credentials, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return credentials.Uid, nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+wire.PathAdd, answer(s, validated(s.Service.Add)))
	mux.Handle("POST "+wire.PathDelete, answer(s, withoutReply(s.Service.Delete)))
	mux.Handle("POST "+wire.PathCheck, answer(s, validated(withoutReply(s.Service.Check))))
	mux.Handle("POST "+wire.PathGC, answer(s, withoutReply(s.Service.GC)))
	mux.Handle("POST "+wire.PathConflict, answer(s, validated(withoutReply(s.Service.Conflict))))
	mux.Handle("POST "+wire.PathStatus, answer(s, func(ctx context.Context, _ wire.Empty) (wire.Empty, error) {
		return wire.Empty{}, s.Service.Status(ctx)
	}))
	mux.Handle("POST "+wire.PathRuntime, answer(s, func(ctx context.Context, _ wire.Empty) (wire.RuntimeReply, error) {
		return s.Service.Runtime(ctx)
	}))
	mux.Handle("POST "+wire.PathCoordinator, answer(s, validated(s.Service.Coordinator)))
	return crash.OnPanic(s.admit(mux))
}

func withoutReply[Request any](f func(context.Context, Request) error) func(context.Context, Request) (wire.Empty, error) {
	return func(ctx context.Context, req Request) (wire.Empty, error) { return wire.Empty{}, f(ctx, req) }
}

// validated checks the attachment before it calls f. DEL and GC need no check: they
// store nothing, and what ADD refuses holds nothing.
func validated[Request interface{ Validate() error }, Reply any](f func(context.Context, Request) (Reply, error)) func(context.Context, Request) (Reply, error) {
	return func(ctx context.Context, req Request) (reply Reply, err error) {
		if err := req.Validate(); err != nil {
			return reply, err
		}
		return f(ctx, req)
	}
}

// admit rejects callers other than the permitted users.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _ := r.Context().Value(peerKey{}).(peer)
		if caller.err != nil || !s.allowed(caller.uid) {
			s.Log.Warn("rejected a caller on the socket", "uid", caller.uid, "path", r.URL.Path, "err", caller.err)
			write(w, http.StatusForbidden, &wire.Error{
				Code: wire.CodeRefused,
				Msg:  fmt.Sprintf("user %d may not call spiderpool-agent; CNI plugins run as root", caller.uid),
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) allowed(uid uint32) bool {
	if s.AllowedUIDs == nil {
		return uid == 0
	}
	return slices.Contains(s.AllowedUIDs, uid)
}

func answer[Request, Reply any](s *Server, f func(context.Context, Request) (Reply, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Request
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, wire.MaxRequestBytes)).Decode(&req); err != nil {
			write(w, http.StatusBadRequest, &wire.Error{
				Code:    wire.CodeDecodingFailure,
				Msg:     "spiderpool-agent cannot decode the request; plugin and agent must have the same version",
				Details: err.Error(),
			})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.timeout())
		defer cancel()
		reply, err := f(ctx, req)
		if err != nil {
			failure := asFailure(ctx, err)
			s.Log.Warn("request failed", "path", r.URL.Path, "request", req, "code", failure.Code, "err", failure)
			write(w, http.StatusUnprocessableEntity, failure)
			return
		}
		write(w, http.StatusOK, reply)
	})
}

func asFailure(ctx context.Context, err error) *wire.Error {
	var failure *wire.Error
	switch {
	case errors.As(err, &failure):
		return failure
	case ctx.Err() != nil:
		return &wire.Error{Code: wire.CodeTryAgainLater, Msg: "spiderpool-agent did not finish in time", Details: err.Error()}
	default:
		return &wire.Error{Code: wire.CodeInternal, Msg: "spiderpool-agent failed", Details: err.Error()}
	}
}

// write sends the status and the value. It ignores errors: the client has gone then.
func write(w http.ResponseWriter, status int, value any) {
	content, err := json.Marshal(value)
	if err != nil {
		status = http.StatusInternalServerError
		content = []byte(`{"code":999,"msg":"spiderpool-agent cannot encode its reply"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.WriteHeader(status)
	_, _ = w.Write(content)
}
