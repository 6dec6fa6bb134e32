package agentclient

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// component is the source of the events.
const component = "spiderpool-agent"

// Events implements ipam.Events with client-go's recorder, which counts repeated events
// instead of writing new ones, and limits the rate.
type Events struct {
	client      *Client
	node        string
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

// NewEvents returns a recorder that writes until ctx ends.
func NewEvents(ctx context.Context, client *Client, node string) *Events {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(eventSink{ctx: ctx, client: client})
	return &Events{
		client:      client,
		node:        node,
		broadcaster: broadcaster,
		recorder:    broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: component, Host: node}),
	}
}

// Close stops the recorder.
func (e *Events) Close() { e.broadcaster.Shutdown() }

// AllocationFailed implements ipam.Events.
func (e *Events) AllocationFailed(pod ipam.Pod, message string) {
	e.aboutPod(pod, observe.FailedAllocateIP(message))
}

// OwnerNotProven implements ipam.Events.
func (e *Events) OwnerNotProven(pod ipam.Pod, doubt string) {
	e.aboutPod(pod, observe.OwnerNotProven(doubt))
}

// AddressConflict implements ipam.Events.
func (e *Events) AddressConflict(pod ipam.Pod, message string) {
	e.aboutPod(pod, observe.IPConflict(message))
}

// Reclaimed implements ipam.Events.
func (e *Events) Reclaimed(pod ipam.Pod, change reclaim.Change) {
	e.aboutPod(pod, observe.ReclaimedIP(change))
}

// LeaseRestored implements ipam.Events.
func (e *Events) LeaseRestored(pod ipam.Pod, message string) {
	e.aboutPod(pod, observe.LeaseRestored(message))
}

// NetworkNotTrusted implements ipam.Events.
func (e *Events) NetworkNotTrusted(message string) {
	e.AboutNode(observe.NetworkNotTrusted(message))
}

// BandwidthNotChanged writes an event about a running pod.
func (e *Events) BandwidthNotChanged(pod ipam.Pod, reason string) {
	e.aboutPod(pod, observe.BandwidthNotChanged(reason))
}

// PolicyNotEnforced writes an event about a pod whose packet filter differs from its policies.
func (e *Events) PolicyNotEnforced(pod ipam.Pod, reason string) {
	e.aboutPod(pod, observe.PolicyNotEnforced(reason))
}

// AboutNode writes an event about this node, in the namespace "default", where
// Kubernetes keeps the events of objects without a namespace.
func (e *Events) AboutNode(event observe.Event) {
	// Like kubelet and kubectl, use the name of the node instead of its UID.
	e.record(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.node, UID: types.UID(e.node)}, event)
}

func (e *Events) aboutPod(pod ipam.Pod, event observe.Event) {
	e.record(&corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID),
	}, event)
}

func (e *Events) record(about *corev1.ObjectReference, event observe.Event) {
	e.recorder.Event(about, event.Type, event.Reason, event.Text)
}

// Once writes an event that many agents may report: the first one creates it, for the others it exists. There is one for
// each object and text.
func (e *Events) Once(ctx context.Context, about *corev1.ObjectReference, event observe.Event) error {
	hash := fnv.New64a()
	_, _ = fmt.Fprint(hash, about.UID, event.Reason, event.Text)
	now := metav1.Now()
	_, err := eventSink{ctx, e.client}.Create(&corev1.Event{
		// An object's name is a valid name for an event only with the length of the two together.
		ObjectMeta:     metav1.ObjectMeta{Namespace: about.Namespace, Name: fmt.Sprintf("%s.%016x", strings.TrimRight(observe.Truncate(about.Name, 200), ".-"), hash.Sum64())},
		InvolvedObject: *about, Type: event.Type, Reason: event.Reason, Message: event.Text,
		Source: corev1.EventSource{Component: component}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// eventSink sends events as JSON. client-go's typed clientset would link the types of
// all Kubernetes API groups.
type eventSink struct {
	ctx    context.Context
	client *Client
}

func (s eventSink) path(event *corev1.Event) []string {
	return []string{"/api/v1/namespaces", event.Namespace, "events"}
}

func (s eventSink) Create(event *corev1.Event) (*corev1.Event, error) {
	body, err := json.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("encode an event: %w", err)
	}
	raw, err := answer(s.client.spiderpool.Post().AbsPath(s.path(event)...).
		SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(s.ctx))
	return decodeEvent(raw, err)
}

func (s eventSink) Update(event *corev1.Event) (*corev1.Event, error) {
	body, err := json.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("encode an event: %w", err)
	}
	raw, err := answer(s.client.spiderpool.Put().AbsPath(append(s.path(event), event.Name)...).
		SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(s.ctx))
	return decodeEvent(raw, err)
}

func (s eventSink) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	raw, err := answer(s.client.spiderpool.Patch(types.StrategicMergePatchType).
		AbsPath(append(s.path(event), event.Name)...).Body(data).Do(s.ctx))
	return decodeEvent(raw, err)
}

func decodeEvent(raw []byte, err error) (*corev1.Event, error) {
	if err != nil {
		return nil, err
	}
	event := &corev1.Event{}
	if err := json.Unmarshal(raw, event); err != nil {
		return nil, fmt.Errorf("decode an event: %w", err)
	}
	return event, nil
}
