// Package kube is the adapter to Kubernetes: it turns custom resources into
// values of the domain and back, and implements the ports of the use cases on
// the API server.
//
// The compilers (CompilePool and its siblings) are the only way from a custom
// resource to the domain: agent, reconcilers and admission all see a resource as
// they do, and an invalid one gives the same field errors everywhere.
package kube
