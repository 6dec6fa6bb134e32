package cloudapi

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

// own is the address of the API's host, and of clients of httptest.Server.
var own = netip.MustParseAddr("127.0.0.1")

func TestOnlyOwnHostControls(t *testing.T) {
	cloud := newCloud(load(t, 2))
	handler := controlled(own, cloud, newBell())
	for client, want := range map[string]int{own.String(): http.StatusOK, "172.31.22.228": http.StatusForbidden} {
		request := httptest.NewRequest(http.MethodGet, "/lab/state", nil)
		request.RemoteAddr = client + ":40000"
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != want {
			t.Errorf("%s gets %d, want %d: %s", client, answer.Code, want, answer.Body)
		}
	}
}

// served serves the control paths of a cloud.
func served(t *testing.T) (*ec2test.Cloud, string) {
	t.Helper()
	cloud, bell := newCloud(load(t, 2)), newBell()
	cloud.OnChange(func(_, _ []ec2test.Route) { bell.ring() })
	server := httptest.NewServer(controlled(own, cloud, bell))
	t.Cleanup(server.Close)
	return cloud, server.URL
}

func TestFollowerSeesEachChange(t *testing.T) {
	cloud, url := served(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/lab/state?follow", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	next := func() (s state) {
		t.Helper()
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := next()
	taken := before.Routes[len(before.Routes)-1]
	cloud.TakePrefix(taken.Interface, taken.Prefix)
	if after := next(); len(after.Routes) != len(before.Routes)-1 {
		t.Errorf("%d routes after the change, want %d", len(after.Routes), len(before.Routes)-1)
	}
}

func TestFaultsReplaceFormerOnes(t *testing.T) {
	_, url := served(t)
	describe := func() int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("Action=DescribeVpcs&Version=2016-11-15"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIALAB/20261130/ap-east-1/ec2/aws4_request")
		return status(t, request)
	}
	put := func(body string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+"/lab/faults", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return status(t, request)
	}
	if got := put(`{"faults": [{"code": "InternalError"}]}`); got != http.StatusOK || describe() != http.StatusInternalServerError {
		t.Errorf("the fault is refused with %d, or has no effect", got)
	}
	if got := put(`{"lag": "2s", "latency": false}`); got != http.StatusOK || describe() != http.StatusOK {
		t.Errorf("the new faults are refused with %d, or the former one is left", got)
	}
	if got := put(`{"lags": "2s"}`); got != http.StatusBadRequest {
		t.Errorf("an unknown field gives %d", got)
	}
}

func status(t *testing.T, request *http.Request) int {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}
