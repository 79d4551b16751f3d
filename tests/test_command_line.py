"""`python -m composer`, in this process through main() and in one of its own: what it prints, writes and returns."""

import json
import os
import re
import subprocess
import sys
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
SIX_BANDS = f"input: {{channels: 6}}{SEGMENTATION}"
REGRESSION = SEGMENTATION.replace("SegmentationHead: {num_classes: 5}", "RegressionHead: {num_outputs: 2}")
SCENE = """
encoder: {timm/resnet10t: {out_indices: [4], pretrained: true}}
decoder: IdentityDecoder
head: {ClassificationHead: {num_classes: 7}}
"""
FIXED = f"input: {{size: [64, 96]}}{SEGMENTATION}"
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
SPECS = {"segmentation": SEGMENTATION, "six": SIX_BANDS, "regression": REGRESSION, "scene": SCENE}
SPECS |= {"fixed": FIXED, "joined": JOINED, "embedding": EMBEDDING, "bad": BAD}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the specs above and a few images, which is where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    random = np.random.default_rng(0)
    for name, text in SPECS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    Image.fromarray(random.integers(0, 256, (48, 80, 3), dtype=np.uint8)).save("photo.png")
    np.save("four.npy", random.normal(size=(4, 64, 64)).astype(np.float32))
    np.save("two.npy", random.normal(size=(32, 32, 2)).astype(np.float32))
    np.save("ten.npy", random.normal(size=(10, 33, 47)) * 3000)
    (tmp_path / "zero.png").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder").mkdir()
    return tmp_path


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


OK = "ok  head (b, 7); multiple of 32, at least 32, any shape\n"


class TestCheck:
    def test_a_line_for_each_good_file(self, here, capsys):
        assert main(["check", "segmentation.yaml", "scene.yaml", "joined.yaml", "fixed.yaml"]) == 0
        out, err = capsys.readouterr()
        assert out == (
            "segmentation.yaml: ok  head (b, 5, H, W); multiple of 32, at least 32, any shape\n"
            "scene.yaml: ok  head (b, 7); multiple of 32, at least 32, any shape\n"
            "joined.yaml: ok  cover (b, 3, ceil(H/4), ceil(W/4)), height (b, 1, ceil(H/4), ceil(W/4)), "
            "deep (b, 3, ceil(H/4), ceil(W/4)); multiple of 8, at least 8, any shape\n"
            "fixed.yaml: ok  head (b, 5, H, W); exactly 64 × 96\n"
        )
        assert err == ""

    def test_embeddings_have_a_shape_for_each_feature(self, here, capsys):
        assert main(["check", "embedding.yaml"]) == 0
        tokens = "(b, 2, 1+H/16*W/16, 64)"
        assert capsys.readouterr().out == (
            f"embedding.yaml: ok  head {tokens} {tokens} of the padded image, "
            f"aux.pooled.head {tokens} of the padded image; multiple of 16, at least 16, any shape\n"
        )

    def test_embeddings_in_json_are_lists_of_shapes(self, here, capsys):
        assert main(["check", "--format", "json", "embedding.yaml"]) == 0
        (report,) = json.loads(capsys.readouterr().out)
        tokens = ["b", 2, "1+H/16*W/16", 64]
        assert (report["outputs"], report["auxiliary"]) == ({"head": [tokens, tokens]}, {"pooled": [tokens]})

    def test_a_crop_is_the_size_of_the_output(self, here, capsys):
        Path("crop.yaml").write_text(f"crop: [40, 50]{SEGMENTATION}")
        assert main(["check", "crop.yaml"]) == 0
        assert "head (b, 5, 40, 50)" in capsys.readouterr().out

    def test_files_that_cannot_be_read_do_not_hide_the_others(self, here, capsys):
        assert main(["check", "none.yaml", "folder", "bad.yaml", "scene.yaml"]) == 2
        with pytest.raises(composer.SpecError) as problems:
            composer.read("bad.yaml")
        assert len(problems.value.problems) > 1
        assert capsys.readouterr() == (
            f"{problems.value}\nscene.yaml: {OK}",
            "none.yaml: there is no such file; check the path.\nfolder: this is a folder; name a file in it.\n",
        )

    def test_json_says_the_same(self, here, capsys):
        assert main(["check", "--format", "json", "joined.yaml", "bad.yaml", "none.yaml"]) == 2
        good, bad, absent = json.loads(capsys.readouterr().out)
        assert good == {
            "file": "joined.yaml",
            "ok": True,
            "digest": composer.digest(composer.read("joined.yaml")),
            "sizes": {"multiple": 8, "least": 8, "height": None, "width": None, "square": False},
            "outputs": {
                "cover": ["b", 3, "ceil(H/4)", "ceil(W/4)"],
                "height": ["b", 1, "ceil(H/4)", "ceil(W/4)"],
            },
            "auxiliary": {"extra": ["b", 3, "ceil(H/4)", "ceil(W/4)"]},
            "problems": [],
        }
        assert (bad["ok"], bad["digest"], bad["sizes"], bad["outputs"]) == (False, None, None, {})
        assert bad["problems"][0] == {
            "code": "type",
            "path": "head.num_classes",
            "file": "bad.yaml",
            "line": 2,
            "column": 40,
            "message": "expected a whole number (got 'yes', a string).",
            "expected": "a whole number",
            "got": "'yes', a string",
            "fix": None,
            "edits": [],
        }
        assert [absent["ok"], *(absent["problems"][0][key] for key in ("code", "file", "message"))] == [
            False,
            "file",
            "none.yaml",
            "none.yaml: there is no such file; check the path.",
        ]

    @pytest.mark.parametrize(
        ("command", "imported"),
        [
            pytest.param("check segmentation.yaml", "[]", id="check"),
            pytest.param("show segmentation.yaml", "['rich']", id="show, to see that this test can fail"),
        ],
    )
    def test_nothing_heavy_is_imported_for_nothing(self, here, command, imported):
        main(["check", "segmentation.yaml"])  # so that the facts are on disk
        script = (
            "import sys; from composer.__main__ import main; main(sys.argv[1:]);"
            "print(sorted({'torch', 'timm', 'rich', 'rasterio', 'matplotlib'} & set(sys.modules)))"
        )
        ran = python("-c", script, *command.split(), stdout=subprocess.PIPE)
        assert ran.stdout.splitlines()[-1] == imported


class TestShow:
    def test_the_graph_edge_by_edge(self, here, capsys):
        assert main(["show", "segmentation.yaml"]) == 0
        assert capsys.readouterr() == (
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

    @pytest.mark.parametrize(("name", "width"), [("joined", 60), ("scene", 140)])
    def test_every_line_fits_and_nothing_is_lost(self, here, capsys, monkeypatch, width, name):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["show", f"{name}.yaml"]) == 0
        out = capsys.readouterr().out
        typed = composer.infer(composer.read(f"{name}.yaml"))
        assert max(map(len, out.splitlines())) <= width
        assert "\x1b" not in out
        assert "…" not in out
        assert [node.name for node in typed.order if node.name not in out] == []

    def test_what_several_inputs_shared_nodes_and_auxiliary_outputs_look_like(self, here, capsys):
        main(["show", "joined.yaml"])
        words = " ".join(capsys.readouterr().out.split())
        assert "again 2 × map b c h w share: optical channels 64, 128 ← s2 stride 4, 8" in words
        assert "radar 2 × map b c h w timm/resnet10t channels 64 ← s1 stride 4, 8 out_indices: [0, 1]" in words
        assert "inputs s2: 4 channels s1: 2 channels, stride 2 sizes multiple of 8" in words
        assert words.endswith(
            "outputs cover (b, 3, ceil(H/4), ceil(W/4)) height (b, 1, ceil(H/4), ceil(W/4)) "
            "deep (b, 3, ceil(H/4), ceil(W/4)), auxiliary extra"
        )

    def test_problems_go_to_stderr(self, here, capsys):
        assert main(["show", "bad.yaml"]) == 1
        out, err = capsys.readouterr()
        assert (out, err.startswith("bad.yaml:2:")) == ("", True)


class TestBuild:
    def test_what_every_node_weighs(self, here, capsys):
        assert main(["build", "segmentation.yaml"]) == 0
        out, err = capsys.readouterr()
        model = composer.build(composer.read("segmentation.yaml"))
        count = sum(parameter.numel() for parameter in model.parameters())
        size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 1e6
        assert re.search(rf"^total +{count:,} +{count:,} +{size:.1f} MB$", out, re.MULTILINE)
        assert re.search(r"^head +SegmentationHead +45 +45 +0.0 MB$", out, re.MULTILINE)
        assert out.endswith("\n\nweights: random, seed 0\n")
        assert "outputs   head (b, 5, H, W)" in out
        assert err == "building the model …\n"

    @pytest.mark.parametrize(("name", "row"), [("embedding", "head EmbeddingHead"), ("joined", "again share: optical")])
    def test_what_has_no_weights_of_its_own(self, here, capsys, name, row):
        assert main(["build", f"{name}.yaml"]) == 0
        assert f"{row} 0 0 0.0 MB" in " ".join(capsys.readouterr().out.split())

    def test_pretrained_weights_can_be_left_out(self, here, capsys):
        assert main(["build", "scene.yaml", "--seed", "4", "--no-pretrained"]) == 0
        assert capsys.readouterr().out.endswith(
            "weights: random, seed 4 (--no-pretrained: no pretrained weights for encoder)\n"
        )

    def test_saved_weights_are_those_of_the_seed(self, here, capsys):
        assert main(["build", "segmentation.yaml", "--seed", "3", "--save", "model.safetensors"]) == 0
        assert capsys.readouterr().out.endswith("wrote model.safetensors\n")
        ours = composer.build(composer.read("segmentation.yaml"), seed=3).state_dict()
        theirs = composer.load("model.safetensors").state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    @pytest.mark.parametrize(
        ("option", "limit", "said"),
        [
            ("--max-parameters", "1M", "parameters, of which there may be 1,000,000 (got 4,922,488 of 5,194,117)"),
            ("--max-memory", "2000k", "bytes, of which there may be 2,000,000 (got 19,713,552 of 20,801,284)"),
        ],
    )
    def test_a_model_that_is_too_large_is_refused(self, here, capsys, option, limit, said):
        assert main(["build", "segmentation.yaml", option, limit]) == 1
        assert capsys.readouterr().err.splitlines()[-2:] == [
            f"segmentation.yaml:2:10: error[limit] encoder: timm/resnet10t has most of the model's {said}.",
            "  fix: choose a smaller network, or allow as many",
        ]

    def test_a_file_that_cannot_be_written_is_refused_first(self, here, capsys, no_model):
        assert main(["build", "segmentation.yaml", "--save", "model.pt"]) == 2
        assert capsys.readouterr() == ("", "model.pt: the name must end in .safetensors.\n")


class TestASavedModel:
    """A file that composer.save wrote, in the place of a spec."""

    @pytest.fixture
    def saved(self, here):
        composer.save(composer.build(composer.read("segmentation.yaml"), seed=3).half(), "model.safetensors")
        composer.save(composer.build(composer.read("regression.yaml")), "other.safetensors")
        torch.save({"a": torch.ones(1)}, "plain.pt")

    @pytest.mark.parametrize("command", ["check", "show"])
    def test_its_spec_is_the_one_inside(self, saved, capsys, command):
        assert main([command, "model.safetensors"]) == 0
        inside = capsys.readouterr().out
        assert main([command, "segmentation.yaml"]) == 0
        assert inside.replace("model.safetensors", "segmentation.yaml") == capsys.readouterr().out

    def test_it_is_built_with_its_own_weights(self, saved, capsys):
        assert main(["build", "model.safetensors", "--save", "copy.safetensors"]) == 0
        out = capsys.readouterr().out
        assert out.endswith("weights: 134 tensors from model.safetensors\nwrote copy.safetensors\n")
        copy, model = (safe_open(f"{name}.safetensors", "pt") for name in ("copy", "model"))
        assert copy.metadata() == model.metadata()
        assert sorted(copy.keys()) == sorted(model.keys())
        assert all(torch.equal(copy.get_tensor(name), model.get_tensor(name)) for name in model.keys())  # noqa: SIM118

    def test_a_weights_file_without_a_spec_says_so(self, saved, capsys):
        assert main(["check", "plain.pt"]) == 1
        assert capsys.readouterr().out == (
            "plain.pt: error[file] no spec was found in this weights file.\n"
            "  fix: give the YAML spec, or a file that composer.save wrote; `run` takes other weights with "
            "--weights FILE\n"
        )

    def test_it_is_not_rewritten_as_a_spec(self, saved, capsys):
        before = Path("model.safetensors").read_bytes()
        assert main(["check", "--fix", "model.safetensors"]) == 2
        assert capsys.readouterr() == ("", "model.safetensors: this is a weights file; give the YAML spec.\n")
        assert Path("model.safetensors").read_bytes() == before


class TestRun:
    def test_a_picture_in_and_classes_out(self, here, capsys, drawn):
        assert main(["run", "segmentation.yaml", "--image", "photo.png", "-o", "out.png", "--seed", "2"]) == 0
        out, err = capsys.readouterr()
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
        assert err == "building the model …\nrunning it …\n"
        with Image.open("out.png") as picture:
            assert (picture.format, min(picture.size) > 250, max(picture.size) < 1500) == ("PNG", True, True)

    def test_values_are_drawn_one_panel_each(self, here, capsys, drawn):
        assert main(["run", "regression.yaml", "--image", "photo.png", "-o", "out.png"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines] == ["image", "weights", "head[0]", "head[1]", "wrote out.png"]
        ((_, values),) = drawn
        assert [(panel.classes, panel.values.shape) for panel in values] == [(None, (48, 80))] * 2

    def test_a_scene_is_a_line(self, here, capsys):
        assert main(["run", "scene.yaml", "--no-pretrained", "--image", "photo.png"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "weights: random, seed 0 (--no-pretrained: no pretrained weights for encoder)"
        assert re.fullmatch(r"head: (class [0-6] \d\d?\.\d%, ){5}and 2 more", lines[2])
        assert len(lines) == 3
        assert sorted(path.suffix for path in here.iterdir()).count(".png") == 3

    def test_and_drawn_where_that_is_asked_for(self, here, capsys, drawn):
        assert main(["run", "scene.yaml", "--no-pretrained", "--image", "photo.png", "-o", "out.png"]) == 0
        assert capsys.readouterr().out.endswith("wrote out.png\n")
        ((_, (scene,)),) = drawn
        assert (scene.classes, scene.values.sum()) == (7, pytest.approx(1))

    def test_several_inputs_and_outputs(self, here, capsys, drawn):
        images = ["--image", "s2=four.npy", "--image", "s1=two.npy"]
        assert main(["run", "joined.yaml", *images, "-o", "out.png", "--show-bands", "s2=4"]) == 0
        lines = capsys.readouterr().out.splitlines()
        names = ["s2", "s1", "cover", "height", "deep"]
        assert [line.split(":")[0] for line in lines] == [*names[:2], "weights", *names[2:], "wrote out.png"]
        scale = "each band to zero mean and unit deviation over this image"
        assert lines[:2] == [
            f"s2: four.npy, 64 high, 64 wide; {scale}",
            f"s1: two.npy, 32 high, 32 wide; {scale}; bands drawn: 1, a guess; choose others with --show-bands",
        ]
        ((inputs, predictions),) = drawn
        assert [panel.name for panel in (*inputs, *predictions)] == names
        assert [panel.classes for panel in predictions] == [3, None, 3]

    def test_bands_are_picked(self, here, capsys):
        assert main(["run", "six.yaml", "--image", "ten.npy", "--bands", "2,3,4,5,6,7", "-o", "out.png"]) == 0
        assert capsys.readouterr().out.splitlines()[0] == (
            "image: ten.npy, 33 high, 47 wide; bands 2,3,4,5,6,7 of 10; "
            "each band to zero mean and unit deviation over this image; "
            "bands drawn: 4,3,2, a guess; choose others with --show-bands"
        )

    def test_weights_come_from_a_checkpoint_of_a_training(self, here, capsys, drawn):
        """What was left aside is said, and the picture is that of the model that was saved."""
        state = composer.build(composer.read("segmentation.yaml"), seed=9).state_dict()
        task = {f"net.{name}": x for name, x in state.items()} | {"criterion.weight": torch.ones(5)}
        torch.save({"state_dict": task, "epoch": 3}, "last.ckpt")
        main(["run", "segmentation.yaml", "--image", "photo.png", "-o", "seed.png", "--seed", "9"])
        capsys.readouterr()
        given = ["--weights", "last.ckpt"]
        assert main(["run", "segmentation.yaml", "--image", "photo.png", "-o", "file.png", *given]) == 0
        assert capsys.readouterr().out.splitlines()[1] == (
            "weights: 134 tensors from last.ckpt; 1 tensor left aside: criterion.weight"
        )
        assert np.array_equal(drawn[0][1][0].values, drawn[1][1][0].values)

    def test_a_saved_model_of_another_type_needs_no_spec_beside_it(self, here, capsys, drawn):
        model = composer.build(composer.read("segmentation.yaml"), seed=9)
        composer.save(model.to(torch.bfloat16), "nine.safetensors")
        main(["run", "segmentation.yaml", "--image", "photo.png", "-o", "beside.png", "--weights", "nine.safetensors"])
        assert main(["run", "nine.safetensors", "--image", "photo.png", "-o", "inside.png"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith("weights")] == [
            "weights: 134 tensors from nine.safetensors"
        ] * 2
        assert np.array_equal(drawn[0][1][0].values, drawn[1][1][0].values)

    def test_weights_of_another_model_are_a_problem(self, here, capsys):
        main(["build", "scene.yaml", "--no-pretrained", "--save", "scene.safetensors"])
        capsys.readouterr()
        given = ["--image", "photo.png", "-o", "out.png", "--weights", "scene.safetensors"]
        assert main(["run", "segmentation.yaml", *given]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "scene.safetensors: error[weights] lacks 48 tensors of the model: " in err
        assert not Path("out.png").exists()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            pytest.param(
                "segmentation.yaml --image none.png -o o.png", "none.png: there is no such file; check the path."
            ),
            pytest.param("none.yaml --image photo.png -o o.png", "none.yaml: there is no such file; check the path."),
            pytest.param(
                "six.yaml --image photo.png -o o.png",
                "photo.png: input 'image' expects 6 bands; the file has 3; use another image.",
            ),
            pytest.param(
                "fixed.yaml --image big.png -o o.png",
                "big.png: an image of 65 × 96 pixels is too large: the graph takes exactly 64 × 96. "
                "Crop or resize the image.",
            ),
            pytest.param(
                "joined.yaml --image four.npy -o o.png",
                "--image four.npy: the model has the inputs s2, s1; say which: --image s2=…",
            ),
            pytest.param(
                "joined.yaml --image s2=four.npy -o o.png", "--image: there is none for s1; add --image s1=FILE."
            ),
            pytest.param(
                "joined.yaml --image s2=four.npy --image s1=odd.npy -o o.png",
                "odd.npy: s1 must have 32 × 32 pixels (height × width), to cover what s2 covers (this has 32 × 31).",
            ),
            pytest.param(
                "embedding.yaml --image photo.png -o o.png",
                "embedding.yaml: head is an embedding, which cannot be drawn; in Python, "
                "composer.build(composer.read('embedding.yaml'))(image) returns it.",
            ),
            pytest.param(
                "segmentation.yaml --image photo.png", "-o: head is a map; say where to draw it, such as -o out.png."
            ),
            pytest.param("segmentation.yaml --image photo.png -o o.jpg", "o.jpg: the name must end in .png."),
            pytest.param(
                "segmentation.yaml --image photo.png -o o.png --weights none.safetensors",
                "none.safetensors: there is no such file; check the path.",
            ),
        ],
    )
    def test_what_cannot_be_is_refused_in_a_line_before_a_model_is_built(self, here, capsys, no_model, arguments, said):
        Image.new("RGB", (96, 65)).save("big.png")
        np.save("odd.npy", np.zeros((2, 32, 31)))
        before = sorted(here.iterdir())
        assert main(["run", *arguments.split()]) == 2
        assert capsys.readouterr() == ("", f"{said}\n")
        assert sorted(here.iterdir()) == before

    @pytest.mark.parametrize("library", ["rasterio", "matplotlib"])
    def test_without_the_extra_a_line_says_what_to_install(self, here, capsys, monkeypatch, library):
        monkeypatch.delitem(sys.modules, "composer.cli.run", raising=False)
        monkeypatch.delitem(sys.modules, "composer.cli.images", raising=False)
        monkeypatch.setitem(sys.modules, library, None)
        assert main(["run", "segmentation.yaml", "--image", "photo.png", "-o", "out.png"]) == 2
        assert capsys.readouterr().err == (
            f"run: import of {library} halted; None in sys.modules; "
            "install what it needs: pip install 'composer-vision[run]'\n"
        )

    def test_an_image_larger_than_the_memory_is_said_to_be(self, here, capsys, monkeypatch):
        def refuse(*_):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

        monkeypatch.setattr("composer.model.Model.forward", refuse)
        assert main(["run", "segmentation.yaml", "--image", "photo.png", "-o", "out.png"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            "--image: out of memory for an image of this size; crop it."
        )


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
    def test_parts_with_their_arguments(self, here, capsys):
        assert main(["list", "heads", "cl*"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "ClassificationHead",
            "    Compute class scores of an image: linear layers of widths `dim_list`,",
            "    dropout, a linear layer, the mean.",
            "  num_classes (required)",
            "  dim_list: null",
            "  dropout: 0.0",
            "  linear_after_pool: false",
        ]

    @pytest.mark.parametrize(
        ("kind", "parts"),
        [
            ("encoders", ["timm/NAME"]),
            ("necks", ["SelectIndices", "AddBottleneckLayer", "AddFeatures"]),
            ("decoders", ["IdentityDecoder", "UperNetDecoder"]),
            ("heads", ["SegmentationHead", "RegressionHead"]),
        ],
    )
    def test_every_kind(self, here, capsys, kind, parts):
        assert main(["list", kind]) == 0
        names = re.findall(r"^\S+", capsys.readouterr().out, re.MULTILINE)
        assert [part for part in parts if part not in names] == []

    @pytest.mark.parametrize(
        ("pattern", "out", "err"),
        [
            pytest.param("timm/resnet1?", ["timm/resnet18"], [TIMM], id="timm"),
            pytest.param("smp/mit_b[01]", ["smp/mit_b0", "smp/mit_b1"], [SMP], id="smp"),
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
    def test_encoders_by_pattern_one_to_a_line(self, here, capsys, some_installed, pattern, out, err):
        """What there is to say of their libraries stays out of a pipe."""
        assert main(["list", "encoders", pattern]) == 0
        given = capsys.readouterr()
        assert (given.out.splitlines(), given.err.splitlines()) == (out, err)

    def test_an_encoder_by_its_name_is_told_of_with_its_arguments(self, here, capsys, some_installed):
        assert main(["list", "encoders", "smp/mit_b0"]) == 0
        assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
            "smp/mit_b0",
            "    Mix Transformer, of SegFormer: attention over overlapping patches.",
            "  depth: 5",
            "  pretrained: false",
            "  first_level: false",
            "  output_stride: 32",
            "",
            SMP,
        ]

    def test_an_encoder_that_is_known_and_unsupported_is_described(self, here, capsys, some_installed):
        assert main(["list", "encoders", "terratorch/convnextv2_atto"]) == 0
        assert " ".join(capsys.readouterr().out.split()) == (
            "terratorch/convnextv2_atto "
            "Cannot be had: it gives the scores of a classifier, and no features. Use timm/convnextv2_atto."
        )

    def test_a_narrow_terminal_cuts_nothing(self, here, capsys):
        """The longest names leave no room beside them."""
        assert main(["list", "encoders"]) == 0
        out = capsys.readouterr().out
        assert "…" not in out.replace("/…", "")
        assert max(map(len, out.splitlines())) <= 80
        assert (
            "terratorch/dinov3_vit7b16\n"
            "    Cannot be had: TerraTorch downloads the code of this network from GitHub and\n"
            "    runs it. Use timm/vit_7b_patch16_dinov3.\n"
        ) in out
        assert "\n".join(["", *(f"smp/mit_b{size}" for size in range(6)), "    Mix"]) in out

    def test_every_source_says_whether_its_library_is_there(self, here, capsys, some_installed, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        assert main(["list", "encoders"]) == 0
        out = capsys.readouterr().out
        assert [line for line in out.splitlines() if "/… needs" in line] == [TIMM, SMP, TRANSFORMERS, TERRATORCH]
        assert main(["list", "decoders"]) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if "/… needs" in line] == [SMP, MMSEG]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (
                ["heads", "X"],
                (
                    "no head is named 'X'; there are SegmentationHead, RegressionHead, "
                    "ClassificationHead, ScalarHead, EmbeddingHead"
                ),
            ),
            (
                ["encoders", "resnet"],
                f"no encoder is named 'resnet'; {SOURCES}",
            ),
            (
                ["encoders", "transformers/x*"],
                f"{TRANSFORMERS}\nno encoder is named 'transformers/x*'; {SOURCES}",
            ),
        ],
        ids=["head", "no source", "not installed"],
    )
    def test_what_matches_nothing(self, here, capsys, some_installed, arguments, said):
        assert main(["list", *arguments]) == 2
        assert capsys.readouterr() == ("", f"{said}\n")


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "python -m composer: error: the following arguments are required: COMMAND"),
            (["list", "tails"], "python -m composer list: error: argument kind: invalid choice: 'tails'"),
            (["check"], "python -m composer check: error: the following arguments are required: FILE"),
            (
                ["build", "x.yaml", "--seed", "-1"],
                "python -m composer build: error: argument --seed: expected a whole number from 0 to",
            ),
            (
                ["build", "x.yaml", "--max-memory", "2GB"],
                "python -m composer build: error: argument --max-memory: expected a number such as 50M (got '2GB')",
            ),
            (["build", "x.yaml", "--pre"], "python -m composer: error: unrecognized arguments: --pre"),
        ],
    )
    def test_what_is_wrong_with_them(self, capsys, arguments, said):
        assert main(arguments) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(said)

    def test_help(self, capsys):
        assert main(["--help"]) == 0
        out = capsys.readouterr().out
        assert [name for name in ("check", "show", "build", "run", "list") if f"\n    {name} " not in out] == []


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
