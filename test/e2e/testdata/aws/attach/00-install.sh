# The install step of the guide's chapter "Attached interfaces", after "make chart". The lab's EC2 is at AWS_ENDPOINT_URL; on AWS,
# leave these two values out.
helm upgrade --install spiderpool dist/spiderpool-0.1.0.tgz --namespace kube-system \
  --set multus.multusCNI.defaultCniCRName="ipvlan-ens6" \
  --set cloud.enabled=true \
  --set "spiderpoolController.extraEnv[0].name=AWS_ENDPOINT_URL" \
  --set "spiderpoolController.extraEnv[0].value=http://172.31.0.30"
