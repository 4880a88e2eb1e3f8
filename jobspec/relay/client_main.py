"""A destination in a process of its own: `… -m jobspec.relay.client_main SINK DIRECTORY STORE`.

It reads one JSON request a line from stdin and answers each with one line on stdout. When its stdin
ends it exits at once without sending the rest: the relay that started it is gone, and the next one
sends what is missing. The relay kills this process when it does not answer.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, cast

from jobspec.relay.row_sink import RowSink, row_sink


def main() -> None:
    # What the client or its libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    sink, directory, store = sys.argv[1:]
    client = row_sink(sink, Path(directory), Path(store))
    while True:
        answer = _answer(client, json.loads(requests.get()))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # after `sys.exit` a client would go on sending, besides the next relay's


def _answer(client: RowSink, request: dict[str, Any]) -> dict[str, Any]:
    ask = getattr(client, str(request.pop("op")))
    try:
        return cast("dict[str, Any]", ask(**request))
    except ModuleNotFoundError as error:
        return {"refused": "no package", "message": str(error)}
    except Exception as error:  # clients raise many kinds, and none may end this process
        return {"refused": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    main()
