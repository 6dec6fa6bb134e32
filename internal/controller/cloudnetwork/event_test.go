package cloudnetwork

import (
	"strings"
	"testing"
	"time"
)

// wantEvent fails unless an event with the text was recorded since the last call.
func (x *bench) wantEvent(text string) {
	x.t.Helper()
	var all []string
	for {
		select {
		case event := <-x.events.Events:
			if all = append(all, event); strings.Contains(event, text) {
				return
			}
			continue
		default:
		}
		x.t.Fatalf("no event has %q: %q", text, all)
	}
}

func TestGrowthIsTold(t *testing.T) {
	x := newManagedBench(t, 4)
	x.join("worker1", x.subnets[1])
	x.join("worker2", x.subnets[1])
	x.pods("worker1", 20)
	x.pass(0)
	x.wantEvent("AddressesAssigned assigned 172.31.32.")
	x.removePods()
	x.run(5 * time.Minute)
	x.wantEvent("AddressesReturned gave back 172.31.32.")
}

func TestAttachmentIsTold(t *testing.T) {
	x, _ := stranded(t)
	x.wantEvent("InterfacesChanged created an interface for node worker1")
	x.wantEvent("InterfacesChanged attached eni-")
	x.leave("worker2")
	x.run(5 * time.Minute)
	x.wantEvent("InterfacesChanged deleted eni-")
}
