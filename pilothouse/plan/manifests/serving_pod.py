"""Pods that no engine runs in, gateway and picker, and what all pods share: labels, rights, a Deployment's skeleton."""

from typing import Any

from pilothouse.plan.manifests.files import Object

UID = 1000
NAME, PART_OF, PART = "app.kubernetes.io/name", "app.kubernetes.io/part-of", "app.kubernetes.io/component"
RESOURCES = {"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}  # a judgement
LOCKED: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
UNPRIVILEGED: Object = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "fsGroup": UID,
    "fsGroupChangePolicy": "OnRootMismatch",  # weights are many and large
    "seccompProfile": {"type": "RuntimeDefault"},
}


def serving_pod(container: Object, config: str, folder: str) -> Object:
    """PodSpec of a container that reads its configuration, ConfigMap `config`, in `folder`."""
    mounts = [{"name": "config", "mountPath": folder, "readOnly": True}, {"name": "tmp", "mountPath": "/tmp"}]
    full = container | {"resources": RESOURCES, "securityContext": LOCKED, "volumeMounts": mounts}
    return {
        "enableServiceLinks": False,
        "securityContext": UNPRIVILEGED,
        "containers": [full],
        "volumes": [{"name": "config", "configMap": {"name": config}}, {"name": "tmp", "emptyDir": {}}],
    }


def deployed(name: str, marks: dict[str, str], spec: dict[str, Any]) -> Object:
    """A Deployment's skeleton around a pod."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": marks},
        "spec": {
            "selector": {"matchLabels": marks},
            "template": {"metadata": {"labels": marks}, "spec": spec},
        },
    }
