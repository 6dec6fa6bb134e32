package kubetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// storeBatch is the number of objects in one transaction of etcd, whose maximum is 128.
const storeBatch = 100

// Store writes n objects to etcd, past the API server, which would take ten times as long. The API server shows them, and
// watches report them. It has not validated them, so they must be complete, with their status and defaults. directory is
// that of the kind below /registry in etcd, e.g. "pods" or "spiderpool.spidernet.io/spiderendpoints". Store sets the UID,
// unless it is set.
func Store(tb testing.TB, directory string, n int, object func(i int) client.Object) {
	tb.Helper()
	type put struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	}
	type operation struct {
		Put put `json:"request_put"`
	}
	now, kinds := metav1.Now(), scheme.New()
	for first := 0; first < n; first += storeBatch {
		var transaction struct {
			Success []operation `json:"success"`
		}
		for i := first; i < min(first+storeBatch, n); i++ {
			o := object(i)
			kind, err := apiutil.GVKForObject(o, kinds)
			if err != nil {
				tb.Fatal(err)
			}
			o.GetObjectKind().SetGroupVersionKind(kind)
			o.SetCreationTimestamp(now)
			if o.GetUID() == "" {
				o.SetUID(uuid.NewUUID())
			}
			value, err := json.Marshal(o)
			if err != nil {
				tb.Fatal(err)
			}
			key := "/registry/" + directory + "/" + o.GetName()
			if o.GetNamespace() != "" {
				key = "/registry/" + directory + "/" + o.GetNamespace() + "/" + o.GetName()
			}
			transaction.Success = append(transaction.Success, operation{put{[]byte(key), value}})
		}
		if err := commit(tb, transaction); err != nil {
			tb.Fatalf("kubetest: write %s to etcd: %v", directory, err)
		}
	}
}

// commit sends a transaction to the HTTP gateway of etcd.
func commit(tb testing.TB, transaction any) error {
	body, err := json.Marshal(transaction)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, etcd+"/v3/kv/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	return err
}
