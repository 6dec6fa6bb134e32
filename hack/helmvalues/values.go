package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is a key of values.yaml: either a group with children or a leaf.
type value struct {
	key, path   string
	title       string // set in groups only
	description string // set in leaves only
	enum        []string
	numeric     bool
	children    []*value
	node        *yaml.Node
}

func (v *value) group() bool { return v.node.Kind == yaml.MappingNode && v.description == "" }

func parse(raw []byte) (*value, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return nil, err
	}
	root := &value{node: document.Content[0]}
	return root, root.descend()
}

// descend reads the children of a group.
func (v *value) descend() error {
	for i := 0; i < len(v.node.Content); i += 2 {
		key, node := v.node.Content[i], v.node.Content[i+1]
		child := &value{key: key.Value, path: strings.TrimPrefix(v.path+"."+key.Value, "."), node: node}
		if err := child.comment(key.HeadComment); err != nil {
			return fmt.Errorf("line %d: %s: %w", key.Line, child.path, err)
		}
		if child.group() {
			if len(node.Content) == 0 {
				return fmt.Errorf("line %d: %s: the empty map needs a comment with its description", key.Line, child.path)
			}
			if err := child.descend(); err != nil {
				return err
			}
		} else if child.description == "" {
			return fmt.Errorf("line %d: %s: the value needs a comment with its description", key.Line, child.path)
		}
		v.children = append(v.children, child)
	}
	return nil
}

var directive = regexp.MustCompile(`\s*@(\w+)(?: (\S+))?`)

// comment parses the comment above a key.
func (v *value) comment(text string) error {
	var title, description []string
	for line := range strings.SplitSeq(text, "\n") {
		for _, match := range directive.FindAllStringSubmatch(line, -1) {
			switch match[1] {
			case "enum":
				v.enum = strings.Split(match[2], "|")
			case "numeric":
				v.numeric = true
			default:
				return fmt.Errorf("unknown directive @%s", match[1])
			}
		}
		line = directive.ReplaceAllString(line, "")
		if rest, ok := strings.CutPrefix(line, "##"); ok {
			title = append(title, strings.TrimSpace(rest))
		} else if rest := strings.TrimSpace(strings.TrimPrefix(line, "#")); rest != "" {
			description = append(description, rest)
		}
	}
	v.title = strings.TrimSpace(strings.Join(title, " "))
	v.description = strings.Join(description, " ")
	return nil
}

// schema returns the JSON schema. It is draft-07, because all releases of Helm 3 and 4 support that.
func (v *value) schema() ([]byte, error) {
	s := v.typeSchema()
	s["$schema"] = "http://json-schema.org/draft-07/schema#"
	s["title"] = "Values of the chart spiderpool"
	out, err := json.MarshalIndent(s, "", "  ")
	return append(out, '\n'), err
}

func (v *value) typeSchema() map[string]any {
	s := map[string]any{}
	if v.description != "" {
		s["description"] = v.description
	}
	switch {
	case v.enum != nil:
		s["enum"] = v.enum
	case v.group():
		properties := map[string]any{}
		for _, child := range v.children {
			properties[child.key] = child.typeSchema()
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", properties, false
	case v.node.Kind == yaml.MappingNode:
		s["type"] = "object"
	case v.node.Kind == yaml.SequenceNode:
		s["type"] = "array"
		if len(v.node.Content) > 0 && v.node.Content[0].Kind == yaml.ScalarNode {
			s["items"] = map[string]any{"type": "string"}
		}
	case v.node.Tag == "!!bool":
		s["type"] = "boolean"
	case v.numeric:
		s["type"] = []string{"string", "integer"}
	case isNumber(v.node.Value):
		// Many values files quote their numbers.
		s["type"] = []string{"integer", "string"}
		s["pattern"] = "^[0-9]+$"
		s["minimum"] = 0
	default:
		s["type"] = "string"
	}
	return s
}

func isNumber(text string) bool {
	_, err := strconv.Atoi(text)
	return err == nil
}

// docs returns the reference page in Markdown.
func (v *value) docs() []byte {
	var b strings.Builder
	b.WriteString("# Helm values\n\n")
	b.WriteString("<!-- Generated from charts/spiderpool/values.yaml by hack/helmvalues: edit the comments there and run make update. -->\n\n")
	b.WriteString("Set values with `--set key=value` or in a file with `-f`. The chart rejects unknown keys and values of the wrong type.\n")
	for _, section := range v.children {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n| Key | Description | Default |\n| --- | --- | --- |\n", section.key, section.title)
		section.rows(&b)
	}
	return []byte(b.String())
}

func (v *value) rows(b *strings.Builder) {
	if v.group() {
		for _, child := range v.children {
			child.rows(b)
		}
		return
	}
	description := v.description
	if v.enum != nil && !strings.Contains(description, v.enum[0]) {
		description += " Allowed: " + strings.Join(v.enum, ", ") + "."
	}
	fmt.Fprintf(b, "| `%s` | %s | `%s` |\n", v.path, escape(description), escape(v.defaultText()))
}

func (v *value) defaultText() string {
	var decoded any
	if err := v.node.Decode(&decoded); err != nil {
		return v.node.Value
	}
	text, err := json.Marshal(decoded)
	if err != nil {
		return v.node.Value
	}
	return string(text)
}

func escape(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
