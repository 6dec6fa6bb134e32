package cloudapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

// faults is the body of PUT /lab/faults. It replaces all faults; the zero value removes them.
type faults struct {
	Lag       string            `json:"lag,omitempty"`       // age of the state that describes and metadata show, e.g. "10s"
	Stale     int               `json:"stale,omitempty"`     // describes that show the state before the last change
	Latency   bool              `json:"latency,omitempty"`   // answer as slowly as AWS
	Attaching string            `json:"attaching,omitempty"` // how long an attachment takes, e.g. "2s"
	Throttle  *ec2test.Throttle `json:"throttle,omitempty"`  // e.g. {"changes": {"size": 1, "refill": 0.1}}
	Faults    []ec2test.Fault   `json:"faults,omitempty"`    // e.g. [{"action": "AssignPrivateIpAddresses", "times": 1, "done": true}]
	Policy    string            `json:"policy,omitempty"`    // of the role of the nodes; an IAM policy
}

// state is the answer of GET /lab/state: what the cloud has, whatever it shows in describes.
type state struct {
	Routes     []route        `json:"routes"`
	Interfaces []iface        `json:"interfaces"` // those of nodes, and those that a client created
	Calls      map[string]int `json:"calls"`      // by action
	Failures   map[string]int `json:"failures"`   // by error code; "" for cut connections
}

type iface struct {
	ID         string            `json:"id"`
	Subnet     string            `json:"subnet"`
	MAC        string            `json:"mac"`
	Tags       map[string]string `json:"tags,omitempty"`
	Attachment string            `json:"attachment,omitempty"` // its ID
	Instance   string            `json:"instance,omitempty"`
	Device     int               `json:"device"`
	// DeleteOnTermination says that the interface goes with its instance.
	DeleteOnTermination bool `json:"deleteOnTermination,omitempty"`
}

// interfacesOf returns the interfaces without those of other owners.
func interfacesOf(cloud *ec2test.Cloud) []iface {
	list := []iface{}
	for _, i := range cloud.Interfaces("") {
		if i.Requester != "" {
			continue
		}
		one := iface{ID: i.ID, Subnet: i.Subnet, MAC: i.MAC, Tags: i.Tags}
		if a := i.Attachment; a != nil {
			one.Attachment, one.Instance, one.Device, one.DeleteOnTermination = a.ID, a.Instance, a.Device, a.DeleteOnTermination
		}
		list = append(list, one)
	}
	return list
}

type route struct {
	Prefix    netip.Prefix `json:"prefix"`
	Interface string       `json:"interface"`
	Instance  string       `json:"instance"`
}

// controlled adds the paths below /lab/ to the EC2 API. They are for tests, and only the host of the API itself may use them.
func controlled(own netip.Addr, cloud *ec2test.Cloud, changes *bell) http.Handler {
	control := http.NewServeMux()
	control.HandleFunc("GET /lab/state", func(w http.ResponseWriter, r *http.Request) { serveState(w, r, cloud, changes) })
	control.HandleFunc("PUT /lab/faults", func(w http.ResponseWriter, r *http.Request) {
		if err := setFaults(cloud, r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux := http.NewServeMux()
	mux.Handle("/", cloud.Handler())
	mux.HandleFunc("/lab/", func(w http.ResponseWriter, r *http.Request) {
		if client, ok := clientOf(r); !ok || client != own {
			http.Error(w, "only the host of the API may use this path", http.StatusForbidden)
			return
		}
		control.ServeHTTP(w, r)
	})
	return mux
}

// serveState writes the state, one line of JSON. With the parameter follow, it adds one after each change.
func serveState(w http.ResponseWriter, r *http.Request, cloud *ec2test.Cloud, changes *bell) {
	to, flush := json.NewEncoder(w), http.NewResponseController(w)
	for {
		rung := changes.wait()
		now := state{Routes: []route{}, Interfaces: interfacesOf(cloud), Calls: cloud.Calls(), Failures: cloud.Failures()}
		for _, r := range cloud.Routes() {
			now.Routes = append(now.Routes, route{r.Prefix, r.Interface, r.Instance})
		}
		if to.Encode(now) != nil || !r.URL.Query().Has("follow") || flush.Flush() != nil {
			return
		}
		select {
		case <-rung:
		case <-r.Context().Done():
			return
		}
	}
}

func setFaults(cloud *ec2test.Cloud, r *http.Request) error {
	var f faults
	from := json.NewDecoder(r.Body)
	from.DisallowUnknownFields()
	if err := from.Decode(&f); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	lag, err := duration("lag", f.Lag)
	if err != nil {
		return err
	}
	attaching, err := duration("attaching", f.Attaching)
	if err != nil {
		return err
	}
	if f.Policy != "" {
		if err := cloud.SetPolicy("role/"+Role, f.Policy); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
	}
	cloud.ClearFaults()
	cloud.SetLag(lag)
	cloud.SetAttachDelays(attaching, 0)
	cloud.StaleReads(f.Stale)
	if f.Latency {
		cloud.SetLatency(ec2test.TypicalLatency())
	}
	if f.Throttle != nil {
		cloud.SetThrottling(*f.Throttle)
	}
	for _, fault := range f.Faults {
		cloud.Inject(fault)
	}
	return nil
}

// duration parses the value of a field; an empty one is 0.
func duration(field, value string) (time.Duration, error) {
	if value == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", field, err)
	}
	return d, nil
}

// bell wakes everyone that waits for a change.
type bell struct {
	mu struct {
		sync.Mutex
		rung chan struct{} // closed by the next ring
	}
}

func newBell() *bell {
	b := &bell{}
	b.mu.rung = make(chan struct{})
	return b
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.mu.rung)
	b.mu.rung = make(chan struct{})
}

// wait returns a channel that the next ring closes.
func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.rung
}
