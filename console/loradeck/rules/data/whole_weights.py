"""Whole weights: releases of every weight of a model, which a job trained or merged, and the base alone beside them.

Both are served by an engine that runs them, and both of the first kind have the form `base`. They differ by their
lineage: weights that a job made are a release like an adapter version, and the base alone is what F goes to.
"""

from loradeck.rules.data.ownership import Made
from loradeck.schemas.manifest import Form, Release


def is_base_alone(release: Release, made: Made) -> bool:
    """Tells whether a release is the base alone, a publisher's and nothing that a job made: never quarantined."""
    return release.form is Form.BASE and not made.get(release.base)


def falls_back_to(release: Release, made: Made) -> str:
    """The base to which F goes from a release: what its adapter is for, or what its weights were trained on."""
    origins = made.get(release.base, ()) if release.form is Form.BASE else ()
    return origins[0].base if origins else release.base
