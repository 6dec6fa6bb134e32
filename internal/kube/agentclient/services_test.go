package agentclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/service"
)

// recordingSink records the calls. It returns the errors first.
type recordingSink struct {
	errs  []error
	calls []string
	ages  []EventAge
}

func (r *recordingSink) call(name string, d service.Diff) error {
	r.calls = append(r.calls, name+"\n"+d.String())
	if len(r.errs) == 0 {
		return nil
	}
	err := r.errs[0]
	r.errs = r.errs[1:]
	return err
}

func (r *recordingSink) Replace(all service.Diff) error { return r.call("replace", all) }
func (r *recordingSink) Change(d service.Diff) error    { return r.call("change", d) }
func (r *recordingSink) Applied(age EventAge)           { r.ages = append(r.ages, age) }

func (r *recordingSink) want(t *testing.T, step string, calls ...string) {
	t.Helper()
	synctest.Wait()
	if len(r.calls) != len(calls) {
		t.Fatalf("%s: %d calls, want %d:\n%q", step, len(r.calls), len(calls), r.calls)
	}
	for i, want := range calls {
		if r.calls[i] != want {
			t.Errorf("%s: got %q, want %q", step, r.calls[i], want)
		}
	}
	r.calls = nil
}

func named(name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name, Labels: labels}
}

func webService(clusterIP string) *corev1.Service {
	return &corev1.Service{ObjectMeta: named("web", nil), Spec: corev1.ServiceSpec{
		ClusterIP: clusterIP, ClusterIPs: []string{clusterIP}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
	}}
}

func webSlice(addresses ...string) *discoveryv1.EndpointSlice {
	name, port := "", int32(8080)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: named("web-1", map[string]string{discoveryv1.LabelServiceName: "web"}), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

// stores returns a ServiceSync without an API server, and the stores that its reflectors fill.
func stores(t *testing.T, sink ServiceSink) (services, endpointSlices, nodes cache.ReflectorStore) {
	s := syncWith(t, sink, nil)
	return s.services(), s.endpointSlices(), s.nodes()
}

// syncWith returns a ServiceSync without an API server, and runs the rest of it.
func syncWith(t *testing.T, sink ServiceSink, tell TellFault) *ServiceSync {
	s := NewServiceSync(nil, "n1", nil, sink, tell, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var parts sync.WaitGroup
	parts.Go(func() { s.replaceWhenDirty(ctx) })
	parts.Go(func() { s.faults.run(ctx) })
	t.Cleanup(func() {
		cancel()
		parts.Wait()
	})
	return s
}

func TestSinkWaitsForAllLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &recordingSink{}
		services, endpointSlices, nodes := stores(t, sink)
		must(t, services.Replace([]any{webService("10.96.0.1")}, "1"))
		must(t, endpointSlices.Replace([]any{webSlice("10.6.0.1")}, "1"))
		must(t, services.Update(webService("10.96.0.2")))
		sink.want(t, "without the node")
		must(t, nodes.Replace([]any{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}}, "1"))
		sink.want(t, "with all lists", "replace\n+ set 1 slot 0 10.6.0.1:8080\n+ 10.96.0.2:80/TCP set 1 count 1\n")
		must(t, services.Update(webService("10.96.0.2")))
		sink.want(t, "without a change")
		must(t, endpointSlices.Update(webSlice("10.6.0.2")))
		sink.want(t, "another endpoint", "change\n+ set 1 slot 0 10.6.0.2:8080\n")
	})
}

func TestListRemovesMissingObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &recordingSink{}
		services, endpointSlices, nodes := stores(t, sink)
		must(t, errors.Join(services.Replace([]any{webService("10.96.0.1")}, "1"), endpointSlices.Replace([]any{webSlice("10.6.0.1")}, "1"), nodes.Replace(nil, "1")))
		sink.want(t, "at first", "replace\n+ set 1 slot 0 10.6.0.1:8080\n+ 10.96.0.1:80/TCP set 1 count 1\n")
		must(t, endpointSlices.Replace(nil, "2"))
		sink.want(t, "without slices", "change\n+ 10.96.0.1:80/TCP refuse\n- set 1 slot 0\n")
		headless := webService(corev1.ClusterIPNone)
		must(t, services.Update(headless))
		sink.want(t, "headless", "change\n- 10.96.0.1:80/TCP\n")
		must(t, errors.Join(services.Delete(headless), endpointSlices.Delete(webSlice())))
		sink.want(t, "after the deletions")
	})
}

func TestFailedSinkGetsAllEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("the map is full")
		sink := &recordingSink{errs: []error{full, full}}
		services, endpointSlices, nodes := stores(t, sink)
		must(t, errors.Join(services.Replace([]any{webService("10.96.0.1")}, "1"), endpointSlices.Replace(nil, "1"), nodes.Replace(nil, "1")))
		first := "replace\n+ 10.96.0.1:80/TCP refuse\n"
		sink.want(t, "at once", first)
		must(t, services.Update(webService("10.96.0.2")))
		sink.want(t, "a change before the next attempt")
		second := "replace\n+ 10.96.0.2:80/TCP refuse\n"
		time.Sleep(4 * retryDelay) // of the fake clock
		sink.want(t, "after the pauses", second, second)

		sink.errs = []error{full}
		must(t, services.Update(webService("10.96.0.3")))
		sink.want(t, "a failed change", "change\n+ 10.96.0.3:80/TCP refuse\n- 10.96.0.2:80/TCP\n", "replace\n+ 10.96.0.3:80/TCP refuse\n")
	})
}

func TestAgesOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &recordingSink{}
		services, endpointSlices, nodes := stores(t, sink)
		must(t, errors.Join(services.Replace([]any{webService("10.96.0.1")}, "1"), endpointSlices.Replace([]any{webSlice("10.6.0.1")}, "1"), nodes.Replace(nil, "1")))
		synctest.Wait()
		if len(sink.ages) > 0 {
			t.Errorf("a list has ages %v", sink.ages)
		}
		wantAges := func(step string, want ...EventAge) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(sink.ages, want) {
				t.Errorf("%s: got ages %v, want %v", step, sink.ages, want)
			}
			sink.ages = nil
		}
		caused := webSlice("10.6.0.2")
		caused.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Add(-2 * time.Second).Format(time.RFC3339Nano)}
		must(t, endpointSlices.Update(caused))
		wantAges("with a cause", EventAge{Caused: 2 * time.Second})
		must(t, endpointSlices.Update(caused))
		wantAges("without a change")
		must(t, services.Delete(webService("10.96.0.1")))
		wantAges("a deletion", EventAge{})

		sink.errs = []error{errors.New("no memory"), errors.New("no memory")}
		must(t, services.Update(webService("10.96.0.1")))
		time.Sleep(retryDelay / 2)
		must(t, services.Update(webService("10.96.0.2")))
		time.Sleep(retryDelay)
		wantAges("after failures", EventAge{Received: retryDelay})
	})
}

func TestFaultsAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		tell := func(_ context.Context, about *corev1.ObjectReference, event observe.Event) error {
			told = append(told, about.Kind+" "+string(about.UID)+" "+event.Reason+": "+event.Text)
			return nil
		}
		sink := &recordingSink{}
		s := syncWith(t, sink, tell)
		services, endpointSlices := s.services(), s.endpointSlices()
		must(t, errors.Join(services.Replace(nil, "1"), endpointSlices.Replace(nil, "1"), s.nodes().Replace(nil, "1")))
		sink.want(t, "at first", "replace\n")
		want := func(step string, want ...string) {
			t.Helper()
			time.Sleep(maxWaiting * faultPause)
			synctest.Wait()
			if !slices.Equal(told, want) {
				t.Errorf("%s: got events %q, want %q", step, told, want)
			}
			told = nil
		}
		bad := webService("10.96.0.1")
		bad.UID = "u1"
		bad.Spec.Ports = append(bad.Spec.Ports, corev1.ServicePort{Port: 81, Protocol: "QUIC"})
		unknown := `Service u1 InvalidService: spec.ports[1].protocol: Unsupported value: "QUIC": supported values: "TCP", "UDP", "SCTP"`
		for range 3 {
			must(t, services.Update(bad))
		}
		want("an unknown protocol", unknown)
		sink.want(t, "the other port works", "change\n+ 10.96.0.1:80/TCP refuse\n")

		slice := webSlice("127.0.0.1", "10.6.0.1")
		must(t, endpointSlices.Update(slice))
		want("a loopback address", `EndpointSlice  InvalidEndpoints: endpoints[0].addresses[0]: Invalid value: "127.0.0.1": `+
			`a service has no unspecified, loopback, link-local or multicast address`)
		sink.want(t, "the other endpoint works", "change\n+ set 1 slot 0 10.6.0.1:8080\n+ 10.96.0.1:80/TCP set 1 count 1\n")

		must(t, errors.Join(services.Delete(bad), services.Update(bad)))
		want("a new Service", unknown)
		for i := range 3 * maxFaulty {
			other := bad.DeepCopy()
			other.Name = fmt.Sprint("web-", i)
			must(t, services.Update(other))
		}
		time.Sleep(2 * maxWaiting * faultPause)
		if n := len(told); n > maxWaiting+1 || n < maxWaiting || len(s.faults.told) > maxFaulty {
			t.Errorf("%d events and %d remembered objects, want at most %d and %d", n, len(s.faults.told), maxWaiting+1, maxFaulty)
		}
	})
}

func TestExternalIPsNeedPermission(t *testing.T) {
	for permitted, want := range map[bool]string{
		false: "change\n+ 10.96.0.1:80/TCP refuse\n",
		true:  "change\n+ 10.96.0.1:80/TCP refuse\n+ 203.0.113.7:80/TCP refuse\n",
	} {
		t.Run(fmt.Sprint(permitted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := &recordingSink{}
				s := syncWith(t, sink, nil)
				s.ExternalIPs = permitted
				services := s.services()
				must(t, errors.Join(services.Replace(nil, "1"), s.endpointSlices().Replace(nil, "1"), s.nodes().Replace(nil, "1")))
				sink.want(t, "at first", "replace\n")
				web := webService("10.96.0.1")
				web.Spec.ExternalIPs = []string{"203.0.113.7"}
				must(t, services.Update(web))
				sink.want(t, "an external IP", want)
			})
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
