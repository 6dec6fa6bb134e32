// Package testbed deploys the pods of a connectivity test, runs programs in them, and removes them.
//
//	bed, err := testbed.New(config)
//	err = bed.Open(ctx, "")      // a new namespace
//	defer bed.Remove(ctx)
//	err = bed.Create(ctx, spec)
//	out, err := bed.Exec(ctx, pod, command, stdin)
package testbed

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// Bed is the namespace of one test.
type Bed struct {
	config *rest.Config
	core   typedcore.CoreV1Interface
	// Namespace has the pods and Services of the test.
	Namespace string
	// own means that Open created the namespace.
	own bool
	// pods and services are the names of those that Create made.
	pods, services []string
}

// New returns a bed without a namespace. It sends no request.
func New(config *rest.Config) (*Bed, error) {
	core, err := typedcore.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("create the client: %w", err)
	}
	return &Bed{config: config, core: core}, nil
}

// Open creates a namespace if the name is empty, and else uses an existing one.
func (b *Bed) Open(ctx context.Context, name string) error {
	if name != "" {
		b.Namespace = name
		return nil
	}
	made, err := b.core.Namespaces().Create(ctx, namespace(), metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create a namespace for the test: %w", err)
	}
	b.Namespace, b.own = made.Name, true
	return nil
}

// poll is the interval of repeated requests.
const poll = 500 * time.Millisecond

// accountTimeout bounds the wait for the service account of a new namespace.
const accountTimeout = 30 * time.Second

// Create creates the pods and Services.
func (b *Bed) Create(ctx context.Context, spec Spec) error {
	for _, s := range services(spec) {
		if _, err := b.core.Services(b.Namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create Service %s: %w", s.Name, err)
		}
		b.services = append(b.services, s.Name)
	}
	for _, p := range pods(spec) {
		err := wait.PollUntilContextTimeout(ctx, poll, accountTimeout, true, func(ctx context.Context) (bool, error) {
			_, err := b.core.Pods(b.Namespace).Create(ctx, p, metav1.CreateOptions{})
			if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "serviceaccount") {
				return false, nil // the controller manager creates it soon
			}
			return err == nil, err
		})
		if err != nil {
			return fmt.Errorf("create pod %s: %w", p.Name, err)
		}
		b.pods = append(b.pods, p.Name)
	}
	return nil
}

// ours selects the pods and Services of tests.
var ours = metav1.ListOptions{LabelSelector: labelRole}

// Pods returns the pods of the test: node by node, the host's last.
func (b *Bed) Pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := b.core.Pods(b.Namespace).List(ctx, ours)
	if err != nil {
		return nil, fmt.Errorf("list the pods of the test: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(number(&a), number(&b)), strings.Compare(rank(&a), rank(&b)))
	})
	return list.Items, nil
}

func number(p *corev1.Pod) int {
	n, _ := strconv.Atoi(p.Labels[labelNode])
	return n
}

func rank(p *corev1.Pod) string {
	return map[string]string{roleFirst: "1", roleLast: "2"}[p.Labels[labelRole]] + p.Name
}

// exitFailed is the exit code of a program that could not listen.
const exitFailed = 2

// Running reports whether the program of a pod runs.
func Running(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		last := s.LastTerminationState.Terminated
		return s.Name == container && s.State.Running != nil && (last == nil || last.ExitCode != exitFailed)
	})
}

// Services returns the Services of the test, each with the pod behind it.
func (b *Bed) Services(ctx context.Context, pods []corev1.Pod) (map[string]corev1.Service, error) {
	list, err := b.core.Services(b.Namespace).List(ctx, ours)
	if err != nil {
		return nil, fmt.Errorf("list the Services of the test: %w", err)
	}
	byPod := map[string]corev1.Service{}
	for _, s := range list.Items {
		for _, p := range pods {
			if p.Labels[labelRole] == roleLast && p.Labels[labelNode] == s.Labels[labelNode] {
				byPod[p.Name] = s
			}
		}
	}
	return byPod, nil
}

// Service reads a Service of any namespace.
func (b *Bed) Service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	return b.core.Services(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Nodes returns all nodes.
func (b *Bed) Nodes(ctx context.Context) ([]corev1.Node, error) {
	list, err := b.core.Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the nodes: %w", err)
	}
	return list.Items, nil
}

// Agents returns the pods of the agents.
func (b *Bed) Agents(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	list, err := b.core.Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=agent"})
	if err != nil {
		return nil, fmt.Errorf("list the agents in namespace %s: %w", namespace, err)
	}
	return list.Items, nil
}

// Warning returns the text of the newest Warning event of a pod, "" if there is none.
func (b *Bed) Warning(ctx context.Context, pod string) (string, error) {
	list, err := b.core.Events(b.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",type=" + corev1.EventTypeWarning})
	if err != nil {
		return "", fmt.Errorf("list the events of pod %s: %w", pod, err)
	}
	var newest time.Time
	text := ""
	for _, e := range list.Items {
		at := latest(e.EventTime.Time, e.LastTimestamp.Time, e.CreationTimestamp.Time)
		if !at.Before(newest) {
			newest, text = at, e.Reason+": "+e.Message
		}
	}
	return text, nil
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// Exec runs a command in the first container of a pod and returns its standard output. The error has
// its standard error. If the command ends with another code than 0, the output is valid too.
func (b *Bed) Exec(ctx context.Context, p *corev1.Pod, command []string, stdin []byte) ([]byte, error) {
	request := b.core.RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: p.Spec.Containers[0].Name, Command: command, Stdin: stdin != nil, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec)
	config := rest.CopyConfig(b.config)
	config.Timeout = 0 // ctx bounds the command
	executor, err := newExecutor(config, request)
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	options := remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}
	if stdin != nil {
		options.Stdin = bytes.NewReader(stdin)
	}
	if err := executor.StreamWithContext(ctx, options); err != nil {
		return stdout.Bytes(), fmt.Errorf("run %s in pod %s/%s: %w", command[0], p.Namespace, p.Name, errors.Join(err, textError(stderr.String())))
	}
	return stdout.Bytes(), nil
}

func textError(text string) error {
	if text = strings.TrimSpace(text); text != "" {
		return errors.New(text)
	}
	return nil
}

// newExecutor prefers WebSocket, like kubectl. API servers before 1.30 and some proxies know SPDY only.
func newExecutor(config *rest.Config, request *rest.Request) (remotecommand.Executor, error) {
	socket, err := remotecommand.NewWebSocketExecutor(config, "GET", request.URL().String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", request.URL())
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}

// Empty reports whether there is nothing to remove.
func (b *Bed) Empty() bool { return !b.own && len(b.pods)+len(b.services) == 0 }

// Remove deletes the namespace, or the pods and Services made in an existing one, and waits until
// they are gone.
func (b *Bed) Remove(ctx context.Context) error {
	if b.own {
		if err := b.core.Namespaces().Delete(ctx, b.Namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete namespace %s: %w", b.Namespace, err)
		}
		return b.awaitGone(ctx, "namespace "+b.Namespace, func() error {
			_, err := b.core.Namespaces().Get(ctx, b.Namespace, metav1.GetOptions{})
			return err
		})
	}
	for _, name := range b.services {
		if err := b.core.Services(b.Namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete Service %s: %w", name, err)
		}
	}
	for _, name := range b.pods {
		if err := b.core.Pods(b.Namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete pod %s: %w", name, err)
		}
	}
	for _, name := range b.pods {
		if err := b.awaitGone(ctx, "pod "+name, func() error {
			_, err := b.core.Pods(b.Namespace).Get(ctx, name, metav1.GetOptions{})
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bed) awaitGone(ctx context.Context, what string, get func() error) error {
	err := wait.PollUntilContextCancel(ctx, poll, true, func(context.Context) (bool, error) {
		err := get()
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("wait until %s is gone: %w", what, err)
	}
	return nil
}
