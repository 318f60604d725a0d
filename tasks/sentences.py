"""What we refuse ourselves is a sentence in Prefect's log; a traceback there means a fault.

Prefect's engines log every exception of a task or flow with its traceback, also one that
only says which word of a request to change.
"""

from __future__ import annotations

import logging

from sojourn.errors import SojournError
from sojourn.harmless import lines

ENGINES = ("prefect.task_runs", "prefect.flow_runs")


class _Sentences(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, that of an error of ours as its sentence and hint."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SojournError):
            record.msg, record.args, record.exc_info, record.exc_text = lines(str(error)), (), None, None
        return True


_SENTENCES = _Sentences()


def tell_in_sentences() -> None:
    """From now on, for every run of this process."""
    for name in ENGINES:
        logging.getLogger(name).addFilter(_SENTENCES)  # the same filter is added once
