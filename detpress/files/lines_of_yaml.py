"""PyYAML's safe loader, which says in which line stands what it cannot convert."""

from typing import Any, NoReturn

import yaml

from detpress.errors import shortened


class LoaderWithLines(yaml.SafeLoader):
    """Whatever PyYAML's conversion of a value raises (`!!int ''`, a 99th month) names its line.

    remedy: what is said behind `is no int`.
    """

    remedy = "; a text is given in quotes"

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            found = super().construct_object(node, deep)
            if isinstance(found, int):
                str(found)  # of more than 4,300 digits, which no message could show: a ValueError, as for decimal ones
            return found
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
            refuse(f"{shortened(node.value)} is no {node.tag.rpartition(':')[2]}{self.remedy}", node.start_mark, error)


def refuse(problem: str, mark: yaml.Mark, cause: Exception | None = None) -> NoReturn:
    """Raises what PyYAML raises where a document is wrong, with the line of `mark`."""
    raise yaml.constructor.ConstructorError(None, None, problem, mark) from cause
