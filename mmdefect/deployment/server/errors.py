"""Why a request gets no prediction."""

#: Status of HTTP for the word that metrics and programs get as the reason.
STATUSES = {
    'left': 400,
    'no_token': 401,
    'slow': 408,
    'too_large': 413,
    'unsupported': 415,
    'wrong_host': 421,
    'unreadable': 422,
    'invalid_options': 422,
    'too_many_defects': 422,
    'failed': 500,
    'overloaded': 503,
}


class RequestError(Exception):
    """A request that is answered with an error.

    The reason is one of :data:`STATUSES`, or another word with a status; the sentence is for people.
    """

    def __init__(self, reason: str, sentence: str, status: int = 0, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.reason, self.sentence = reason, sentence
        self.status, self.headers = status or STATUSES[reason], headers or {}
