# The install step of the guide, for a network where every address works on every node.
helm install spiderpool "${REPO:-spiderpool/spiderpool}" --namespace kube-system \
  --set multus.multusCNI.defaultCniCRName="macvlan-ens5"
