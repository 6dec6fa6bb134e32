package status

import (
	"cmp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConditionReady is the type of the condition of every kind that a person
// configures: it is true when the object is at work as written.
const ConditionReady = "Ready"

// Condition is the condition Ready of an object.
type Condition struct {
	OK      bool
	Reason  string // CamelCase
	Message string
}

// Set puts the condition into conditions for the given generation of the
// object and reports whether that changed anything.
func (c Condition) Set(conditions *[]metav1.Condition, generation int64) bool {
	status := metav1.ConditionFalse
	if c.OK {
		status = metav1.ConditionTrue
	}
	return meta.SetStatusCondition(conditions, metav1.Condition{
		Type: ConditionReady, Status: status, Reason: c.Reason, Message: cut(c.Message, maxConditionMessage), ObservedGeneration: generation,
	})
}

// maxConditionMessage is the limit of metav1.Condition.
const maxConditionMessage = 32768

// cut shortens a text to so many bytes, between letters.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-3], "") + "..."
}

// maxEventNote is what the API server accepts: a note of events.k8s.io/v1, and a
// message of core/v1.
const maxEventNote = 1024

// EventNote shortens a text to what an event can hold.
func EventNote(note string) string { return cut(note, maxEventNote) }

// Elder reports whether the first of two objects, created at a and named so, is in
// its place where the two get in each other's way.
func IsOlder(a time.Time, nameA string, b time.Time, nameB string) bool {
	return cmp.Or(a.Compare(b), cmp.Compare(nameA, nameB)) < 0
}
