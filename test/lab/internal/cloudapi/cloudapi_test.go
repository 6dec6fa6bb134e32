package cloudapi

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

func load(t *testing.T, nodes int) *topology.Topology {
	t.Helper()
	described, err := topology.Load("aws")
	if err != nil {
		t.Fatal(err)
	}
	topo, err := described.WithNodes(nodes)
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func TestCloudHasWhatTheTopologyAssigns(t *testing.T) {
	topo := load(t, 4)
	cloud := newCloud(topo)
	got := assigned(topo, cloud)
	for _, node := range topo.Nodes {
		eni := node.Interfaces[0]
		want := slices.SortedFunc(slices.Values(eni.Assigned()), netip.Prefix.Compare)
		if have := slices.SortedFunc(slices.Values(got[eni.MAC.String()]), netip.Prefix.Compare); !slices.Equal(have, want) {
			t.Errorf("node %s has %v, want %v", node.Name, have, want)
		}
		if instance, _ := instanceOf(cloud, eni.Prefixes[0].Addr()); instance != node.InstanceID() || !strings.HasPrefix(instance, "i-0") || len(instance) != 19 {
			t.Errorf("a pod of node %s is on instance %q, want %q", node.Name, instance, node.InstanceID())
		}
	}
	if region := region(topo); region != "ap-east-1" {
		t.Errorf("the region is %s", region)
	}
}

func TestNothingIsAssignedTwice(t *testing.T) {
	topo := load(t, 2)
	cloud := newCloud(topo)
	taken := map[netip.Addr]string{}
	for _, i := range cloud.Interfaces("") {
		for _, addr := range slices.Concat(i.IPv4, i.IPv6) {
			if other := taken[addr]; other != "" {
				t.Errorf("%s and %s have %s", other, i.ID, addr)
			}
			taken[addr] = i.ID
		}
	}
	for _, machine := range topo.Machines() {
		for _, addr := range machine.Addresses() {
			if taken[addr] == "" {
				t.Errorf("the cloud does not know that %s has %s", machine.Name, addr)
			}
		}
	}
}

func TestNodeThatVanishesHasNothing(t *testing.T) {
	topo := load(t, 2)
	cloud := newCloud(topo)
	worker, _ := topo.Host("worker1")
	cloud.Vanish(worker.InstanceID())
	all := assigned(topo, cloud)
	if ranges, ok := all[worker.Interfaces[0].MAC.String()]; !ok || len(ranges) > 0 {
		t.Errorf("worker1 has %v (known: %v), want nothing", ranges, ok)
	}
}

func TestOnlyNodesMayAsk(t *testing.T) {
	topo := load(t, 2)
	cloud := newCloud(topo)
	address, _ := topo.CloudAddress()
	pod := topo.Nodes[0].Interfaces[0].Prefixes[0].Addr().String()
	for client, want := range map[string]int{
		topo.Nodes[0].Interfaces[0].IPv4.String(): http.StatusOK,
		address.Addr().String():                   http.StatusOK,
		pod:                                       http.StatusForbidden,
		topo.RegistryAddress().Addr().String():    http.StatusForbidden,
	} {
		request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("Action=DescribeVpcs&Version=2016-11-15"))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIALAB/20261130/ap-east-1/ec2/aws4_request")
		request.RemoteAddr = client + ":40000"
		answer := httptest.NewRecorder()
		nodesOnly(topo, address.Addr(), cloud.Handler()).ServeHTTP(answer, request)
		if answer.Code != want {
			t.Errorf("%s gets %d, want %d: %s", client, answer.Code, want, answer.Body)
		}
	}
}

func TestMetadataIsThatOfTheClient(t *testing.T) {
	topo := load(t, 2)
	cloud := newCloud(topo)
	handler := metadataOf(cloud)
	ask := func(client, method, path, header, value string) *httptest.ResponseRecorder {
		request := httptest.NewRequest(method, path, nil)
		request.RemoteAddr = client + ":40000"
		request.Header.Set(header, value)
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		return answer
	}
	for _, node := range topo.Nodes {
		eni := node.Interfaces[0]
		token := ask(eni.IPv4.String(), http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60").Body.String()
		got := ask(eni.IPv4.String(), http.MethodGet, "/latest/meta-data/network/interfaces/macs/"+eni.MAC.String()+"/ipv4-prefix", "X-aws-ec2-metadata-token", token)
		if got.Body.String() != eni.Prefixes[0].String() {
			t.Errorf("node %s reads %q, want %s", node.Name, got.Body, eni.Prefixes[0])
		}
	}
	if got := ask("192.0.2.1", http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60"); got.Code != http.StatusForbidden {
		t.Errorf("a stranger gets %d", got.Code)
	}
}
