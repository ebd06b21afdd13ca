"""One import as tasks: `import_dataset` splits the file, `import_chunk` loads its parts, `summarise` counts.

Any of them may be delivered twice; `workers.demo.storage` makes that harmless. The import's id comes from the
submitter, who can so follow an import that no worker has taken yet.
"""

from pathlib import Path

from celery import chord, shared_task

from seawall import CommitUnknown, DatabaseUnavailable, Priority, Retry, policy
from workers.demo import storage
from workers.demo.datasets import DATASETS, records

# A commit of unknown fate may be tried again here: every statement of the demo may be repeated.
_PASSING = (DatabaseUnavailable, CommitUnknown, ConnectionError, TimeoutError)
_RETRY = Retry(max_attempts=5, base=0.5, cap=10, on=_PASSING)


@shared_task(name="demo.import_dataset")
@policy(priority=Priority.HIGH, timeout=60, retry=_RETRY)
def import_dataset(import_id: str, dataset: str, chunk_rows: int, path: str | None = None) -> int:
    """Start importing the dataset's file, or one of its shape at `path`; returns the number of chunks."""
    rows = sum(1 for _ in records(_file(dataset, path)))
    chunks = -(-rows // chunk_rows)
    storage.begin(import_id, DATASETS[dataset], rows=rows, chunks=chunks)
    parts = [import_chunk.si(import_id, dataset, chunk, chunk_rows, path) for chunk in range(chunks)]
    end = summarise.si(import_id, dataset)
    (chord(parts, end) if parts else end).apply_async()
    return chunks


@shared_task(name="demo.import_chunk")
@policy(timeout=120, retry=_RETRY)
def import_chunk(import_id: str, dataset: str, chunk: int, chunk_rows: int, path: str | None = None) -> int:
    """Load the rows of one chunk (chunks count from 0); returns how many were rejected."""
    target = DATASETS[dataset]
    good: list[storage.Good] = []
    rejects: list[storage.Reject] = []
    for row in records(_file(dataset, path), first=chunk * chunk_rows + 1, count=chunk_rows):
        try:
            good.append((row, target.values(row)))
        except ValueError as exc:
            rejects.append((row, str(exc)))
    return storage.load(import_id, target, chunk, good, rejects)


@shared_task(name="demo.summarise")
@policy(priority=Priority.HIGH, timeout=60, retry=_RETRY)
def summarise(import_id: str, dataset: str) -> None:
    """Write the totals of an import whose chunks are done."""
    storage.finish(import_id, DATASETS[dataset])


def _file(dataset: str, path: str | None) -> Path:
    return Path(path) if path else DATASETS[dataset].path
