package cloudnews

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

const mac = "0a:5c:ac:1f:20:12"

// newNode returns a cloud with one instance and the ID of its interface.
func newNode(t *testing.T) (cloud *ec2test.Cloud, url, eni string) {
	t.Helper()
	cloud = ec2test.New(ec2test.Options{})
	vpc := cloud.AddVPC(ec2test.VPC{IPv4: prefix("172.31.0.0/16"), IPv6: prefix("2001:db8::/56")})
	subnet := cloud.AddSubnet(ec2test.Subnet{VPC: vpc, Zone: "eu-central-1a", IPv4: prefix("172.31.32.0/24"), IPv6: prefix("2001:db8::/64")})
	node := cloud.AddInstance(ec2test.Instance{Type: "m5.large", Subnet: subnet, MAC: mac, Prefixes: []netip.Prefix{prefix("172.31.32.176/28"), prefix("2001:db8:0:0:1::/80")}})
	return cloud, cloud.Start(t).MetadataURL(node), cloud.Interfaces(node)[0].ID
}

// watch runs a watcher until the end of the test, and returns its news.
func watch(t *testing.T, url string) <-chan string {
	t.Helper()
	news := make(chan string)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	w := &Watcher{URL: url, Interval: time.Millisecond, Log: slog.New(slog.DiscardHandler), Tell: func(text string) {
		select {
		case news <- text:
		case <-ctx.Done():
		}
	}}
	go func() { defer close(ended); w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return news
}

// asked waits until the metadata service had some more requests.
func asked(t *testing.T, cloud *ec2test.Cloud) {
	t.Helper()
	for until := cloud.Calls()["IMDS"] + 12; cloud.Calls()["IMDS"] < until; {
		time.Sleep(time.Millisecond)
	}
}

func TestChangedPrefixesAreNews(t *testing.T) {
	cloud, url, eni := newNode(t)
	news := watch(t, url)
	asked(t, cloud)
	for _, test := range []struct{ take, want string }{
		{"172.31.32.176/28", "the cloud has taken 172.31.32.176/28 from the network interface " + mac},
		{"2001:db8:0:0:1::/80", "the cloud has taken 2001:db8:0:0:1::/80 from the network interface " + mac},
	} {
		cloud.TakePrefix(eni, prefix(test.take))
		if got := <-news; got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestDifferenceNamesInterfacesAndAddresses(t *testing.T) {
	before := map[string][]string{"a": {"10.0.0.5", "10.0.1.0/28"}, "b": {"10.0.0.6"}}
	for _, test := range []struct {
		name string
		now  map[string][]string
		want string
	}{
		{"nothing", before, ""},
		{"replaced", map[string][]string{"a": {"10.0.0.5", "10.0.2.0/28"}, "b": {"10.0.0.6"}},
			"the cloud has assigned 10.0.2.0/28 to the network interface a, and taken 10.0.1.0/28 from the network interface a"},
		{"detached", map[string][]string{"a": before["a"]}, "the cloud has taken 10.0.0.6 from the network interface b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := difference(before, test.now); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestExpiredTokenIsRenewed(t *testing.T) {
	_, url, _ := newNode(t)
	s := newService(url)
	s.token = "expired"
	found, err := s.assigned(t.Context())
	if err != nil || len(found[mac]) != 3 {
		t.Errorf("got %v (%v), want an address and two prefixes", found, err)
	}
	if s.token == "expired" {
		t.Error("the token is the expired one")
	}
}

func TestOtherServicesMakeNoNews(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"another cloud", http.NotFound},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }},
		{"no token is good enough", func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				http.Error(w, "401 - Unauthorized", http.StatusUnauthorized)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var requests atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { requests.Add(1); test.answer(w, r) }))
			t.Cleanup(server.Close)
			if found, err := newService(server.URL).assigned(t.Context()); err == nil {
				t.Errorf("got %v, want an error", found)
			}
			if n := requests.Load(); n > 5 {
				t.Errorf("%d requests for one question", n)
			}
		})
	}
}
