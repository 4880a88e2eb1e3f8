"""jobspec.spec.builder: specs from options."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspec.errors import SpecError
from jobspec.spec import identity, parsing
from jobspec.spec import schema as specs
from jobspec.spec.builder import Request, build, missing_data, parse_sweep, spell_rate, write
from jobspec.spec.schema import JobSpec


def one(*settings: str, model: str = "Qwen/Qwen3-8B", **options: object) -> JobSpec:
    return build(Request(models=[model], settings=settings, **options))[0]  # type: ignore[arg-type]


def test_a_model_alone_makes_the_run_to_be_reproduced() -> None:
    spec = one(model="allenai/Olmo-3-7B-Think")
    assert spec.name == "olmo-3-7b-think-lr1e-5"
    assert spec.train == specs.TrainSpec(packing="auto", gradient_checkpointing="auto")
    assert spec.eval == specs.EvalSpec()
    assert spec.data is not None and spec.data.path == "data/train.jsonl"


def test_a_spec_is_written_whole() -> None:
    written = identity.canonical(one()).decode()
    fields = {
        f
        for kind in (specs.TrainSpec, specs.EvalSpec, specs.DataSpec)
        for f in kind.__struct_fields__
    }
    # Fields that came later are left out at their default, so that ids stay as they are.
    later = {"sequence_parallel", "format", "ignore_fields", "sources", "allow_contaminated"}
    later |= {"torch_compile", "precision", "kv_cache_dtype", "enable_prefix_caching", "stop_rule"}
    later |= {"share", "deterministic"}
    assert {field for field in fields if f'"{field}"' not in written} == later


@pytest.mark.parametrize(
    ("model", "temperature", "top_p", "top_k"),
    [
        ("Qwen/Qwen3-8B", 0.6, 0.95, 20),
        ("Qwen/Qwen3-4B-Instruct-2507", 0.7, 0.8, 20),
        ("allenai/Olmo-3-7B-Think", 0.6, 0.95, None),
        ("allenai/Olmo-3-7B-Instruct", 0.6, 0.95, None),
        ("/scratch/me/models/Qwen3-8B/", 0.6, 0.95, 20),
        ("meta/other", 0.6, 0.95, None),
    ],
)
def test_a_familys_published_sampling(
    model: str, temperature: float, top_p: float, top_k: int | None
) -> None:
    evaluation = one(model=model).eval
    assert evaluation is not None
    assert (evaluation.temperature, evaluation.top_p, evaluation.top_k) == (
        temperature,
        top_p,
        top_k,
    )


def test_several_models_and_rates_make_their_grid() -> None:
    built = build(
        Request(models=["Qwen/Qwen3-8B", "allenai/Olmo-3-7B-Think"], learning_rates=[1e-5, 5e-6])
    )
    assert [spec.name for spec in built] == [
        "qwen3-8b-lr1e-5",
        "qwen3-8b-lr5e-6",
        "olmo-3-7b-think-lr1e-5",
        "olmo-3-7b-think-lr5e-6",
    ]
    assert [spec.train.learning_rate for spec in built if spec.train] == [1e-5, 5e-6] * 2


def test_a_name_for_one_spec_is_taken_as_it_is() -> None:
    assert one(name="mine", learning_rates=[3e-6]).name == "mine"
    assert one(name="mine", smoke=True).name == "mine"
    assert one(name="mine", learning_rates=[1e-5, 2e-5], train=False).name == "mine"


def test_a_name_for_a_grid_is_a_prefix() -> None:
    built = build(Request(models=["a/b"], learning_rates=[1e-5, 2e-5], name="sweep"))
    assert [spec.name for spec in built] == ["sweep-b-lr1e-5", "sweep-b-lr2e-5"]


def test_two_specs_of_one_name_are_refused() -> None:
    with pytest.raises(SpecError, match="two specs of the grid would be named `b-lr1e-5`"):
        build(Request(models=["a/b", "c/b"]))


def test_smoke_is_small_and_says_so() -> None:
    spec = one(smoke=True)
    assert spec.name == "qwen3-8b-lr1e-5-smoke"
    assert spec.train is not None and spec.eval is not None and spec.data is not None
    assert (spec.train.num_train_epochs, spec.train.max_length) == (1, 1024)
    assert (spec.data.max_train_samples, spec.data.max_dropped_frac) == (64, 1)
    assert (spec.eval.limit, spec.eval.avg_k, spec.eval.max_gen_toks) == (2, 2, 512)
    assert spec.eval.top_k == 20


def test_options_override_smoke_and_settings_override_options() -> None:
    spec = one("train.num_train_epochs=3", smoke=True, epochs=2)
    assert spec.train is not None and spec.train.num_train_epochs == 3
    assert one(smoke=True, epochs=2).train.num_train_epochs == 2  # type: ignore[union-attr]


def test_no_train_scores_the_model_as_it_is() -> None:
    spec = one(train=False, learning_rates=[1e-5, 5e-6])
    assert (spec.name, spec.train, spec.data) == ("qwen3-8b-base", None, None)
    assert one("train=null").data is None


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("train.seed=7", ("train", "seed"), 7),
        ("train.learning_rate=2e-6", ("train", "learning_rate"), 2e-6),
        ("train.gradient_checkpointing=false", ("train", "gradient_checkpointing"), False),
        ("train.lora.r=8", ("train", "lora", "r"), 8),
        ('eval.benchmarks=["aime24"]', ("eval", "benchmarks"), ("aime24",)),
        ("eval.overrides.aime24.avg_k=4", ("eval", "overrides"), None),
        ("model.revision=1234567", ("model", "revision"), "1234567"),
        ("model.revision=main", ("model", "revision"), "main"),
        ("notes=a = b", ("notes",), "a = b"),
        ("eval.top_k=null", ("eval", "top_k"), None),
        ("name=x-1", ("name",), "x-1"),
    ],
)
def test_set_reads_json_and_else_text(setting: str, place: tuple[str, ...], value: object) -> None:
    found: object = one(setting)
    for name in place:
        found = getattr(found, name)
    if place == ("eval", "overrides"):
        assert found == {"aime24": specs.BenchmarkOverrides(avg_k=4)}
    else:
        assert found == value


@pytest.mark.parametrize(
    ("setting", "place", "hint"),
    [
        ("train.num_train_epoch=1", "$.train", "num_train_epochs"),
        ("trian.seed=1", "$", "train"),
        ("train.learning_rate=-1", "$.train.learning_rate", "schema"),
        ("train.learning_rate=fast", "$.train.learning_rate", "schema"),
        ("train.zero_stage=1", "$.train.zero_stage", "choose one of `0`, `2`, `3`"),
        ("train.per_device_train_batch_size=3", "$.train.global_batch_size", "fixed"),
        ("eval.benchmarks=aime24", "$.eval.benchmarks", "schema"),
    ],
)
def test_a_wrong_setting_is_named_with_a_hint(setting: str, place: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        one(setting)
    assert caught.value.place == place
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("setting", ["train.seed", "=3", "train..seed=1", ""])
def test_a_setting_that_is_none(setting: str) -> None:
    with pytest.raises(SpecError, match="not of the form"):
        one(setting)


def test_data_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBSPEC_DATA", "/scratch/traces.jsonl")
    assert one().data == specs.DataSpec(path="/scratch/traces.jsonl")
    assert one(data="here.jsonl").data == specs.DataSpec(path="here.jsonl")


def test_missing_data_is_said_but_refuses_nothing(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    assert str(data) in (missing_data(one(data=str(data))) or "")
    data.touch()
    assert missing_data(one(data=str(data))) is None
    assert missing_data(one(train=False)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl", {"path": "a.jsonl"}),
        ("a.jsonl:2", {"path": "a.jsonl", "repeat": 2.0}),
        ("a.jsonl:1.5", {"path": "a.jsonl", "repeat": 1.5}),
        ("a.jsonl:30%", {"path": "a.jsonl", "weight": 30.0}),
        ("math=data/a.jsonl.gz:0.5", {"name": "math", "path": "data/a.jsonl.gz", "repeat": 0.5}),
        ("./x=1/a:b.jsonl", {"path": "./x=1/a:b.jsonl"}),
        ("a.jsonl:two", {"path": "a.jsonl:two"}),
    ],
)
def test_a_source_has_a_name_a_file_and_a_share(text: str, expected: dict[str, object]) -> None:
    (source,) = one(sources=[text]).data.sources  # type: ignore[union-attr] - it trains
    assert source == specs.SourceSpec(**expected)  # type: ignore[arg-type]


def test_sources_take_the_place_of_the_data_file() -> None:
    mixed = one(sources=["a.jsonl", "b.jsonl"], smoke=True).data
    assert mixed is not None and mixed.path is None and mixed.max_train_samples == 64
    by_setting = one('data.sources=[{"path": "a.jsonl"}, {"path": "b.jsonl"}]').data
    assert by_setting is not None
    assert (by_setting.path, by_setting.sources) == (None, mixed.sources)
    with pytest.raises(SpecError, match="both --data and --source"):
        one(sources=["a.jsonl"], data="b.jsonl")
    with pytest.raises(SpecError, match="both are given"):
        one('data.sources=[{"path": "a"}]', "data.path=b")
    with pytest.raises(SpecError, match="also named `a`"):
        one(sources=["a.jsonl", "other/a.jsonl"])
    with pytest.raises(SpecError, match="has no `weight`"):
        one(sources=["a.jsonl:70%", "b.jsonl:2"])
    with pytest.raises(SpecError, match=r"> 0") as caught:
        one(sources=["a.jsonl:0"])
    assert caught.value.place == "$.data.sources[0].repeat"
    assert "`a.jsonl`" in (missing_data(one(sources=["a.jsonl", "b.jsonl"])) or "")


def test_write_is_repeatable_and_never_overwrites(tmp_path: Path) -> None:
    spec, other = one(), one(epochs=3)
    assert write([spec], tmp_path / "specs") == [(tmp_path / "specs" / f"{spec.name}.json", True)]
    assert write([spec], tmp_path / "specs")[0][1] is False
    with pytest.raises(SpecError, match="immutable") as caught:
        write([other], tmp_path / "specs")
    assert caught.value.hint
    assert parsing.load(tmp_path / "specs" / f"{spec.name}.json") == spec


def test_of_a_grid_all_are_written_or_none(tmp_path: Path) -> None:
    first, second = build(Request(models=["a/b"], learning_rates=[1e-5, 2e-5]))
    (tmp_path / f"{second.name}.json").write_text("{}")
    with pytest.raises(SpecError):
        write([first, second], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{second.name}.json"]


@pytest.mark.parametrize(
    ("rate", "spelled"),
    [
        (1e-5, "1e-5"),
        (5e-6, "5e-6"),
        (2.5e-6, "2.5e-6"),
        (0.001, "1e-3"),
        (3e-4, "3e-4"),
        (1, "1e0"),
    ],
)
def test_rates_are_spelled_as_people_do(rate: float, spelled: str) -> None:
    assert spell_rate(rate) == spelled


def test_a_sweep_makes_a_spec_of_each_value_and_names_it() -> None:
    sweeps = ("train.seed=1,2", "train.lr_scheduler_type=cosine,linear")
    built = build(Request(models=["m"], learning_rates=[1e-5, 5e-6], sweeps=sweeps))
    assert [spec.name for spec in built][:3] == [
        "m-lr1e-5-seed1-lr_scheduler_typecosine",
        "m-lr1e-5-seed1-lr_scheduler_typelinear",
        "m-lr1e-5-seed2-lr_scheduler_typecosine",
    ]
    assert len(built) == 8
    trained = [spec.train for spec in built if spec.train is not None]
    assert {(t.seed, t.lr_scheduler_type) for t in trained} == {
        (1, "cosine"), (1, "linear"), (2, "cosine"), (2, "linear"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("train.weight_decay=0.1,0", ["train.weight_decay=0.1", "train.weight_decay=0"]),
        ('train.lora=null,{"r":8}', ["train.lora=null", 'train.lora={"r":8}']),
        ('eval.benchmarks=["aime24"],["aime25","aime24"]',
         ['eval.benchmarks=["aime24"]', 'eval.benchmarks=["aime25","aime24"]']),
        ("model.revision=main, v2", ["model.revision=main", "model.revision=v2"]),
    ],
)  # fmt: skip
def test_the_values_of_a_sweep_are_json_or_text(text: str, settings: list[str]) -> None:
    assert parse_sweep(text) == settings


@pytest.mark.parametrize("text", ["train.seed", "=1,2", "train.seed=", "train.seed=1,,x"])
def test_a_sweep_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is not of the form"):
        parse_sweep(text)


def test_swept_learning_rates_are_named_as_the_option_names_them() -> None:
    built = build(Request(models=["m"], sweeps=["train.learning_rate=1e-5,5e-6"]))
    assert [spec.name for spec in built] == ["m-lr1e-5", "m-lr5e-6"]


@pytest.mark.parametrize(
    "setting", ["train.use_liger_kernel=true", "train.zero_stage=3", "train.sequence_parallel=2"]
)
def test_what_layers_can_not_be_compiled_with_is_refused(setting: str) -> None:
    compiled = one("train.torch_compile=true")
    assert compiled.train is not None and compiled.train.torch_compile
    with pytest.raises(SpecError) as caught:
        one("train.torch_compile=true", setting)
    assert caught.value.place == "$.train.torch_compile" and caught.value.hint


@pytest.mark.parametrize(
    "setting", ["model.dtype=float32", "train.zero_stage=3", 'train.lora={"r": 16}']
)
def test_what_float8_can_not_train_is_refused(setting: str) -> None:
    multiplied = one("train.precision=float8", "train.torch_compile=true")
    assert multiplied.train is not None and multiplied.train.precision == "float8"
    with pytest.raises(SpecError) as caught:
        one("train.precision=float8", setting)
    assert caught.value.place == "$.train.precision" and caught.value.hint


@pytest.mark.parametrize("setting", ["eval.kv_cache_dtype=fp8", "eval.enable_prefix_caching=false"])
def test_vllms_options_are_refused_for_another_engine(setting: str) -> None:
    for backend in ("auto", "vllm"):
        one(f"eval.backend={backend}", setting)
    with pytest.raises(SpecError) as caught:
        one("eval.backend=hf", setting)
    assert caught.value.place == f"$.{setting.partition('=')[0]}"
