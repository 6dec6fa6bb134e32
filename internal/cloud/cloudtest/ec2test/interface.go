package ec2test

import (
	"maps"
	"net/netip"
	"slices"
)

type tagXML struct {
	Key   string `query:"Key" xml:"key"`
	Value string `query:"Value" xml:"value"`
}

type tagSpecification struct {
	Type string   `query:"ResourceType"`
	Tags []tagXML `query:"Tag"`
}

// tagMap returns tags as a map.
func tagMap(specifications []tagSpecification) map[string]string {
	tags := map[string]string{}
	for _, s := range specifications {
		for _, t := range s.Tags {
			tags[t.Key] = t.Value
		}
	}
	return tags
}

type createInterface struct {
	Subnet         string             `query:"SubnetId,required"`
	Description    string             `query:"Description"`
	Groups         []string           `query:"SecurityGroupId"`
	Primary        netip.Addr         `query:"PrivateIpAddress"`
	Addresses      []privateAddress   `query:"PrivateIpAddresses"`
	Count          int                `query:"SecondaryPrivateIpAddressCount"`
	Prefixes4      []prefix4          `query:"Ipv4Prefix"`
	Prefix4Count   int                `query:"Ipv4PrefixCount"`
	Addresses6     []address6         `query:"Ipv6Addresses"`
	Address6Count  int                `query:"Ipv6AddressCount"`
	Prefixes6      []prefix6          `query:"Ipv6Prefix"`
	Prefix6Count   int                `query:"Ipv6PrefixCount"`
	InterfaceType  string             `query:"InterfaceType"`
	Specifications []tagSpecification `query:"TagSpecification"`
	Token          string             `query:"ClientToken"`
}

type privateAddress struct {
	Address netip.Addr `query:"PrivateIpAddress"`
	Primary bool       `query:"Primary"`
}

type (
	prefix4 struct {
		Prefix netip.Prefix `query:"Ipv4Prefix"`
	}
	prefix6 struct {
		Prefix netip.Prefix `query:"Ipv6Prefix"`
	}
	address6 struct {
		Address netip.Addr `query:"Ipv6Address"`
	}
)

// wishes returns the wishes of a new interface. The first one is for its primary address.
func (in *createInterface) wishes() []wish {
	primary, secondary := wish{v4: true, count: 1}, wish{v4: true, count: in.Count}
	if in.Primary.IsValid() {
		primary = wishOf(in.Primary)
	}
	for _, a := range in.Addresses {
		if a.Primary {
			primary = wishOf(a.Address)
		} else {
			secondary.exact = append(secondary.exact, netip.PrefixFrom(a.Address, a.Address.BitLen()))
		}
	}
	addresses6 := wish{count: in.Address6Count}
	for _, a := range in.Addresses6 {
		addresses6.exact = append(addresses6.exact, netip.PrefixFrom(a.Address, a.Address.BitLen()))
	}
	prefixes4, prefixes6 := wish{v4: true, prefixes: true, count: in.Prefix4Count}, wish{prefixes: true, count: in.Prefix6Count}
	for _, p := range in.Prefixes4 {
		prefixes4.exact = append(prefixes4.exact, p.Prefix)
	}
	for _, p := range in.Prefixes6 {
		prefixes6.exact = append(prefixes6.exact, p.Prefix)
	}
	return []wish{primary, secondary, prefixes4, addresses6, prefixes6}
}

type createInterfaceResult struct {
	Token     string       `xml:"clientToken,omitempty"`
	Interface interfaceXML `xml:"networkInterface"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateNetworkInterface.html
func (x *session) createInterface(in *createInterface) (any, *Error) {
	if in.Token != "" {
		if earlier, ok := x.tokens[in.Token]; ok {
			i, err := find(x.interfaces, earlier.id)
			switch {
			case earlier.request != x.request:
				return nil, refuse("IdempotentParameterMismatch", "The client token %s was used with other parameters", in.Token)
			case err != nil:
				return nil, err
			}
			return createInterfaceResult{in.Token, x.interfaceXML(i)}, nil
		}
	}
	if _, err := find(x.subnets, in.Subnet); err != nil {
		return nil, err
	}
	for _, g := range in.Groups {
		if _, err := find(x.groups, g); err != nil {
			return nil, err
		}
	}
	i := &Interface{
		ID: x.newID("eni"), Subnet: in.Subnet, MAC: x.newMAC(), Description: in.Description, Groups: in.Groups,
		Tags: tagMap(in.Specifications), created: x.now,
	}
	for _, w := range in.wishes() {
		if err := x.grant(i, w); err != nil {
			return nil, err
		}
		x.interfaces[i.ID] = i.clone() // the next wish must not get the same addresses
	}
	if in.Token != "" {
		x.tokens[in.Token] = createdBy{x.request, i.ID}
	}
	return createInterfaceResult{in.Token, x.interfaceXML(i)}, nil
}

type attachInterface struct {
	Interface string `query:"NetworkInterfaceId,required"`
	Instance  string `query:"InstanceId,required"`
	Device    int    `query:"DeviceIndex,required"`
	Card      int    `query:"NetworkCardIndex"`
}

type attachInterfaceResult struct {
	Attachment string `xml:"attachmentId"`
	Card       int    `xml:"networkCardIndex"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AttachNetworkInterface.html
func (x *session) attachInterface(in *attachInterface) (any, *Error) {
	instance, err := find(x.instances, in.Instance)
	if err != nil {
		return nil, err
	}
	id := x.newID("eni-attach")
	_, err = x.edit(in.Interface, func(i *Interface) *Error {
		if err := x.attachable(i, instance, in); err != nil {
			return err
		}
		i.Attachment = &Attachment{ID: id, Instance: in.Instance, Device: in.Device, Card: in.Card, since: x.now.Add(x.attaching)}
		t, _ := typeNamed(instance.Type)
		if i.slots(true) > t.IPv4 || i.slots(false) > t.IPv6 {
			return known("PrivateIpAddressLimitExceeded")
		}
		return nil
	})
	return attachInterfaceResult{id, in.Card}, err
}

// attachable returns an error if the instance cannot have the interface at the device index.
func (x *session) attachable(i *Interface, instance *Instance, in *attachInterface) *Error {
	t, _ := typeNamed(instance.Type)
	others := x.of(instance.ID)
	switch {
	case i.Attachment != nil:
		return refuse("InvalidNetworkInterface.InUse", "Interface: [%s] in use.", i.ID)
	case instance.State == "terminated":
		return refuse("IncorrectInstanceState", "The instance %s is not in a valid state for this operation: %s", instance.ID, instance.State)
	case x.subnets[i.Subnet].Zone != x.subnets[instance.Subnet].Zone:
		return refuse("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same availability zone")
	case in.Card != 0:
		return refuse("InvalidParameterValue", "Network card index '%d' is not valid for the instance type %s", in.Card, t.Name)
	case slices.ContainsFunc(others, func(o *Interface) bool { return o.Attachment.Device == in.Device }):
		return refuse("InvalidParameterValue", "Instance '%s' already has an interface attached at device index '%d'.", instance.ID, in.Device)
	case len(others) >= t.Interfaces:
		return refuse("AttachmentLimitExceeded", "Interface count %d exceeds the limit for %s", len(others)+1, t.Name)
	}
	return nil
}

// attached returns the interface with an attachment.
func (x *session) attached(attachment string) (*Interface, *Error) {
	for _, i := range x.interfaces {
		if i.Attachment != nil && i.Attachment.ID == attachment {
			return i, nil
		}
	}
	return nil, missing(attachment)
}

type detachInterface struct {
	Attachment string `query:"AttachmentId,required"`
	Force      bool   `query:"Force"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DetachNetworkInterface.html
func (x *session) detachInterface(in *detachInterface) (any, *Error) {
	i, err := x.attached(in.Attachment)
	switch {
	case err != nil:
		return nil, err
	case i.Attachment.Device == 0:
		return nil, refuse("OperationNotPermitted", "The network interface at device index 0 and networkCard index 0 cannot be detached.")
	}
	_, err = x.edit(i.ID, func(i *Interface) *Error {
		if i.Attachment.until = x.now.Add(x.detaching); x.detaching == 0 {
			i.Attachment = nil
		}
		return nil
	})
	return done, err
}

type deleteInterface struct {
	Interface string `query:"NetworkInterfaceId,required"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteNetworkInterface.html
func (x *session) deleteInterface(in *deleteInterface) (any, *Error) {
	i, err := find(x.interfaces, in.Interface)
	switch {
	case err != nil:
		return nil, err
	case i.Attachment != nil:
		return nil, refuse("InvalidParameterValue", "Network interface '%s' is currently in use.", i.ID)
	}
	delete(x.interfaces, i.ID)
	return done, nil
}

type modifyInterface struct {
	Interface   string   `query:"NetworkInterfaceId,required"`
	Groups      []string `query:"SecurityGroupId"`
	Description *struct {
		Value string `query:"Value"`
	} `query:"Description"`
	Check *struct {
		Value bool `query:"Value"`
	} `query:"SourceDestCheck"`
	Attachment *struct {
		ID                  string `query:"AttachmentId,required"`
		DeleteOnTermination bool   `query:"DeleteOnTermination"`
	} `query:"Attachment"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyNetworkInterfaceAttribute.html
func (x *session) modifyInterface(in *modifyInterface) (any, *Error) {
	_, err := x.edit(in.Interface, func(i *Interface) *Error {
		for _, g := range in.Groups {
			if _, err := find(x.groups, g); err != nil {
				return err
			}
		}
		if len(in.Groups) > 0 {
			i.Groups = in.Groups
		}
		if in.Description != nil {
			i.Description = in.Description.Value
		}
		if in.Check != nil {
			i.Unchecked = !in.Check.Value
		}
		if in.Attachment != nil {
			if i.Attachment == nil || i.Attachment.ID != in.Attachment.ID {
				return missing(in.Attachment.ID)
			}
			i.Attachment.DeleteOnTermination = in.Attachment.DeleteOnTermination
		}
		return nil
	})
	return done, err
}

type changeTags struct {
	Resources []string `query:"ResourceId,required"`
	Tags      []tagXML `query:"Tag"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateTags.html
func (x *session) createTags(in *changeTags) (any, *Error) {
	return x.changeTags(in, func(tags map[string]string) {
		for _, t := range in.Tags {
			tags[t.Key] = t.Value
		}
	})
}

// deleteTags deletes a tag only if it has the value of the request, and every tag without tags in the request.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteTags.html
func (x *session) deleteTags(in *changeTags) (any, *Error) {
	return x.changeTags(in, func(tags map[string]string) {
		maps.DeleteFunc(tags, func(key, value string) bool {
			return len(in.Tags) == 0 || slices.ContainsFunc(in.Tags, func(t tagXML) bool { return t.Key == key && (t.Value == "" || t.Value == value) })
		})
	})
}

func (x *session) changeTags(in *changeTags, change func(map[string]string)) (any, *Error) {
	for _, id := range in.Resources {
		if err := x.retag(id, change); err != nil {
			return nil, err
		}
	}
	return done, nil
}
