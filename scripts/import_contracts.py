"""Two kinds of import contracts that import-linter does not have; pyproject.toml registers and uses them.

Imports under `TYPE_CHECKING` and inside functions count in both: they couple modules as much as the others do.
"""

from __future__ import annotations

from collections.abc import Iterator

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """What a package imports is a short list: itself, the packages in `allowed_modules`, and nothing else.

    Modules of the standard library and of other distributions are named by their first part, as in `collections`.
    """

    type_name = "only"

    source_modules = fields.ListField(subfield=fields.ModuleField())
    allowed_modules = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        found = sorted(
            (importer, imported)
            for importer in _inside(graph, [module.name for module in self.source_modules])
            for imported in graph.find_modules_directly_imported_by(importer)
            if not self._allows(imported)
        )
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in check.metadata["found"]:
            output.print_error(f"{importer} imports {imported}, which is not on its list")

    def _allows(self, imported: str) -> bool:
        packages = {*self.allowed_modules, *(module.name for module in self.source_modules)}
        return any(imported == package or imported.startswith(f"{package}.") for package in packages)


class NoCirclesContract(Contract):
    """No module of `packages` imports itself, over whatever other modules."""

    type_name = "no_circles"

    packages = fields.ListField(subfield=fields.ModuleField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        ours = [module for module in graph.modules if not graph.is_module_squashed(module)]
        above = {module: graph.find_upstream_modules(module) for module in ours}
        circles = {
            tuple(sorted({module, *(other for other in above[module] if module in above.get(other, ()))}))
            for module in _inside(graph, [package.name for package in self.packages])
        }
        found = sorted(circle for circle in circles if len(circle) > 1)
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for circle in check.metadata["found"]:
            output.print_error(f"a circle of {len(circle)} modules: {', '.join(circle)}")


def _inside(graph: ImportGraph, packages: list[str]) -> Iterator[str]:
    """The modules of some packages, the packages themselves included."""
    for package in packages:
        yield package
        yield from graph.find_descendants(package)
