"""What tells one device from another: its uid and its name, in one form each."""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from uuid import UUID

CANONICAL_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_BARE_UID = re.compile(r"[0-9a-f]{32}")


def canonical_uid(cell: object) -> str | None:
    """Return the uid in lower case with hyphens, or None if it is none.

    :param cell: text (hyphenated or not, in any case, blanks around it are cut off) or a ``uuid.UUID``.
    """
    if isinstance(cell, UUID):
        return str(cell)
    if not isinstance(cell, str):
        return None
    if CANONICAL_UID.fullmatch(cell):
        return as_str(cell)
    text = cell.strip().lower()
    if _BARE_UID.fullmatch(text):
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return text if CANONICAL_UID.fullmatch(text) else None


def normalize_name(name: str) -> str:
    """Return a name without what a person does not see, or takes for the same, so that names can be compared.

    That is case, blanks around it, invisible characters, full-width and composed letters (Unicode's NFKC), the many
    hyphens and dashes, the many blanks, and the dots of Turkish i. Letters of different alphabets differ, however alike
    they look.

    :param name: the name as it came.
    """
    text = fold_case(name)
    if text.isascii() and text.isprintable():
        return text
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold()).translate(_LOOKS)
    return unicodedata.normalize("NFKC", text.replace("i\u0307", "i")).strip()


def fold_case(name: str) -> str:
    """Return a name in one case, its letters composed, without blanks around it.

    :param name: the name as it came.
    """
    if name.isascii():
        return name.casefold().strip()
    return unicodedata.normalize("NFC", name).casefold().strip()


def as_str(text: str) -> str:
    """Return the characters of text of any subclass, such as numpy's, to the letter."""
    return str.__str__(text)


def is_missing(cell: Any) -> bool:
    """Tell None, NaN and what pandas has in their place, without importing pandas.

    :param cell: a cell of a table.
    """
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell


class _Looks(dict[int, str | None]):
    """What a character looks like to a person; None for one that cannot be seen. For ``str.translate``."""

    _HYPHENS = "\u02d7\u06d4\u2043\u207b\u208b\u2212\u23af\u2500\u2796\u2cba\u30fc"
    _BLANKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2800"
    # Those of Unicode's Default_Ignorable_Code_Point that are not of the category Cf.
    _INVISIBLE = (
        range(0x034F, 0x0350),
        range(0x115F, 0x1161),
        range(0x17B4, 0x17B6),
        range(0x180B, 0x1810),
        range(0x2065, 0x2066),
        range(0x3164, 0x3165),
        range(0xFE00, 0xFE10),
        range(0xFFA0, 0xFFA1),
        range(0xFFF0, 0xFFF9),
        range(0xE0000, 0xE1000),
    )

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        looks: str | None = character
        if category == "Pd" or character in self._HYPHENS:
            looks = "-"
        elif category in ("Zs", "Zl", "Zp") or character in self._BLANKS:
            looks = " "
        elif category in ("Cf", "Cc") or any(code in invisible for invisible in self._INVISIBLE):
            looks = None
        elif character == "\u0131":
            looks = "i"
        self[code] = looks
        return looks


_LOOKS = _Looks()
