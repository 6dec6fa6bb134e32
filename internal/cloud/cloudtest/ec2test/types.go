package ec2test

// Type is an instance type with its network limits.
type Type struct {
	Name       string
	Interfaces int // per instance
	IPv4       int // addresses per interface, the primary one included
	IPv6       int // addresses per interface
	VCPUs      int
	MemoryMiB  int
	// Xen types cannot have prefixes (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-prefix-eni.html).
	Xen bool
}

// Types are some instance types. The limits come from
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/AvailableIpPerENI.html.
var Types = []Type{
	{Name: "c4.large", Interfaces: 3, IPv4: 10, IPv6: 10, VCPUs: 2, MemoryMiB: 3840, Xen: true},
	{Name: "c5.large", Interfaces: 3, IPv4: 10, IPv6: 10, VCPUs: 2, MemoryMiB: 4096},
	{Name: "c5.xlarge", Interfaces: 4, IPv4: 15, IPv6: 15, VCPUs: 4, MemoryMiB: 8192},
	{Name: "c5.2xlarge", Interfaces: 4, IPv4: 15, IPv6: 15, VCPUs: 8, MemoryMiB: 16384},
	{Name: "c5.4xlarge", Interfaces: 8, IPv4: 30, IPv6: 30, VCPUs: 16, MemoryMiB: 32768},
	{Name: "c5.18xlarge", Interfaces: 15, IPv4: 50, IPv6: 50, VCPUs: 72, MemoryMiB: 147456},
	{Name: "c6g.medium", Interfaces: 2, IPv4: 4, IPv6: 4, VCPUs: 1, MemoryMiB: 2048},
	{Name: "c6g.large", Interfaces: 3, IPv4: 10, IPv6: 10, VCPUs: 2, MemoryMiB: 4096},
	{Name: "c6i.large", Interfaces: 3, IPv4: 10, IPv6: 10, VCPUs: 2, MemoryMiB: 4096},
	{Name: "c6i.xlarge", Interfaces: 4, IPv4: 15, IPv6: 15, VCPUs: 4, MemoryMiB: 8192},
	{Name: "m5.large", Interfaces: 3, IPv4: 10, IPv6: 10, VCPUs: 2, MemoryMiB: 8192},
	{Name: "m5.xlarge", Interfaces: 4, IPv4: 15, IPv6: 15, VCPUs: 4, MemoryMiB: 16384},
	{Name: "m5.2xlarge", Interfaces: 4, IPv4: 15, IPv6: 15, VCPUs: 8, MemoryMiB: 32768},
	{Name: "m5.4xlarge", Interfaces: 8, IPv4: 30, IPv6: 30, VCPUs: 16, MemoryMiB: 65536},
	{Name: "m5.8xlarge", Interfaces: 8, IPv4: 30, IPv6: 30, VCPUs: 32, MemoryMiB: 131072},
	{Name: "m5.16xlarge", Interfaces: 15, IPv4: 50, IPv6: 50, VCPUs: 64, MemoryMiB: 262144},
	{Name: "r5.large", Interfaces: 3, IPv4: 10, IPv6: 10, VCPUs: 2, MemoryMiB: 16384},
	{Name: "r5.xlarge", Interfaces: 4, IPv4: 15, IPv6: 15, VCPUs: 4, MemoryMiB: 32768},
	{Name: "t3.micro", Interfaces: 2, IPv4: 2, IPv6: 2, VCPUs: 2, MemoryMiB: 1024},
	{Name: "t3.small", Interfaces: 3, IPv4: 4, IPv6: 4, VCPUs: 2, MemoryMiB: 2048},
	{Name: "t3.medium", Interfaces: 3, IPv4: 6, IPv6: 6, VCPUs: 2, MemoryMiB: 4096},
	{Name: "t3.large", Interfaces: 3, IPv4: 12, IPv6: 12, VCPUs: 2, MemoryMiB: 8192},
	{Name: "t3.xlarge", Interfaces: 4, IPv4: 15, IPv6: 15, VCPUs: 4, MemoryMiB: 16384},
}

// typeNamed returns a type by its name.
func typeNamed(name string) (Type, bool) {
	for _, t := range Types {
		if t.Name == name {
			return t, true
		}
	}
	return Type{}, false
}
