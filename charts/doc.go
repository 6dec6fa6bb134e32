// Package charts tests the Helm chart below it: that its values are those of
// the public interface, that it renders what it rendered before, and that a real
// API server takes what it renders. It has no code of its own.
package charts
