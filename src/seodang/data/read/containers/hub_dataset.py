"""A data set on the hub, or one that `datasets` reads from a folder as it would from there → raw rows."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seodang.data.read.arrow_values import ArrowRows
from seodang.data.read.raw_rows import RawRow, RawRows, column_name
from seodang.errors import HubError, SourceError, first_line
from seodang.hub_access import contact
from seodang.recipe import Source
from seodang.user_paths import expanded, is_folder

BATCH_ROWS = 512  # decoded at a time
MEDIA = frozenset({"Audio", "Image", "Video", "Pdf"})  # features that are decoded at a price


def find_dataset(source: Source) -> str:
    """What `datasets` is asked for: an id on the hub that may be read from here, or a folder that is written as a path.

    Raises:
        SourceError: neither; `datasets` would take the name of one of its readers, or of a folder that happens to lie
            in the working folder, for an id.
        HubError: the hub does not have it, does not let this user read it, or cannot be reached.
    """
    hub = source.hub or ""
    where = f"hub:{hub[:100]}"
    if hub.startswith((".", "~", "/")) and "\0" not in hub and Path(hub).name not in ("", ".."):
        if not is_folder(expanded(hub)):
            hint = "check the path; a data set on the hub is written as OWNER/NAME"
            raise SourceError("no such folder", where=where, hint=hint)
        return str(expanded(hub).resolve())
    if hub in _formats():
        what = f"{hub} is the name of a file format, not of a data set"
        raise SourceError(what, where=where, hint="name your files under `path:`, or give an id such as OWNER/NAME")
    if not contact.HUB_ID.fullmatch(hub):
        raise SourceError(
            "not a data set id", where=where, hint="give an id such as OWNER/NAME, or name files under `path:`"
        )
    if is_folder(Path(hub)):
        what = "there is a folder of this name here, which would be read instead of the hub"
        raise SourceError(what, where=where, hint=f"write `hub: ./{hub}` if you mean the folder, else rename it")
    contact.require(hub, "dataset", revision=source.revision, instead=_instead(source))
    return hub


def hub_fingerprint(source: Source) -> str:
    """What `datasets` calls the data set that it finds: another revision or split is called otherwise.

    Raises:
        SourceError: it cannot be found.
        HubError: the hub does not have it, does not let this user read it, or cannot be reached.
    """
    return str(_load(source)._fingerprint)


def read_hub(source: Source) -> RawRows:
    """The rows of a source that names a data set.

    Raises:
        SourceError: it cannot be found, or has no such split or configuration.
        HubError: the hub does not have it, does not let this user read it, or cannot be reached.
    """
    where, table = f"hub:{source.hub}", _load(source)
    remarks: list[str] = []
    if why := contact.why_offline():
        remarks.append(f"the copy that was downloaded earlier is read: the hub is not asked ({why})")
    media = [name for name, feature in table.features.items() if type(feature).__name__ in MEDIA]
    if media:
        table = table.remove_columns(media)
    if table.info.builder_name in ("csv", "pandas"):
        remarks.append(
            "the hub's CSV reader guesses types (007 becomes 7): download the file and name its path to avoid it"
        )

    def rows() -> Iterator[RawRow]:
        reader = ArrowRows(where, table.features.arrow_schema)
        row = 1
        for batch in table.with_format("arrow").iter(batch_size=BATCH_ROWS):
            yield from reader.read(batch, row)
            row += len(batch)

    return RawRows(
        where=where,
        columns=tuple(map(column_name, table.column_names)),
        rows=rows,
        remarks=tuple(remarks),
        media=tuple(map(column_name, media)),
    )


def _load(source: Source) -> Any:
    name = find_dataset(source)
    import datasets

    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()  # that the hub is not asked is a remark
    try:
        with contact.quiet_retries():
            return datasets.load_dataset(name, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # `datasets` and the readers below it raise all kinds
        raise _explained(error, source) from None
    finally:
        datasets.logging.set_verbosity(verbosity)


def _explained(error: Exception, source: Source) -> SourceError | HubError:
    where, text = f"hub:{source.hub}", str(error)
    if of_hub := contact.explained(
        error, source.hub or "", "dataset", revision=source.revision, instead=_instead(source)
    ):
        return of_hub
    if "Unknown split" in text:
        hint = "give one of these as `split:`"
    elif "onfig" in text:
        hint = "give one of these as `config:`"
    else:
        hint = "check the id on https://huggingface.co/datasets, and `config:`, `split:` and `revision:`"
    return SourceError(first_line(error), where=where, hint=hint)


def _instead(source: Source) -> str:
    """What to do without the hub."""
    key = f"sources.{source.name}"
    return f"download its files and set {key}.hub=null {key}.path=/path/to/files, in the recipe or behind the command"


def _formats() -> set[str]:
    """The names of the formats that `datasets` reads; looked up without importing it, which takes seconds."""
    spec = find_spec("datasets")
    folders = [Path(place) / "packaged_modules" for place in (spec and spec.submodule_search_locations) or ()]
    return {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
