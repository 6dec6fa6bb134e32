package sim

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime simulates a node's container runtime for queries about sandboxes: the CRI calls
// Version, Status, ListPodSandbox and PodSandboxStatus. All other calls are unimplemented.
type Runtime struct {
	cri.UnimplementedRuntimeServiceServer
	mu        sync.Mutex
	sandboxes map[string]*cri.PodSandbox
}

// ServeRuntime serves a runtime without sandboxes on a unix socket until the call of stop.
func ServeRuntime(socket string) (_ *Runtime, stop func(), err error) {
	if err := os.RemoveAll(socket); err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("runtime: %w", err)
	}
	r := &Runtime{sandboxes: map[string]*cri.PodSandbox{}}
	server := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(server, r)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // returns after stop; cannot fail otherwise
	return r, func() { server.Stop(); serving.Wait() }, nil
}

// Add adds a sandbox.
func (r *Runtime) Add(a Attachment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes[a.ContainerID] = &cri.PodSandbox{
		Id:       a.ContainerID,
		Metadata: &cri.PodSandboxMetadata{Name: a.Pod, Uid: a.UID, Namespace: a.Namespace},
		State:    cri.PodSandboxState_SANDBOX_READY,
		Labels: map[string]string{
			"io.kubernetes.pod.name": a.Pod, "io.kubernetes.pod.namespace": a.Namespace, "io.kubernetes.pod.uid": a.UID,
		},
	}
}

// Remove removes a sandbox if it exists.
func (r *Runtime) Remove(containerID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sandboxes, containerID)
}

// Version implements the CRI.
func (r *Runtime) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "simulated", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
}

// Status implements the CRI.
func (r *Runtime) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
		{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true},
	}}}, nil
}

// ListPodSandbox implements the CRI. It supports the filter's ID, state and labels.
func (r *Runtime) ListPodSandbox(_ context.Context, req *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &cri.ListPodSandboxResponse{}
	for _, s := range r.sandboxes {
		if matches(s, req.GetFilter()) {
			out.Items = append(out.Items, s)
		}
	}
	return out, nil
}

func matches(s *cri.PodSandbox, f *cri.PodSandboxFilter) bool {
	if f == nil {
		return true
	}
	for key, value := range f.LabelSelector {
		if s.Labels[key] != value {
			return false
		}
	}
	return (f.Id == "" || f.Id == s.Id) && (f.State == nil || f.State.State == s.State)
}

// PodSandboxStatus implements the CRI.
func (r *Runtime) PodSandboxStatus(_ context.Context, req *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sandboxes[req.GetPodSandboxId()]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no sandbox %q", req.GetPodSandboxId())
	}
	return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{Id: s.Id, Metadata: s.Metadata, State: s.State, Labels: s.Labels}}, nil
}
