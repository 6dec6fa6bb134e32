# The install step of the guide. REPO names a chart other than the published one, such as the directory of a checkout.
helm install spiderpool "${REPO:-spiderpool/spiderpool}" --namespace kube-system \
  --set ipam.enableStatefulSet=false \
  --set multus.multusCNI.defaultCniCRName="macvlan-ens5"
