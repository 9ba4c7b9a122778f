"""Packages that only some calls need: whether one is installed, and the command that installs it."""

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Whether a package can be imported; a folder of its name without Python code, such as wandb's own, is none.

    `find_spec` alone takes a folder `wandb`, `mlflow` or `gguf` beside the data for the package of that name.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def install_command(*extras: str) -> str:
    """The command that adds extras of pyproject.toml; in double quotes, which every shell understands, Windows' too."""
    return f'pip install "seodang[{",".join(extras)}]"'
