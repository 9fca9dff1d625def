"""The section `requires` of a recipe: packages without which it cannot run, such as those that bring its plugins.

requires: {my-package: ">=0.1"}
"""

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from detpress.doors import installed_version
from detpress.errors import cut_short, shortened
from detpress.recipe.yaml_source import YamlSource


def unmet(required: dict[str, str], source: YamlSource) -> list[str]:
    """One line for each package that is not there in a version that the recipe takes."""
    mistakes = []
    for name, wanted in required.items():
        where = source.where(("requires", name))
        try:
            versions = SpecifierSet(wanted)
        except InvalidSpecifier:
            mistakes.append(f'{where}: expected versions such as ">=0.1", got {shortened(wanted)}')
            continue
        found = installed_version(name)
        if found is None or not versions.contains(found, prereleases=True):
            there = "is not installed" if found is None else f"is installed as {found}"
            name, wanted = cut_short(name), cut_short(wanted)
            mistakes.append(f"{where}: {name} {there}, the recipe requires {wanted}: pip install '{name}{wanted}'")
    return mistakes
