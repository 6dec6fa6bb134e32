package hubble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"spiderpool.dev/spiderpool/internal/flow"
)

// moment is a limit of a request: "" for none, or relative to the time of the request.
type moment string

const (
	past   moment = "past"   // 5 s ago, between two flows
	future moment = "future" // in 10 s
)

func (m moment) of(now time.Time) *timestamppb.Timestamp {
	switch m {
	case past:
		return timestamppb.New(now.Add(-5500 * time.Millisecond))
	case future:
		return timestamppb.New(now.Add(10 * time.Second))
	}
	return nil
}

// selection is a request for flows of some place and number.
type selection struct {
	filled        int // flows in the ring, at each of the last seconds
	number        int
	first, follow bool
	since, until  moment
}

func (s selection) String() string {
	return fmt.Sprintf("%d flows, number %d, first %v, follow %v, since %q, until %q", s.filled, s.number, s.first, s.follow, s.since, s.until)
}

// selections returns all combinations but those that are refused.
func selections() (all []selection) {
	limits := []moment{"", past, future}
	for _, filled := range []int{0, 3, 20} {
		for _, number := range []int{0, 2} {
			for _, kind := range []selection{{}, {first: true}, {follow: true}} {
				for _, since := range limits {
					for _, until := range limits {
						all = append(all, selection{filled, number, kind.first, kind.follow, since, until})
					}
				}
			}
		}
	}
	return all
}

// wants returns the expected flows: kept are those in the ring, by the seconds since the request, and new ones come later.
func (s selection) wants(kept, later []int) (want []int) {
	inTime := func(second int) bool {
		return !(s.since == past && second < -5) && !(s.since == future && second < 10) && !(s.until == past && second > -6) && !(s.until == future && second > 10)
	}
	for _, second := range kept {
		if inTime(second) {
			want = append(want, second)
		}
	}
	switch {
	case s.number > 0 && s.first:
		want = want[:min(s.number, len(want))]
	case s.number > 0:
		want = want[max(len(want)-s.number, 0):]
	case s.follow && s.since == "":
		want = nil
	}
	if s.follow {
		want = append(want, slices.DeleteFunc(slices.Clone(later), func(second int) bool { return !inTime(second) })...)
	}
	return want
}

// TestEveryRequestEnds asks for each combination of limits, with an empty ring, a partly filled one and one that has lost
// flows. A follower without an end ends with its client.
func TestEveryRequestEnds(t *testing.T) {
	for _, s := range selections() {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { s.expect(t) })
		})
	}
}

func (s selection) expect(t *testing.T) {
	const capacity = 8
	began := time.Now()
	ring := flow.NewRing(capacity)
	at := func(second int) flow.Flow {
		f := request(0)
		f.Time = began.Add(time.Duration(second) * time.Second)
		return f
	}
	var kept []int
	for second := -s.filled; second < 0; second++ {
		ring.Add(at(second))
		kept = append(kept, second)
	}
	kept = kept[max(len(kept)-capacity, 0):]
	var mu sync.Mutex
	var got []int
	send := func(answer *observerpb.GetFlowsResponse) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, int(answer.GetTime().AsTime().Sub(began)/time.Second))
		return nil
	}
	r, err := NewObserver(ring, complete, About{}).reading(&observerpb.GetFlowsRequest{
		Number: uint64(s.number), First: s.first, Follow: s.follow, Since: s.since.of(began), Until: s.until.of(began),
	}, send)
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	synctest.Wait()
	for _, second := range []int{1, 10, 30} {
		time.Sleep(time.Until(began.Add(time.Duration(second) * time.Second)))
		ring.Add(at(second))
		synctest.Wait()
	}
	endless := s.follow && s.until == ""
	select {
	case err := <-ended:
		if endless || err != nil {
			t.Errorf("ended: %v", err)
		}
	default:
		if !endless {
			t.Error("does not end")
		}
		leave()
		if err := <-ended; status.Code(err) != codes.Canceled {
			t.Errorf("after its client: %v", err)
		}
	}
	leave()
	if want := s.wants(kept, []int{1, 10, 30}); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestSlowAnswersEndRequest has an API server that answers no question.
func TestSlowAnswersEndRequest(t *testing.T) {
	for name, request := range map[string]*observerpb.GetFlowsRequest{
		"all":      {},
		"last":     {Number: 4000},
		"filtered": {Whitelist: []*flowpb.FlowFilter{{SourcePod: []string{"shop/"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				o := NewObserver(fullRing(), func(ctx context.Context, _ *flow.Flow) {
					select {
					case <-time.After(2 * time.Second):
					case <-ctx.Done():
					}
				}, About{})
				sent := 0
				r, err := o.reading(request, func(*observerpb.GetFlowsResponse) error { sent++; return nil })
				if err != nil {
					t.Fatal(err)
				}
				if err := r.run(t.Context()); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > patience || sent < 4000 && name != "filtered" {
					t.Errorf("%d flows after %s", sent, took)
				}
				if _, err := o.GetNamespaces(t.Context(), nil); err != nil || time.Since(began) > 2*patience {
					t.Errorf("namespaces: %v after %s", err, time.Since(began))
				}
			})
		})
	}
}

func fullRing() *flow.Ring {
	ring := flow.NewRing(4095)
	for range 5000 {
		ring.Add(request(0))
	}
	return ring
}

// TestBusyRingEndsRequests adds a flow for each flow that is read, so no reader comes to the end of the ring.
func TestBusyRingEndsRequests(t *testing.T) {
	gone := errors.New("the client is gone")
	for name, ask := range map[string]func(context.Context, *Observer) error{
		"all": func(ctx context.Context, o *Observer) error {
			r, err := o.reading(&observerpb.GetFlowsRequest{}, func(*observerpb.GetFlowsResponse) error { return nil })
			return errors.Join(err, r.run(ctx))
		},
		"namespaces": func(ctx context.Context, o *Observer) error {
			_, err := o.GetNamespaces(ctx, nil)
			return err
		},
		"follower of nothing": func(ctx context.Context, o *Observer) error {
			r, err := o.reading(&observerpb.GetFlowsRequest{Follow: true, Number: 9, Whitelist: []*flowpb.FlowFilter{{SourcePod: []string{"shop/"}}}},
				func(*observerpb.GetFlowsResponse) error { return nil })
			if err == nil {
				err = r.run(ctx)
			}
			if status.Code(err) == codes.Canceled {
				return nil
			}
			return fmt.Errorf("ended with %w", err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ring := fullRing()
			ctx, leave := context.WithCancelCause(t.Context())
			defer leave(nil)
			read := 0
			o := NewObserver(ring, func(context.Context, *flow.Flow) {
				ring.Add(request(read))
				if read++; read == 10_000 {
					leave(gone)
				}
				if read > 10_000+2*chunk {
					t.Fatal("reads on without a client")
				}
			}, About{})
			if err := ask(ctx, o); err != nil {
				t.Error(err)
			}
		})
	}
}

// A client that leaves frees its place, also if no flow comes.
func TestGoneFollowersLeaveTheirPlaces(t *testing.T) {
	client := serve(t, flow.NewRing(4), complete)
	ctx, leave := context.WithCancel(t.Context())
	for range 3 * maxReaders { // more than there are places
		if _, err := client.GetFlows(ctx, &observerpb.GetFlowsRequest{Follow: true}); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		flows, err := client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{})
		if err == nil {
			_, err = flows.Recv()
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if status.Code(err) != codes.ResourceExhausted || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// An agent that stops ends its followers, with an error that tells a follower to connect again.
func TestStoppingAgentEndsFollowers(t *testing.T) {
	ring := flow.NewRing(4)
	ring.Add(request(0))
	listener := listen(t, "unix", filepath.Join(t.TempDir(), "hubble.sock"))
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	server := &Server{Observer: NewObserver(ring, complete, About{})}
	go func() { stopped <- server.Serve(ctx, listener, nil) }()
	conn, err := grpc.NewClient("unix://"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	flows, err := observerpb.NewObserverClient(conn).GetFlows(t.Context(), &observerpb.GetFlowsRequest{Number: 1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, flows, 1)
	stop()
	if _, err := flows.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the follower: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
