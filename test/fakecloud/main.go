// Command fakecloud runs a fake Amazon EC2 on loopback, with the VPC and the two nodes of docs/guides/aws.md. SDKs, the
// aws command and the controller can use it instead of AWS.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

const usage = `fakecloud runs a fake Amazon EC2 on loopback, with a VPC of two zones and two nodes. It ends on Ctrl-C.

Examples:
  make fake-cloud                                   # on a free port
  make fake-cloud ARGS='--listen 127.0.0.1:4566'    # on a fixed port
  make fake-cloud ARGS='--throttle --latency'       # with AWS' default token buckets, and delayed answers
  make fake-cloud ARGS='--lag 2s --fail 0.1'        # describes are 2 s old, and every tenth request fails

Flags:
`

// config are the flags.
type config struct {
	listen            string
	throttle, latency bool
	lag               time.Duration
	fail              float64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(ctx, c, os.Stdout)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "fakecloud:", err)
		os.Exit(1)
	}
}

func parse(args []string, out io.Writer) (c config, err error) {
	flags := flag.NewFlagSet("fakecloud", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprint(out, usage); flags.PrintDefaults() }
	flags.StringVar(&c.listen, "listen", "127.0.0.1:0", "`address` and port; port 0 is a free one")
	flags.BoolVar(&c.throttle, "throttle", false, "limit the rate of requests like AWS")
	flags.BoolVar(&c.latency, "latency", false, "answer as slowly as AWS")
	flags.DurationVar(&c.lag, "lag", 0, "`age` of the state that describes and metadata show, e.g. 2s")
	flags.Float64Var(&c.fail, "fail", 0, "`share` of requests that fail with InternalError, e.g. 0.1")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q; see --help", flags.Arg(0))
	}
	return c, nil
}

// run serves the cloud until ctx ends. It prints the environment of clients.
func run(ctx context.Context, c config, out io.Writer) error {
	cloud, nodes := example()
	if c.throttle {
		cloud.SetThrottling(ec2test.DocumentedThrottle())
	}
	if c.latency {
		cloud.SetLatency(ec2test.TypicalLatency())
	}
	if c.fail > 0 {
		cloud.Inject(ec2test.Fault{Chance: c.fail, Code: "InternalError"})
	}
	cloud.SetLag(c.lag)
	server, err := cloud.Listen(c.listen)
	if err != nil {
		return err
	}
	defer server.Close()
	if err := greet(out, server, cloud, nodes); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// example returns the VPC of docs/guides/aws.md and the IDs of its nodes.
func example() (*ec2test.Cloud, []string) {
	cloud := ec2test.New(ec2test.Options{Region: "ap-east-1"})
	prefix, address := netip.MustParsePrefix, netip.MustParseAddr
	vpc := cloud.AddVPC(ec2test.VPC{ID: "vpc-0a0a0a0a0a0a0a0a0", IPv4: prefix("172.31.0.0/16"), IPv6: prefix("2406:da1e:c4:ed00::/56"), Tags: named("example")})
	group := cloud.AddSecurityGroup(ec2test.SecurityGroup{ID: "sg-0a0a0a0a0a0a0a0a0", VPC: vpc, Name: "nodes"})
	a := cloud.AddSubnet(ec2test.Subnet{
		ID: "subnet-0a0a0a0a0a0a0a0a1", VPC: vpc, Zone: "ap-east-1a",
		IPv4: prefix("172.31.16.0/20"), IPv6: prefix("2406:da1e:c4:ed01::/64"), Tags: named("private-a"),
	})
	b := cloud.AddSubnet(ec2test.Subnet{
		ID: "subnet-0a0a0a0a0a0a0a0a2", VPC: vpc, Zone: "ap-east-1b",
		IPv4: prefix("172.31.32.0/24"), IPv6: prefix("2406:da1e:c4:ed02::/64"), Tags: named("private-b"),
	})
	master := cloud.AddInstance(ec2test.Instance{
		ID: "i-0a0a0a0a0a0a0a0a1", Type: "m5.large", Subnet: a, Groups: []string{group}, Role: "spiderpool-node", Tags: named("master"),
		Address: address("172.31.22.228"), Address6: address("2406:da1e:c4:ed01::10"),
		Prefixes: []netip.Prefix{prefix("172.31.28.16/28"), prefix("2406:da1e:c4:ed01:c57d::/80")},
	})
	worker := cloud.AddInstance(ec2test.Instance{
		ID: "i-0a0a0a0a0a0a0a0a2", Type: "m5.large", Subnet: b, Groups: []string{group}, Role: "spiderpool-node", Tags: named("worker1"),
		Address: address("172.31.32.18"), Address6: address("2406:da1e:c4:ed02::10"),
		Prefixes: []netip.Prefix{prefix("172.31.32.176/28"), prefix("2406:da1e:c4:ed02:7a2e::/80")},
	})
	return cloud, []string{master, worker}
}

func named(name string) map[string]string { return map[string]string{"Name": name} }

// greet prints the environment of clients, and commands to try. A line of the environment begins with "export ".
func greet(out io.Writer, server *ec2test.Server, cloud *ec2test.Cloud, nodes []string) error {
	var b strings.Builder
	for _, variable := range server.Environment(nodes[0]) {
		fmt.Fprintf(&b, "export %s\n", variable)
	}
	eni := cloud.Interfaces(nodes[0])[0].ID
	fmt.Fprintf(&b, `
# The metadata service is that of %[2]s; the other node's is %[3]s
# Try, in a shell with this environment (aws before 2.13 needs --endpoint-url):
#   aws --endpoint-url %[1]s ec2 describe-network-interfaces
#   aws --endpoint-url %[1]s ec2 assign-private-ip-addresses --network-interface-id %[4]s --ipv4-prefix-count 1
#   aws --endpoint-url %[1]s ec2 get-subnet-cidr-reservations --subnet-id %[5]s
`, server.URL, nodes[0], server.MetadataURL(nodes[1]), eni, cloud.Interfaces(nodes[0])[0].Subnet)
	_, err := io.WriteString(out, b.String())
	return err
}
