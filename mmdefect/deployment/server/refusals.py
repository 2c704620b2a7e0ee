"""Why a request gets no prediction."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        reason: one word for the metrics and for programs.
        sentence: for people: what must hold, what came, what to do.
        retry_after_s: when to try again, for refusals that pass.
    """

    def __init__(self, status: int, reason: str, sentence: str, retry_after_s: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason
        self.sentence = sentence
        self.headers = {} if retry_after_s is None else {'Retry-After': str(retry_after_s)}
        if status == 401:
            self.headers['WWW-Authenticate'] = 'Bearer'


def too_large(sentence: str) -> Refusal:
    return Refusal(413, 'too_large', sentence)


def unsupported(sentence: str) -> Refusal:
    return Refusal(415, 'unsupported', sentence)


def unreadable(sentence: str) -> Refusal:
    return Refusal(422, 'unreadable', sentence)
