"""Options that change nothing in what is written: found by writing it out without them."""

from collections.abc import Iterator

from msgspec.structs import replace

from pilothouse.core.errors import ConfigError
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.ground import Ground, Site
from pilothouse.plan.manifests.images import Images
from pilothouse.plan.manifests.order import Fleet
from pilothouse.plan.manifests.targets import render

PLAIN = Ground()
OPTIONS = {
    "hosts": "--host",
    "scaling": "--scale",
    "objectives": "--objective",
    "namespace": "--namespace",
    "gateway": "--gateway",
    "prometheus": "--prometheus",
    "rdma": "--rdma",
}


def idle(fleet: Fleet, target: str, files: list[File]) -> list[str]:
    """One line for each such option."""
    return [
        f"{said} changes nothing in what {target} writes of this"
        for said, ground in _without(fleet.ground)
        if _written(fleet, ground, target) == files
    ]


def _written(fleet: Fleet, ground: Ground, target: str) -> list[File] | None:
    """None: on this ground it cannot be written out."""
    try:
        return render(Fleet(tuple(replace(order, ground=ground) for order in fleet.orders)), target)
    except ConfigError:
        return None


def _without(ground: Ground) -> Iterator[tuple[str, Ground]]:
    """Each thing that was said, and the ground without it."""
    for field, option in OPTIONS.items():
        if getattr(ground, field) != getattr(PLAIN, field):
            yield option, replace(ground, **{field: getattr(PLAIN, field)})
    for i, scaling in enumerate(ground.scaling):
        if scaling.requests:
            less = (*ground.scaling[:i], replace(scaling, requests=0), *ground.scaling[i + 1 :])
            yield f"--scale {scaling.pool}: @{scaling.requests}", replace(ground, scaling=less)
    for role in Images.roles():
        field, image = role.replace("-", "_"), Images().of(role)
        if ground.images.of(role) != image:
            yield f"--image {role}", replace(ground, images=replace(ground.images, **{field: image}))
    for i, site in enumerate(ground.sites):
        where = f"--site {site.name}"
        yield where, replace(ground, sites=(*ground.sites[:i], *ground.sites[i + 1 :]))
        for said, plainer in _site_without(site):
            yield f"{where}: {said}", replace(ground, sites=(*ground.sites[:i], plainer, *ground.sites[i + 1 :]))


def _site_without(site: Site) -> Iterator[tuple[str, Site]]:
    for role in site.images:
        yield f"images: {role}", replace(site, images={each: site.images[each] for each in site.images if each != role})
    for field in ("node_labels", "storage_class"):
        if getattr(site, field):
            yield field, replace(site, **{field: type(getattr(site, field))()})
