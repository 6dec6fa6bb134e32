package alibaba

import (
	"fmt"
	"sync"

	credential "github.com/aliyun/credentials-go/credentials"
)

// credentialsConfig returns the one source of credentials that the environment names. The SDK's default chain takes the
// next source after a failure, and keeps it: a token service that is away for a moment would change the identity.
func credentialsConfig(environment func(name string) string) *credential.Config {
	value := func(name string) *string {
		if v := environment(name); v != "" {
			return &v
		}
		return nil
	}
	kind := func(name string) *string { return &name }
	key, token := value("ALIBABA_CLOUD_ACCESS_KEY_ID"), value("ALIBABA_CLOUD_SECURITY_TOKEN")
	switch {
	case key != nil && token != nil:
		return &credential.Config{Type: kind("sts"), AccessKeyId: key, AccessKeySecret: value("ALIBABA_CLOUD_ACCESS_KEY_SECRET"), SecurityToken: token}
	case key != nil:
		return &credential.Config{Type: kind("access_key"), AccessKeyId: key, AccessKeySecret: value("ALIBABA_CLOUD_ACCESS_KEY_SECRET")}
	case value("ALIBABA_CLOUD_OIDC_TOKEN_FILE") != nil:
		return &credential.Config{
			Type: kind("oidc_role_arn"), RoleArn: value("ALIBABA_CLOUD_ROLE_ARN"), OIDCProviderArn: value("ALIBABA_CLOUD_OIDC_PROVIDER_ARN"),
			OIDCTokenFilePath: value("ALIBABA_CLOUD_OIDC_TOKEN_FILE"), STSEndpoint: value("ALIBABA_CLOUD_STS_ENDPOINT"), RoleSessionName: kind("spiderpool"),
		}
	}
	return &credential.Config{Type: kind("ecs_ram_role"), RoleName: value("ALIBABA_CLOUD_ECS_METADATA")}
}

// findCredentials returns the credentials of the environment.
func findCredentials(environment func(name string) string) (credential.Credential, error) {
	config := credentialsConfig(environment)
	found, err := credential.NewCredential(config)
	if err != nil {
		return nil, fmt.Errorf("credentials of Alibaba Cloud, type %s: %w", *config.Type, err)
	}
	return &credentials{Credential: found}, nil
}

// credentials marks the errors of the credentials, which come before a request is sent.
type credentials struct {
	mu sync.Mutex // held while the SDK renews a token, which it does without a lock
	credential.Credential
}

type credentialsError struct{ error }

func (e credentialsError) Unwrap() error { return e.error }

// GetCredential implements credential.Credential.
func (c *credentials) GetCredential() (*credential.CredentialModel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	model, err := c.Credential.GetCredential()
	if err != nil {
		return nil, credentialsError{err}
	}
	return model, nil
}
