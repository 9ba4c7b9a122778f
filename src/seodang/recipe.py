"""The recipe: what a run is made from. Frozen models, every key checked, all faults reported at once."""

import copy
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from seodang.errors import RecipeError
from seodang.recipe_file import absolute, fault_lines, is_shipped_template, read_recipe
from seodang.recipe_rules import (
    Amount,
    disagreements,
    file_name,
    is_trained,
    joined_names,
    long_form,
    number_as_text,
    one_or_many,
    overridden,
    refuse_texts,
    shard_fraction_or_rows,
    share_or_rows,
    steps_or_minutes,
    with_shares,
)
from seodang.types import EarlierAnswers, LossOn, SourceRole

RowFormat = Literal["auto", "qa", "alpaca", "messages", "sharegpt", "prompt_completion", "text"]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # that NumPy, torch and transformers all take
Column = Annotated[str, AfterValidator(lambda name: unicodedata.normalize("NFC", name.strip()))]  # as rows name it
Columns = Annotated[Column, BeforeValidator(joined_names)]
FileName = Annotated[str, AfterValidator(file_name)]


class Part(BaseModel):
    """A section of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(Part):
    """The base model."""

    path: str = Field(description="folder, hub id, or package:gemma-3-270m / package:smollm2-135m-instruct")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of weights; auto: float32 masters, with bf16 compute where the hardware is fast at it"
    )
    device: str = Field("auto", description="where to compute: auto, cpu, cuda, cuda:0 or mps")
    attention: Literal["auto", "packed", "padded"] = Field(
        "auto", description="packed: several examples in one row, isolated; padded: one example a row"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")
    allow_lost_tensors: bool = Field(
        False, description="train although tensors of the base that can be neither loaded nor carried over get lost"
    )


class Headers(Part):
    """A plain-text format: the header in front of each turn. The tokenizer's own end of text ends an answer."""

    user: str = Field(pattern=r"\S", description="text before a question, as `### User:\\n`")
    assistant: str = Field(pattern=r"\S", description="text before an answer")
    system: str | None = Field(None, description="text before a system text; none: system texts are refused")
    between: str = Field("\n\n", description="text between two turns")


class Template(Part):
    """Where the chat template comes from when the base tokenizer has none."""

    borrow: str | None = Field(
        None,
        description="built-in name (gemma, llama3, qwen3, chatml, exaone3, exaone4, solar_open, plain), folder, hub id "
        "or .jinja file; none: the tokenizer's own, else the first built-in whose markers the vocabulary has",
    )
    headers: Headers | None = Field(None, description="a plain-text format instead, as `### User:` … `### Assistant:`")
    add_tokens: bool = Field(False, description="add the template's missing markers to the vocabulary and train them")
    earlier_answers: EarlierAnswers = Field(
        "auto",
        description="what becomes of answers that are served behind another prompt than their whole conversation has "
        "there: split (an example of its own for each), context (not supervised), keep (trained as they stand); "
        "auto: split, or keep if that would more than double the tokens",
    )

    @field_validator("borrow")
    @classmethod
    def _name_or_file(cls, borrow: str | None) -> str | None:
        if borrow is not None and re.search(r"\{[{%#]|\n", borrow):
            raise ValueError("this is the text of a template: write it to a .jinja file, and give that file")
        return borrow


class Source(Part):
    """One data source. Holdout is split off first; `take` then thins the training part."""

    name: FileName = Field(pattern=r"^[\w.-]+$", description="what reports and other keys call it")
    role: SourceRole = Field(
        description="domain: the field to learn; general: replayed, so that the rest is not forgotten; "
        "retention: measured only; replay: trained on and reported, with no effect on the verdict"
    )
    path: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(one_or_many)] | None = Field(
        None,
        description="files, folders, patterns (data/**/TL_*.zip), archives (.zip, .gz, .zst), spreadsheets; "
        "sample:NAME is data that ships",
    )
    hub: str | None = Field(None, validate_default=True, description="data set id on the hub")
    config: str | None = Field(None, description="configuration of a hub data set")
    split: str = Field("train", description="split of a hub data set, or of a folder that `save_to_disk` wrote")
    revision: str | None = Field(None, description="branch, tag or commit of a hub data set")
    format: RowFormat = Field("auto", description="how rows are read; auto: by the columns' names")
    question: Columns | None = Field(
        None, description="column; a dotted name (info.question) leads into objects; a list ([title, body]) is joined"
    )
    answer: Columns | None = Field(None, description="column of the answer, written as question is")
    context: Columns | None = Field(None, description="column put before the question, after a blank line in between")
    reasoning: Column | None = Field(None, description="column of the thoughts that led to the answer")
    messages: Column | None = Field(None, description="column of the turns")
    text: Columns | None = Field(None, description="column of plain text, written as question is")
    roles: Mapping[str, Literal["user", "assistant", "system", "tool"]] = Field(
        {}, description="name of a speaker in the data → role: {A: user, B: assistant}"
    )
    merge_turns: bool = Field(False, description="consecutive turns of one role become one")
    encoding: str | None = Field(None, description="where it cannot be recognised: utf-8, cp949, utf-16 …")
    holdout: Annotated[Amount, Field(ge=0), AfterValidator(share_or_rows)] | None = Field(
        None,
        description="share (below 1) or number of rows measured and never trained on; "
        "default 0.05, and every row of a source that is not trained on",
    )
    take: Annotated[str | None, AfterValidator(shard_fraction_or_rows), BeforeValidator(number_as_text)] = Field(
        None, description="of the training rows: a shard such as 1/3, a fraction such as 0.25, or a number of rows"
    )
    train: bool | None = Field(None, validate_default=True, description="default: true, for retention false")

    @field_validator("hub")
    @classmethod
    def _path_or_hub(cls, hub: str | None, info: ValidationInfo) -> str | None:
        if "path" in info.data and (info.data["path"] is None) == (hub is None):
            raise ValueError("give either `path` (files) or `hub` (a data set id)")
        return hub

    @field_validator("train")
    @classmethod
    def _is_used(cls, train: bool | None, info: ValidationInfo) -> bool | None:
        role, holdout = info.data.get("role"), info.data.get("holdout")
        if role and holdout == 0 and not is_trained({"role": role, "train": train}):
            raise ValueError("with `holdout: 0`, an untrained source is not used at all: remove one of the two")
        return train

    @property
    def is_trained(self) -> bool:
        """Whether the training part is trained on; else all that is not held out is left aside."""
        return is_trained({"role": self.role, "train": self.train})

    @property
    def holdout_share(self) -> float:
        """A share below 1, or a whole number of rows; infinity: all rows."""
        if self.holdout is not None:
            return self.holdout
        return 0.05 if self.is_trained else float("inf")


class Split(Part):
    """How holdout rows are chosen."""

    by: Column = Field(
        "question",
        min_length=1,
        description="question: the same question stays in one split; row: as datasets' train_test_split; "
        "or a column's name: rows that share its value stay in one split",
    )
    seed: Seed = Field(42, description="seed of holdout and take")


class Mix(Part):
    """How the sources are joined."""

    seed: Seed = Field(42, description="seed of the shuffles")
    shares: Mapping[str, Annotated[Amount, Field(gt=0)]] | None = Field(
        None, description="source name → share of the training tokens; may stand beside seed: {medical: 0.7, wiki: 0.3}"
    )

    @model_validator(mode="before")
    @classmethod
    def _inline_shares(cls, data: Any) -> Any:
        return with_shares(data) if isinstance(data, Mapping) else data


class EarlyStopping(Part):
    """Stop when the chosen evaluation loss has not improved."""

    patience: Positive = Field(3, description="evaluations without improvement before training stops")
    min_delta: Annotated[float, Field(ge=0)] = Field(0.0, description="smallest improvement, nats per token")


class Adapter(Part):
    """Small trained matrices beside frozen weights, merged into them at the end."""

    kind: Literal["lora", "qlora"] = Field("lora", description="qlora: the frozen weights in 4 bits (NF4); needs CUDA")
    rank: Positive = Field(16, description="rank of the adapter's matrices")
    alpha: Positive | None = Field(None, description="scale: alpha / rank; none: twice the rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout of the adapter's inputs")
    targets: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(one_or_many)] = Field(
        ("auto",), description="names of linear layers such as q_proj; auto or all-linear: all of them but the head"
    )


class Train(Part):
    """Training settings."""

    epochs: Annotated[Amount, Field(gt=0)] = Field(3.0, description="passes over the training rows")
    steps: Positive | None = Field(None, description="optimizer steps; takes the place of epochs")
    examples_per_step: Positive = Field(16, description="examples that make one optimizer step")
    max_tokens: Annotated[int, Field(ge=8)] = Field(1024, description="longest rendered row, in tokens")
    too_long: Literal["drop", "cut_question", "refuse"] = Field(
        "drop", description="what happens to rows above max_tokens; an answer is never cut"
    )
    pack_tokens: Positive | None = Field(
        None, description="token budget of one forward pass; none: by device and the memory that is there"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(2.0e-5, description="peak learning rate, after the warmup")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="shape of the learning rate after the warmup; cosine and linear fall to 0"
    )
    min_learning_rate: Annotated[float, Field(ge=0)] = Field(0.0, description="where the cosine schedule ends")
    warmup: Annotated[Amount, Field(ge=0)] = Field(0.03, description="share of the steps (below 1) or number of steps")
    optimizer: Literal["adamw", "paged_adamw_8bit", "adamw_bf16"] = Field(
        "adamw",
        description="paged_adamw_8bit: 8-bit states; adamw_bf16: half the memory, by bf16 weights and states that are "
        "rounded stochastically; where one cannot be used (CUDA, bitsandbytes, bf16), AdamW is, with a warning",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="weight decay of AdamW, decoupled")
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="largest norm of the gradients")
    loss_on: LossOn = Field(
        "answers", description="supervised tokens: every answer with its turn end, the last answer, or all of the row"
    )
    checkpointing: Literal["auto", "none", "selective", "full"] = Field(
        "auto", description="gradient checkpointing; selective: every second layer; auto: none unless memory is short"
    )
    adapter: Adapter | None = Field(None, description="train an adapter in place of all weights")
    eval_every: Positive | None = Field(None, description="steps between evaluations; none: ten over the run")
    ask_every: Positive | None = Field(
        None, description="steps after which the domain and general questions of `ask` are answered again"
    )
    save_every: Annotated[str | None, AfterValidator(steps_or_minutes), BeforeValidator(number_as_text)] = Field(
        None, description="steps (50) or minutes (10min) between checkpoints; none: one with each evaluation"
    )
    keep_checkpoints: Positive = Field(3, description="checkpoints kept on disk; the newest and the best always stay")
    best_by: str = Field("all", description="all (mean of trained sources), domain_within_tolerance or a source's name")
    early_stopping: EarlyStopping | None = None
    report_to: Annotated[tuple[Literal["wandb", "mlflow", "trackio"], ...], BeforeValidator(one_or_many)] = Field(
        (), description="trackers that get the losses too, beside TensorBoard: wandb, mlflow, trackio"
    )
    seed: Seed = Field(42, description="seed of the row order and of all other randomness in training")

    @property
    def is_four_bit(self) -> bool:
        """Whether the frozen weights are held in 4 bits."""
        return self.adapter is not None and self.adapter.kind == "qlora"

    @field_validator("min_learning_rate")
    @classmethod
    def _below_the_cosine(cls, rate: float, info: ValidationInfo) -> float:
        if rate and (info.data.get("schedule", "cosine") != "cosine" or rate > info.data.get("learning_rate", rate)):
            raise ValueError(f"expected at most learning_rate, with `schedule: cosine`; found {rate:g}")
        return rate


class Generate(Part):
    """Sampling settings. Without a temperature, answers are greedy."""

    max_new_tokens: Positive = Field(256, description="longest answer")
    temperature: Annotated[float | None, Field(ge=0)] = Field(None, description="none or 0: greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="draw from the likeliest tokens that together have this probability"
    )
    top_k: Positive | None = Field(None, description="draw from this many of the likeliest tokens")
    repetition_penalty: Annotated[float, Field(gt=0)] | None = Field(
        None, description="above 1: tokens already in the prompt or answer become less likely"
    )
    seed: Seed = Field(42, description="seed of the sampling")

    @field_validator("temperature")
    @classmethod
    def _zero_is_greedy(cls, temperature: float | None) -> float | None:
        return temperature or None


class Repeat(Part):
    """One question asked many times, always sampled."""

    question: str = Field(description="the question")
    times: Annotated[int, Field(ge=2)] = Field(10, description="how many times it is asked")


class Ask(Part):
    """What base and tuned model are asked before and after."""

    domain: tuple[str, ...] = Field((), description="questions of the field")
    general: tuple[str, ...] = Field((), description="questions of any other kind")
    repeat: Repeat | None = None
    holdout: Annotated[int, Field(ge=0)] = Field(
        32, description="holdout questions of each source that both models answer; fewer than 32 show little"
    )
    holdout_tokens: Positive = Field(128, description="longest answer to a holdout question")
    generate: Generate = Generate()


class Tolerance(Part):
    """How much a loss may rise and still count as kept."""

    general: Annotated[float, Field(ge=0)] = Field(0.05, description="allowed rise on general answers, nats per token")
    retention: Annotated[float, Field(ge=0)] = Field(0.03, description="allowed rise on plain text, bits per byte")


class Prove(Part):
    """How base and tuned model are compared."""

    tolerance: Tolerance = Tolerance()
    quick: bool = Field(False, description="measure fewer rows, and ask fewer questions")


class Judge(Part):
    """Another model, which compares the answers of two models: `seodang judge`."""

    url: str = Field(pattern=r"^https?://[^\s@?#]+$", description="address of an OpenAI-compatible server")
    model: str = Field(pattern=r"\S", description="the judge, as the server names it")
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = Field(
        None, description="name of the environment variable that holds the API key"
    )
    questions: Positive = Field(200, description="most questions whose answers are compared")
    criteria: str | None = Field(
        None,
        description="what makes an answer better; none: a text in the question's language, for medicine with safety",
    )
    max_tokens: Positive = Field(16, description="longest reply; a model that thinks first needs some thousand")


class Save(Part):
    """The tuned model's files."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="dtype of the saved weights, which are the ones measured; auto: as trained"
    )


ReportLanguage = Literal["auto", "en", "ko"]


class Report(Part):
    """How a run is shown to people."""

    language: ReportLanguage = Field(
        "auto", description="language of report and model card; auto: Korean where most questions are"
    )


class Recipe(Part):
    """One run, from sources to report."""

    name: FileName = Field(pattern=r"^[\w.-]+$", description="name of the run; its folder is runs/NAME")
    model: Model
    template: Template = Template()
    system: str | None = Field(None, description="one system text for training and serving alike")
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    split: Split = Split()
    mix: Mix = Mix()
    train: Train = Train()
    ask: Ask = Ask()
    prove: Prove = Prove()
    judge: Judge | None = None
    save: Save = Save()
    report: Report = Report()

    @model_validator(mode="wrap")
    @classmethod
    def _sections_agree(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """What concerns two sections is checked even where a key is at fault, so that nothing is reported late."""
        faults: list[InitErrorDetails] = []
        try:
            recipe = handler(long_form(data) if isinstance(data, Mapping) else data)
        except ValidationError as error:
            faults = [
                InitErrorDetails(type=one["type"], loc=one["loc"], input=one["input"], ctx=one.get("ctx", {}))
                for one in error.errors()
            ]
        faults.extend(disagreements(data if faults else dict(recipe)))
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return recipe


def load_recipe(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; its paths become absolute: they are relative to its file (a mapping's: to where one is).

    Args:
        recipe: a YAML file, the name of a recipe that ships (`demo`), or a mapping.
        overrides: `KEY=VALUE` pairs with dotted keys, values read as YAML: `train.steps=20`, `sources.a.take=9`.

    Raises:
        RecipeError: every fault at once, each with its key and what was found.
    """
    if isinstance(recipe, Mapping):
        where, data, folder = "recipe", dict(copy.deepcopy(recipe)), Path.cwd()
    else:
        where, data, folder = read_recipe(recipe)
    refuse_texts(data, overrides, where)
    data, faults = overridden(data, overrides)
    try:
        checked = Recipe.model_validate(data)
    except ValidationError as error:
        faults.extend(fault_lines(error, data, Recipe))
    if faults:
        raise RecipeError(faults, where=where, hint="fix these keys and rerun")
    return _absolute(checked, folder)


def _absolute(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with paths that hold from anywhere, also from the run folder that it is written to."""

    def source(part: Source) -> Source:
        return part.model_copy(update={"path": part.path and tuple(absolute(path, folder) for path in part.path)})

    model, template = recipe.model, recipe.template
    if template.borrow and not is_shipped_template(template.borrow):
        borrow = absolute(template.borrow, folder, if_there=True)
        template = template.model_copy(update={"borrow": borrow})
    model = model.model_copy(update={"path": absolute(model.path, folder, if_there=True)})
    sources = tuple(source(part) for part in recipe.sources)
    return recipe.model_copy(update={"sources": sources, "model": model, "template": template})
