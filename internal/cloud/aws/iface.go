package aws

import (
	"context"
	"fmt"
	"maps"
	"slices"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// Create implements cloud.Provider, with CreateNetworkInterface.
func (p *Provider) Create(ctx context.Context, n cloud.NewInterface) (cloud.Interface, error) {
	const action = "CreateNetworkInterface"
	in := &ec2.CreateNetworkInterfaceInput{SubnetId: &n.Subnet, Groups: n.SecurityGroups, Description: &n.Description}
	if n.Token != "" {
		in.ClientToken = &n.Token
	}
	if len(n.Tags) > 0 {
		specification := types.TagSpecification{ResourceType: types.ResourceTypeNetworkInterface}
		for _, key := range slices.Sorted(maps.Keys(n.Tags)) { // a repetition with the token must be the same request
			specification.Tags = append(specification.Tags, types.Tag{Key: &key, Value: awssdk.String(n.Tags[key])})
		}
		in.TagSpecifications = []types.TagSpecification{specification}
	}
	out, err := request(ctx, p, action, in, p.client.CreateNetworkInterface)
	if err != nil {
		return cloud.Interface{}, err
	}
	made, err := interfaceOf(*out.NetworkInterface)
	if err != nil {
		return cloud.Interface{}, cloud.NotUnderstood(service+action, err)
	}
	return made, nil
}

// Attach implements cloud.Provider, with AttachNetworkInterface and
// ModifyNetworkInterfaceAttribute: EC2 keeps an attached interface when its instance ends,
// unless told otherwise.
func (p *Provider) Attach(ctx context.Context, iface, instance string, device int) error {
	index := awssdk.Int32(int32(device))
	out, err := request(ctx, p, "AttachNetworkInterface", &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: &iface, InstanceId: &instance, DeviceIndex: index,
	}, p.client.AttachNetworkInterface)
	var attachment *string
	switch {
	case err == nil:
		attachment = out.AttachmentId
	case cloud.KindOf(err) == cloud.Conflict:
		present, ok, lookErr := p.look(ctx, iface)
		if lookErr != nil || !ok || !isAt(present.Attachment, instance, device) {
			return err
		}
		if awssdk.ToBool(present.Attachment.DeleteOnTermination) {
			return nil
		}
		attachment = present.Attachment.AttachmentId
	default:
		return err
	}
	_, err = request(ctx, p, "ModifyNetworkInterfaceAttribute", &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: &iface,
		Attachment:         &types.NetworkInterfaceAttachmentChanges{AttachmentId: attachment, DeleteOnTermination: awssdk.Bool(true)},
	}, p.client.ModifyNetworkInterfaceAttribute)
	return err
}

// isAt reports whether an attachment is, or becomes, the one to a device of an instance.
func isAt(a *types.NetworkInterfaceAttachment, instance string, device int) bool {
	return a != nil && !isEnding(a.Status) && awssdk.ToString(a.InstanceId) == instance &&
		awssdk.ToInt32(a.NetworkCardIndex) == firstCard && int(awssdk.ToInt32(a.DeviceIndex)) == device
}

// Detach implements cloud.Provider, with DescribeNetworkInterfaces for the attachment's ID and
// DetachNetworkInterface.
func (p *Provider) Detach(ctx context.Context, iface string) error {
	const action = "DetachNetworkInterface"
	present, ok, err := p.look(ctx, iface)
	switch a := present.Attachment; {
	case err != nil:
		return err
	case !ok:
		return &cloud.Error{Kind: cloud.Gone, Action: service + action, Err: fmt.Errorf("EC2 describes no interface %s", iface)}
	case a == nil || isEnding(a.Status):
		return nil
	case isAt(a, awssdk.ToString(a.InstanceId), 0):
		return invalid(action, "%s is the primary interface of %s", iface, awssdk.ToString(a.InstanceId))
	}
	_, err = request(ctx, p, action, &ec2.DetachNetworkInterfaceInput{AttachmentId: present.Attachment.AttachmentId}, p.client.DetachNetworkInterface)
	return err
}

// Delete implements cloud.Provider, with DeleteNetworkInterface.
func (p *Provider) Delete(ctx context.Context, iface string) error {
	_, err := request(ctx, p, "DeleteNetworkInterface", &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &iface}, p.client.DeleteNetworkInterface)
	if err != nil && cloud.KindOf(err) == cloud.Gone {
		return nil
	}
	return err
}
