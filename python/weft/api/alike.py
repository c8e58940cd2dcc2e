"""From a body to a record, or back, where both have the same fields under the same names.

Only there: a door that renames or computes anything says so field by field, where a reader sees it.
"""

from typing import Any, TypeVar

import msgspec

Kind = TypeVar("Kind", bound=msgspec.Struct)


def alike(source: msgspec.Struct, kind: type[Kind], **others: Any) -> Kind:
    """A struct of a kind with the fields of another. `others` are those the source does not have.

    A field that neither gives is a mistake of whoever wrote the call, also when it has a default: what was said must
    not be replaced by what is assumed.
    """
    given = {name: getattr(source, name) for name in kind.__struct_fields__ if name not in others}
    return kind(**given, **others)
