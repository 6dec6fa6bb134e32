package alibaba

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// Create implements cloud.Provider, with CreateNetworkInterface. The interface is deleted with the instance that it is
// attached to.
func (p *Provider) Create(ctx context.Context, n cloud.NewInterface) (cloud.Interface, error) {
	const action = "CreateNetworkInterface"
	in := query{"VSwitchId": n.Subnet, "DeleteOnRelease": "true"}.list("SecurityGroupIds", n.SecurityGroups).tags(n.Tags)
	for name, value := range map[string]string{"Description": n.Description, "ClientToken": n.Token} {
		if value != "" {
			in[name] = value
		}
	}
	var out eni
	if err := p.ecs.call(ctx, action, in, &out); err != nil {
		return cloud.Interface{}, err
	}
	made, err := out.value()
	if err != nil {
		return cloud.Interface{}, cloud.NotUnderstood(p.ecs.name(action), err)
	}
	if made.ID == "" {
		return cloud.Interface{}, cloud.NotUnderstood(p.ecs.name(action), errors.New("it names no interface"))
	}
	made.Tags = maps.Clone(n.Tags) // the answer may leave them out
	return made, nil
}

// Attach implements cloud.Provider, with DescribeNetworkInterfaces for the positions that are taken,
// AttachNetworkInterface, and TagResources for the position. Until it has the tag, an attached interface is
// at cloud.UnknownDevice.
//
// Alibaba Cloud guards no positions. After a race of two callers two interfaces have one; Instances returns
// neither of them.
func (p *Provider) Attach(ctx context.Context, iface, instance string, device int) error {
	const action = "AttachNetworkInterface"
	here, err := p.at(ctx, instance)
	if err != nil {
		return err
	}
	present, isHere := here[iface]
	for id, other := range here {
		if id != iface && other.Device == device {
			return &cloud.Error{Kind: cloud.Conflict, Action: p.ecs.name(action), Err: fmt.Errorf("%s is at position %d of %s", id, device, instance)}
		}
	}
	switch {
	case isHere && present.Device == device:
		return nil
	case isHere && present.Device != cloud.UnknownDevice:
		return &cloud.Error{Kind: cloud.Conflict, Action: p.ecs.name(action), Err: fmt.Errorf("%s is at position %d of %s", iface, present.Device, instance)}
	case !isHere:
		if err := p.ecs.call(ctx, action, query{"NetworkInterfaceId": iface, "InstanceId": instance}, &struct{}{}); err != nil {
			return err
		}
	}
	return p.ecs.call(ctx, "TagResources", query{"ResourceType": "eni"}.list("ResourceId", []string{iface}).tags(positionTag(instance, device)), &struct{}{})
}

// at returns the interfaces of an instance by ID.
func (p *Provider) at(ctx context.Context, instance string) (map[string]cloud.Interface, error) {
	here := map[string]cloud.Interface{}
	err := p.pagesOfInterfaces(ctx, query{"InstanceId": instance}, func(described cloud.Interface, i eni) {
		if !i.isEnding() {
			here[described.ID] = described
		}
	})
	return here, err
}

// Detach implements cloud.Provider, with DescribeNetworkInterfaces for the instance and DetachNetworkInterface.
func (p *Provider) Detach(ctx context.Context, iface string) error {
	const action = "DetachNetworkInterface"
	var present *eni
	err := p.eachInterface(ctx, []string{iface}, nil, func(_ cloud.Interface, i eni) { present = &i })
	switch {
	case err != nil:
		return err
	case present == nil:
		return &cloud.Error{Kind: cloud.Gone, Action: p.ecs.name(action), Err: fmt.Errorf("the cloud describes no interface %s", iface)}
	case present.InstanceID == "" || present.isEnding():
		return nil
	case present.Type == "Primary":
		return p.ecs.invalid(action, "%s is the primary interface of %s", iface, present.InstanceID)
	}
	return p.ecs.call(ctx, action, query{"NetworkInterfaceId": iface, "InstanceId": present.InstanceID}, &struct{}{})
}

// Delete implements cloud.Provider, with DeleteNetworkInterface.
func (p *Provider) Delete(ctx context.Context, iface string) error {
	err := p.ecs.call(ctx, "DeleteNetworkInterface", query{"NetworkInterfaceId": iface}, &struct{}{})
	if err != nil && cloud.KindOf(err) == cloud.Gone {
		return nil
	}
	return err
}
