package ec2test

type terminate struct {
	Instances []string `query:"InstanceId,required"`
}

type terminateResult struct {
	Instances list[stateChangeXML] `xml:"instancesSet"`
}

type stateChangeXML struct {
	ID       string   `xml:"instanceId"`
	Current  stateXML `xml:"currentState"`
	Previous stateXML `xml:"previousState"`
}

// terminate ends instances at once. Like on EC2, describes still show them, as terminated and without interfaces.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html
func (x *session) terminate(in *terminate) (any, *Error) {
	result := terminateResult{}
	for _, id := range in.Instances {
		i, err := find(x.instances, id)
		if err != nil {
			return nil, err
		}
		ended := *i
		ended.State = "terminated"
		x.release(id)
		x.instances[id] = &ended
		result.Instances.add(stateChangeXML{id, stateOf(ended.State), stateOf(i.State)})
	}
	return result, nil
}
