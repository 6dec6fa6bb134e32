// Package rpcserver is the agent's end of the conversation with the plugins:
// HTTP on a unix socket that only root may use.
//
// A caller is admitted by its peer credentials (SO_PEERCRED, unix(7)), not only
// by the socket's mode, because the socket's directory is shared with the host.
// A request is bounded in size (wire.MaxRequestBytes) and in time. The plugins'
// end is in package rpc.
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
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/wire"
)

// Service answers the plugins' requests. An error that is not a *wire.Error is
// an internal one.
type Service interface {
	Add(context.Context, wire.AddRequest) (wire.AddReply, error)
	Delete(context.Context, wire.DeleteRequest) error
	Check(context.Context, wire.CheckRequest) error
	GC(context.Context, wire.GCRequest) error
	Conflict(context.Context, wire.ConflictRequest) error
	Status(context.Context) error
	Coordinator(context.Context, wire.CoordinatorRequest) (wire.CoordinatorReply, error)
}

// RequestTimeout is the default of Server.Timeout.
const RequestTimeout = 90 * time.Second

// headerBytes and headerTimeout bound what comes before a request's body.
const (
	headerBytes   = 8 << 10
	headerTimeout = 5 * time.Second
)

// Server serves a Service on a unix socket.
type Server struct {
	// Service answers the requests.
	Service Service
	// Log gets refused callers and failed requests.
	Log *slog.Logger
	// AllowedUIDs are the users that may call; nil is root alone.
	AllowedUIDs []uint32
	// Timeout bounds the work on one request; 0 is RequestTimeout.
	Timeout time.Duration
}

func (s *Server) timeout() time.Duration { return cmp.Or(s.Timeout, RequestTimeout) }

// Listen makes the socket at path, replacing what a former agent left behind,
// for the owner alone (mode 0600). Missing directories are made.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	// Bound under another name, restricted, then renamed: at no moment does
	// path accept a stranger, and clients see the old socket or the new one.
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove a former socket: %w", err)
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

// Serve answers on the listener until ctx ends; requests under way may finish
// within the grace period, in which no new one is accepted.
func (s *Server) Serve(ctx context.Context, listener net.Listener, grace time.Duration) error {
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
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

// peer is who is on the other side of a connection.
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
	mux.Handle("POST "+wire.PathAdd, answer(s, s.Service.Add))
	mux.Handle("POST "+wire.PathDelete, answer(s, withoutReply(s.Service.Delete)))
	mux.Handle("POST "+wire.PathCheck, answer(s, withoutReply(s.Service.Check)))
	mux.Handle("POST "+wire.PathGC, answer(s, withoutReply(s.Service.GC)))
	mux.Handle("POST "+wire.PathConflict, answer(s, withoutReply(s.Service.Conflict)))
	mux.Handle("POST "+wire.PathStatus, answer(s, func(ctx context.Context, _ wire.Empty) (wire.Empty, error) {
		return wire.Empty{}, s.Service.Status(ctx)
	}))
	mux.Handle("POST "+wire.PathCoordinator, answer(s, s.Service.Coordinator))
	return s.admit(mux)
}

func withoutReply[Request any](f func(context.Context, Request) error) func(context.Context, Request) (wire.Empty, error) {
	return func(ctx context.Context, req Request) (wire.Empty, error) { return wire.Empty{}, f(ctx, req) }
}

// admit lets the allowed users through.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _ := r.Context().Value(peerKey{}).(peer)
		if caller.err != nil || !s.allowed(caller.uid) {
			s.Log.Warn("refused a caller on the socket", "uid", caller.uid, "path", r.URL.Path, "err", caller.err)
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
	for _, allowed := range s.AllowedUIDs {
		if uid == allowed {
			return true
		}
	}
	return false
}

func answer[Request, Reply any](s *Server, f func(context.Context, Request) (Reply, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Request
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, wire.MaxRequestBytes)).Decode(&req); err != nil {
			write(w, http.StatusBadRequest, &wire.Error{
				Code:    wire.CodeDecodingFailure,
				Msg:     "spiderpool-agent cannot decode the request; plugin and agent must be of one release",
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

// write sends the status and the value. The client may have gone; then there is
// nobody left to tell.
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
