"""An application with one task that leaks, for `seawall memory profile`."""

from seawall import Seawall

app = Seawall("leaky", set_as_current=False)
kept: list[bytearray] = []


@app.task(name="leaky.leak", shared=False)
def leak(size: int = 50_000) -> int:
    kept.append(bytearray(size))  # the line that leaks
    return len(bytes(size))


@app.task(name="leaky.clean", shared=False)
def clean() -> int:
    return len(bytes(100_000))
