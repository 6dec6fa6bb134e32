package cloudapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/ns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
	"spiderpool.dev/spiderpool/test/lab/internal/vpc"
)

// Serve serves the cloud of a topology until the end of ctx; then it returns nil. Run the actions of vpc.Actions first.
func Serve(ctx context.Context, t *topology.Topology, log *slog.Logger) error {
	address, ok := t.CloudAddress()
	if !ok {
		return errors.New("the topology has no cloudAPI")
	}
	cloud := newCloud(t)
	changed := make(chan struct{}, 1)
	look := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	look() // an earlier process may have left other assignments
	bell := newBell()
	cloud.OnChange(func(_, _ []ec2test.Route) {
		bell.ring()
		look()
	})
	metadata, err := listenMetadata(ctx, t)
	if err != nil {
		return err
	}
	api, err := ns.Target{Net: netns.Path(topology.HostNamespace(t.CloudAPI.Host))}.Listen(ctx, "tcp", address.String())
	if err != nil {
		return errors.Join(err, metadata.Close())
	}
	failed := make(chan error, 2)
	for listener, handler := range map[net.Listener]http.Handler{api: nodesOnly(t, address.Addr(), controlled(address.Addr(), cloud, bell)), metadata: metadataOf(cloud)} {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		defer server.Close()
		go func() { failed <- server.Serve(listener) }()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-changed:
			start := time.Now()
			more, err := apply(ctx, t, cloud)
			if ctx.Err() != nil {
				return nil
			} else if err != nil {
				return err
			}
			if more {
				time.AfterFunc(attachingLook, look)
			}
			log.Info("attachments and assignments are in effect", "took", time.Since(start))
		}
	}
}

// attachingLook is the pause before another look at attachments that are not complete.
const attachingLook = 100 * time.Millisecond

// apply makes the VPC that of the cloud. It reports whether further interfaces are being attached.
func apply(ctx context.Context, t *topology.Topology, cloud *ec2test.Cloud) (more bool, err error) {
	further, more, err := attached(t, cloud)
	if err != nil {
		return false, err
	}
	if err := vpc.Attach(t, further); err != nil {
		return false, err
	}
	return more, vpc.Assign(ctx, t, assigned(t, cloud))
}

// listenMetadata listens at the address of the metadata service, in the router of the nodes' VPC.
func listenMetadata(ctx context.Context, t *topology.Topology) (net.Listener, error) {
	router, err := vpc.AddMetadataAddress(t)
	if err != nil {
		return nil, err
	}
	return ns.Target{Net: netns.Path(router)}.Listen(ctx, "tcp", netip.AddrPortFrom(vpc.MetadataAddress, 80).String())
}

// nodesOnly refuses clients other than the nodes and the host of the API itself.
func nodesOnly(t *topology.Topology, own netip.Addr, handler http.Handler) http.Handler {
	allowed := []netip.Addr{own}
	for _, node := range t.Nodes {
		allowed = append(allowed, node.Addresses()...)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if client, ok := clientOf(r); !ok || !slices.Contains(allowed, client) {
			http.Error(w, "this endpoint answers nodes only", http.StatusForbidden)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// metadataOf answers with the metadata of the instance that has the address of the client.
func metadataOf(cloud *ec2test.Cloud) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _ := clientOf(r)
		instance, ok := instanceOf(cloud, client)
		if !ok {
			http.Error(w, "no instance has this address", http.StatusForbidden)
			return
		}
		cloud.MetadataHandler(instance).ServeHTTP(w, r)
	})
}

// clientOf returns the address of the client.
func clientOf(r *http.Request) (netip.Addr, bool) {
	client, err := netip.ParseAddrPort(r.RemoteAddr)
	return client.Addr().Unmap(), err == nil
}
