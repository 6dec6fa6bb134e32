// Package criclient asks the node's container runtime which sandboxes there are, by
// the Container Runtime Interface (ipam.Runtime).
//
// Its word is proof that an address is not in use, so it must be the runtime that
// makes this node's pods, and a node may have several. One is believed only after
// it has once listed a sandbox that holds a lease, which is remembered on disk, and
// only as long as its name and version are those that the kubelet reports.
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

// timeout bounds one question.
const timeout = 10 * time.Second

// Runtime asks the first of the sockets that exists.
type Runtime struct {
	// Sockets are paths of unix sockets.
	Sockets []string
	// Proven is the file that names the socket whose runtime is believed.
	Proven string
	// Reported returns the name and version of the runtime that the kubelet reports,
	// as "containerd://2.1.4", or "" where it reports none.
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
		return nil, fmt.Errorf("read which runtime this node has: %w", err)
	}
	ids, err := list(ctx, socket, reported)
	if err != nil {
		return nil, fmt.Errorf("list the sandboxes of the runtime at %s: %w", socket, err)
	}
	if err := r.prove(socket, ids); err != nil {
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
	return "", fmt.Errorf("%w: there is no container runtime at any of %v", ipam.ErrNotReady, r.Sockets)
}

// list returns the sandboxes of the runtime at the socket if it is the one that is
// reported.
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
		return nil, fmt.Errorf("%w: it is %s, and this node's kubelet uses %s", ipam.ErrNotReady, name, reported)
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

// versionOf writes a runtime's name and version as the kubelet does in
// status.nodeInfo.containerRuntimeVersion: of "v1.6.20~ds1", which is no semantic
// version, the numbers alone.
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

// prove returns an error unless the runtime at socket is, or now turns out to be,
// the one that makes this node's pods.
func (r *Runtime) prove(socket string, ids map[string]string) error {
	proven, err := os.ReadFile(r.Proven)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read which runtime is believed: %w", err)
	}
	if string(proven) == socket {
		return nil
	}
	for id := range ids {
		if r.Holds(id) {
			if err := os.WriteFile(r.Proven, []byte(socket), 0o600); err != nil {
				return fmt.Errorf("remember which runtime is believed: %w", err)
			}
			return nil
		}
	}
	return fmt.Errorf("%w: the runtime at %s has not listed any sandbox of this node's pods yet", ipam.ErrNotReady, socket)
}
