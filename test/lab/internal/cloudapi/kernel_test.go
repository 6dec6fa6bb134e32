//go:build kernel

package cloudapi

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/ns"
	"spiderpool.dev/spiderpool/test/lab/internal/nstest"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
	"spiderpool.dev/spiderpool/test/lab/internal/vpc"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// up builds the network and serves the cloud until the end of the test.
func up(t *testing.T) *topology.Topology {
	t.Helper()
	topo := load(t, 2)
	actions := vpc.Actions(topo)
	t.Cleanup(func() {
		if err := action.Undo(context.Background(), actions); err != nil {
			t.Error(err)
		}
	})
	if err := action.Do(t.Context(), actions); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for _, serve := range []func(context.Context, *topology.Topology, *slog.Logger) error{vpc.ServeNeighbours, Serve} {
		go func() { ended <- serve(ctx, topo, slog.New(slog.DiscardHandler)) }()
	}
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	})
	return topo
}

// from returns a client in the namespace of a host.
func from(host string) *http.Client {
	target := ns.Target{Net: netns.Path(topology.HostNamespace(host))}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: target.Dial, DisableKeepAlives: true}}
}

// call calls an action of the EC2 API from a node. It waits until the API listens.
func call(t *testing.T, topo *topology.Topology, node, form string) string {
	t.Helper()
	address, _ := topo.CloudAddress()
	for start := time.Now(); ; {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address.String()+"/", strings.NewReader("Version=2016-11-15&"+form))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIALAB/20261130/ap-east-1/ec2/aws4_request")
		response, err := from(node).Do(request)
		if err != nil {
			if time.Since(start) > 20*time.Second {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s %v", form, response.Status, body, err)
		}
		return string(body)
	}
}

// put replaces the faults of the cloud.
func put(t *testing.T, topo *topology.Topology, faults string) {
	t.Helper()
	address, _ := topo.CloudAddress()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+address.String()+"/lab/faults", strings.NewReader(faults))
	if err != nil {
		t.Fatal(err)
	}
	response, err := from(topo.CloudAPI.Host).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if _ = response.Body.Close(); response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
}

// delivers waits until the VPC delivers an address to an ENI, or to none.
func delivers(t *testing.T, addr string, want bool) {
	t.Helper()
	start := time.Now()
	for {
		out, err := netns.Run(t.Context(), "splab-vpc-main", "", "ip", "route", "get", addr)
		if got := err == nil && strings.Contains(out, "dev eni"); got == want {
			t.Logf("after %s", time.Since(start).Round(time.Millisecond))
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%s: %s %v, want a route to the ENI: %v", addr, out, err, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAPICallsChangeRoutes(t *testing.T) {
	topo := up(t)
	described := call(t, topo, "master", "Action=DescribeNetworkInterfaces&Filter.1.Name=private-ip-address&Filter.1.Value.1=172.31.32.18")
	eni := field(described, "networkInterfaceId")
	const news, old = "172.31.32.193", "172.31.32.180"
	delivers(t, old, true)
	delivers(t, news, false)
	call(t, topo, "master", fmt.Sprintf("Action=AssignPrivateIpAddresses&NetworkInterfaceId=%s&Ipv4Prefix.1=172.31.32.192/28", eni))
	delivers(t, news, true)
	call(t, topo, "master", fmt.Sprintf("Action=UnassignPrivateIpAddresses&NetworkInterfaceId=%s&Ipv4Prefix.1=172.31.32.176/28", eni))
	delivers(t, old, false)
	worker, _ := topo.Host("worker1")
	call(t, topo, "master", "Action=TerminateInstances&InstanceId.1="+worker.InstanceID())
	delivers(t, "172.31.32.18", false)
	delivers(t, "172.31.22.228", true)
}

// field returns the content of the first element of an XML document.
func field(document, element string) string {
	_, rest, _ := strings.Cut(document, "<"+element+">")
	content, _, _ := strings.Cut(rest, "<")
	return content
}

// hasLink waits until a node has a link with a MAC address, or no such link if it is empty.
func hasLink(t *testing.T, node, link, mac string) {
	t.Helper()
	start := time.Now()
	for {
		out, err := netns.Run(t.Context(), topology.HostNamespace(node), "", "ip", "-o", "link", "show", link)
		if mac == "" && err != nil || mac != "" && strings.Contains(out, mac) {
			t.Logf("after %s", time.Since(start).Round(time.Millisecond))
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%s of %s: %s %v, want the MAC address %q", link, node, out, err, mac)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAttachedInterfaceIsLinkOfNode(t *testing.T) {
	topo := up(t)
	worker, _ := topo.Host("worker1")
	made := call(t, topo, "master", "Action=CreateNetworkInterface&SubnetId=subnet-00000000000000105")
	eni, mac, addr := field(made, "networkInterfaceId"), field(made, "macAddress"), field(made, "privateIpAddress")
	attach := func(device int) (attachment string) {
		t.Helper()
		return field(call(t, topo, "master", fmt.Sprintf("Action=AttachNetworkInterface&NetworkInterfaceId=%s&InstanceId=%s&DeviceIndex=%d", eni, worker.InstanceID(), device)), "attachmentId")
	}
	attachment := attach(2)
	hasLink(t, "worker1", "ens7", mac)
	delivers(t, addr, true)
	call(t, topo, "master", "Action=DetachNetworkInterface&AttachmentId="+attachment)
	hasLink(t, "worker1", "ens7", "")
	delivers(t, addr, false)
	put(t, topo, `{"attaching": "1s"}`)
	start := time.Now()
	attach(1)
	hasLink(t, "worker1", "ens6", mac)
	if took := time.Since(start); took < time.Second {
		t.Errorf("the interface was attached after %s, want 1s", took)
	}
	call(t, topo, "master", "Action=TerminateInstances&InstanceId.1="+worker.InstanceID())
	hasLink(t, "worker1", "ens6", "")
}

func TestNodesReadTheirMetadata(t *testing.T) {
	topo := up(t)
	call(t, topo, "master", "Action=DescribeVpcs")
	url := "http://" + netip.AddrPortFrom(vpc.MetadataAddress, 80).String() + "/latest/"
	for _, node := range topo.Nodes {
		ask := func(method, path, header, value string) string {
			request, err := http.NewRequestWithContext(t.Context(), method, url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set(header, value)
			response, err := from(node.Name).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(body)
		}
		token := ask(http.MethodPut, "api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
		if got := ask(http.MethodGet, "meta-data/instance-id", "X-aws-ec2-metadata-token", token); got != node.InstanceID() {
			t.Errorf("node %s reads %q, want %s", node.Name, got, node.InstanceID())
		}
		if got := ask(http.MethodGet, "meta-data/iam/security-credentials/", "X-aws-ec2-metadata-token", token); got != Role {
			t.Errorf("node %s has the role %q", node.Name, got)
		}
	}
}
