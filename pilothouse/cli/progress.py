"""What a person sees while engines load, die and come back: a moving line on a terminal, few lines anywhere else."""

from rich.console import Console
from rich.text import Text

from pilothouse.live.launch import Replica, State

STYLES = {State.READY: "green", State.FAILED: "red"}
EVERY = 5  # of the lines that come once a second, where each stays on the screen


class Progress:
    """Listens to a launcher. In a `with` block, so that the moving line is gone at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._loading: dict[str, str] = {}
        self._heard: dict[str, int] = {}
        self._moving = console.status("") if console.is_terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._moving:
            self._moving.stop()

    def changed(self, replica: Replica) -> None:
        """A replica's state is another one."""
        self._loading.pop(replica.name, None)
        self._heard[replica.name] = 0
        text = Text(f"{replica.name}: {replica.state}", style=STYLES.get(replica.state, "yellow"))
        text.append(f": {replica.why}" if replica.why else "", style="default")
        self._console.print(text, soft_wrap=True)
        self._move()

    def line(self, replica: Replica, line: str) -> None:
        """How loading goes; once a second."""
        if self._moving:
            self._loading[replica.name] = line
            return self._move()
        heard = self._heard[replica.name] = self._heard.get(replica.name, 0) + 1
        if heard % EVERY == 0:
            self._console.print(line, style="dim", markup=False, highlight=False, no_wrap=True, overflow="ellipsis")

    def _move(self) -> None:
        if not self._moving:
            return
        if not self._loading:
            return self._moving.stop()
        lines = "\n  ".join(self._loading.values())
        self._moving.update(Text(lines, style="dim", no_wrap=True, overflow="ellipsis"))
        self._moving.start()
