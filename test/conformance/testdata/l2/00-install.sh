# The install step of the guide, after "make chart".
helm install spiderpool dist/spiderpool-0.1.0.tgz --namespace kube-system \
  --set service.mode="${SERVICE_MODE:-kubeproxy}" --set service.externalIPs=true \
  --set policy.installCRDs.clusterNetworkPolicy=true \
  --set multus.multusCNI.defaultCniCRName="macvlan-ens5"
