package scenarios

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"spiderpool.dev/spiderpool/internal/agent"
	"spiderpool.dev/spiderpool/internal/wire"
)

// arguments are the words after a command: names and key=value options, e.g. "a if=net1".
type arguments struct {
	names   []string
	options map[string]string
}

func (a arguments) name(i int) string {
	if i < len(a.names) {
		return a.names[i]
	}
	return ""
}

func (a arguments) or(key, byDefault string) string {
	if value, ok := a.options[key]; ok {
		return value
	}
	return byDefault
}

func (a arguments) list(key string) []string {
	if a.options[key] == "" {
		return nil
	}
	return strings.Split(a.options[key], ",")
}

// play runs the script and returns its output.
func play(t *testing.T, files map[string]*txtar.File) (string, error) {
	sections := map[string]string{}
	for name, file := range files {
		sections[name] = string(file.Data)
	}
	s := newStage(sections)
	t.Cleanup(s.Close)
	if err := s.apply("cluster"); err != nil {
		return "", err
	}
	for i, line := range strings.Split(sections["script"], "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		command, ok := commands[words[0]]
		if !ok {
			return s.out.String(), fmt.Errorf("line %d: unknown command %q", i+1, words[0])
		}
		fmt.Fprintf(&s.out, "> %s\n", strings.Join(words, " "))
		if err := command.run(s, parse(words[1:])); errors.Is(err, errUsage) {
			return s.out.String(), fmt.Errorf("line %d: usage: %s", i+1, command.usage)
		} else if err != nil {
			return s.out.String(), fmt.Errorf("line %d: %w", i+1, err)
		}
		for _, event := range s.TakeEvents() {
			s.say("event: %s", event)
		}
	}
	return s.out.String(), nil
}

func parse(words []string) arguments {
	a := arguments{options: map[string]string{}}
	for _, word := range words {
		if key, value, ok := strings.Cut(word, "="); ok {
			a.options[key] = value
		} else {
			a.names = append(a.names, word)
		}
	}
	return a
}

func (s *stage) say(format string, values ...any) {
	fmt.Fprintf(&s.out, "  "+format+"\n", values...)
}

// sayError prints the error of a request. Such an error is a result of the
// command and does not fail the scenario.
func (s *stage) sayError(err error) {
	var failure *wire.Error
	if errors.As(agent.CNIError(err), &failure) {
		s.say("error %d: %s", failure.Code, failure.Msg)
		for detail := range strings.SplitSeq(failure.Details, "; ") {
			if detail != "" {
				s.say("  %s", detail)
			}
		}
		return
	}
	s.say("error: %v", err)
}
