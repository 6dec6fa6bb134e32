package status_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

var (
	fine     = status.Condition{OK: true, Reason: "InUse", Message: "fine"}
	conflict = status.Condition{Reason: "Conflict", Message: "overlaps"}
)

// fixture returns a writer and a stored pool.
func fixture(t *testing.T, objects ...client.Object) (status.Writer, *events.FakeRecorder) {
	t.Helper()
	recorder := events.NewFakeRecorder(10)
	c := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(objects...).WithStatusSubresource(objects...).Build()
	return status.Writer{Client: c, Recorder: status.Recorder{EventRecorder: recorder}}, recorder
}

func TestUpdateWritesOnlyDifferences(t *testing.T) {
	w, _ := fixture(t, &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	for _, tc := range []struct {
		name  string
		ready status.Condition
		total *int64
		want  bool
	}{
		{"new condition", fine, nil, true},
		{"nothing new", fine, nil, false},
		{"new field", fine, new(int64(5)), true},
		{"nothing new again", fine, new(int64(5)), false},
		{"condition false", conflict, new(int64(5)), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var pool v2beta1.SpiderIPPool
			if err := w.Client.Get(t.Context(), client.ObjectKey{Name: "a"}, &pool); err != nil {
				t.Fatal(err)
			}
			before := pool.DeepCopy()
			pool.Status.TotalIPCount = tc.total
			written, err := w.Update(t.Context(), &pool, before, tc.ready)
			if err != nil || written != tc.want {
				t.Fatalf("Update = %t, %v; want %t", written, err, tc.want)
			}
			var stored v2beta1.SpiderIPPool
			if err := w.Client.Get(t.Context(), client.ObjectKey{Name: "a"}, &stored); err != nil {
				t.Fatal(err)
			}
			got := meta.FindStatusCondition(stored.Status.Conditions, status.ConditionReady)
			if got == nil || got.Reason != tc.ready.Reason || (got.Status == metav1.ConditionTrue) != tc.ready.OK {
				t.Errorf("stored condition is %+v, want %+v", got, tc.ready)
			}
		})
	}
}

func TestUpdateWarnsOnlyWhenUnreadyChanges(t *testing.T) {
	for _, object := range []client.Object{
		&v2beta1.SpiderIPPool{}, &v2beta1.SpiderSubnet{}, &v2beta1.SpiderReservedIP{}, &v2beta1.SpiderMultusConfig{}, &v2beta1.SpiderCoordinator{},
	} {
		object.SetName("a")
		w, recorder := fixture(t, object)
		for _, step := range []struct {
			ready status.Condition
			want  int // warnings
		}{
			{fine, 0}, {conflict, 1}, {conflict, 0}, {fine, 0}, {conflict, 1},
		} {
			if err := w.Client.Get(t.Context(), client.ObjectKey{Name: "a"}, object); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Update(t.Context(), object, object.DeepCopyObject().(client.Object), step.ready); err != nil {
				t.Fatal(err)
			}
			if got := len(recorder.Events); got != step.want {
				t.Errorf("%T, condition %s: %d warnings, want %d", object, step.ready.Reason, got, step.want)
			}
			for range len(recorder.Events) {
				if got, want := <-recorder.Events, "Warning Conflict overlaps"; got != want {
					t.Errorf("event is %q, want %q", got, want)
				}
			}
		}
	}
}

func TestFurtherConditionWarnsWhileTrue(t *testing.T) {
	object := &v2beta1.SpiderCloudNetwork{ObjectMeta: metav1.ObjectMeta{Name: "a", Generation: 3}}
	w, recorder := fixture(t, object)
	limited := metav1.Condition{Type: "Degraded", Status: metav1.ConditionTrue, Reason: "TypeLimit", Message: "full"}
	ended := metav1.Condition{Type: "Degraded", Status: metav1.ConditionFalse, Reason: "AsExpected"}
	for i, step := range []struct {
		further metav1.Condition
		want    int // warnings
	}{
		{ended, 0}, {limited, 1}, {limited, 0}, {ended, 0},
	} {
		if err := w.Client.Get(t.Context(), client.ObjectKey{Name: "a"}, object); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Update(t.Context(), object, object.DeepCopy(), fine, step.further); err != nil {
			t.Fatal(err)
		}
		got := meta.FindStatusCondition(object.Status.Conditions, "Degraded")
		if got == nil || got.Status != step.further.Status || got.ObservedGeneration != object.Generation || object.Status.Conditions[0].Type != status.ConditionReady {
			t.Errorf("step %d: the conditions are %+v", i, object.Status.Conditions)
		}
		if len(recorder.Events) != step.want {
			t.Errorf("step %d: %d warnings, want %d", i, len(recorder.Events), step.want)
		}
		for range len(recorder.Events) {
			if got, want := <-recorder.Events, "Warning TypeLimit full"; got != want {
				t.Errorf("event is %q, want %q", got, want)
			}
		}
	}
}

func TestUpdateIgnoresDeletedObjects(t *testing.T) {
	w, _ := fixture(t)
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}
	if _, err := w.Update(t.Context(), pool, pool.DeepCopy(), fine); err != nil {
		t.Error(err)
	}
}
