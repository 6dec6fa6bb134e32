package reach

import (
	"cmp"
	"fmt"
	"strings"
)

// Unstarted is a pod of the test that did not start in time.
type Unstarted struct {
	Pod, Node string
	Host      bool
	// Unschedulable is the message of the scheduler, if it found no place.
	Unschedulable string
	// Waiting is the reason of a waiting container with its message, e.g. "ErrImagePull: …".
	Waiting string
	// Warning is the text of the newest Warning event.
	Warning string
	// AgentFault says why the agent of the node is not ready, "" if it is.
	AgentFault string
	// Pools are the problems with the addresses of the pod.
	Pools []Finding
}

// Explain returns the causes, at least one.
func (u Unstarted) Explain() []Finding {
	subject := "pod " + u.Pod
	switch {
	case u.Unschedulable != "":
		return []Finding{{subject, "the scheduler finds no place on node " + u.Node + ": " + u.Unschedulable, "name another node with --node, or change the node", nil}}
	case strings.HasPrefix(u.Waiting, "ErrImagePull") || strings.HasPrefix(u.Waiting, "ImagePullBackOff") || strings.HasPrefix(u.Waiting, "InvalidImageName"):
		return []Finding{{subject, u.Waiting, "name an image with spiderpoolctl that the nodes can pull: --image", nil}}
	case u.AgentFault != "" && !u.Host:
		return []Finding{{"node " + u.Node, u.AgentFault + ", so no new pod gets an address there", "kubectl -n kube-system get pods -l app.kubernetes.io/component=agent -o wide, and the log of the node's agent", nil}}
	case len(u.Pools) > 0 && !u.Host:
		return u.Pools
	}
	return []Finding{{
		subject, fmt.Sprintf("it did not start on node %s: %s", u.Node, cmp.Or(u.Waiting, u.Warning, "it has no event yet")),
		"if its node is only slow, raise --timeout; else kubectl describe pod with --keep", nil,
	}}
}
