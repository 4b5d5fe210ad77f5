"""The process that talks to W&B: `python -m spectral_ft.tracking.mirror`, started by `wandb_run.py`.

Standard input has JSON lines: the head, then what the run tells. Standard output has sentences, each after `info` or
`warning`. After the last message comes `null`; where the input ends without it, the run's process has died.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from spectral_ft.tracking.server import fault_of_server, key_of_user

PROBE = 5.0
"""Seconds that the server may take to say who the user is."""
START = 20.0
"""Seconds that W&B may take to begin a run on a server that answered."""


class Mirror:
    """One W&B run, online where the server answers."""

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._head, self._finished = head, False
        self.online = head["mode"] == "online" and not self._server_is_out()
        try:
            self._run = self._begun("online" if self.online else "offline")
        except Exception as error:
            if not self.online:
                raise
            import wandb

            self._offline(f"did not begin the run ({_brief(error)})")
            wandb.teardown()
            self._run = self._begun("offline")
        if self.online:
            say("info", f"W&B shows this run at {self._run.url}")

    def take(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """Mirror what a run tells, to its end.

        Args:
            messages: `do` is the name of a method below, the rest are its arguments.
        """
        for message in messages:
            arguments = {key: value for key, value in message.items() if key != "do"}
            getattr(self, f"_{message['do']}")(**arguments)

    def finish(self) -> None:
        """End the W&B run; one without final numbers counts as failed, and can be resumed."""
        command = f"`wandb sync {self._run.settings.sync_dir}`"
        try:
            self._run.finish(exit_code=0 if self._finished else 1)
        except TimeoutError:
            say("warning", f"W&B did not take all within {self._head['patience']:g} s; {command} sends the rest")
            return
        if not self.online:
            say("info", f"W&B keeps this run offline; {command} sends it")

    def _log(self, row: Mapping[str, Any]) -> None:
        values = {f"train/{key}": value for key, value in row.items() if key != "step"}
        self._run.log(values, step=row["step"])

    def _picture(self, path: str) -> None:
        import wandb

        self._run.log({f"figures/{Path(path).stem}": wandb.Image(path)}, step=self._run.step)

    def _table(self, name: str, rows: list[dict[str, Any]]) -> None:
        import wandb

        columns: list[str | int] = [*rows[0]] if rows else []
        table = wandb.Table(columns=columns, data=[list(row.values()) for row in rows], allow_mixed_types=True)
        self._run.log({name: table}, step=self._run.step)

    def _adapter(self, path: str) -> None:
        import wandb

        artifact = wandb.Artifact(f"adapter-{self._head['run_id']}", type="adapter")
        artifact.add_dir(path, policy="mutable", skip_cache=True)  # no second copy in the user's home
        self._run.log_artifact(artifact)

    def _summarise(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))
        self._finished = True

    def _server_is_out(self) -> bool:
        fault = fault_of_server(seconds=PROBE)
        if fault:
            self._offline(fault)
        return fault is not None

    def _offline(self, fault: str) -> None:
        self.online = False
        say("warning", f"W&B {fault}: this run is kept offline")

    def _begun(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        head = self._head
        return wandb.init(
            project=head["project"],
            entity=head["entity"],
            group=head["group"],
            tags=head["tags"],
            id=head["run_id"],
            name=head["run_id"],
            resume="allow" if mode == "online" else None,  # W&B resumes offline runs when they are synced
            config=head["config"],
            dir=head["folder"],
            mode=mode,
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=START,
                finish_timeout=head["patience"],
                finish_timeout_raises=True,
                x_disable_stats=True,
                x_disable_meta=True,
                disable_git=True,
                save_code=False,
            ),
        )


def say(level: str, sentence: str) -> None:
    """Tell the run's process a sentence, without the key; nothing where that process has died.

    Args:
        level: `info` or `warning`.
        sentence: On one line.
    """
    key = key_of_user()
    try:
        print(level, sentence.replace(key, "KEY") if key else sentence, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _messages(lines: IO[str]) -> Iterable[dict[str, Any]]:
    # Up to `null` or the end. Read ahead by a thread: while W&B takes its time, the pipe stays empty.
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    for line in iter(waiting.get, None):
        message = json.loads(line)
        if message is None:
            return
        yield message


def main() -> None:
    """The command."""
    messages = iter(_messages(sys.stdin))
    try:
        head = next(messages)
        mirror = Mirror(head)
        mirror.take(messages)
        mirror.finish()
    except Exception as error:
        say("warning", f"W&B is left out from here on ({_brief(error)})")


if __name__ == "__main__":
    main()
