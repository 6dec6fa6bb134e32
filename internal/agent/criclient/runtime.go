// Package criclient lists the sandboxes of the node's container runtime through the
// Container Runtime Interface (ipam.Runtime).
//
// We free an address if the runtime does not list its sandbox. If we asked the wrong
// runtime, we would free addresses in use, and a node can have several runtimes. So
// we trust a runtime only after it has listed a sandbox with a lease, and only while
// its name and version are those that the kubelet reports. A file remembers the
// trusted runtime.
package criclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/version"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"spiderpool.dev/spiderpool/internal/ipam"
)

// timeout bounds the requests for one list.
const timeout = 10 * time.Second

// Runtime is the client of the first existing socket.
type Runtime struct {
	// Sockets are paths of unix sockets, e.g. /run/containerd/containerd.sock.
	Sockets []string
	// Trusted is the file with the socket of the trusted runtime.
	Trusted string
	// Reported returns the name and version of the runtime that the kubelet reports,
	// e.g. "containerd://2.1.4", or "" if it reports none.
	Reported func(context.Context) (string, error)
	// Holds reports whether a sandbox holds a lease of this node.
	Holds func(sandbox string) bool
}

// Sandboxes implements ipam.Runtime.
func (r *Runtime) Sandboxes(ctx context.Context) (map[string]string, error) {
	socket, err := r.socket()
	if err != nil {
		return nil, err
	}
	reported, err := r.Reported(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the name of this node's container runtime: %w", err)
	}
	ids, err := list(ctx, socket, reported)
	if err != nil {
		return nil, fmt.Errorf("list the sandboxes of the runtime at %s: %w", socket, err)
	}
	if err := r.trust(socket, ids); err != nil {
		return nil, err
	}
	return ids, nil
}

func (r *Runtime) socket() (string, error) {
	for _, path := range r.Sockets {
		if info, err := os.Stat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: none of the container runtime sockets %v exists", ipam.ErrNotReady, r.Sockets)
}

// list returns the pod UIDs of the runtime's sandboxes by sandbox ID, or an error if
// the runtime is not the reported one.
func list(ctx context.Context, socket, reported string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	self, err := client.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return nil, err
	}
	if name := versionOf(self); reported != "" && name != reported {
		return nil, fmt.Errorf("%w: this runtime is %s, but the kubelet uses %s", ipam.ErrNotReady, name, reported)
	}
	answer, err := client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	ids := make(map[string]string, len(answer.Items))
	for _, sandbox := range answer.Items {
		ids[sandbox.Id] = sandbox.GetMetadata().GetUid()
	}
	return ids, nil
}

// versionOf formats a runtime's name and version like the kubelet does in
// status.nodeInfo.containerRuntimeVersion. "v1.6.20~ds1" is not a semantic version
// and becomes "1.6.20".
func versionOf(v *cri.VersionResponse) string {
	parsed, err := version.ParseSemantic(v.RuntimeVersion)
	if err != nil {
		parsed, err = version.ParseGeneric(v.RuntimeVersion)
	}
	if err != nil {
		return v.RuntimeName + "://Unknown"
	}
	return v.RuntimeName + "://" + parsed.String()
}

// trust returns an error unless the runtime at socket is trusted, or earns trust now
// because it lists a sandbox with a lease.
func (r *Runtime) trust(socket string, ids map[string]string) error {
	trusted, err := os.ReadFile(r.Trusted)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the socket of the trusted runtime: %w", err)
	}
	if string(trusted) == socket {
		return nil
	}
	for id := range ids {
		if r.Holds(id) {
			if err := os.WriteFile(r.Trusted, []byte(socket), 0o600); err != nil {
				return fmt.Errorf("write the socket of the trusted runtime: %w", err)
			}
			return nil
		}
	}
	return fmt.Errorf("%w: the runtime at %s has not listed a sandbox with a lease of this node yet", ipam.ErrNotReady, socket)
}
