// Command echoserver answers every HTTP request on port 8080 with a description of the
// request, in the format of the Kubernetes project's echoserver: the pod, the server,
// the client's address, the request, its headers and its body.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(echo), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		slog.Error("serve", "address", server.Addr, "error", err)
		os.Exit(1)
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	const maxBody = 1 << 20
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	host, err := os.Hostname()
	if err != nil {
		host = "-no hostname-"
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "\n\nHostname: %s\n\nPod Information:\n", host)
	for _, v := range []struct{ label, key string }{
		{"node name", "NODE_NAME"}, {"pod name", "POD_NAME"}, {"pod namespace", "POD_NAMESPACE"}, {"pod IP", "POD_IP"},
	} {
		if value := os.Getenv(v.key); value != "" {
			fmt.Fprintf(w, "\t%s:\t%s\n", v.label, value)
		}
	}
	fmt.Fprintf(w, "\nRequest Information:\n\tclient_address=%s\n\tmethod=%s\n\treal path=%s\n\tquery=%s\n\trequest_version=%s\n\trequest_uri=http://%s:8080%s\n",
		client, r.Method, r.URL.RequestURI(), r.URL.RawQuery, r.Proto, r.Host, r.URL.RequestURI())
	fmt.Fprint(w, "\nRequest Headers:\n\thost=", r.Host, "\n")
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range r.Header[name] {
			fmt.Fprintf(w, "\t%s=%s\n", http.CanonicalHeaderKey(name), value)
		}
	}
	fmt.Fprintf(w, "\nRequest Body:\n%s\n", body)
}
