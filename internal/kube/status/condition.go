package status

import (
	"cmp"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/observe"
)

// ConditionReady is the type of the condition that every configurable kind has.
// It is true while the object takes effect as written.
const ConditionReady = "Ready"

// ConditionDegraded is the type of the condition of a SpiderCloudNetwork that is true while its pools work in spite of a fault.
const ConditionDegraded = "Degraded"

// Condition is the condition Ready of an object.
type Condition struct {
	OK      bool
	Reason  string // CamelCase
	Message string
}

// maxMessage is the limit of metav1.Condition for a message, in bytes.
const maxMessage = 32768

// set puts the condition into conditions, for a generation of the object, and
// reports whether that changed anything.
func (c Condition) set(conditions *[]metav1.Condition, generation int64) bool {
	status := metav1.ConditionFalse
	if c.OK {
		status = metav1.ConditionTrue
	}
	return meta.SetStatusCondition(conditions, metav1.Condition{
		Type: ConditionReady, Status: status, Reason: c.Reason, Message: observe.Truncate(c.Message, maxMessage), ObservedGeneration: generation,
	})
}

// IsOlder reports whether object A wins a conflict with object B: the older one
// wins, ties go to the lower name.
func IsOlder(a time.Time, nameA string, b time.Time, nameB string) bool {
	return cmp.Or(a.Compare(b), cmp.Compare(nameA, nameB)) < 0
}
