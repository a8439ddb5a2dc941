"""The texts of beams against stop strings: a beam's text goes on from that of the beam it goes on from."""

from collections.abc import Iterable

from quire.engine.api.sampling import SamplingParams
from quire.engine.text.output import OutputText
from quire.engine.text.tokenizer import Tokenizer


class BeamTexts:
    """Of one search.

    Args:
        tokenizer: the model's.
        params: stop strings, and whether special tokens make text.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams) -> None:
        # Without stop strings there is none.
        self._texts: dict[tuple[int, ...], OutputText] = {}
        if params.stop:
            self._texts[()] = OutputText(tokenizer, params)

    def is_stopped(self, token_ids: tuple[int, ...]) -> bool:
        """Whether a stop string ends with the last of these tokens; that without it is a beam that was kept."""
        if not self._texts:
            return False
        if token_ids not in self._texts:
            text = self._texts[token_ids[:-1]].fork()
            text.push(token_ids[-1:])
            self._texts[token_ids] = text
        return self._texts[token_ids].matched is not None

    def keep(self, beams: Iterable[tuple[int, ...]]) -> None:
        """Forgets all texts but those of these beams."""
        if self._texts:
            self._texts = {token_ids: self._texts[token_ids] for token_ids in beams}
