package cloudnetwork

import (
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// addedTo is a manager that only remembers what it is to run.
type addedTo struct {
	ctrl.Manager
	runnables []manager.Runnable
}

func (*addedTo) GetConfig() *rest.Config     { return &rest.Config{} }
func (*addedTo) GetHTTPClient() *http.Client { return http.DefaultClient }
func (*addedTo) GetScheme() *runtime.Scheme  { return scheme.New() }

func (*addedTo) GetRESTMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Event"), meta.RESTScopeNamespace)
	return mapper
}

func (m *addedTo) Add(r manager.Runnable) error {
	m.runnables = append(m.runnables, r)
	return nil
}

// TestStandbyWatchesEvents: a replica that does not lead waits for the caches of its controllers, too, and ends after two minutes
// without one.
func TestStandbyWatchesEvents(t *testing.T) {
	m := &addedTo{}
	if _, err := eventsOfAgents(m); err != nil {
		t.Fatal(err)
	}
	for _, r := range m.runnables {
		if e, ok := r.(manager.LeaderElectionRunnable); !ok || e.NeedLeaderElection() {
			t.Errorf("%T runs on the leader only", r)
		}
	}
}
