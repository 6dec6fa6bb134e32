package agent

import "testing"

func TestCoordinatorThatIsSwitchedOffAnswersDisabled(t *testing.T) {
	c := &coordinator{}
	object, err := c.object(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	config, err := coordinatorConfig(object)
	if err != nil || config.Mode != "disabled" {
		t.Errorf("mode %q, %v, want disabled", config.Mode, err)
	}
	if table, ok := c.hostRuleTable(t.Context()); ok {
		t.Errorf("table %d is kept for pods that get no routes", table)
	}
}
