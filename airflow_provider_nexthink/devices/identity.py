"""The identity of a device: the canonical form of its uid, and names in a form that can be compared."""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from uuid import UUID

CANONICAL_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SOFT_HYPHEN = "\u00ad"
# Some programs show them as a blank, others not at all.
_CONTROLS = re.compile("[\t\n\v\f\r\x1c-\x1f\x85]")
# As texts, word processors and programming languages write uids.
_AROUND_UID = "{}()[]<>\u00ab\u00bb\"'`\u2018\u2019\u201c\u201d,;."
_WITHIN_UID = re.compile(r"[\s_-]")
_BARE_UID = re.compile(r"[0-9a-f]{32}")


def canonical_uid(cell: object) -> str | None:
    """Return the uid in lower case with hyphens, or None if it is not a UUID.

    :param cell: text (with or without hyphens, in any case, surrounding blanks ignored) or a ``uuid.UUID``.
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


def lenient_uid(cell: object) -> str | None:
    """Read a uid as people write it: in brackets or quotes, as a URN, also as a word processor changes its hyphens.

    :param cell: text, or a ``uuid.UUID``.
    :return: the canonical uid, or None if it is none.
    """
    if (uid := canonical_uid(cell)) or not isinstance(cell, str):
        return uid
    text = normalize_name(cell).strip(_AROUND_UID).removeprefix("urn:").removeprefix("uuid:").strip(_AROUND_UID)
    return canonical_uid(_WITHIN_UID.sub("", text))


def normalize_name(name: str) -> str:
    """Return the form of a name in which names are compared: names that look the same to a person are equal.

    It ignores case, surrounding blanks, invisible characters, full-width and composed letters (Unicode NFKC), and the
    dot of the Turkish i; all hyphens and dashes are equal, and so are all blanks. Letters of different alphabets stay
    different, however alike they look.

    :param name: the name as it came.
    """
    text = fold_case(name)
    if text.isascii() and text.isprintable():
        return text
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold()).translate(_LOOKALIKES)
    return unicodedata.normalize("NFKC", text.replace("i\u0307", "i")).strip()


def normal_forms(name: str) -> tuple[str, ...]:
    """Return what a name may look like, normalized: some programs show a soft hyphen or a line feed, others do not.

    :param name: the name as it came.
    """
    if name.isascii() and name.isprintable():
        return (normalize_name(name),)
    forms = [name, name.replace(_SOFT_HYPHEN, "-")]
    return tuple(dict.fromkeys(normalize_name(form) for each in forms for form in (each, _CONTROLS.sub("", each))))


def fold_case(name: str) -> str:
    """Return a name case-folded, with composed letters (NFC), without surrounding blanks.

    :param name: the name as it came.
    """
    if name.isascii():
        return name.casefold().strip()
    return unicodedata.normalize("NFC", name).casefold().strip()


def lower_case(name: str) -> str:
    """Return a name in lower case, each of its letters one (NFC): ``?`` of a glob is one. Without surrounding blanks.

    :param name: the name as it came.
    """
    letters = unicodedata.normalize("NFC", name).strip()
    return "".join(lower if len(lower := letter.lower()) == 1 else letter for letter in letters)


def as_str(text: str) -> str:
    """Return text as a plain ``str``, also if it is of a subclass, such as NumPy's.

    :param text: the text.
    """
    return str.__str__(text)


def as_storable(text: str) -> str:
    """Return text as every database can keep it: without NUL, and without halves of surrogate pairs.

    :param text: the text.
    """
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def is_missing(cell: Any) -> bool:
    """Tell whether a cell is None, NaN, or the NA or NaT of pandas, without importing pandas.

    :param cell: a cell of a table.
    """
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell


class _Lookalikes(dict[int, str | None]):
    """The character that each character looks like; None if it is invisible. For ``str.translate``."""

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


_LOOKALIKES = _Lookalikes()
