package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// start runs the program until the test ends, and returns the environment that it prints.
func start(t *testing.T, args ...string) map[string]string {
	t.Helper()
	c, err := parse(args, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, c, writer)
		_ = writer.CloseWithError(err)
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	environment := map[string]string{}
	lines := bufio.NewScanner(reader)
	for lines.Scan() {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		if !ok {
			break // the first line behind the environment
		}
		environment[name] = value
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	return environment
}

func TestPrintedEnvironmentReachesTheCloud(t *testing.T) {
	environment := start(t)
	for name, want := range map[string]string{"AWS_REGION": "ap-east-1", "AWS_ENDPOINT_URL_EC2": environment["AWS_ENDPOINT_URL"]} {
		if environment[name] != want {
			t.Errorf("%s=%s, want %s", name, environment[name], want)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, environment["AWS_ENDPOINT_URL"]+"/?Action=DescribeInstances&Version=2016-11-15", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+environment["AWS_ACCESS_KEY_ID"]+"/20261129/"+environment["AWS_REGION"]+"/ec2/aws4_request")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	// The nodes of docs/guides/aws.md.
	for _, want := range []string{"172.31.22.228", "172.31.28.16/28", "2406:da1e:c4:ed01:c57d::/80", "172.31.32.18", "172.31.32.176/28"} {
		if !strings.Contains(string(body), ">"+want+"<") {
			t.Errorf("%s is missing in\n%s", want, body)
		}
	}
}

func TestFlagsAreChecked(t *testing.T) {
	var help strings.Builder
	if _, err := parse([]string{"--help"}, &help); err == nil || !strings.Contains(help.String(), "make fake-cloud ARGS='--throttle --latency'") {
		t.Errorf("--help: %v\n%s", err, help.String())
	}
	if _, err := parse([]string{"now"}, io.Discard); err == nil || !strings.Contains(err.Error(), `"now"`) {
		t.Errorf("an argument: %v", err)
	}
}
