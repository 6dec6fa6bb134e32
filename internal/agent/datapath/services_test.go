package datapath

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/service"
)

// fakePrograms records calls and returns the next error of each method.
type fakePrograms struct {
	calls []string
	fail  map[string]error
	// ended has a value per call of EndLostFlows.
	ended chan struct{}
}

func (f *fakePrograms) call(name string) error {
	f.calls = append(f.calls, name)
	return f.fail[name]
}

func (f *fakePrograms) Known() (map[service.FrontendKey]service.ID, error) {
	return nil, f.call("known")
}
func (f *fakePrograms) Replace(service.Diff) error { return f.call("replace") }
func (f *fakePrograms) Change(service.Diff) error  { return f.call("change") }
func (f *fakePrograms) Attach() error              { return f.call("attach") }
func (f *fakePrograms) Others() error              { return f.fail["others"] }
func (f *fakePrograms) Entries() bpf.Entries       { return bpf.Entries{Frontends: 3, Backends: 7} }
func (f *fakePrograms) Limits() bpf.Entries        { return bpf.Entries{Frontends: 10, Backends: 20} }
func (f *fakePrograms) Close() error               { return f.call("close") }

func (f *fakePrograms) EndLostFlows(string) (int, error) {
	f.ended <- struct{}{}
	return 1, nil
}

// fixture runs Services with fakes.
type fixture struct {
	Services
	fakePrograms
	removed int
	warned  []string
	log     strings.Builder
}

// run runs Services until Sync has returned once.
func (f *fixture) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sync := f.Sync
	f.Sync = func(ctx context.Context, known map[service.FrontendKey]service.ID, to agentclient.ServiceSink) {
		sync(ctx, known, to)
		cancel()
	}
	f.Run(ctx)
}

func newFixture(mode config.ServiceMode, loads error, sync func(agentclient.ServiceSink)) *fixture {
	f := &fixture{fakePrograms: fakePrograms{fail: map[string]error{}, ended: make(chan struct{}, 9)}}
	f.Services = Services{
		Mode: mode,
		Load: func() (Programs, error) {
			if loads != nil {
				return nil, loads
			}
			return &f.fakePrograms, nil
		},
		Remove:  func() error { f.removed++; return nil },
		Sync:    func(_ context.Context, _ map[service.FrontendKey]service.ID, to agentclient.ServiceSink) { sync(to) },
		Warn:    func(reason string) { f.warned = append(f.warned, reason) },
		Metrics: NewMetrics(prometheus.NewRegistry()),
		Now:     time.Now,
		Log:     slog.New(slog.NewTextHandler(&f.log, nil)),
	}
	return f
}

func TestUnableNodeLeavesServicesToKubeProxy(t *testing.T) {
	unable := errors.New("this kernel lacks maps")
	for _, c := range []struct {
		mode   config.ServiceMode
		warned []string
		failed float64
	}{
		{config.ServiceAuto, nil, 0},
		{config.ServiceEBPF, []string{unable.Error()}, 1},
	} {
		t.Run(string(c.mode), func(t *testing.T) {
			f := newFixture(c.mode, unable, func(agentclient.ServiceSink) { t.Error("the programs got entries") })
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 3*checkInterval/2)
				defer cancel()
				f.Run(ctx)
			})
			if f.removed != 2 || !slices.Equal(f.warned, c.warned) || !strings.Contains(f.log.String(), unable.Error()) {
				t.Errorf("removed %d times, warned %q, want %q, logged %s", f.removed, f.warned, c.warned, &f.log)
			}
			if got := testutil.ToFloat64(f.Metrics.failures); got != c.failed {
				t.Errorf("counted %v failures, want %v", got, c.failed)
			}
		})
	}
}

func TestLaterLoadBalancerGetsServices(t *testing.T) {
	other := errors.New("another load balancer translates")
	for _, mode := range []config.ServiceMode{config.ServiceAuto, config.ServiceEBPF} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(mode, nil, nil)
				f.Sync = func(ctx context.Context, _ map[service.FrontendKey]service.ID, to agentclient.ServiceSink) {
					if err := to.Replace(service.Diff{}); err != nil {
						t.Error(err)
					}
					<-ctx.Done()
				}
				f.fail["others"] = other
				load, loads := f.Load, 0
				f.Load = func() (Programs, error) {
					if loads++; loads == 2 {
						return nil, other
					}
					if loads == 3 {
						f.fail["others"] = nil // it has been removed
					}
					return load()
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					f.Run(ctx)
					close(done)
				}()
				state := func(step string, active float64, removed int) {
					t.Helper()
					synctest.Wait()
					if got := testutil.ToFloat64(f.Metrics.active); got != active || f.removed != removed {
						t.Errorf("%s: active %v, removed %d times, want %v, %d", step, got, f.removed, active, removed)
					}
				}
				time.Sleep(checkInterval)
				state("at first", 1, 0)
				time.Sleep(checkAgain)
				state("with the other one", 0, 1)
				time.Sleep(checkInterval)
				state("still with the other one", 0, 2)
				time.Sleep(checkInterval)
				state("without the other one", 1, 2)
				cancel()
				<-done
				if want := []string{other.Error()}; !slices.Equal(f.warned, want) {
					t.Errorf("warned %q, want %q", f.warned, want)
				}
				if f.removed != 2 {
					t.Error("the end of the agent removed the programs")
				}
			})
		})
	}
}

func TestKubeProxyModeTouchesNothing(t *testing.T) {
	f := newFixture(config.ServiceKubeProxy, nil, func(agentclient.ServiceSink) { t.Error("the programs got entries") })
	f.Run(t.Context())
	if len(f.calls) > 0 || f.removed > 0 {
		t.Errorf("called %q, removed %d times", f.calls, f.removed)
	}
}

func TestProgramsAreAttachedWithEntries(t *testing.T) {
	f := newFixture(config.ServiceEBPF, nil, nil)
	f.Sync = func(_ context.Context, _ map[service.FrontendKey]service.ID, to agentclient.ServiceSink) {
		f.fail["attach"] = errors.New("no memory")
		if err := to.Replace(service.Diff{}); err == nil {
			t.Error("a failed attachment gave no error")
		}
		f.fail["attach"] = nil
		for range 2 {
			if err := errors.Join(to.Replace(service.Diff{}), to.Change(service.Diff{})); err != nil {
				t.Error(err)
			}
		}
	}
	f.run(t)
	if got, want := strings.Join(f.calls, " "), "known replace attach replace attach change replace change close"; got != want {
		t.Errorf("called %s, want %s", got, want)
	}
	if active, entries := testutil.ToFloat64(f.Metrics.active), testutil.ToFloat64(f.Metrics.entries.WithLabelValues("backends")); active != 1 || entries != 7 {
		t.Errorf("metrics: active %v, backends %v", active, entries)
	}
}

func TestFullMapIsReportedOnce(t *testing.T) {
	f := newFixture(config.ServiceAuto, nil, nil)
	f.Sync = func(_ context.Context, _ map[service.FrontendKey]service.ID, to agentclient.ServiceSink) {
		f.fail["replace"] = &bpf.FullError{Map: "backends", Limit: 5, LeftOut: []string{"10.96.0.1:80/TCP"}}
		f.fail["change"] = f.fail["replace"]
		if err := errors.Join(to.Replace(service.Diff{}), to.Change(service.Diff{})); err != nil {
			t.Errorf("a full map stopped the sync: %v", err)
		}
	}
	f.run(t)
	want := []string{"the eBPF map backends is full (5 entries): kube-proxy serves 10.96.0.1:80/TCP"}
	if !slices.Equal(f.warned, want) {
		t.Errorf("warned %q, want %q", f.warned, want)
	}
	if !slices.Contains(f.calls, "attach") {
		t.Error("the programs with the other services are not attached")
	}
}

func TestFlowsEndWithTheirBackend(t *testing.T) {
	f := newFixture(config.ServiceAuto, nil, nil)
	f.Sync = func(_ context.Context, _ map[service.FrontendKey]service.ID, to agentclient.ServiceSink) {
		if err := to.Replace(service.Diff{}); err != nil {
			t.Fatal(err)
		}
		<-f.ended // an earlier agent may have missed a change
		if err := to.Change(service.Diff{}); err != nil {
			t.Error(err)
		}
		if err := to.Change(service.Diff{DeleteMembers: make([]service.Member, 1)}); err != nil {
			t.Error(err)
		}
		<-f.ended
	}
	f.run(t)
	if len(f.ended) > 0 {
		t.Error("a change without a lost backend looked for flows")
	}
}

func TestOtherErrorsGoBackToSync(t *testing.T) {
	f := newFixture(config.ServiceAuto, nil, nil)
	f.Sync = func(_ context.Context, _ map[service.FrontendKey]service.ID, to agentclient.ServiceSink) {
		f.fail["change"] = errors.New("no memory")
		if err := to.Change(service.Diff{}); err == nil {
			t.Error("got no error")
		}
	}
	f.run(t)
	if got := testutil.ToFloat64(f.Metrics.failures); got != 1 {
		t.Errorf("counted %v failures, want 1", got)
	}
}

func TestLagsAreCounted(t *testing.T) {
	f := newFixture(config.ServiceAuto, nil, nil)
	f.Sync = func(_ context.Context, _ map[service.FrontendKey]service.ID, to agentclient.ServiceSink) {
		to.Applied(agentclient.EventAge{Received: 3 * time.Millisecond, Caused: 2 * time.Second})
		to.Applied(agentclient.EventAge{Received: 50 * time.Microsecond})
	}
	f.run(t)
	want := `
		# HELP spiderpool_service_entries_limit Maximum number of entries of the eBPF maps for services; 0 without eBPF.
		# TYPE spiderpool_service_entries_limit gauge
		spiderpool_service_entries_limit{map="backends"} 20
		spiderpool_service_entries_limit{map="frontends"} 10
		spiderpool_service_entries_limit{map="members"} 0
	`
	if err := testutil.CollectAndCompare(f.Metrics.limits, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	for since, want := range map[string]struct {
		count uint64
		sum   float64
	}{"event": {2, .00305}, "cause": {1, 2}} {
		var got dto.Metric
		if err := f.Metrics.lag.WithLabelValues(since).(prometheus.Metric).Write(&got); err != nil {
			t.Fatal(err)
		}
		if h := got.GetHistogram(); h.GetSampleCount() != want.count || math.Abs(h.GetSampleSum()-want.sum) > 1e-9 {
			t.Errorf("%s: %d lags with the sum %v, want %v", since, h.GetSampleCount(), h.GetSampleSum(), want)
		}
	}
}

// othersOnce finds another load balancer once.
type othersOnce struct {
	fakePrograms
	looks int
}

func (o *othersOnce) Others() error {
	if o.looks++; o.looks == 1 {
		return errors.New("another load balancer translates")
	}
	return nil
}

func TestOwnAttachmentIsNoOtherLoadBalancer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*checkInterval)
		defer cancel()
		programs := &othersOnce{}
		if err := awaitOthers(ctx, programs); err != nil || programs.looks < 3 {
			t.Errorf("got %v after %d looks", err, programs.looks)
		}
	})
}
