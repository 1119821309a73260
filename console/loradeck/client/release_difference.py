"""The difference between two releases, part by part, for people."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loradeck.schemas.ids import short
from loradeck.schemas.manifest import AdapterManifest
from loradeck.schemas.responses import ReleaseDetail


@dataclass(frozen=True)
class Part:
    """One property of two releases, as text; '-' where a release lacks it."""

    name: str
    left: str
    right: str

    @property
    def differs(self) -> bool:
        """Whether the two releases differ in it."""
        return self.left != self.right


def parts(left: ReleaseDetail, right: ReleaseDetail, *, datasets: Mapping[str, str] | None = None) -> list[Part]:
    """Lists all properties that either release has, equal ones included.

    `datasets`: names by digest, where they are known.
    """
    names = datasets or {}

    def of(read: Callable[[AdapterManifest], str]) -> tuple[str, str]:
        return tuple(read(one.manifest) if one.manifest else "-" for one in (left, right))  # type: ignore[return-value]

    def rows(manifest: AdapterManifest) -> str:
        return ", ".join(names.get(digest, short(digest)) for digest in manifest.datasets) or "-"

    def size(manifest: AdapterManifest) -> str:
        return f"{sum(file.size for file in manifest.files) / 1e6:.1f} MB"

    made = [
        Part("form", left.release.form.value, right.release.form.value),
        Part("base", short(left.release.base), short(right.release.base)),
        Part("weights", short(left.release.served_base), short(right.release.served_base)),
        Part("adapter", short(left.release.adapter), short(right.release.adapter)),
        Part("name", *of(lambda manifest: manifest.name)),
        Part("parent", *of(lambda manifest: short(manifest.parent))),
        Part("datasets", *of(rows)),
        Part("recipe", *of(lambda manifest: short(manifest.config_hash))),
        Part("rank", *of(lambda manifest: f"{manifest.rank}, alpha {manifest.alpha}")),
        Part("modules", *of(lambda manifest: " ".join(sorted(manifest.target_modules)))),
        Part("size", *of(size)),
        Part("why", *of(lambda manifest: manifest.decision.why_weights)),
    ]
    return [part for part in made if (part.left, part.right) != ("-", "-")]
