"""What peers written in Python share: a request and its answer are each a JSON object on a line.

The first request is `{"load": {...}}`, answered by `{"ready": {...}}`. All others are for answers:
`{"prompt": [token ids], "setting": {...}, "max_new_tokens": N}` is answered by `{"tokens": [...],
"seconds": S, "first_seconds": S or null}`. What fails is answered by `{"error": "..."}`. Only this
module writes to the pipe: whatever a library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

Answering = Callable[[dict[str, Any]], dict[str, Any]]


def serve(load: Callable[[dict[str, Any]], tuple[dict[str, Any], Answering]]) -> None:
    """Answer requests until standard input ends.

    Args:
        load: makes models of the options of the first request; returns what is said of them and
            the function that answers all others.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answering: Answering | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "load" in request:
                about, answering = load(request["load"])
                answer: dict[str, Any] = {"ready": about}
            elif answering is None:
                answer = {"error": "Nothing is loaded."}
            else:
                answer = answering(request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        out.write(json.dumps(answer) + "\n")
        out.flush()
