package alibaba

import (
	"fmt"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
)

func TestPoliciesAreEnoughAndLeast(t *testing.T) {
	cloudtest.Policies(t, "../../../docs/reference/alibaba-ram.md", func(t *testing.T) (cloud.Provider, cloudtest.PolicyWorld) { return start(t) }, lacks)
}

// without returns a policy that denies an action, and allows all others.
func without(action string) string {
	const policy = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":%q,"Resource":"*"}]}`
	return fmt.Sprintf(policy, action)
}
