// Package ec2test is a fake of Amazon EC2 that speaks on the wire: the EC2 Query API (form POST, XML, version
// 2016-11-15) and the instance metadata service version 2. It holds the part of a VPC that an address manager needs:
// subnets, network interfaces, addresses, prefixes, CIDR reservations, instances and the limits of their types.
//
//	cloud := ec2test.New(ec2test.Options{Region: "eu-central-1"})
//	vpc := cloud.AddVPC(ec2test.VPC{IPv4: netip.MustParsePrefix("172.31.0.0/16")})
//	subnet := cloud.AddSubnet(ec2test.Subnet{VPC: vpc, Zone: "eu-central-1a", IPv4: netip.MustParsePrefix("172.31.16.0/20")})
//	node := cloud.AddInstance(ec2test.Instance{Type: "m5.large", Subnet: subnet})
//	server := cloud.Start(t)
//	client := ec2.NewFromConfig(config, func(o *ec2.Options) { o.BaseEndpoint = &server.URL })
//	imds := imds.New(imds.Options{Endpoint: server.MetadataURL(node)})
//
// The fake does what AWS documents: the same errors and the same limits. An unknown parameter or filter is an error, so
// that no test passes because the fake ignored a wish. Where AWS chooses (an address, a prefix), the fake takes the
// smallest free range that fits; callers must not rely on it.
//
// Clouds fail. Faults are switched on with [Cloud.Inject], [Cloud.SetLag], [Cloud.SetLatency], [Cloud.SetThrottling],
// [Cloud.SetPolicy], [Cloud.Fragment], [Cloud.TakePrefix] and [Cloud.Vanish]. [Cloud.Calls] counts requests by action.
//
// The fake verifies no signatures. The access key of a request names its principal, and the region of the credential
// scope must be the fake's: another region is an empty one. A Cloud is safe for concurrent use.
//
// Sources: the API reference (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/), its error codes
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html), and the metadata categories
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html).
package ec2test
