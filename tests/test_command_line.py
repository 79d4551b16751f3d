"""`python -m composer`, in this process through main() and in one of its own: what it prints, writes and returns."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import composer
from composer.cli.main import main

ROOT = Path(__file__).parents[1]

SEGMENTATION = """
encoder: {timm/resnet10t: {out_indices: [1, 2, 3, 4]}}
decoder: {UNetDecoder: {channels: [32, 16, 16, 8]}}
head: {SegmentationHead: {num_classes: 5}}
"""
SCENE = """
encoder: {timm/resnet10t: {out_indices: [4], pretrained: true}}
decoder: IdentityDecoder
head: {ClassificationHead: {num_classes: 7}}
"""
JOINED = """
inputs: {s2: {channels: 4}, s1: {channels: 2, stride: 2}}
nodes:
  optical: {part: {timm/resnet10t: {out_indices: [1, 2]}}, from: s2}
  radar: {part: {timm/resnet10t: {out_indices: [0, 1]}}, from: s1}
  joined: {part: ConcatFeatures, from: [optical, radar]}
  again: {share: optical, from: s2}
  decoded: {part: {UNetDecoder: {channels: [16, 8]}}, from: joined}
  cover: {part: {SegmentationHead: {num_classes: 3}}, from: decoded}
  height: {part: RegressionHead, from: decoded}
  deep: {part: {LinearDecoder: {num_classes: 3, upsampling_size: 2}}, from: again}
outputs: [cover, height]
auxiliary: {extra: deep}
rescale: false
"""
EMBEDDING = """
input: {frames: 2}
encoder: {timm/test_vit: {out_indices: [0, 4], tokens: true}}
head: EmbeddingHead
aux:
  pooled: {decoder: IdentityDecoder, head: EmbeddingHead}
"""
BAD = "encoder: timm/resnet10t\nhead: {SegmentationHead: {num_classes: 'yes'}}\ndecoder: UNotDecoder\n"
SPECS = {
    "segmentation": SEGMENTATION,
    "scene": SCENE,
}
SPECS |= {
    "crop": f"crop: [40, 50]{SEGMENTATION}",
    "fixed": f"input: {{size: [64, 96]}}{SEGMENTATION}",
    "joined": JOINED,
    "embedding": EMBEDDING,
    "bad": BAD,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the specs above and a few images, which is where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    random = np.random.default_rng(0)
    for name, text in SPECS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    Image.fromarray(random.integers(0, 256, (48, 80, 3), dtype=np.uint8)).save("photo.png")
    np.save("two.npy", random.normal(size=(32, 32, 2)).astype(np.float32))
    np.save("ten.npy", random.normal(size=(10, 64, 64)) * 3000)
    np.save("odd.npy", np.zeros((2, 32, 31)))
    Image.new("RGB", (96, 65)).save("big.png")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture
def call(here, capsys):
    """Run a command; return its exit code, and what it writes to stdout and stderr."""

    def run(line):
        code = main(line.split())
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def no_model(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a model was built for what can be refused without one")

    monkeypatch.setattr("composer.building.build", fail)


@pytest.fixture
def drawn(monkeypatch):
    """The inputs and predictions of each sheet that is drawn."""
    import composer.cli.run as command

    sheets = []
    draw = command.draw_sheet
    monkeypatch.setattr(command, "draw_sheet", lambda *panels: sheets.append(panels) or draw(*panels))
    return sheets


OUTPUTS = {"cover": 3, "height": 1}
SIZES = "multiple of {0}, at least {0}, any shape"


class TestCheck:
    def test_a_line_for_each_good_file(self, call):
        code, out, err = call("check segmentation.yaml scene.yaml joined.yaml fixed.yaml embedding.yaml crop.yaml")
        tokens = "(b, 2, 1+H/16*W/16, 64)"
        embeddings = f"head {tokens} {tokens} of the padded image, aux.pooled.head {tokens} of the padded image"
        cells = "ceil(H/4), ceil(W/4)"
        assert out.splitlines() == [
            "segmentation.yaml: ok  head (b, 5, H, W); multiple of 32, at least 32, any shape",
            "scene.yaml: ok  head (b, 7); multiple of 32, at least 32, any shape",
            f"joined.yaml: ok  cover (b, 3, {cells}), height (b, 1, {cells}), deep (b, 3, {cells}); {SIZES.format(8)}",
            "fixed.yaml: ok  head (b, 5, H, W); exactly 64 × 96",
            f"embedding.yaml: ok  {embeddings}; {SIZES.format(16)}",
            "crop.yaml: ok  head (b, 5, 40, 50); multiple of 32, at least 32, any shape",
        ]
        assert (code, err) == (0, "")

    def test_files_that_cannot_be_read_do_not_hide_the_others(self, call):
        with pytest.raises(composer.SpecError) as problems:
            composer.read("bad.yaml")
        assert len(problems.value.problems) > 1
        assert call("check none.yaml folder bad.yaml scene.yaml") == (
            2,
            f"{problems.value}\nscene.yaml: ok  head (b, 7); {SIZES.format(32)}\n",
            "none.yaml: there is no such file; check the path.\nfolder: this is a folder; name a file in it.\n",
        )

    def test_json_says_the_same(self, call):
        code, out, _ = call("check --format json joined.yaml bad.yaml none.yaml embedding.yaml")
        good, bad, absent, embedding = json.loads(out)
        assert (code, good["digest"]) == (2, composer.digest(composer.read("joined.yaml")))
        assert good["outputs"] == {name: ["b", count, "ceil(H/4)", "ceil(W/4)"] for name, count in OUTPUTS.items()}
        assert good["auxiliary"] == {"extra": ["b", 3, "ceil(H/4)", "ceil(W/4)"]}
        assert (bad["ok"], bad["outputs"], len(bad["problems"])) == (False, {}, 2)
        problem = absent["problems"][0]
        assert (absent["ok"], problem["code"], problem["file"]) == (False, "file", "none.yaml")
        assert problem["message"] == "none.yaml: there is no such file; check the path."
        tokens = ["b", 2, "1+H/16*W/16", 64]
        assert (embedding["outputs"], embedding["auxiliary"]) == ({"head": [tokens, tokens]}, {"pooled": [tokens]})

    @pytest.mark.parametrize(("command", "imported"), [("check", "[]"), ("show", "['rich']")])
    def test_nothing_heavy_is_imported_for_nothing(self, call, command, imported):
        call("check segmentation.yaml")  # so that the facts are on disk
        script = (
            "import sys; from composer.__main__ import main; main(sys.argv[1:]);"
            "print(sorted({'torch', 'timm', 'numpy', 'rich', 'rasterio', 'matplotlib'} & set(sys.modules)))"
        )
        ran = python("-c", script, command, "segmentation.yaml", stdout=subprocess.PIPE)
        assert ran.stdout.splitlines()[-1] == imported


class TestShow:
    def test_the_graph_edge_by_edge(self, call):
        assert call("show segmentation.yaml") == (
            0,
            """\
node                           gives
─────────────────────────────────────────────────────────────────────────────
encoder                        4 × map b c h w
  timm/resnet10t               channels 64, 128, 256, 512
  ← image                      stride 4, 8, 16, 32
  out_indices: [1, 2, 3, 4]    demands multiple of 32, at least 32, any shape

decoder                        map b c h w
  UNetDecoder                  channels 8
  ← encoder                    stride 4
  channels: [32, 16, 16, 8]

head                           map b c h w
  SegmentationHead             channels 5
  ← decoder                    stride 4
  num_classes: 5

inputs    image: 3 channels
sizes     multiple of 32, at least 32, any shape; other sizes are padded
          (reflect, on both sides)
outputs   head (b, 5, H, W)
""",
            "",
        )

    def test_what_several_inputs_shared_nodes_and_auxiliary_outputs_look_like(self, call):
        words = " ".join(call("show joined.yaml")[1].split())
        assert "again 2 × map b c h w share: optical channels 64, 128 ← s2 stride 4, 8" in words
        assert "radar 2 × map b c h w timm/resnet10t channels 64 ← s1 stride 4, 8 out_indices: [0, 1]" in words
        assert "inputs s2: 4 channels s1: 2 channels, stride 2 sizes multiple of 8" in words
        assert words.endswith(
            "outputs cover (b, 3, ceil(H/4), ceil(W/4)) height (b, 1, ceil(H/4), ceil(W/4)) "
            "deep (b, 3, ceil(H/4), ceil(W/4)), auxiliary extra"
        )

    def test_problems_go_to_stderr(self, call):
        code, out, err = call("show bad.yaml")
        assert (code, out, err.startswith("bad.yaml:2:")) == (1, "", True)


class TestBuild:
    def test_the_size_of_every_node(self, call):
        code, out, err = call("build segmentation.yaml")
        model = composer.build(composer.read("segmentation.yaml"))
        count = sum(parameter.numel() for parameter in model.parameters())
        size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 1e6
        assert re.search(rf"^total +{count:,} +{count:,} +{size:.1f} MB$", out, re.MULTILINE)
        assert re.search(r"^head +SegmentationHead +45 +45 +0.0 MB$", out, re.MULTILINE)
        assert "outputs   head (b, 5, H, W)" in out
        assert out.endswith("\n\nweights: random, seed 0\n")
        assert (code, err) == (0, "building the model …\n")

    @pytest.mark.parametrize(("name", "row"), [("embedding", "head EmbeddingHead"), ("joined", "again share: optical")])
    def test_what_has_no_weights_of_its_own(self, call, name, row):
        assert f"{row} 0 0 0.0 MB" in " ".join(call(f"build {name}.yaml")[1].split())

    def test_saved_weights_are_those_of_the_seed(self, call):
        assert call("build segmentation.yaml --seed 3 --save model.safetensors")[1].endswith(
            "wrote model.safetensors\n"
        )
        ours = composer.build(composer.read("segmentation.yaml"), seed=3).state_dict()
        theirs = composer.load("model.safetensors").state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    @pytest.mark.parametrize(
        ("limit", "said"),
        [
            ("--max-parameters 1M", "parameters, of which there may be 1,000,000 (got 4,922,488 of 5,194,117)"),
            ("--max-memory 2000k", "bytes, of which there may be 2,000,000 (got 19,713,552 of 20,801,284)"),
        ],
    )
    def test_a_model_that_is_too_large_is_refused(self, call, limit, said):
        code, _, err = call(f"build segmentation.yaml {limit}")
        assert code == 1
        assert err.splitlines()[-2:] == [
            f"segmentation.yaml:2:10: error[limit] encoder: timm/resnet10t has most of the model's {said}.",
            "  fix: choose a smaller network, or allow as many",
        ]


class TestASavedModel:
    """A file that composer.save wrote, in the place of a spec."""

    @pytest.fixture
    def saved(self, here):
        composer.save(composer.build(composer.read("segmentation.yaml"), seed=3).half(), "model.safetensors")

    def test_its_spec_is_the_one_inside(self, saved, call):
        inside = call("check model.safetensors")[1]
        assert inside.replace("model.safetensors", "segmentation.yaml") == call("check segmentation.yaml")[1]

    def test_it_is_built_with_its_own_weights(self, saved, call):
        _, out, _ = call("build model.safetensors --save copy.safetensors")
        assert out.endswith("weights: 134 tensors from model.safetensors\nwrote copy.safetensors\n")
        copy, model = (safe_open(f"{name}.safetensors", "pt") for name in ("copy", "model"))
        assert copy.metadata() == model.metadata()
        assert all(torch.equal(copy.get_tensor(name), model.get_tensor(name)) for name in model.keys())  # noqa: SIM118

    def test_a_weights_file_without_a_spec_says_so(self, call):
        torch.save({"a": torch.ones(1)}, "plain.pt")
        code, out, _ = call("check plain.pt")
        assert code == 1
        assert out.startswith(
            "plain.pt: error[file] no spec was found in this weights file.\n  fix: give the YAML spec, "
        )

    def test_it_is_not_rewritten_as_a_spec(self, saved, call):
        before = Path("model.safetensors").read_bytes()
        said = "model.safetensors: this is a weights file; give the YAML spec.\n"
        assert call("check --fix model.safetensors") == (2, "", said)
        assert Path("model.safetensors").read_bytes() == before


PHOTO, S2 = "--image photo.png -o o.png", "--image s2=ten.npy --bands s2=1,2,3,4"
REFUSED = {
    "fixed.yaml --image big.png -o o.png": "big.png: an image of 65 × 96 pixels is too large: the graph takes exactly "
    "64 × 96. Crop or resize the image.",
    "crop.yaml --image two.npy --bands 1,1,1 -o o.png": "two.npy: an image of 32 × 32 pixels is smaller than the crop "
    "of its output, 40 × 50. Resize the image or leave crop out.",
    f"joined.yaml {PHOTO}": "--image photo.png: the model has the inputs s2, s1; say which: --image s2=…",
    f"joined.yaml {S2} -o o.png": "--image: there is none for s1; add --image s1=FILE.",
    f"joined.yaml {S2} --image s1=odd.npy -o o.png": "odd.npy: s1 must have 32 × 32 pixels (height × width), to cover "
    "what s2 covers (this has 32 × 31).",
    f"embedding.yaml {PHOTO}": "embedding.yaml: head is an embedding, which cannot be drawn; in Python, "
    "composer.build(composer.read('embedding.yaml'))(image) returns it.",
    "segmentation.yaml --image photo.png": "-o: head is a map; say where to draw it, such as -o out.png.",
    f"segmentation.yaml {PHOTO} --weights none.pt": "none.pt: there is no such file; check the path.",
}


HALVES = """
inputs: {s2: {channels: 3, stride: 1/2}}
nodes:
  features: {part: timm/resnet10t, from: s2}
  decoded: {part: FCNDecoder, from: features}
  height: {part: RegressionHead, from: decoded}
outputs: [height]
"""


def test_a_size_that_covers_no_whole_pixels_is_refused(here, call, no_model):
    Path("halves.yaml").write_text(HALVES, encoding="utf-8")
    np.save("odd.npy", np.zeros((3, 65, 67), dtype=np.float32))
    code, _, err = call("run halves.yaml --image odd.npy -o out.png --no-pretrained")
    assert code == 2
    assert err.splitlines()[-1] == (
        "odd.npy: s2 has stride 1/2, so its sides must be multiples of 2 (this has 65 × 67). Crop or resize the image."
    )


def test_a_command_runs_in_a_thread_too(here):
    """Where Ctrl-C cannot be handled, because Python allows that in the main thread alone."""
    Path("model.yaml").write_text(SEGMENTATION, encoding="utf-8")
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(main, ["build", "model.yaml", "--no-pretrained"]).result() == 0


class TestRun:
    def test_a_picture_in_and_classes_out(self, call, drawn):
        code, out, err = call("run segmentation.yaml --image photo.png -o out.png --seed 2")
        model = composer.build(composer.read("segmentation.yaml"), seed=2).eval()
        facts = model.typed.encoder_infos["encoder"]
        pixels = np.array(Image.open("photo.png"))
        photo = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(side)[:, None, None] for side in (facts.mean, facts.std))
        with torch.no_grad():
            scores = model((photo - mean) / std).output[0]
        # A pixel whose two best scores are all but equal may fall to either.
        sure = (scores.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-4).numpy()
        assert sure.mean() > 0.95
        (((image,), (prediction,)),) = drawn
        assert (image.name, image.picture.tolist()) == ("image", pixels.tolist())
        assert np.array_equal(prediction.values[sure], scores.argmax(dim=0).numpy()[sure])
        done = "values 0 to 255, normalised for encoder: mean 0.485, 0.456, 0.406, deviation 0.229, 0.224, 0.225"
        assert out.splitlines() == [
            f"image: photo.png, 48 high, 80 wide; {done}",
            "weights: random, seed 2",
            str(prediction),
            "wrote out.png",
        ]
        assert (code, err) == (0, "building the model …\nrunning it …\n")
        with Image.open("out.png") as picture:
            assert (picture.format, min(picture.size) > 250, max(picture.size) < 1500) == ("PNG", True, True)

    @pytest.mark.parametrize("out", ["", " -o out.png"], ids=["printed", "drawn"])
    def test_a_scene_is_a_line_and_is_drawn_where_that_is_asked_for(self, call, out):
        lines = call(f"run scene.yaml --no-pretrained --image photo.png{out}")[1].splitlines()
        assert lines[1] == "weights: random, seed 0 (--no-pretrained: no pretrained weights for encoder)"
        assert re.fullmatch(r"head: (class [0-6] \d\d?\.\d%, ){5}and 2 more", lines[2])
        assert lines[3:] == (["wrote out.png"] if out else [])
        assert Path("out.png").exists() == bool(out)

    def test_several_inputs_and_outputs(self, call, drawn):
        images = "--image s2=ten.npy --image s1=two.npy --bands s2=5,3,2,1"
        lines = call(f"run joined.yaml {images} -o out.png --show-bands s2=4")[1].splitlines()
        names = ["s2", "s1", "cover", "height", "deep"]
        assert [line.split(":")[0] for line in lines] == [*names[:2], "weights", *names[2:], "wrote out.png"]
        scale = "each band to zero mean and unit deviation over this image"
        assert lines[:2] == [
            f"s2: ten.npy, 64 high, 64 wide; bands 5,3,2,1 of 10; {scale}",
            f"s1: two.npy, 32 high, 32 wide; {scale}; bands drawn: 1, a guess; choose others with --show-bands",
        ]
        ((inputs, predictions),) = drawn
        assert [panel.name for panel in (*inputs, *predictions)] == names
        assert [panel.classes for panel in predictions] == [3, None, 3]

    def test_weights_come_from_a_checkpoint_of_a_training(self, call, drawn):
        """What was left aside is said, and the picture is that of the model that was saved."""
        state = composer.build(composer.read("segmentation.yaml"), seed=9).state_dict()
        task = {f"net.{name}": x for name, x in state.items()} | {"criterion.weight": torch.ones(5)}
        torch.save({"state_dict": task, "epoch": 3}, "last.ckpt")
        call("run segmentation.yaml --image photo.png -o seed.png --seed 9")
        _, out, _ = call("run segmentation.yaml --image photo.png -o file.png --weights last.ckpt")
        assert "\nweights: 134 tensors from last.ckpt; 1 tensor left aside: criterion.weight\n" in out
        assert np.array_equal(drawn[0][1][0].values, drawn[1][1][0].values)

    def test_a_saved_model_of_another_type_needs_no_spec_beside_it(self, call, drawn):
        model = composer.build(composer.read("segmentation.yaml"), seed=9)
        composer.save(model.to(torch.bfloat16), "nine.safetensors")
        _, beside, _ = call("run segmentation.yaml --image photo.png -o out.png --weights nine.safetensors")
        _, inside, _ = call("run nine.safetensors --image photo.png -o out.png")
        assert inside == beside
        assert "\nweights: 134 tensors from nine.safetensors\n" in inside
        assert np.array_equal(drawn[0][1][0].values, drawn[1][1][0].values)

    @pytest.mark.parametrize(("arguments", "said"), REFUSED.items(), ids=REFUSED)
    def test_what_cannot_be_is_refused_in_a_line_before_a_model_is_built(self, here, call, no_model, arguments, said):
        before = sorted(here.iterdir())
        assert call(f"run {arguments}") == (2, "", f"{said}\n")
        assert sorted(here.iterdir()) == before

    @pytest.mark.parametrize("library", ["rasterio", "matplotlib"])
    def test_without_the_extra_a_line_says_what_to_install(self, call, monkeypatch, library):
        monkeypatch.delitem(sys.modules, "composer.cli.run", raising=False)
        monkeypatch.delitem(sys.modules, "composer.cli.images", raising=False)
        monkeypatch.setitem(sys.modules, library, None)
        said = f"run: import of {library} halted; None in sys.modules; install what it needs: "
        command = "run segmentation.yaml --image photo.png -o out.png"
        assert call(command) == (2, "", f"{said}pip install 'composer-vision[run]'\n")

    def test_an_image_larger_than_the_memory_is_said_to_be(self, call, monkeypatch):
        def refuse(*_):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

        monkeypatch.setattr("composer.model.Model.forward", refuse)
        code, _, err = call("run segmentation.yaml --image photo.png -o out.png")
        assert (code, err.splitlines()[-1]) == (2, "--image: out of memory for an image of this size; crop it.")


TIMM = "timm/… needs timm, which is installed"
SMP = "smp/… needs segmentation_models_pytorch, which is installed"
MMSEG = (
    "mmseg/… needs mmseg, which is not installed: "
    "pip install 'onedl-mmsegmentation>=1.4.2,<2' 'mmcv-lite>=2.1,<2.2' 'mmengine>=0.10.7,<1'"
)
TRANSFORMERS = "transformers/… needs transformers, which is not installed: pip install 'transformers>=5.23'"
SOURCES = "there are timm/…, smp/…, transformers/…, terratorch/…"
TERRATORCH = "terratorch/… needs terratorch, which is not installed: pip install 'terratorch>=1.2.11,<2'"


@pytest.fixture
def some_installed(monkeypatch):
    """timm and smp are installed, and no other library."""
    there = ("timm", "segmentation_models_pytorch")
    monkeypatch.setattr("composer.encoder_info.Library.is_installed", lambda library: library.package in there)


class TestList:
    def test_parts_with_their_arguments(self, call):
        assert call("list heads cl*")[1].splitlines() == [
            "ClassificationHead",
            "    Compute class scores of an image: linear layers of widths `dim_list`,",
            "    dropout, a linear layer, the mean.",
            "  num_classes (required)",
            "  dim_list: null",
            "  dropout: 0.0",
            "  linear_after_pool: false",
            "  pooling: mean",
            "  final_act: null",
        ]

    @pytest.mark.parametrize(
        ("pattern", "out", "err"),
        [
            pytest.param("timm/resnet1?", ["timm/resnet18"], [TIMM], id="timm"),
            pytest.param("SMP/MiT_B[01]", ["smp/mit_b0", "smp/mit_b1"], [SMP], id="in capitals"),
            pytest.param("*/resnet18", ["timm/resnet18", "smp/resnet18"], [TIMM, SMP, TRANSFORMERS], id="any source"),
            pytest.param(
                "terratorch/*v2_tiny*",
                ["terratorch/prithvi_eo_v2_tiny_tl"],
                [TERRATORCH, "cannot be had, and list encoders NAME says why: terratorch/convnextv2_tiny"],
                id="terratorch",
            ),
        ],
    )
    def test_encoders_by_pattern_one_to_a_line(self, call, some_installed, pattern, out, err):
        """Notes on their libraries go to stderr, so that they stay out of a pipe."""
        lines = (f"{line}\n" for line in out), (f"{line}\n" for line in err)
        assert call(f"list encoders {pattern}") == (0, *map("".join, lines))

    def test_an_encoder_by_its_name_is_described_with_its_arguments(self, call, some_installed):
        assert [line.rstrip() for line in call("list encoders smp/mit_b0")[1].splitlines()] == [
            "smp/mit_b0",
            "    Mix Transformer, of SegFormer: attention over overlapping patches.",
            "  depth: 5",
            "  pretrained: false",
            "  first_level: false",
            "  output_stride: 32",
            "",
            SMP,
        ]

    def test_of_an_encoder_that_is_known_and_unsupported_the_reason_is_said(self, call, some_installed):
        reason = "it gives the scores of a classifier, and no features. Use timm/convnextv2_atto."
        said = f"terratorch/convnextv2_atto cannot be had: {reason}\n"
        assert call("list encoders terratorch/convnextv2_atto") == (2, "", said)

    def test_a_narrow_terminal_cuts_nothing(self, call):
        """The longest names leave no room beside them."""
        _, out, _ = call("list encoders")
        assert "…" not in out.replace("/…", "")
        assert max(map(len, out.splitlines())) <= 80
        assert "\nterratorch/dinov3_vit7b16 cannot be had: TerraTorch downloads the code of this" in out
        assert "\n".join(["", *(f"smp/mit_b{size}" for size in range(6)), "    Mix"]) in out

    @pytest.mark.parametrize(
        ("kind", "notes"), [("encoders", [TIMM, SMP, TRANSFORMERS, TERRATORCH]), ("decoders", [SMP, MMSEG])]
    )
    def test_every_source_says_whether_its_library_is_there(self, call, some_installed, monkeypatch, kind, notes):
        monkeypatch.setenv("COLUMNS", "200")
        assert [line for line in call(f"list {kind}")[1].splitlines() if "/… needs" in line] == notes

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            pytest.param(
                "heads X",
                "no head is named 'X'; there are SegmentationHead, RegressionHead, ClassificationHead, ScalarHead, "
                "EmbeddingHead",
                id="head",
            ),
            pytest.param("encoders resnet", f"no encoder is named 'resnet'; {SOURCES}", id="no source"),
            pytest.param(
                "encoders transformers/x*",
                f"{TRANSFORMERS}\nno encoder is named 'transformers/x*'; {SOURCES}",
                id="not installed",
            ),
        ],
    )
    def test_what_matches_nothing(self, call, some_installed, arguments, said):
        assert call(f"list {arguments}") == (2, "", f"{said}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "python -m composer: error: the following arguments are required: COMMAND"),
        ("list tails", "python -m composer list: error: argument kind: invalid choice: 'tails'"),
        ("check", "python -m composer check: error: the following arguments are required: FILE"),
        ("build x --seed -1", "python -m composer build: error: argument --seed: expected a whole number from 0 to"),
        (
            "build x --max-memory 2GB",
            "python -m composer build: error: argument --max-memory: expected a number such as 50M (got '2GB')",
        ),
        ("build x --pre", "python -m composer: error: unrecognized arguments: --pre"),
    ],
)
def test_wrong_arguments(call, arguments, said):
    code, _, err = call(arguments)
    assert (code, err.splitlines()[-1][: len(said)]) == (2, said)


def test_help(call):
    _, out, _ = call("--help")
    commands = ("check", "show", "build", "run", "list", "matrix", "import", "explain")
    assert [name for name in commands if f"\n    {name} " not in out] == []


def python(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], stderr=subprocess.PIPE, text=True, env=environment, **options)


class TestProcess:
    def test_a_reader_that_leaves_is_no_error(self, here):
        reader, writer = os.pipe()
        os.close(reader)
        ran = python("-m", "composer", "check", "scene.yaml", stdout=writer)
        os.close(writer)
        assert (ran.returncode, ran.stderr) == (141, "")

    def test_a_terminal_without_the_letters_gets_others(self, here, monkeypatch):
        monkeypatch.setenv("PYTHONIOENCODING", "ascii")
        monkeypatch.setenv("FORCE_COLOR", "1")
        ran = python("-m", "composer", "show", "scene.yaml", stdout=subprocess.PIPE)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "? image" in ran.stdout
        assert "\x1b[1;36mencoder" in ran.stdout


def test_of_many_maps_the_first_are_drawn(here, call, drawn):
    text = SEGMENTATION.replace("SegmentationHead: {num_classes: 5}", "RegressionHead: {num_outputs: 12}")
    Path("many.yaml").write_text(text, encoding="utf-8")
    code, _, err = call("run many.yaml --image photo.png -o out.png --no-pretrained")
    assert (code, err.splitlines()[-1]) == (0, "head has 12 values for each pixel; the first 10 are shown.")
    ((_, predictions),) = drawn
    assert len(predictions) == 10


def test_a_narrow_terminal_cuts_no_names(here, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2")
    Path("model.yaml").write_text(SEGMENTATION, encoding="utf-8")
    assert any(line.startswith("decoder ") for line in call("show model.yaml")[1].splitlines())
