"""`python -m composer import terratorch`: the forms of a config, what is said of each key, where each problem is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import composer
from composer.cli.main import main
from composer.terratorch.configs import reads_config

CONFIG = Path(__file__).parent / "terratorch_configs" / "timm_resnet18.yaml"

INIT = "model.init_args"
ARGS = f"{INIT}.model_args"
MODEL = """\
model:
  class_path: {task}
  init_args:
    model_factory: EncoderDecoderFactory
    model_args:
      backbone: resnet10t
"""


def model(*lines, beside=(), task="SemanticSegmentationTask"):
    """A config whose `model_args` go on with these lines, from line 7; those `beside` them follow."""
    written = "".join(f"      {line}\n" for line in lines) + "".join(f"    {line}\n" for line in beside)
    return MODEL.format(task=task) + written


EMBEDDINGS = (
    "model:\n  class_path: EmbeddingGenerationTask\n  init_args:\n    model_args: {{backbone: resnet10t{more}}}\n"
)
FCN = ("decoder: FCNDecoder", "num_classes: 2")
LAST = ("decoder: IdentityDecoder", "num_classes: 2")


def imported(text):
    return reads_config(text, name="c.yaml")


def spec(text):
    return composer.write(imported(text).graph)


def notes(text):
    return [note.format("note").removeprefix("c.yaml:") for note in imported(text).notes]


def refusal(text):
    with pytest.raises(composer.SpecError) as refused:
        imported(text)
    return str(refused.value)


class TestForms:
    @pytest.mark.parametrize("home", ["terratorch.tasks", "terratorch.tasks.segmentation_tasks"])
    def test_a_task_is_named_shortly_or_at_length(self, home):
        assert spec(model(*FCN, task=f"{home}.SemanticSegmentationTask")) == spec(model(*FCN))

    @pytest.mark.parametrize(
        ("task", "args", "head"),
        [
            ("SemanticSegmentationTask", "num_classes: 3", "SegmentationHead: {num_classes: 3}"),
            ("PixelwiseRegressionTask", "num_outputs: 3", "RegressionHead: {num_outputs: 3}"),
            ("ClassificationTask", "num_classes: 3", "ClassificationHead: {num_classes: 3}"),
            ("MultiLabelClassificationTask", "num_classes: 3", "ClassificationHead: {num_classes: 3}"),
            ("ScalarRegressionTask", "num_outputs: 3", "ScalarHead: {num_outputs: 3}"),
        ],
    )
    def test_the_task_chooses_the_head(self, task, args, head):
        assert spec(model("decoder: IdentityDecoder", args, task=task)).endswith(f"head: {{{head}}}\n")

    @pytest.mark.parametrize("word", ["no", "Off", "FALSE"])
    def test_words_are_true_or_false_as_terratorchs_reader_takes_them(self, word):
        assert "rescale: false" in spec(model(*FCN, f"rescale: {word}"))

    def test_a_word_in_quotes_is_a_word(self):
        assert refusal(model(*FCN, "rescale: 'no'")) == (
            f"c.yaml:9:7: error[value] {ARGS}.rescale: rescale must be true or false (got 'no')."
        )

    @pytest.mark.parametrize(
        ("merged", "widths"), [("<<: *a", 8), ("<<: [*b, *a]", 16), ("decoder_channels: 4, <<: *a", 4)]
    )
    def test_a_merge_key_gives_what_is_lacking(self, merged, widths):
        defaults = "x: [&a {decoder_channels: 8}, &b {decoder_channels: 16}]\n"
        aux = f"aux_heads: [{{name: c, decoder: FCNDecoder, decoder_args: {{{merged}, decoder_num_convs: 2}}}}]"
        assert f"FCNDecoder: {{channels: {widths}, num_convs: 2}}" in spec(defaults + model(*FCN, beside=[aux]))

    @pytest.mark.parametrize(
        "head",
        [
            "{name: a, decoder: FCNDecoder, decoder_args: {decoder_num_convs: 2}}",
            """{class_path: terratorch.models.model.AuxiliaryHead,
              init_args: {name: a, decoder: FCNDecoder, decoder_args: {decoder_num_convs: 2}}}""",
        ],
        ids=["mapping", "class"],
    )
    def test_auxiliary_heads_are_mappings_or_classes(self, head):
        written = spec(model(*FCN, beside=[f"aux_heads: [{head}]"]))
        assert "\naux:\n  a:" in written
        assert "decoder: {FCNDecoder: {num_convs: 2}}" in written

    @pytest.mark.parametrize(
        ("form", "pooling", "necks"),
        [
            (
                "tiff",
                "null",
                "  - SelectIndices: {indices: [1, -1]}\n  - ReshapeTokensToImage: {remove_cls_token: false}\n",
            ),
            ("TIFF", "keep", "  - SelectIndices: {indices: [1, -1]}\n"),
            ("parquet", "None", "  - SelectIndices: {indices: [1, -1]}\n"),
            ("tiff", "max", "  - AggregateTokens: {pooling: max, indices: [1, -1]}\n"),
        ],
    )
    def test_a_task_of_embeddings_adds_necks(self, form, pooling, necks):
        rest = f"    layers: [1, -1]\n    output_format: {form}\n    embedding_pooling: {pooling}\n"
        assert f"necks:\n{necks}head: EmbeddingHead\n" in spec(EMBEDDINGS.format(more="") + rest)

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("output_format: png", "output_format: output_format is one of tiff, parquet, "),
            ("embedding_pooling: sum", "embedding_pooling: embedding_pooling is keep, mean, "),
        ],
    )
    def test_other_forms_of_embeddings_are_refused(self, line, said):
        text = EMBEDDINGS.format(more="") + f"    {line}\n"
        assert refusal(text).startswith(f"c.yaml:5:5: error[value] {INIT}.{said}")

    def test_necks_of_ones_own_are_not_added_to(self):
        text = (
            EMBEDDINGS.format(more=", necks: [{name: SelectIndices, indices: [0]}]") + "    embedding_pooling: mean\n"
        )
        assert "necks:\n  - SelectIndices: {indices: [0]}\nhead: EmbeddingHead\n" in spec(text)
        assert notes(text) == []


HEAD = "{name: a, decoder: UNetDecoder, decoder_args: {decoder_channels: [8, 8, 8, 8, 8], head_dropout: 0.5}}"
NOTES = {
    "keys that are no part of the model": (
        "seed_everything: 0\n" + model(*LAST, beside=["loss: ce", "metrics: {val: []}"]) + "trainer:\n  a: 1\n",
        [
            "1:1: note[note] seed_everything: not part of a model: set aside.",
            f"10:5: note[note] {INIT}.loss: not part of a model: set aside.",
            f"11:5: note[note] {INIT}.metrics: not part of a model: set aside.",
            "12:1: note[note] trainer: not part of a model: set aside.",
        ],
    ),
    "freezing": (
        model(*LAST, beside=["freeze_backbone: true", "freeze_decoder: no"]),
        [f"9:5: note[note] {INIT}.freeze_backbone: freezing is not part of a spec: set aside.\n  fix: "],
    ),
    "adapters": (
        model(*LAST, "peft_config: {method: LORA}"),
        [f"9:7: note[note] {ARGS}.peft_config: adapters are added to a built model, and are not part of a spec: set "],
    ),
    "necks that the task adds": (
        EMBEDDINGS.format(more=""),
        [f"3:3: note[note] {INIT}: EmbeddingGenerationTask adds necks: SelectIndices, ReshapeTokensToImage.\n  fix: "],
    ),
    "a name that a spec cannot hold": (
        model(*LAST, beside=["aux_heads: [{name: fcn-aux, decoder: IdentityDecoder}]"]),
        [f"9:18: note[note] {INIT}.aux_heads[0].name: names in a spec are letters, digits and _: fcn-aux is fcn_aux "],
    ),
    "images that terratorch would not pad": (
        model(*FCN),
        [f"7:7: note[note] {ARGS}.decoder: FCNDecoder needs sides that are multiples of 32: others are padded, and "],
    ),
    "what terratorch does otherwise": (
        model(*LAST, beside=[f"aux_heads: [{HEAD}]"]),
        [f"9:99: note[note] {INIT}.aux_heads[0].decoder_args.head_dropout: TerraTorch ignores dropout: aux"],
    ),
    "a repeated key": (
        model(*LAST, "num_classes: 3"),
        ["9:7: note[key] the key 'num_classes' is repeated: this value replaces the one on line 8."],
    ),
}


@pytest.mark.parametrize(("text", "begins"), NOTES.values(), ids=NOTES)
def test_what_a_spec_does_not_hold_is_said(text, begins):
    assert [note[: len(begin)] for note, begin in zip(notes(text), begins, strict=True)] == begins


def test_the_last_value_of_a_key_is_taken():
    assert "{SegmentationHead: {num_classes: 3}}" in spec(model(*FCN, "num_classes: 3"))


class TestPlaces:
    """Each problem is at the line of what it comes from: of the call, and of the graph that the call is."""

    @pytest.mark.parametrize(
        ("lines", "begins"),
        [
            (
                ["decoder: UNetDecoder", "num_classes: 2", "decoder_kwargs:", "  channels: [8, 8]"],
                "10:9: error[count] X.decoder_kwargs.channels",
            ),
            (
                ["necks:", "- {name: SelectIndices, indices: [0, 1]}", "- {name: SelectIndices, indices: [4]}", *FCN],
                "9:41: error[index] X.necks[1].indices[0]",
            ),
            (
                [
                    "backbone_kwargs: {use_temporal: true, temporal_pooling: mean, temporal_n_timestamps: 2}",
                    *["necks:", "- {name: SelectIndices, indices: [7]}", *FCN],
                ],
                "9:41: error[index] X.necks[0].indices[0]",
            ),
            (["necks:", "- {name: LearnedInterpolateToPyramidal}", *FCN], "8:9: error[count] X.necks[0]"),
            (["decoder: FCNDecoder", "decoder_in_index: 9", "num_classes: 2"], "8:7: error[index] X.decoder_in_index"),
            (["backbone_out_indices: [9]", *FCN], "7:30: error[index] X.backbone_out_indices[0]"),
            (["decoder: FCNDecoder"], "5:5: error[key] X.num_classes"),
            ([*FCN, "image_size_out: [4, 0]"], "9:7: error[value] X.image_size_out"),
            ([*FCN, "task: regression"], "9:7: error[unused] X.task"),
        ],
        ids=lambda value: value.partition("X.")[2] if isinstance(value, str) else "",
    )
    def test_of_the_model(self, lines, begins):
        said = refusal(model(*lines))
        begins = f"c.yaml:{begins.replace('X', ARGS)}: "
        assert (said[: len(begins)], said.count("error[")) == (begins, 1)

    @pytest.mark.parametrize(
        ("head", "begins"),
        [
            (
                "{name: a, decoder: FCNDecoder, decoder_args: {decoder_in_index: 9}}",
                "9:63: error[index] X[0].decoder_args.decoder_in_index",
            ),
            ("{name: a, decoder: FCNDecodr, decoder_args: {}}", "9:27: error[part] X[0].decoder"),
            ("{name: a, decoder: FCNDecoder, decoder_args: 3}", "9:48: error[value] X[0].decoder_args"),
            ("{name: a.b, decoder: FCNDecoder, decoder_args: {}}", "9:18: error[value] X[0].name"),
            ("{name: a}", "9:17: error[key] X[0]"),
            ("{class_path: torch.nn.Linear, init_args: {}}", "9:18: error[part] X[0].class_path"),
        ],
        ids=lambda value: value.partition("X")[2] if "X" in value else "",
    )
    def test_of_an_auxiliary_head(self, head, begins):
        said = refusal(model(*FCN, beside=[f"aux_heads: [{head}]"]))
        begins = f"c.yaml:{begins.replace('X', f'{INIT}.aux_heads')}"
        assert (said[: len(begins)], said.count("error[")) == (begins, 1)

    def test_of_all_problems_at_once_in_the_order_of_the_lines(self):
        said = refusal(
            model("decoder: FCNDecodr", "num_classes: 2", "channels: 3", beside=["model_arg: 1", "aux_heads: 4"])
        )
        assert [line for line in said.splitlines() if "error[" in line] == [
            f"c.yaml:7:7: error[part] {ARGS}.decoder: TerraTorch has no decoder 'FCNDecodr'.",
            f"c.yaml:9:7: error[unused] {ARGS}.channels: channels was passed but not used.",
            f"c.yaml:10:5: error[key] {INIT}.model_arg: SemanticSegmentationTask has no argument 'model_arg'.",
            f"c.yaml:11:5: error[type] {INIT}.aux_heads: auxiliary heads are a list (got 4).",
        ]


NO_MODEL = "1:1: error[key]"
NO_CONFIGS = {
    "a list": (
        "- 1\n",
        [f"{NO_MODEL} this is not a TerraTorch config: its model has no class_path and init_args (got None)"],
    ),
    "another file": (
        "model: other.yaml\n",
        [f"{NO_MODEL} model: this is not a TerraTorch config: its model has no class"],
    ),
    "keys with dots": ("model.class_path: x\n", ["1:1: error[key] model.class_path: keys that are"]),
    "another program's": (
        "model: {type: x, layers: 3}\n",
        [f"{NO_MODEL} model: this is not a TerraTorch config: its model"],
    ),
    "other keys": (
        model(*LAST).replace("model:\n", "model:\n  lr: 1\n"),
        ["2:3: error[key] model.lr: a model has no key"],
    ),
    "no factory": (
        "model: {class_path: ClassificationTask, init_args: {model_args: {}}}\n",
        [f"1:41: error[part] {INIT}.model_factory: TerraTorch 1.2.11 has no factory 'None'."],
    ),
    "no name": ("model: {class_path: [], init_args: {}}\n", ["1:9: error[part] model.class_path: [] is not a task"]),
    "another's": (
        "model: {class_path: my.ClassificationTask, init_args: {}}\n",
        ["1:9: error[part] model.class_path: my.ClassificationTask is"],
    ),
    "no arguments": (
        "model: {class_path: ClassificationTask, init_args: {model_factory: EncoderDecoderFactory}}\n",
        [f"1:41: error[key] {ARGS}: ClassificationTask needs model_args"],
    ),
    "a model": (
        model(*FCN, beside=["model: {class_path: a.B}"]),
        [f"9:5: error[value] {INIT}.model: a model is not imported"],
    ),
    "a misspelled argument": (
        model(*FCN, beside=["freeze_backbon: true"]),
        [f"9:5: error[key] {INIT}.freeze_backbon: SemanticSegmentationTask has no argument 'freeze_backbon'"],
    ),
    "an argument with dots": (
        model(*FCN, beside=["optimizer.lr: 1"]),
        [f"9:5: error[key] {INIT}.optimizer.lr: keys that are joined by dots are not taken apart"],
    ),
    "a tag": (
        model(*LAST, "rescale: !!python/object/apply:os.system [exit]"),
        ["9:16: error[yaml] tags are not supported (got !!python/object/apply:os.system)"],
    ),
    "another merge key": (
        model(*LAST, "<<: [{rescale: false}, 3]"),
        ["9:7: error[yaml] a merge key (<<) takes a mapping, or a list of them (got a list of 2)"],
    ),
}


@pytest.mark.parametrize(("text", "begins"), NO_CONFIGS.values(), ids=NO_CONFIGS)
def test_what_is_none_is_refused_at_its_place(text, begins):
    lines = [line.removeprefix("c.yaml:") for line in refusal(text).splitlines() if not line.startswith("  fix: ")]
    assert [line[: len(begin)] for line, begin in zip(lines, begins, strict=True)] == begins


def test_an_example_is_shown_where_there_is_no_model():
    assert refusal("encoder: timm/resnet18\nhead: ClassificationHead\n") == (
        "c.yaml:1:1: error[key] this is not a TerraTorch config: its model has no class_path and init_args "
        "(got None).\n"
        "  fix: model: {class_path: terratorch.tasks.SemanticSegmentationTask, init_args: {…}}"
    )


def test_names_of_classes_and_modules_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "spy.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = "custom_modules_path: ./spy.py\n" + model(*FCN, beside=["loss: {class_path: spy.Loss}"])

    said = notes(text)
    task = refusal(model(*FCN, task="spy.Task"))
    activation = refusal(model("decoder: FCNDecoder", "head_final_act: spy.Act", task="PixelwiseRegressionTask"))

    assert said[0] == "1:1: note[note] custom_modules_path: not part of a model: set aside."
    assert task.startswith("c.yaml:2:3: error[part] model.class_path: spy.Task is not a task ")
    assert activation.startswith(f"c.yaml:8:7: error[value] {ARGS}.head_final_act: ")
    assert "spy" not in sys.modules


SPEC = """\
input: {channels: 6}
encoder: {timm/resnet18: {pretrained: true, features_only: true, any_size: true}}
necks:
  - SelectIndices: {indices: [0, 1, 2, 3]}
decoder: {UNetDecoder: {channels: [512, 256, 128, 64]}}
head: {SegmentationHead: {num_classes: 3, channel_list: [256], dropout: 0.1}}
"""
ASIDE = """\
c.yaml:2:1: note[note] seed_everything: not part of a model: set aside.
c.yaml:3:1: note[note] trainer: not part of a model: set aside.
c.yaml:13:1: note[note] data: not part of a model: set aside.
c.yaml:47:5: note[note] model.init_args.loss: not part of a model: set aside.
c.yaml:48:5: note[note] model.init_args.plot_on_val: not part of a model: set aside.
c.yaml:49:5: note[note] model.init_args.ignore_index: not part of a model: set aside.
c.yaml:53:5: note[note] model.init_args.tiled_inference_parameters: not part of a model: set aside.
c.yaml:60:1: note[note] optimizer: not part of a model: set aside.
c.yaml:65:1: note[note] lr_scheduler: not part of a model: set aside.
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a config, which is where the command runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG.read_text())
    (tmp_path / "bad.yaml").write_text(model("decoder: FCNDecoder"))
    (tmp_path / "spec.yaml").write_text("something else")
    return tmp_path


class TestCommand:
    def test_the_spec_goes_to_stdout_and_the_rest_to_stderr(self, here, capsys):
        assert main(["import", "terratorch", "c.yaml"]) == 0
        assert capsys.readouterr() == (SPEC, ASIDE)

    def test_a_spec_is_written_where_it_is_wanted(self, here, capsys):
        assert main(["import", "terratorch", "c.yaml", "-o", "spec.yaml"]) == 0
        assert capsys.readouterr() == ("wrote spec.yaml\n", ASIDE)
        assert (here / "spec.yaml").read_text() == SPEC

    def test_a_config_that_cannot_be_imported_writes_nothing(self, here, capsys):
        assert main(["import", "terratorch", "bad.yaml", "-o", "spec.yaml"]) == 1
        said = f"bad.yaml:5:5: error[key] {ARGS}.num_classes: segmentation needs num_classes.\n"
        assert capsys.readouterr() == ("", f"{said}  fix: say how many are to be predicted\n")
        assert (here / "spec.yaml").read_text() == "something else"
        assert {path.name for path in here.iterdir()} == {"bad.yaml", "c.yaml", "spec.yaml"}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["none.yaml"], "none.yaml: there is no such file; check the path."),
            (["c.yaml", "-o", "spec.txt"], "spec.txt: the name must end in .yaml or .yml."),
            (
                ["c.yaml", "-o", "./c.yaml"],
                "./c.yaml: this is the config itself, which would be lost; choose another name.",
            ),
        ],
        ids=["absent", "suffix", "onto itself"],
    )
    def test_files_that_cannot_be_read_or_written(self, here, arguments, message, capsys):
        assert main(["import", "terratorch", *arguments]) == 2
        assert capsys.readouterr() == ("", f"{message}\n")
        assert (here / "c.yaml").read_text() == CONFIG.read_text()

    def test_torch_and_timm_are_not_needed(self, here):
        program = "import sys; sys.modules.update(torch=None, timm=None); from composer.__main__ import main; "
        program += "sys.exit(main(['import', 'terratorch', 'c.yaml', '-o', 'spec.yaml']))"
        environment = {**os.environ, "PYTHONPATH": str(CONFIG.parents[2])}

        subprocess.run([sys.executable, "-c", program], env=environment, check=True)

        assert (here / "spec.yaml").read_text() == SPEC
