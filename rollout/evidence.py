"""Proof that a station fed its model the media that the prompt promises: same bytes, same token rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rollout.types import MediaUse, Modality, Rendered

KINDS: tuple[Modality, ...] = ("video", "audio", "image")


class MediaMismatch(ValueError):
    """A station used other media, or another number of token rows, than the prompt says."""


def require_same_media(
    expected: Sequence[MediaUse], used: Sequence[MediaUse], *, station: str, sample_id: str
) -> None:
    """Raises MediaMismatch naming sample, station and modality at the first difference.

    Compared for each modality in the order of the prompt: number of media, digests, token counts.
    """
    for kind in KINDS:
        wanted = [use for use in expected if use.kind == kind]
        found = [use for use in used if use.kind == kind]
        where = f"{station}: sample {sample_id}: {kind}"
        if len(wanted) != len(found):
            word = "missing" if len(found) < len(wanted) else "extra"
            raise MediaMismatch(
                f"{where} {word}: {len(found)} used, the prompt has {len(wanted)}; every station must use all of them"
            )
        for number, (want, have) in enumerate(zip(wanted, found, strict=True)):
            if want.digest != have.digest:
                raise MediaMismatch(
                    f"{where} {number} has digest {have.digest}, the prompt says {want.digest}: other content was used"
                )
            if want.tokens != have.tokens:
                raise MediaMismatch(
                    f"{where} {number} has {have.tokens} tokens, the prompt says {want.tokens}: "
                    "use one set of processor files for all stations"
                )


def placeholder_rows(
    rendered: Rendered, placeholder_ids: Mapping[Modality, int], *, station: str, sample_id: str
) -> tuple[np.ndarray, ...]:
    """For each medium the rows of `token_ids` that are its placeholders, int64 [tokens].

    Raises MediaMismatch when a modality has more or fewer placeholders than its media need.
    """
    left = {kind: np.flatnonzero(rendered.token_ids == placeholder_ids[kind]) for kind in KINDS}
    for kind in KINDS:
        needed = sum(use.tokens for use in rendered.media_use if use.kind == kind)
        if len(left[kind]) != needed:
            raise MediaMismatch(
                f"{station}: sample {sample_id}: {kind}: the prompt has {len(left[kind])} placeholder "
                f"tokens, its media need {needed}"
            )
    rows: list[np.ndarray] = []
    for use in rendered.media_use:
        rows.append(left[use.kind][: use.tokens])
        left[use.kind] = left[use.kind][use.tokens :]
    return tuple(rows)
