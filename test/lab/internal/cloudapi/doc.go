// Package cloudapi is the API of the simulated cloud: a fake Amazon EC2 (ec2test) whose instances are the nodes of a
// topology of kind aws.
//
// Data flows one way: from the API to the fake, and from there to the routes and source checks of the VPC. What a client
// assigns to the ENI of a node is routed to it, and what a client takes away is dropped. An ENI that a client attaches to a node
// is a link of the running node: ens6 for device index 1, down and without an address. It goes when it is detached, or with its instance.
//
// The EC2 API listens at Topology.CloudAddress and answers nodes only, like an interface endpoint of a VPC with a security
// group. The instance metadata service (version 2) listens at 169.254.169.254 on each ENI. It hands out the credentials of
// the role Role. The fake checks no signatures: any access key is valid there.
//
// Tests on the host of the API read what the cloud really has, and plant faults:
//
//	curl http://172.31.0.30/lab/state            # ?follow: one line of JSON after each change
//	curl -X PUT -d '{"lag": "10s", "latency": true}' http://172.31.0.30/lab/faults
//
// The state is in memory. When the process starts again, the cloud is that of the topology file.
//
// Limits: of the interfaces in the topology file, only the first one of a node is known.
package cloudapi
