// Package status writes what the controller reports about an object: the
// condition Ready and the texts of events, within the limits of the API server.
package status
