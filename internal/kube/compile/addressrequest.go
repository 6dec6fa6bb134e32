package compile

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/names"
)

// isAddressResource reports whether a resource of nodes counts interfaces with addresses.
func isAddressResource(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), names.ResourceAddressesDomain+"/")
}

// AddressResources returns the resources that count interfaces with addresses, nil for none.
func AddressResources(all corev1.ResourceList) corev1.ResourceList {
	var ours corev1.ResourceList
	for name, quantity := range all {
		if isAddressResource(name) {
			if ours == nil {
				ours = corev1.ResourceList{}
			}
			ours[name] = quantity
		}
	}
	return ours
}

// AddressRequests returns what a pod requests of resources that count interfaces with
// addresses, nil for nothing. Like for the scheduler, containers that run together add up,
// and each init container counts on its own.
func AddressRequests(spec *corev1.PodSpec) corev1.ResourceList {
	total := corev1.ResourceList{}
	for _, c := range RunningContainers(spec) {
		for name, quantity := range AddressResources(c.Resources.Requests) {
			sum := total[name]
			sum.Add(quantity)
			total[name] = sum
		}
	}
	for _, c := range spec.InitContainers {
		for name, quantity := range AddressResources(c.Resources.Requests) {
			if is := total[name]; is.Cmp(quantity) < 0 {
				total[name] = quantity
			}
		}
	}
	if len(total) == 0 {
		return nil
	}
	return total
}
