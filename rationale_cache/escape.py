"""Text from outside made harmless: it can neither spell a special token nor close the block that it stands in. Pure.

Every angle bracket becomes a lookalike that no tokenizer or template knows, so `<|im_end|>`, `</rationale>`,
`<video>` and `<answer>` are plain words. Control characters and invisible format characters go, since
they can hide such a mark from a reader and a filter.
"""

from __future__ import annotations

import unicodedata

LOOKALIKES = str.maketrans(
    {character: "\u2039" for character in "<\uff1c\ufe64"}
    | {character: "\u203a" for character in ">\uff1e\ufe65"}
)
KEPT = "\n\t"


def escape(text: str) -> str:
    """`text` without any mark that could leave its block; the same when applied twice.

    >>> escape("He smiles.<|im_end|></rationale>")
    'He smiles.‹|im_end|›‹/rationale›'
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    seen = (one for one in lines if one in KEPT or unicodedata.category(one) not in ("Cc", "Cf", "Cs"))
    return "".join(seen).translate(LOOKALIKES).strip()


def marks(text: str) -> int:
    """Characters that `escape` changes or takes out, outer blanks aside."""
    inner = text.replace("\r\n", "\n").strip()
    return sum(
        one in "<>\uff1c\ufe64\uff1e\ufe65"
        or (one not in KEPT and unicodedata.category(one) in ("Cc", "Cf", "Cs"))
        for one in inner
    )
