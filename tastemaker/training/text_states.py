"""Text states of frozen encoders, kept where the same texts come again."""

from collections.abc import Sequence

import torch

from tastemaker.models.conditioning import TextStates
from tastemaker.models.family import Family


class FrozenTexts:
    """States of texts, each a pure function of the text and the number of windows."""

    def __init__(self, family: Family, *, keep: bool) -> None:
        """With `keep`, remember states: for few texts only, a long one's exceed a latent."""
        self._family, self._keep = family, keep
        self._known: dict[tuple[str, int], TextStates] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], windows: int) -> TextStates:
        """States of these texts.

        Never under autocast, else a text would have other states when validation asked for it
        first, and a resumed run other ones than a run in one piece. Each text is encoded by itself,
        so that its states do not depend on its neighbours in the last bit either.
        """
        found = []
        with torch.autocast(self._family.device.type, enabled=False):
            for text in texts:
                states = self._known.get((text, windows))
                if states is None:
                    states = self._family.encode_text([text], windows)
                    if self._keep:
                        self._known[text, windows] = states
                found.append(states)
        return TextStates.join(found)
