# The install step of the guide. REPO replaces the published chart, e.g. by the directory of a checkout.
helm install spiderpool "${REPO:-spiderpool/spiderpool}" --namespace kube-system \
  --set ipam.enableStatefulSet=false \
  --set multus.multusCNI.defaultCniCRName="macvlan-ens5"
