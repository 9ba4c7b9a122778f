"""seodang teaches a base language model to answer in a field, and proves what that cost."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seodang.__version__ import __version__ as __version__

if TYPE_CHECKING:
    from seodang.blending import alpha_curve as alpha_curve
    from seodang.blending import blend as blend
    from seodang.pipeline import demo as demo
    from seodang.pipeline import init as init
    from seodang.pipeline import inspect as inspect
    from seodang.pipeline import prove as prove
    from seodang.pipeline import tune as tune
    from seodang.publish.hub import push as push
    from seodang.recipe import Recipe as Recipe
    from seodang.recipe import load_recipe as load_recipe
    from seodang.run.folder import Run as Run
    from seodang.serve.langchain import ChatSeodang as ChatSeodang
    from seodang.show.report import report as report

_HOMES = {
    "ChatSeodang": "serve.langchain",
    "Recipe": "recipe",
    "Run": "run.folder",
    "alpha_curve": "blending",
    "blend": "blending",
    "demo": "pipeline",
    "init": "pipeline",
    "inspect": "pipeline",
    "load_recipe": "recipe",
    "prove": "pipeline",
    "push": "publish.hub",
    "report": "show.report",
    "tune": "pipeline",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: `import seodang` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'seodang' has no attribute {name!r}")
    return getattr(import_module(f"seodang.{_HOMES[name]}"), name)
