"""A finished run → a model repository on the hub: files, tokenizer, template and card, in one commit.

Before anything is sent, everything that would be is searched for secrets and personal paths. The hub's own login is
used; no token is asked for, kept or passed on.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from seodang.__version__ import __version__
from seodang.errors import HubError, RunError, first_line
from seodang.publish.base_model import GEMMA_NOTICE, BaseTerms, find_base, is_local
from seodang.publish.card import TAG, card
from seodang.publish.files import CARD, KOREAN_CARD, File, outgoing
from seodang.recipe import Recipe, load_recipe
from seodang.run.evidence import Evidence, read_evidence
from seodang.run.folder import DROPPED, MANIFEST, METRICS, PROOF, RECIPE, SAMPLES, Run
from seodang.secrets import Leak, leaks, own_secrets, refuse
from seodang.show.formatting import plural, size, visible
from seodang.show.language import texts_in
from seodang.show.report import proof_of
from seodang.show.terminal.console import get_console

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from rich.console import Console

# What transformers would load instead of, or together with, the new files if an earlier push left it there.
LOADED = ("model*.safetensors*", "pytorch_model*", "adapter_model.*", "adapter_config.json", "chat_template.*")
NOT_IN_CARD = (METRICS, DROPPED, SAMPLES)  # nothing of these stands in a card
LOGIN = "hf auth login (with a token that may write: https://huggingface.co/settings/tokens)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What was sent, or would be."""

    repo: str
    url: str
    private: bool
    files: tuple[File, ...]  # the card included
    left: tuple[str, ...]  # names in the model's folder that are not for others
    card: str
    remarks: tuple[str, ...]  # sentences for the user
    removed: tuple[str, ...] = ()  # files of an earlier push that would be loaded in place of the new ones
    commit: str | None = None  # its address; None: nothing was sent


def push(run: Path, repo: str, *, private: bool = False, adapter: bool = False, dry_run: bool = False) -> Pushed:
    """Upload a run's model with a card made from its evidence, in one commit.

    Args:
        run: a run's folder.
        repo: NAMESPACE/NAME, or a NAME of the user's own. It is made if it is not there; one that holds a model that
            was not pushed by seodang is left alone.
        private: nobody else may see it; refused where the repository is public already.
        adapter: upload the run's adapter instead of the whole model.
        dry_run: only look and report what would go; no network.

    Raises:
        RunError: no finished run.
        GateError: a secret or personal path would be published.
        HubError: no login, no right, no network, or a repository that must not be written over.
    """
    ready = _prepare(run, repo, private=private, adapter=adapter)
    return ready if dry_run else _send(ready, run, adapter=adapter)


def show_push(pushed: Pushed, *, out: "Console | None" = None) -> None:
    """What went, or would go, with its sizes; the whole card only where nothing was sent."""
    out = out or get_console()
    total = size(sum(file.num_bytes for file in pushed.files))
    what = "sent" if pushed.commit else "would be sent; nothing was"
    out.print(f"{plural(len(pushed.files), 'file')}, {total}, {what}: {pushed.url}")
    width = max(len(file.name) for file in pushed.files)
    for file in pushed.files:
        out.print(f"  {visible(file.name):<{width}}  {size(file.num_bytes):>9}")
    for name in pushed.removed:
        out.print(f"  {visible(name)} of an earlier push removed")
    for name in pushed.left:
        out.print(f"  {visible(name)} stays here")
    for remark in pushed.remarks:
        out.print(f"! {visible(remark)}", soft_wrap=True)
    out.print(pushed.commit if pushed.commit else f"\n{CARD}:\n\n{visible(pushed.card)}", soft_wrap=True)


def _prepare(run: Path, repo: str, *, private: bool, adapter: bool) -> Pushed:
    """Everything that can be done without a network."""
    try:
        hf_hub_url(repo, CARD)  # checks the id; no network
    except HFValidationError as error:
        raise HubError(str(error), where=repo, hint="give NAMESPACE/NAME, such as my-name/my-model") from None
    evidence, recipe = _evidence(run)
    files, left = outgoing(run, adapter=adapter)
    base = find_base(recipe.model.path, (evidence.manifest and evidence.manifest.model.architecture) or "")
    remarks = _remarks(evidence, base)
    if adapter:
        files, more = _portable_adapter(files, base)
        remarks += more
    if base.is_gemma and not any(file.name.startswith("NOTICE") for file in files):
        files += (File(name="NOTICE", content=f"{GEMMA_NOTICE}\n".encode()),)  # those terms ask for it with every copy
    shown: dict[str, Any] = {"repo": repo, "adapter": adapter, "has_template": Run(folder=run).has_template}
    text, korean = (card(evidence, recipe, base, texts_in(language), **shown) for language in ("en", "ko"))
    files += (File(name=CARD, content=text.encode()), File(name=KOREAN_CARD, content=korean.encode()))
    refuse(_leaks(run, files), str(run))
    return Pushed(repo=repo, url=_url(repo), private=private, files=files, left=left, card=text, remarks=tuple(remarks))


def _evidence(run: Path) -> tuple[Evidence, Recipe]:
    evidence = read_evidence(run)
    for name in (RECIPE, MANIFEST):
        if name in evidence.missing:
            raise RunError(f"holds no {name}", where=str(run), hint="give a folder that `seodang tune` wrote")
    if damaged := [what for what in evidence.damaged if not what.startswith(NOT_IN_CARD)]:
        raise RunError(
            f"no model card can be written: {damaged[0]}", where=str(run), hint=f"seodang prove {run}, then push"
        )
    refuse(leaks(RECIPE, run / RECIPE, {}, paths=False), str(run))  # with its line; loading it would refuse it, too
    proof_of(evidence, where=str(run / PROOF))
    return evidence, load_recipe(run / RECIPE)


def _remarks(evidence: Evidence, base: BaseTerms) -> list[str]:
    remarks = []
    if evidence.proof is None:
        remarks.append("this run has no proof: its card states that nothing was measured")
    if not base.license:
        remarks.append(f"the licence of {base.name} is not known here: state it in the card")
    return remarks


def _portable_adapter(files: Sequence[File], base: BaseTerms) -> tuple[tuple[File, ...], list[str]]:
    """The adapter's settings with a base that others can load; peft writes the path of this machine."""
    changed, remarks = [], []
    for file in files:
        if file.name == "adapter_config.json" and isinstance(file.content, Path):
            settings = json.loads(file.content.read_text(encoding="utf-8"))
            path = str(settings.get("base_model_name_or_path") or "")
            if is_local(path):
                settings["base_model_name_or_path"] = base.name
                file = replace(file, content=json.dumps(settings, ensure_ascii=False, indent=2).encode())
                if base.hub != base.name:
                    remarks.append(
                        f"the adapter's base {base.name} is not on the hub: others cannot load it; push it too"
                    )
        changed.append(file)
    return tuple(changed), remarks


def _leaks(run: Path, files: Sequence[File]) -> list[Leak]:
    """In everything that would be sent, and in the recipe that the card shows."""
    own = own_secrets(os.environ) | _login()
    found = leaks(RECIPE, run / RECIPE, own, paths=False)  # its paths are shortened in the card
    known, cards = {leak.masked for leak in found}, (CARD, KOREAN_CARD)
    for file in files:
        found += [
            leak for leak in leaks(file.name, file.content, own) if file.name not in cards or leak.masked not in known
        ]
    return found


def _login() -> dict[str, bytes]:
    """The login that `hf auth login` stored; read as a file, because the hub's own function may use the network."""
    path = Path(constants.HF_TOKEN_PATH)
    token = path.read_bytes().strip() if path.is_file() else b""
    return {"the hub's login": token} if token else {}


def _send(ready: Pushed, run: Path, *, adapter: bool) -> Pushed:
    api = HfApi(library_name="seodang", library_version=__version__)
    try:
        if get_token() is None:
            raise HubError("there is no login for the hub", where=ready.url, hint=LOGIN)
        if "/" not in ready.repo:
            ready = _with_namespace(ready, run, api.whoami()["name"], adapter=adapter)
        # None rather than False: an organisation may make its repositories private by default
        api.create_repo(ready.repo, private=True if ready.private else None, exist_ok=True)
        removed = _to_remove(api.model_info(ready.repo), ready)
        operations = [CommitOperationDelete(path_in_repo=name) for name in removed]
        done = api.create_commit(
            ready.repo,
            operations=[
                *operations,
                *(CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.content) for file in ready.files),
            ],
            commit_message=f"{run.name}, pushed by seodang",
        )
    except HubError:
        raise
    except Exception as error:  # the client raises what its transports raise: HTTP, socket, LFS and Xet errors alike
        raise _failure(error, ready.repo) from error
    return replace(ready, removed=tuple(removed), commit=done.commit_url)


def _with_namespace(ready: Pushed, run: Path, name: str, *, adapter: bool) -> Pushed:
    return _prepare(run, f"{name}/{ready.repo}", private=ready.private, adapter=adapter)


def _to_remove(found: "ModelInfo", ready: Pushed) -> list[str]:
    """Files of an earlier push that would be loaded in place of the new ones.

    Raises:
        HubError: the repository is not one that may be written to.
    """
    if ready.private and not found.private:
        raise HubError(
            "the repository is there and public; nothing was sent",
            where=ready.url,
            hint=f"make it private ({ready.url}/settings), or give another name",
        )
    names = [sibling.rfilename for sibling in found.siblings or ()]
    loaded = [name for name in names if any(Path(name).match(pattern) and "/" not in name for pattern in LOADED)]
    if loaded and TAG not in (found.tags or ()):
        raise HubError(
            f"the repository holds a model that seodang did not push ({loaded[0]}); nothing was sent",
            where=ready.url,
            hint="give another name, or delete the files of that model on the hub first",
        )
    new = {file.name for file in ready.files}
    return [name for name in loaded if name not in new]


def _url(repo: str) -> str:
    return f"{constants.ENDPOINT}/{repo}"


def _failure(error: Exception, repo: str) -> HubError:
    """One message for whatever the hub's client raised."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    if cause is not None:
        return _refused(cause, repo)
    if isinstance(error, OfflineModeIsEnabled):
        return HubError("HF_HUB_OFFLINE is set", where=_url(repo), hint="unset HF_HUB_OFFLINE and push again")
    return HubError(
        f"the upload failed: {first_line(error)}",
        where=_url(repo),
        hint="check the network and push again: large files that arrived are not sent twice",
    )


def _refused(error: HfHubHTTPError, repo: str) -> HubError:
    status = error.response.status_code
    reason = f" ({(error.server_message or '').splitlines()[0]})" if error.server_message else ""
    in_the_way = "unset HF_TOKEN, which goes before a login, and " if os.environ.get("HF_TOKEN") else ""
    known = {
        400: ("the hub refuses what was sent", "look at the message; the card is shown by --dry-run"),
        401: ("the hub does not know this login, or there is none", f"{in_the_way}{LOGIN}"),
        403: ("this login has no right to write there", f"give a REPO of your own, or {in_the_way}{LOGIN}"),
        404: ("there is no such repository or name, or this login may not see it", f"check REPO, or {LOGIN}"),
        429: ("the hub asks to wait", "push again later"),
    }
    what, hint = known.get(status, (f"the hub answered {status}", "push again later: nothing half-sent is visible"))
    return HubError(f"{what}{reason}", where=_url(repo), hint=hint)
