// Package criclient lists the sandboxes of the node's container runtime through the
// Container Runtime Interface (ipam.Runtime).
//
// We free an address if the runtime does not list its sandbox. If we asked the wrong
// runtime, we would free addresses in use, and a node can have several runtimes. So
// we trust a runtime only after it has listed a sandbox with a lease, and only while
// its name and version are those that the kubelet reports. A file remembers the
// trusted runtime.
//
// Each list dials anew, so a runtime may start later than the agent, or start again with
// another socket at the same path.
package criclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/version"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

const (
	// timeout bounds the requests to one socket.
	timeout = 10 * time.Second
	// settled is the age of a lease whose sandbox each runtime lists. A runtime may list
	// a sandbox only after its interfaces got addresses.
	settled = reclaim.DefaultMinAge
)

// Runtime is the client of the node's container runtime.
type Runtime struct {
	// Sockets are the paths of possible unix sockets, e.g. /run/containerd/containerd.sock.
	// The first that proves to be the runtime of the kubelet is used.
	Sockets []string
	// Trusted is the file with the socket of the trusted runtime.
	Trusted string
	// Reported returns the name and version of the runtime that the kubelet reports,
	// e.g. "containerd://2.1.4", or "" if it reports none.
	Reported func(context.Context) (string, error)
	// Held returns the IDs of the sandboxes with a lease of this node that the agent has
	// known for at least age.
	Held func(age time.Duration) map[string]bool
	// Asked, unless nil, receives the result of each list: the socket of the runtime, or
	// the reason why none is usable. It is not called without an answer of Reported, nor
	// while no settled lease could prove a runtime.
	Asked func(socket string, fault error)
}

// Sandboxes implements ipam.Runtime.
func (r *Runtime) Sandboxes(ctx context.Context) (map[string]string, error) {
	reported, err := r.Reported(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the name of this node's container runtime: %w", err)
	}
	trusted, err := os.ReadFile(r.Trusted)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the socket of the trusted runtime: %w", err)
	}
	var faults []string
	answered := "" // a socket that lacks only the proof by a lease
	for _, socket := range r.inOrder(string(trusted)) {
		ids, err := list(ctx, socket, reported)
		if err == nil {
			if err = r.trust(socket, string(trusted), ids); err == nil {
				r.report(socket, nil)
				return ids, nil
			}
			answered = cmp.Or(answered, socket)
		}
		faults = append(faults, fmt.Sprintf("%s: %v", socket, err))
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx) // the caller gave up, which says nothing about a runtime
	}
	fault := fmt.Errorf("%w: no usable container runtime: %s; set the Helm value spiderpoolAgent.criSocket to the socket of the runtime that the kubelet uses (%s)",
		ipam.ErrNotReady, strings.Join(faults, "; "), cmp.Or(reported, "it reports none"))
	switch {
	case answered == "":
		r.report("", fault)
	case len(r.Held(settled)) > 0:
		r.report(answered, fault)
	case len(r.Held(0)) == 0:
		r.report(answered, nil) // nothing to reclaim
	}
	return nil, fault
}

func (r *Runtime) report(socket string, fault error) {
	if r.Asked != nil {
		r.Asked(socket, fault)
	}
}

// inOrder returns the sockets, the trusted one first.
func (r *Runtime) inOrder(trusted string) []string {
	sockets := slices.Clone(r.Sockets)
	if i := slices.Index(sockets, trusted); i > 0 {
		copy(sockets[1:i+1], sockets[:i])
		sockets[0] = trusted
	}
	return sockets
}

// list returns the pod UIDs of the runtime's sandboxes by sandbox ID, or an error if
// the runtime is not the reported one.
func list(ctx context.Context, socket, reported string) (map[string]string, error) {
	// gRPC's own error for a missing socket has 150 letters.
	if info, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("no such socket")
	} else if err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, errors.New("not a socket")
	}
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
		return nil, fmt.Errorf("this runtime is %s, but the kubelet uses %s", name, reported)
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
func (r *Runtime) trust(socket, trusted string, ids map[string]string) error {
	if trusted == socket {
		return nil
	}
	for id := range r.Held(0) {
		if _, ok := ids[id]; ok {
			if err := os.WriteFile(r.Trusted, []byte(socket), 0o600); err != nil {
				return fmt.Errorf("write the socket of the trusted runtime: %w", err)
			}
			return nil
		}
	}
	return errors.New("the runtime has not listed a sandbox with a lease of this node yet")
}
