package status

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/observe"
)

// Recorder writes the controller's events.
type Recorder struct{ events.EventRecorder }

// Record writes an event about an object; related is another object that the
// event concerns, or nil.
func (r Recorder) Record(about, related runtime.Object, e observe.Event) {
	r.Eventf(about, related, e.Type, e.Reason, e.Action, "%s", e.Text)
}

// Writer writes statuses.
type Writer struct {
	Client   client.Client
	Recorder Recorder
}

// NewWriter returns a writer that uses the client of the manager.
func NewWriter(mgr manager.Manager) Writer {
	return Writer{Client: mgr.GetClient(), Recorder: Recorder{mgr.GetEventRecorder("spiderpool-controller")}}
}

// Update sets the condition Ready of object, and further conditions that are True if something is wrong. It writes the status if it differs
// from the status of before, a copy of object from before the caller changed the
// status. It returns whether it wrote. A missing object is no error.
func (w Writer) Update(ctx context.Context, object, before client.Object, ready Condition, further ...metav1.Condition) (written bool, err error) {
	kind, conditions := conditionsOf(object)
	changed := ready.set(conditions, object.GetGeneration())
	for _, c := range further {
		c.ObservedGeneration, c.Message = object.GetGeneration(), observe.Truncate(c.Message, maxMessage)
		if meta.SetStatusCondition(conditions, c) && c.Status == metav1.ConditionTrue {
			w.Recorder.Record(object, nil, observe.NotReady(c.Reason, c.Message))
		}
	}
	if equality.Semantic.DeepEqual(before, object) {
		return false, nil
	}
	if changed && !ready.OK {
		w.Recorder.Record(object, nil, observe.NotReady(ready.Reason, ready.Message))
	}
	if err := client.IgnoreNotFound(w.Client.Status().Patch(ctx, object, client.MergeFrom(before))); err != nil {
		return false, fmt.Errorf("write the status of %s %s: %w", kind, strings.TrimPrefix(client.ObjectKeyFromObject(object).String(), "/"), err)
	}
	return true, nil
}

// conditionsOf returns the kind and the conditions of an object. It panics for a
// kind without conditions, which is a mistake in this program.
func conditionsOf(object client.Object) (kind string, conditions *[]metav1.Condition) {
	switch o := object.(type) {
	case *v2beta1.SpiderIPPool:
		return "SpiderIPPool", &o.Status.Conditions
	case *v2beta1.SpiderSubnet:
		return "SpiderSubnet", &o.Status.Conditions
	case *v2beta1.SpiderReservedIP:
		return "SpiderReservedIP", &o.Status.Conditions
	case *v2beta1.SpiderMultusConfig:
		return "SpiderMultusConfig", &o.Status.Conditions
	case *v2beta1.SpiderCoordinator:
		return "SpiderCoordinator", &o.Status.Conditions
	case *v2beta1.SpiderCloudNetwork:
		return "SpiderCloudNetwork", &o.Status.Conditions
	}
	panic(fmt.Sprintf("%T has no conditions", object))
}
